"""Timestep spacings: which of the T training timesteps a sampler visits."""

from __future__ import annotations

import re

import numpy as np

from configs import InputError, one_of


def check_spacing(spacing: str, steps: int) -> None:
    """Raises InputError unless `spacing` is a name of SPACINGS, or a section list that makes `steps` timesteps."""
    if steps < 1:
        raise InputError(f"the number of steps must be at least 1, not {steps}")
    sections = section_counts(spacing)
    if not sections:
        one_of(spacing, SPACINGS, "the timestep spacing")
    elif sum(sections) != steps:
        raise InputError(f"the timestep spacing {spacing} makes {sum(sections)} steps, not {steps}")


def space(spacing: str, steps: int, total: int, offset: int = 0) -> np.ndarray:
    """The timesteps of a sampling run, ascending, out of the `total` training timesteps -> (steps,) int64.

    spacing: a name of SPACINGS, or a section list such as "10,10,15,20" (see `sectioned`). `uniform` may make more
      timesteps than asked for, as the released code does: 59 of 1000 are 63, and 91 are 100.
    offset: added to every timestep (0: Ho et al., ermongroup, guided-diffusion; 1: CompVis, Stable Diffusion).
    Raises InputError where the spacing cannot make `steps` timesteps, or needs one beyond the training timesteps,
    as CompVis' uniform spacing with offset 1 does for 3, 9, 27, 36, 37, 101-111, 251-333 and 501-1000 steps.
    """
    check_spacing(spacing, steps)
    if steps > total:
        raise InputError(f"the number of steps must lie in 1..{total}, not {steps}")
    if offset < 0:
        raise InputError(f"the timestep offset must be at least 0, not {offset}")
    if sections := section_counts(spacing):
        timesteps = sectioned(sections, total) + offset
    else:
        timesteps = SPACINGS[spacing](steps, total) + offset
    if problem := misfit(spacing, timesteps, steps, total):
        nearby = sorted(range(max(1, steps // 2), min(2 * steps, total) + 1), key=lambda n: abs(n - steps))
        other = next((n for n in nearby if works(spacing, n, total, offset)), None)
        advice = f"steps={other} works" if other else "take offset 0"
        raise InputError(f"{spacing} spacing of {steps} steps with offset {offset} {problem}; {advice}")
    return timesteps


def misfit(spacing: str, timesteps: np.ndarray, steps: int, total: int) -> str:
    """What is wrong with `timesteps`, as the end of a sentence; empty where nothing is."""
    if timesteps[-1] >= total:
        return f"needs timestep {timesteps[-1]}, beyond the last training timestep {total - 1}"
    if len(timesteps) != steps and spacing != "uniform":
        return f"does not exist, since no integer stride makes exactly {steps} of {total} timesteps"
    return ""


def works(spacing: str, steps: int, total: int, offset: int) -> bool:
    """Whether `steps` timesteps can be laid with a named spacing. A section list makes one number of steps only."""
    return spacing in SPACINGS and not misfit(spacing, SPACINGS[spacing](steps, total) + offset, steps, total)


def uniform(steps: int, total: int) -> np.ndarray:
    """0, c, 2c, … below T with c = T // steps (ermongroup, CompVis)."""
    return np.arange(0, total, total // steps)


def leading(steps: int, total: int) -> np.ndarray:
    """0, c, 2c, … with c = T // steps, exactly `steps` of them (diffusers)."""
    return np.arange(steps) * (total // steps)


def strided(steps: int, total: int) -> np.ndarray:
    """0, c, 2c, … below T with the smallest c that makes no more than `steps` (guided-diffusion "ddimN")."""
    return np.arange(0, total, -(-total // steps))


def quadratic(steps: int, total: int) -> np.ndarray:
    """int(linspace(0, sqrt(0.8 T), steps)²): denser near x_0 (Song et al. 2021, DDIM, appendix D.2).

    At many steps the first entries repeat; at eta 0 a repeated timestep leaves x as it is, but it is a network
    evaluation like any other.
    """
    return (np.linspace(0, np.sqrt(0.8 * total), steps) ** 2).astype(np.int64)


def fractional(steps: int, total: int) -> np.ndarray:
    """From 0 to T-1, both included, a stride of (T-1)/(steps-1) rounded half to even (guided-diffusion "N").

    The stride is added up, not multiplied: the rounding of these sums decides the ties of a good quarter of all
    step counts, as it does in guided-diffusion.
    """
    strides = np.full(steps - 1, (total - 1) / max(steps - 1, 1))
    return np.rint(np.cumsum([0.0, *strides])).astype(np.int64)


def sectioned(counts: list[int], total: int) -> np.ndarray:
    """T cut into len(counts) sections as equal as may be, section i spaced `fractional` with counts[i] timesteps
    (guided-diffusion "10,10,15,20")."""
    size, longer = divmod(total, len(counts))
    timesteps, start = [], 0
    for i, count in enumerate(counts):
        length = size + (i < longer)
        if not 1 <= count <= length:
            raise InputError(f"section {i + 1} of the timestep spacing has {length} timesteps; it cannot make {count}")
        timesteps.append(start + fractional(count, length))
        start += length
    return np.concatenate(timesteps)


def section_counts(spacing: str) -> list[int]:
    """The counts of a section list; none for the name of a spacing."""
    return [int(count) for count in spacing.split(",")] if re.fullmatch(r"\d+(,\d+)+", spacing) else []


SPACINGS = {
    "uniform": uniform,
    "leading": leading,
    "strided": strided,
    "quadratic": quadratic,
    "fractional": fractional,
}
