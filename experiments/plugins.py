"""Files of the user's own: policies and forecasters that no file of this project mentions."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import InputError
from experiments.digest import json_digest


def load(files: Sequence[str]) -> None:
    """Runs these Python files, whose classes register themselves (@register, @register_forecaster).

    Raises InputError for a file that is not there, and for one that fails, with its line.
    """
    for file in files:
        path = Path(file)
        if path.suffix != ".py" or not path.is_file():
            raise InputError(f"import={file} is no Python file; name one that registers policies or forecasters")
        name = f"imported_{path.stem}_{json_digest(str(path.resolve()))[:8]}"  # files of two folders may share a name
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look up the types of their fields
        try:
            spec.loader.exec_module(module)
        except InputError as error:
            raise InputError(f"{path}{_line(path, error)}: {error}") from error
        except Exception as error:
            raise InputError(f"{path}{_line(path, error)} fails with {type(error).__name__}: {error}") from error


def code_of(*classes: type) -> dict[str, Any]:
    """What the results of policies and forecasters depend on besides their settings. Of the user's own it is the files
    that define them, whose formulas are edited between one run and the next; of this project's, nothing. Comments and
    layout do not count."""
    digests = sorted(json_digest(ast.dump(ast.parse(file.read_bytes()))) for file in files_of(*classes))
    return {"code": digests[0] if len(digests) == 1 else digests} if digests else {}


def files_of(*classes: type) -> list[Path]:
    """The files of the user's own that define these policies and forecasters."""
    modules = {sys.modules.get(cls.__module__) for cls in classes if cls.__module__.partition(".")[0] != "caching"}
    return sorted({Path(module.__file__) for module in modules if getattr(module, "__file__", None)})


def words_of(*classes: type) -> list[str]:
    """The words of a command line that make these policies and forecasters known."""
    return [f"import={os.path.relpath(file)}" for file in files_of(*classes)]


def _line(path: Path, error: Exception) -> str:
    """Where in the file it failed, as ", line 3"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
