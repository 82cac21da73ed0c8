"""Sheets as Markdown, CSV and LaTeX."""

import csv
import io
import re

import pytest

from experiments.reports.tables import ESCAPES, Line, Sheet, escape, markdown, sheet_csv, sheet_latex, sheet_markdown

SHEET = Sheet(
    title="Table 0: 50% of A & B_c",
    header=["FID, paper", "FID, here"],
    sections=[
        ("CIFAR-10 32x32", [Line("DDPM*", ["4.16", ""], [1]), Line("N=2 | b", ["4.35", "4.40"], [1, 2])]),
        ("LSUN {256}", [Line("x^2", ["6.7", ""])]),
    ],
    footnotes=["costs $3 & more", "see a_b"],
    notes=["100% of it", "free of it"],
    command="python scripts/reproduce.py table2 --cost-only",
    values=[["section", "row", "FID, here"], ["LSUN {256}", 'say "x"', 6.123456789], ["a", "b", ""]],
)


def test_markdown_has_a_table_per_section_and_every_note():
    text = sheet_markdown(SHEET)
    assert text.startswith("# Table 0: 50% of A & B_c\n")
    assert re.search(r"^\| DDPM\* \[1\] +\| 4\.16 +\| +\|$", text, re.MULTILINE)
    assert "N=2 \\| b [1] [2]" in text
    assert text.index("## CIFAR-10") < text.index("## LSUN") < text.index("[1] costs") < text.index("- 100% of it")
    assert "`python scripts/reproduce.py table2 --cost-only`" in text


def test_a_single_section_needs_no_heading():
    sheet = Sheet("t", ["a"], [("only", [Line("r", ["1"])])])
    assert "only" not in sheet_markdown(sheet)
    assert "only" not in sheet_latex(sheet)


def test_rows_of_markdown_are_aligned():
    lines = markdown([["a", "bcd"], ["long", ""]])
    assert len({len(line) for line in lines}) == 1
    assert lines[1].replace("-", "") == "|||"


def test_csv_holds_what_it_was_given():
    assert list(csv.reader(io.StringIO(sheet_csv(SHEET)))) == [[str(cell) for cell in row] for row in SHEET.values]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("50%", r"50\%"),
        ("a_b & c", r"a\_b \& c"),
        ("{x}^2 #1 $3", r"\{x\}\textasciicircum{}2 \#1 \$3"),
        ("C:\\dir~1", r"C:\textbackslash{}dir\textasciitilde{}1"),
        ("--cost-only", "-{}-cost-only"),
        ("a < b | c > d", r"a \textless{} b \textbar{} c \textgreater{} d"),
        ("0, 5, …, 25", r"0, 5, \ldots{}, 25"),
    ],
)
def test_latex_prints_text_as_it_is(text, written):
    assert escape(text) == written


def test_latex_is_well_formed():
    """No TeX is needed to see that it would compile: environments and braces balance, every row has as many cells as
    there are columns, and nothing special is left unescaped."""
    text = sheet_latex(SHEET)
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert opened == re.findall(r"\\end\{(\w+)\}", text)[::-1] == ["table", "tabular"]
    assert re.search(r"\\begin\{tabular\}\{lrr\}", text)
    code = re.sub(r"^%.*|%$", "", text, flags=re.MULTILINE)
    bare = re.sub(r"\\[\\{}&%$#_]", "", code)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[#%^_~<>|]", bare)
    assert bare.count("$") % 2 == 0
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {2}
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    assert r"\textsuperscript{1,2}" in text


def test_everything_that_is_escaped_prints_in_ascii():
    for character, written in ESCAPES.items():
        assert written.isascii(), character
