"""Public checkpoint layouts, and how a state dict is recognised as one of them."""

from __future__ import annotations

from configs import InputError
from models.layouts.ddpm import PESSER
from models.layouts.diffusers import DIFFUSERS, DIFFUSERS_OLD
from models.layouts.openai import OPENAI
from models.layouts.translate import Layout, Tensors, pick, translate

LAYOUTS = (PESSER, DIFFUSERS, DIFFUSERS_OLD, OPENAI)


def recognise(tensors: Tensors) -> Layout:
    """The layout whose keys these are. Raises InputError where there is none."""
    for layout in LAYOUTS:
        if layout.recognises(tensors):
            return layout
    sample = ", ".join(repr(key[:60]) for key in list(tensors)[:3])
    known = "; ".join(layout.name for layout in LAYOUTS)
    raise InputError(f"its keys ({sample}, …) belong to no known U-Net layout; known: {known}")


__all__ = ["LAYOUTS", "Layout", "pick", "recognise", "translate"]
