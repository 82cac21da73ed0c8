"""What this machine's processor is: which of two algorithms is the quicker one depends on its maker."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def is_amd() -> bool:
    """Was it made by AMD? There PyTorch's matrix library, Intel's MKL, is slow, and element-wise operations are cheap.

    False where nothing tells.
    """
    return "AuthenticAMD" in (field("vendor_id") or platform.processor())


def has_avx512() -> bool:
    """Does PyTorch compute in vectors of 512 bits here?"""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def name(device: torch.device) -> str:
    """What computes on `device`, as people call it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return field("model name") or platform.processor() or platform.machine()


def field(name: str) -> str:
    """What Linux says of the first processor under this name ("vendor_id", "model name"); "" where it says nothing."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    values = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name)
    return next(values, "")
