"""Empty stand-ins for the foreign Python objects beside the tensors of a checkpoint: no code of theirs is ever run."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

# The packages whose objects are stood in for: the keys and the scores of PyTorch Lightning's callbacks, and its
# hyper-parameters, in checkpoints of whole trainings.
STOOD_IN = ("pytorch_lightning.", "lightning.", "numpy.", "_codecs.")


class _StandIn:
    """Takes the place of a foreign class or function: accepts whatever a pickle gives it, and forgets it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # torch lets a pickle set the items of no dictionaries but Python's own: of one by its name, this is one.
        return OrderedDict() if cls.__name__.endswith("Dict") else super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def stand_ins(file: Path) -> list[type]:
    """An empty class for each name that the pickle in a zipped checkpoint refers to and that STOOD_IN allows."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    paths = [name.rsplit(".", 1) for name in names if name.startswith(STOOD_IN)]
    return [type(name, (_StandIn,), {"__module__": module}) for module, name in paths]
