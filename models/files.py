"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

HOST = platform.node().replace(".", "-") or "localhost"  # of several machines that write to one folder


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a name beside `path`, then moves the result into place.

    Raises OSError, naming `path`, where it cannot be written; what was there before is then still there.
    """
    with _unfinished(path) as unfinished:
        write(unfinished)
        os.replace(unfinished, path)


def check_writable(path: Path) -> None:
    """Raises OSError, naming `path`, where a file cannot be written there: to be known before the work, not after."""
    with _unfinished(path) as unfinished:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        unfinished.touch()


def remove_unfinished(folder: Path) -> None:
    """Removes, in `folder` and below, what processes of this machine that were killed left half-written."""
    for left in folder.rglob(f".*.{HOST}.*.part"):
        if not _is_running(left.name.split(".")[-2]):
            left.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes one file, by `write_atomically`."""
    write_atomically(path, lambda unfinished: unfinished.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Writes one file in UTF-8, by `write_atomically`."""
    write_atomically(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes one safetensors file, by `write_atomically`."""

    def write(unfinished: Path) -> None:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        try:
            save_file(dict(tensors), unfinished, dict(metadata))
            unfinished.chmod(mode)  # safetensors' own is for the owner alone
        except SafetensorError as error:  # a full disk, say, which safetensors reports as an error of its own
            raise OSError(str(error)) from error

    write_atomically(path, write)


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A name beside `path`, in a folder that is there, for what is gone in the end. OSErrors name `path`.

    The name is this process's own, since several may write the same file. See remove_unfinished.
    """
    unfinished = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):  # a device, /dev/null say, would be replaced
            raise OSError(errno.EINVAL, "Not a regular file")
        yield unfinished
    except FileExistsError as error:  # a file stands where a folder should
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written there is nothing to remove
            unfinished.unlink()


def _is_running(process: str) -> bool:
    """Is there a process of this number, as far as can be told?"""
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (OSError, ValueError):
        return True
    return True
