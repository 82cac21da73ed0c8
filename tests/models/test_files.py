"""models/files.py: a file appears whole or not at all."""

from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from models.files import write_atomically, write_safetensors

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


def test_safetensors_are_written_with_their_metadata(tmp_path):
    write_safetensors(tmp_path / "a", {"x": torch.arange(3)}, {"format": "test/1"})
    assert load_file(tmp_path / "a")["x"].tolist() == [0, 1, 2]
    assert b"test/1" in (tmp_path / "a").read_bytes()


def test_the_files_may_be_read_by_whom_the_user_lets(tmp_path):
    write_safetensors(tmp_path / "weights.safetensors", {"x": torch.ones(2)}, {})
    (tmp_path / "other").touch()
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
