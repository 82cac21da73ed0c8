"""How much memory a computation takes, and how much there is."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from types import TracebackType

import torch

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


class PeakMemory:
    """The bytes that were taken at once, at most, on top of what was taken before:

        with PeakMemory(device) as memory:
            ...
        memory.peak

    On a GPU what PyTorch's allocator handed out; on a CPU the resident set of the process, which Linux alone tells
    (`peak` is None elsewhere). `held` is what is still taken at the end; on a GPU with what recorded CUDA graphs keep
    to themselves, which is reserved, but not handed out. Several may follow each other: every one begins anew.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak: int | None = None
        self.held: int | None = None

    def __enter__(self) -> PeakMemory:
        give_back(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            self._reserved = torch.cuda.memory_reserved(self.device)
        elif can_measure(self.device):
            RESET.write_text("5")  # proc(5): the peak becomes the present resident set
            self._before = _status("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device) - self._before
            give_back(self.device)
            self.held = torch.cuda.memory_reserved(self.device) - self._reserved
        elif can_measure(self.device):
            self.peak = max(0, _status("VmHWM") - self._before)
            _trim()
            self.held = max(0, _status("VmRSS") - self._before)


def can_measure(device: torch.device) -> bool:
    """Is there a way to tell the peak on this device?"""
    return device.type == "cuda" or (device.type == "cpu" and RESET.exists())


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken, where `can_measure`."""
    give_back(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def give_back(device: torch.device) -> None:
    """Returns what is no longer used to the system, so that later peaks do not hide in it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        _trim()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Does it say that a GPU's memory is full? PyTorch's allocator has a class for that; what libraries raise that take
    memory beside it (cuBLAS, cuDNN, CUDA itself) is known by its words alone."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in words or "CUDA error: out of memory" in words


def in_words(count: int) -> str:
    """Bytes as people read them: 3.2 MiB, 1.05 GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _trim() -> None:
    """Makes the C library return free memory of the heap to the system, where it knows how to."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _status(key: str) -> int:
    return _kilobytes(STATUS, key)


def _kilobytes(file: Path, key: str) -> int:
    """The bytes in a line "key:   123 kB" of a file of /proc."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
