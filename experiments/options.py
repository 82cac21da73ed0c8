"""What a script can be told: its keys with their defaults and the comments that stand beside them in the code."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Collection, Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields, is_dataclass
from functools import cache
from typing import Any, NamedTuple

from omegaconf import MISSING

from caching import FORECASTERS, POLICIES
from experiments.grid import default_forecaster

WIDTH, INDENT = 120, 36  # characters of a line, and where comments begin
PARAGRAPH = "\n\n"


class Option(NamedTuple):
    """One key of a schema."""

    key: str  # dotted
    default: str
    comment: str


IMPORT = Option("import", "[]", "files of Python that register policies and forecasters of your own")


def describe(schema: type) -> str:
    """The keys of a dataclass, those of nested ones dotted, and what its policy and forecaster can be: as text."""
    lines = ["Keys, with their defaults where no configuration file sets them:"]
    lines += [_line(option) for option in [*options(schema), IMPORT]]
    for kind, registry in (("policy", POLICIES), ("forecaster", FORECASTERS)):
        if kind in (each.name for each in fields(schema)) and kind not in unused(schema):
            lines += ["", f"{kind}=NAME, and the keys {kind}.KEY of each:"]
            lines += [_named(name, cls) for name, cls in registry.items()]
            if kind == "forecaster":
                lines += [_text(f"auto: {inspect.cleandoc(default_forecaster.__doc__ or '').split(PARAGRAPH)[-1]}")]
    return "\n".join(lines)


def options(schema: type, prefix: str = "") -> Iterator[Option]:
    """The keys of a dataclass, in the order of its fields."""
    for each in (each for each in fields(schema) if each.name not in unused(schema)):
        default = _default(each)
        if is_dataclass(default):
            yield from options(type(default), f"{prefix}{each.name}.")
        else:
            yield Option(prefix + each.name, _as_yaml(default), comment_of(schema, each.name))


def unused(schema: type) -> Collection[str]:
    """The keys of a schema that change nothing: the files it reads may have them, since they are others' as well."""
    return getattr(schema, "UNUSED", ())


def comment_of(schema: type, name: str) -> str:
    """The comment on a field, above its line or at the end of it, in the class that defines it."""
    return next((found[name] for cls in schema.__mro__ if name in (found := _comments(cls))), "")


@cache
def _comments(cls: type) -> dict[str, str]:
    """The comments on the fields that a class itself defines; none where its source is not to be had."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    comments = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for statement in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            above = statement.lineno
            while comments.get(above - 1, ("", False))[1]:
                above -= 1
            lines = range(above, statement.end_lineno + 1)  # type: ignore[operator]
            found[statement.target.id] = " ".join(comments[line][0] for line in lines if line in comments)
    return found


def _default(each: Field) -> Any:
    return each.default_factory() if each.default_factory is not NO_DEFAULT else each.default


def _as_yaml(value: Any) -> str:
    """A default as it would be written on a command line."""
    if value in (MISSING, NO_DEFAULT):
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        inner = ", ".join(f"{key}: {_as_yaml(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return str(value)


def _named(name: str, cls: type) -> str:
    """A policy or forecaster with its keys and what its docstring begins with."""
    head = " ".join([name, *(f"{option.key}={option.default}" for option in options(cls))])
    return _text(f"{head}: {inspect.cleandoc(cls.__doc__ or '').partition(PARAGRAPH)[0]}")


def _text(words: str) -> str:
    return textwrap.fill(" ".join(words.split()), WIDTH, initial_indent="  ", subsequent_indent="      ")


def _line(option: Option) -> str:
    head = f"  {option.key}={option.default}"
    body = textwrap.wrap(option.comment, WIDTH - INDENT)
    if body and len(head) < INDENT:
        head, body = head.ljust(INDENT) + body[0], body[1:]
    return "\n".join([head, *(" " * INDENT + line for line in body)])
