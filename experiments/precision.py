"""Floating-point types by the names that configurations give them, and which of them a processor only imitates."""

from __future__ import annotations

import time

import torch

from samplers import ConditionalDenoiser

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def emulation_warning(precision: str, device: torch.device) -> str | None:
    """A sentence for the user where a CPU computes in this precision more slowly than in fp32; None elsewhere.

    Processors without arithmetic of that type convert every number to fp32 and back. Measured, since no public
    interface of torch tells them from those that have it.
    """
    if precision == "fp32" or device.type != "cpu":
        return None
    slower = _product_seconds(PRECISIONS[precision]) / _product_seconds(torch.float32)
    if slower < 1:
        return None
    return f"this processor has no arithmetic in {precision}: products take {slower:.1f} times as long as in fp32"


def _product_seconds(dtype: torch.dtype) -> float:
    """Of a matrix product, the quickest of five after a first one: a busy machine only ever adds."""
    a = torch.ones(512, 512, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return min(times[1:])


def in_precision(denoiser: ConditionalDenoiser, dtype: torch.dtype) -> ConditionalDenoiser:
    """Evaluations in `dtype`, the sampler's state in float32."""
    if dtype == torch.float32:
        return denoiser
    return lambda x, t, cond: denoiser(x.to(dtype), t, cond).float()
