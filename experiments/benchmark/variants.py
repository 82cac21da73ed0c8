"""The ways to run one network that are measured against each other, and how a case names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from configs import InputError, nearest
from experiments.precision import PRECISIONS

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# What runs the network; the classes are in engines.py.
ENGINES = (
    "plain",  # our U-Net as it is
    "fast",  # transformed, as scripts/sample.py runs it
    "diffusers",  # UNet2DModel or UNet2DConditionModel, as its pipelines load it
    "deepcache",  # the same under the package DeepCache
)


@dataclass(frozen=True)
class Variant:
    """An engine and its settings."""

    engine: str
    precision: str = "fp32"  # of weights and evaluations
    layout: str | None = None  # None: the engine's own
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def __str__(self) -> str:
        """The words that mean it: what goes without saying is left out."""
        layout = [self.layout] if self.layout else []
        precision = [self.precision] if self.precision != "fp32" else []
        return " ".join([self.engine, *layout, *["compiled"] * self.compiled, *precision])


def parse_variant(words: str) -> Variant:
    """ "plain", "diffusers compiled bf16", "plain contiguous": an engine, then its settings in any order.

    Raises InputError for a word that means nothing.
    """
    engine, *settings = words.split() or [""]
    if engine not in ENGINES:
        raise InputError(f"the variant {words!r} must begin with an engine; {nearest(engine, ENGINES)}")
    variant: dict[str, Any] = {}
    for word in settings:
        if word in PRECISIONS:
            variant["precision"] = word
        elif word in LAYOUTS:
            variant["layout"] = word
        elif word == "compiled":
            variant["compiled"] = True
        else:
            known = [*PRECISIONS, *LAYOUTS, "compiled"]
            raise InputError(f"the variant {words!r} has the setting {word!r}; {nearest(word, known)}")
    return Variant(engine, **variant)
