"""Files of the user's own: policies and forecasters that no file of this project mentions."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from configs import InputError


def load(files: Sequence[str]) -> None:
    """Runs these Python files, whose classes register themselves (@register, @register_forecaster).

    Raises InputError for a file that is not there, and for one that fails, with its line.
    """
    for file in files:
        path = Path(file)
        if path.suffix != ".py" or not path.is_file():
            raise InputError(f"import={file} is no Python file; name one that registers policies or forecasters")
        spec = importlib.util.spec_from_file_location(f"imported_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look up the types of their fields
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise InputError(f"{path}{_line(path, error)} fails with {type(error).__name__}: {error}") from error


def _line(path: Path, error: Exception) -> str:
    """Where in the file it failed, as ", line 3"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
