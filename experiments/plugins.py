"""Files of the user's own: policies and forecasters that no file of this project mentions."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from configs import InputError
from experiments.digest import json_digest

OURS = ("caching", "configs", "experiments", "models", "samplers")
INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def load(files: Sequence[str]) -> None:
    """Runs these Python files, whose classes register themselves (@register, @register_forecaster). They may import
    modules that lie beside them.

    Raises InputError for a file that is not there, and for one that fails, with its line.
    """
    for file in files:
        path = Path(file)
        if path.suffix != ".py" or not path.is_file():
            raise InputError(f"import={file} is no Python file; name one that registers policies or forecasters")
        name = f"imported_{path.stem}_{json_digest(str(path.resolve()))[:8]}"  # files of two folders may share a name
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        if (folder := str(path.resolve().parent)) not in sys.path:
            sys.path.append(folder)  # the last: what lies there hides no module of this project
        sys.modules[spec.name] = module  # where dataclasses look up the types of their fields
        try:
            spec.loader.exec_module(module)
        except InputError as error:
            raise InputError(f"{path}{_line(path, error)}: {error}") from error
        except Exception as error:
            raise InputError(f"{path}{_line(path, error)} fails with {type(error).__name__}: {error}") from error
        _check_neighbours(path)


def _check_neighbours(path: Path) -> None:
    """Raises InputError where a file imported another module than the one that lies beside it: Python knows one of a
    name."""
    for name in _imported(ast.parse(path.read_bytes()), ""):
        beside, module = path.resolve().parent / f"{name}.py", sys.modules.get(name)
        if module is not None and beside.is_file() and Path(module.__file__ or "").resolve() != beside:
            raise InputError(f"{path} imports {name}, but not {beside}: {module.__file__} has that name as well; give "
                             "one of them another")  # fmt: skip


def code_of(*classes: type) -> dict[str, Any]:
    """What the results of policies and forecasters depend on besides their settings. Of the user's own it is the code
    that defines them, whose formulas are edited between one run and the next: the modules of the classes and of their
    bases, and those modules of the user's own that these import. Of this project's, nothing. Comments and layout do not
    count, nor does what a class reads from other files."""
    digests = sorted({json_digest(ast.dump(tree)) for tree in _code(*classes).values()})
    return {"code": digests[0] if len(digests) == 1 else digests} if digests else {}


def files_of(*classes: type) -> list[Path]:
    """The files of the user's own that define these policies and forecasters."""
    modules = [sys.modules.get(cls.__module__) for cls in classes]
    return sorted({Path(module.__file__) for module in modules if module and _is_own(module)})


def words_of(*classes: type) -> list[str]:
    """The words of a command line that make these policies and forecasters known."""
    return [f"import={os.path.relpath(file)}" for file in files_of(*classes)]


def _line(path: Path, error: Exception) -> str:
    """Where in the file it failed, as ", line 3"."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _code(*classes: type) -> dict[str, ast.Module]:
    """The syntax trees, by file, of all modules of the user's own that these classes are made of."""
    found: dict[str, ast.Module] = {}
    names = [base.__module__ for cls in classes for base in cls.__mro__]
    while names:
        module = sys.modules.get(names.pop())
        if module is not None and _is_own(module) and module.__file__ not in found:
            tree = ast.parse(Path(module.__file__).read_bytes())
            found[module.__file__] = tree
            names += _imported(tree, module.__package__ or "")
    return found


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The modules that may be meant by the imports of a module of `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            name = "." * node.level + (node.module or "")
            name = importlib.util.resolve_name(name, package) if node.level else name
            yield from (name, *(f"{name}.{alias.name}" for alias in node.names))


def _is_own(module: ModuleType) -> bool:
    """Is it the user's, and neither this project's, an installed package's nor Python's?"""
    file = getattr(module, "__file__", None)
    if module.__name__.partition(".")[0] in OURS or not file or not file.endswith(".py"):
        return False
    return not any(Path(file).resolve().is_relative_to(folder) for folder in INSTALLED)
