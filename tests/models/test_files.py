"""models/files.py: a file appears whole or not at all."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.files import HOST, check_writable, remove_unfinished, write_atomically, write_safetensors, write_text

resource = pytest.importorskip("resource", reason="limits of file sizes are POSIX's")


@contextmanager
def full_disk():
    """No file can grow beyond 2000 bytes. Not a fixture: pytest's own report may be a longer file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


WRITERS = {
    "text": lambda path, size: write_atomically(path, lambda unfinished: unfinished.write_text("x" * size)),
    "safetensors": lambda path, size: write_safetensors(path, {"x": torch.zeros(size)}, {}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_what_was_there(write, tmp_path):
    path = tmp_path / "folder" / "file"
    write(path, 10)
    before = path.read_bytes()
    with full_disk(), pytest.raises(OSError, match="File too large") as raised:
        write(path, 10_000)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), check_writable])
@pytest.mark.parametrize("name", ["file/inner", "file/inner/run.json", "folder"])
def test_an_impossible_path_is_named_as_it_was_given(tmp_path, write, name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r".") as raised:
        write(tmp_path / name)
    assert raised.value.filename == str(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("write", [lambda path: write_text(path, "x"), check_writable])
def test_what_is_neither_file_nor_folder_is_not_replaced(tmp_path, write):
    """As /dev/null would be, where the administrator names it."""
    os.mkfifo(tmp_path / "device")
    with pytest.raises(OSError, match="Not a regular file") as raised:
        write(tmp_path / "device")
    assert raised.value.filename == str(tmp_path / "device")
    assert (tmp_path / "device").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["device"]


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("mine")
    check_writable(tmp_path / "file")
    check_writable(tmp_path / "other")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]


def test_two_processes_may_write_one_file(tmp_path):
    program = f"""
from pathlib import Path
from models.files import write_text
for _ in range(200):
    write_text(Path({str(tmp_path / "file")!r}), "x" * 1000)
"""
    root = Path(__file__).parents[2]
    both = [subprocess.Popen([sys.executable, "-c", program], cwd=root) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "x" * 1000


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "blocks").mkdir()
    left = tmp_path / "blocks" / f".a.json.{HOST}.{ended.pid}.part"
    others = [f".b.json.{HOST}.{os.getpid()}.part", f".b.json.elsewhere.{ended.pid}.part", ".c.part", "d.part", "e"]
    others = [tmp_path / name for name in others]
    for file in (left, *others):
        file.touch()
    remove_unfinished(tmp_path)
    assert not left.exists()
    assert all(file.exists() for file in others)


def test_safetensors_are_written_with_their_metadata(tmp_path):
    write_safetensors(tmp_path / "a", {"x": torch.arange(3)}, {"format": "test/1"})
    assert load_file(tmp_path / "a")["x"].tolist() == [0, 1, 2]
    assert b"test/1" in (tmp_path / "a").read_bytes()


def test_the_files_may_be_read_by_whom_the_user_lets(tmp_path):
    write_safetensors(tmp_path / "weights.safetensors", {"x": torch.ones(2)}, {})
    (tmp_path / "other").touch()
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
