"""Reports: what is in the page (read with html.parser), and what a browser makes of it (headless Chromium)."""

import io
import json
import math
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from configs import InputError
from experiments.reports.report import (
    Code,
    Configuration,
    ImageGrid,
    Picture,
    Section,
    Table,
    Text,
    Versions,
    render,
    sort_key,
    to_png,
    write_report,
)

HEADER = ["policy", "FID", "calls"]
ROWS = [["uniform <b>", "10.5", "20 / 80"], ["none", "9.25", "100 / 0"], ["failed", "", ""]]


def figure() -> Figure:
    made = Figure(figsize=(4, 3))
    made.subplots().plot([1, 2], [3, 4])
    return made


def png(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def blocks(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png((20, 10)))
    digits = torch.arange(3 * 32 * 32).remainder(256).to(torch.uint8).view(3, 1, 32, 32)
    return [
        Text("A first paragraph & more.\n\nA second."),
        Section("What it costs"),
        Table(HEADER, ROWS, caption="All rows", footnotes=["a: a note"]),
        Picture(figure(), "A figure"),
        Picture(path, "A file"),
        Section("Images"),
        ImageGrid([("uncached", list(digits)), ("branch 2", list(digits))], "The first seeds", ["0", "1", "2"]),
        Code("python scripts/sweep.py"),
        Configuration({"model": "mnist32", "grid": {"policy.interval": [2, 3]}}),
        Versions({"torch": "2.6"}),
    ]


class Page(HTMLParser):
    """The page as a reader without a browser sees it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] not in ("style", "script"):
            self.words.append(data.strip())

    def all(self, wanted: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == wanted]


def test_the_page_holds_all_blocks_and_every_tag_is_closed(blocks):
    page = Page(render("Table 12", blocks))
    assert page.open == []
    texts = [
        "Table 12",
        "A first paragraph & more.",
        "A second.",
        "What it costs",
        "All rows",
        "uniform <b>",
        "20 / 80",
    ]
    texts += ["a: a note", "A figure", "branch 2", "python scripts/sweep.py", "torch", "2.6"]
    assert set(texts) <= set(page.words)
    assert any("policy.interval: [2, 3]" in words for words in page.words)
    assert [link["href"] for link in page.all("a")] == ["#what-it-costs", "#images"]
    assert {heading["id"] for heading in page.all("h2")} == {"what-it-costs", "images"}


def test_the_page_needs_nothing_outside_itself(blocks):
    page = Page(render("Table 12", blocks))
    assert not page.all("link")
    assert len(page.all("img")) == 2 + 6
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), tag
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "url(" not in render("Table 12", blocks)


def test_markup_in_the_input_stays_text():
    hostile = "</code><script>alert(1)</script>"
    blocks = [Section(hostile), Text(hostile), Code(hostile), Table([hostile], [[hostile]], hostile, [hostile]),
              Picture(png((2, 2)), hostile), ImageGrid([(hostile, [png((2, 2))])], hostile, [hostile]),
              Configuration({hostile: hostile}, hostile), Versions({hostile: hostile})]  # fmt: skip
    page = Page(render(hostile, blocks))
    assert len(page.all("script")) == 1
    assert page.open == []


def test_columns_of_numbers_are_set_right_and_carry_their_value(blocks):
    cells = Page(render("Table 12", blocks)).all("td")[:9]
    assert [cell.get("class") for cell in cells] == [None, "number", "number"] * 3
    assert [cell.get("data-key") for cell in cells if "class" in cell] == ["10.5", "20.0", "9.25", "100.0", None, None]


@pytest.mark.parametrize(
    ("cell", "number"),
    [("46.7 / 34.9", 46.7), ("2.57x", 2.57),
     ("+11.4", 11.4), ("\u22123 %", -3), ("-1e-3", -1e-3), ("1,024 images", 1024),
     ("≈ 0.5 G", 0.5), ("∞", math.inf), ("inf", math.inf), ("infrared", None), ("uniform 3", None), ("", None)],
)  # fmt: skip
def test_a_cell_is_sorted_by_the_number_it_begins_with(cell, number):
    assert sort_key(cell) == number


def test_a_table_that_is_not_rectangular_is_refused():
    with pytest.raises(ValueError, match="2 cells under a header of 3"):
        Table(["a", "b", "c"], [["1", "2"]])


def test_pictures_are_taken_as_bytes_paths_figures_and_pixels(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png((300, 150)))
    for source, size in [(png((3, 5)), (3, 5)), (path, (300, 150)), (torch.zeros(3, 5, 7, dtype=torch.uint8), (7, 5))]:
        assert Image.open(io.BytesIO(to_png(source))).size == size
    assert Image.open(io.BytesIO(to_png(path, largest=128))).size == (128, 64)
    assert Picture(path).width == 300
    assert 250 < Picture(figure()).width < 4.2 * 96  # as large on the screen as it was laid out for


def test_pixels_arrive_as_they_are():
    pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    shown = torch.frombuffer(bytearray(Image.open(io.BytesIO(to_png(pixels))).tobytes()), dtype=torch.uint8)
    assert torch.equal(shown.view(8, 8, 3).permute(2, 0, 1), pixels)


def test_an_image_that_cannot_be_shown_ends_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"there is no image .*lost\.png"):
        render("", [Picture(tmp_path / "lost.png")])
    (tmp_path / "half.png").write_bytes(png((50, 50))[:60])
    with pytest.raises(InputError, match=r"half\.png cannot be shown"):
        write_report(tmp_path / "report.html", "", [Picture(tmp_path / "half.png")])
    assert not (tmp_path / "report.html").exists()


def test_the_same_blocks_give_the_same_bytes(blocks):
    again = [Picture(figure(), "A figure") if block is blocks[3] else block for block in blocks]
    assert render("Table 12", blocks) == render("Table 12", again)


# Added to a copy of the page: sorts, then leaves in the document what came of it.
QUESTIONS = """
<script>
addEventListener("load", () => {
  const rows = () => [...document.querySelectorAll(".table tbody tr")].map((row) => row.cells[0].textContent);
  const orders = [rows()];
  for (const column of [1, 1, 2, 0]) {
    document.querySelectorAll(".table thead button")[column].click();
    orders.push(rows());
  }
  const cells = [...document.querySelectorAll(".table td")].map((cell) => cell.getClientRects().length);
  const answers = {
    orders,
    sorted: [...document.querySelectorAll("[aria-sort]")].map((header) => header.textContent.trim()),
    drawn: cells.filter((count) => count === 1).length,
    widths: [...document.images].map((image) => image.naturalWidth),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  document.body.innerHTML = "";
  document.body.dataset.answers = JSON.stringify(answers);
});
</script>
"""


@pytest.fixture
def browser(tmp_path):
    """browser(flag, …, path) opens a page from disk -> what Chromium prints."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no chromium or google-chrome on the path")
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-quic", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip

    def open_page(*flags: str, path: Path) -> str:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", *quiet, *flags, path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    return open_page


@pytest.mark.parametrize("size", ["1280,800", "500,800"])
def test_a_browser_shows_tables_and_images_sorts_and_asks_for_nothing(blocks, tmp_path, browser, size):
    text = render("Table 12", blocks)
    path = tmp_path / "report.html"
    path.write_text(text.replace("</body>", QUESTIONS + "</body>"))
    page = Page(browser("--dump-dom", f"--window-size={size}", "--virtual-time-budget=5000", path=path))
    answers = json.loads(page.all("body")[0]["data-answers"])
    assert answers["orders"] == [
        ["uniform <b>", "none", "failed"],
        ["none", "uniform <b>", "failed"],  # by FID, then from its other end; without one: last
        ["uniform <b>", "none", "failed"],
        ["uniform <b>", "none", "failed"],  # by calls
        ["failed", "none", "uniform <b>"],  # by name
    ]
    assert answers["sorted"] == ["policy"]
    assert answers["drawn"] == 9
    assert answers["widths"][1:] == [20] + [32] * 6
    assert answers["widths"][0] > 2 * 250
    assert answers["requests"] == []
    assert answers["overflow"] == 0  # wide tables scroll by themselves, the page never sideways


def test_a_browser_paints_the_page(blocks, tmp_path, browser):
    write_report(tmp_path / "report.html", "Table 12", blocks)
    shot = tmp_path / "shot.png"
    browser(f"--screenshot={shot}", "--window-size=800,1200", path=tmp_path / "report.html")
    assert (shot_image := Image.open(shot)).size == (800, 1200)
    assert len(shot_image.convert("RGB").getcolors(1 << 24)) > 50
