"""Public checkpoint layouts, and how a state dict is recognised as one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configs import InputError
from models.layouts.ddpm import PESSER
from models.layouts.diffusers import DIFFUSERS, DIFFUSERS_OLD
from models.layouts.diffusers_conditional import DIFFUSERS_CONDITIONAL
from models.layouts.first_stage import FIRST_STAGE_LAYOUTS
from models.layouts.openai import OPENAI
from models.layouts.translate import Layout, Tensors, check_readable, pick, translate

LAYOUTS = (PESSER, DIFFUSERS, DIFFUSERS_OLD, DIFFUSERS_CONDITIONAL, OPENAI)


def recognise(tensors: Tensors, among: Sequence[Layout] = LAYOUTS) -> Layout:
    """The layout whose keys these are. Raises InputError where there is none."""
    for layout in among:
        if layout.recognises(tensors):
            return layout
    sample = ", ".join(repr(key[:60]) for key in list(tensors)[:3])
    known = "; ".join(layout.name for layout in among)
    raise InputError(f"its keys ({sample}, …) belong to no known layout; known: {known}")


def infer(layout: Layout, tensors: Tensors) -> dict[str, Any]:
    """What keys and shapes determine of the network's configuration.

    Raises InputError where they lack what every network of `layout` has.
    """
    try:
        return layout.infer(tensors)
    except KeyError as error:
        raise InputError(f"it lacks {error}, which every network in the layout {layout.name} has") from error
    except (IndexError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"its tensors do not have the shapes of the layout {layout.name}") from error


__all__ = [
    "FIRST_STAGE_LAYOUTS", "LAYOUTS", "Layout", "Tensors", "check_readable", "infer", "pick", "recognise", "translate",
]  # fmt: skip
