"""JSON lines: cases are put whole, found again, and replaced."""

import pytest

from configs import InputError
from experiments.benchmark.records import Records, identity
from experiments.benchmark.settings import Case


def line(case, digest, **others):
    return {"case": case, "identity": digest, "variant": "plain", **others}


def test_what_was_put_is_there_for_the_next_run(tmp_path):
    path = tmp_path / "b.jsonl"
    Records(path).put([line("a", "1", seconds=2.0), line("a", "1", seconds=3.0)])
    records = Records(path)
    assert records.has("1")
    assert not records.has("2")
    assert [record["seconds"] for record in records.lines] == [2, 3]


def test_a_case_replaces_its_own_lines_alone(tmp_path):
    records = Records(tmp_path / "b.jsonl")
    records.put([line("a", "1"), line("a", "1")])
    records.put([line("b", "2")])
    records.put([line("a", "3")])
    assert [(record["case"], record["identity"]) for record in Records(records.path).lines] == [("b", "2"), ("a", "3")]


def test_settings_versions_and_machine_make_another_identity():
    case, there = Case(run="cifar10"), {"hardware": "this", "versions": {"torch": "2.6"}}
    assert identity(case, there) == identity(Case(run="cifar10"), dict(there))
    others = [identity(Case(run="cifar10", rounds=3), there), identity(case, there | {"hardware": "that"})]
    assert len({identity(case, there), *others}) == 3


@pytest.mark.parametrize("content", [b"no json\n", b'{"case": "a"}\n', b"[1]\n", b"\x89PNG\xff\n"])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "b.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"line 1 of .* is no measurement"):
        Records(path)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    records = Records(tmp_path / "b.jsonl")
    records.put([line("a", "1")])
    before = records.path.read_text()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        records.put([line("b", "2")])
    assert records.path.read_text() == before
