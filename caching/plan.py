"""Plans: how deep the U-Net runs at every network evaluation of a trajectory, as plain data."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from configs import InputError

# How deep one evaluation runs: None is a full pass, b a partial pass at branch b. NULL, outside of branch 0, runs
# nothing: the network's output itself is forecast (a null step).
Depth = int | None
Plan = tuple[Depth, ...]
NULL = -1


def partial_between(full: Iterable[int], branch: int, num_evals: int) -> Plan:
    """The plan with full passes at the evaluations `full` and partial passes at `branch` everywhere else.

    Raises InputError for an entry of `full` that is no evaluation: a full pass would silently be missing.
    """
    full = list(full)
    outside = next((i for i in full if i not in range(num_evals)), None)
    if outside is not None:
        raise InputError(f"full pass {outside} is not an evaluation; the sampler makes 0..{num_evals - 1}")
    return tuple(None if i in full else branch for i in range(num_evals))


def full_evals(plan: Plan) -> tuple[int, ...]:
    """The evaluations at which the whole network runs."""
    return tuple(i for i, depth in enumerate(plan) if depth is None)


def as_plan(entries: Iterable[Any]) -> Plan:
    """Entries from a file, a command line or a policy as a plan of plain numbers. Raises InputError for one that is no
    depth."""
    return tuple(_as_depth(entry) for entry in entries)


def _as_depth(entry: Any) -> Depth:
    try:
        # A bool is an integer to Python; whole numbers of NumPy and PyTorch are not, but know which one they are.
        return entry if entry is None else operator.index(None if isinstance(entry, bool) else entry)
    except TypeError:
        raise InputError(f"an entry of a plan is null (a full pass) or a branch number, not {entry!r}") from None


def check_plan(plan: Plan, num_evals: int, num_branches: int) -> None:
    """Raises InputError unless `plan` can drive a trajectory of `num_evals` evaluations of a network."""
    if len(plan) != num_evals:
        raise InputError(f"the plan has {len(plan)} entries, but the sampler makes {num_evals} network evaluations")
    if plan and plan[0] is not None:
        raise InputError("the first evaluation must be a full pass: there is no feature to reuse yet")
    for i, depth in enumerate(plan):
        if depth is not None and not NULL <= depth < num_branches:
            raise InputError(f"evaluation {i} is planned at branch {depth}, but this network has branches 0 (outermost)"
                             f" to {num_branches - 1}, and {NULL} for a null step")  # fmt: skip


def cached_branches(plan: Plan) -> tuple[int, ...]:
    """The branches at which a feature must be kept, outermost first; NULL among them keeps the output."""
    return tuple(sorted({depth for depth in plan if depth is not None}))


def refreshed(branches: Iterable[int], depth: Depth) -> tuple[int, ...]:
    """Those of the cached `branches` whose feature a pass of this depth makes anew: all by a full pass, those
    outside b by a partial pass at b, none by a null step."""
    return tuple(branch for branch in branches if depth is None or branch < depth)


def describe(plan: Plan) -> str:
    """A plan as people read it: F for a full pass, the branch number for a partial one, - for a null step, repeats
    counted."""
    words = ["F" if depth is None else "-" if depth == NULL else str(depth) for depth in plan]
    runs: list[list] = []
    for word in words:
        if runs and runs[-1][0] == word:
            runs[-1][1] += 1
        else:
            runs.append([word, 1])
    return " ".join(word if times == 1 else f"{word}x{times}" for word, times in runs)
