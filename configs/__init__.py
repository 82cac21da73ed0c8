"""Configurations: the YAML files of this folder, read into the typed dataclasses that use them.

The schema is code: every dataclass that appears in a YAML file is defined beside the code it configures, and
`parse` merges files and `key=value` words into it with OmegaConf, refusing what the dataclass does not have.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent

T = TypeVar("T")


class InputError(ValueError):
    """Something the user gave is wrong. The message is one sentence: what is wrong, and what would be right."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error sentence: the known name closest to `word`, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def one_of(value: str, known: Iterable[str], what: str) -> None:
    """Raises InputError unless `value` is one of `known`."""
    known = list(known)
    if value not in known:
        raise InputError(f"{what} {value!r} does not exist; {nearest(str(value), known)}")


def check_keys(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises InputError for the first key of `given` that is not in `known`."""
    known = list(known)
    for key in given:
        if key not in known:
            raise InputError(f"{what} has no key {key!r}; {nearest(str(key), known)}")


def parse(schema: type[T], *layers: Mapping[str, Any], where: str) -> T:
    """Merges `layers` (later ones win) into an instance of the dataclass `schema`.

    where: what is being read, for the error sentence ("configs/mnist32.yaml", "the checkpoint's metadata").
    A free-form mapping with a `name` (a policy, say) is replaced by a later layer that gives another name: the
    settings of one thing mean nothing to another.
    Raises InputError for a key the schema does not have (naming the nearest one), a value of the wrong type and a
    missing value.
    """
    merged = OmegaConf.structured(schema)
    _set_writable(merged)
    free_form = {key for key, hint in get_type_hints(schema).items() if get_origin(hint) is dict}
    for layer in layers:
        _check_tree(schema, layer, where)
        for key in free_form & layer.keys():
            name = merged[key].get("name")
            if isinstance(layer[key], Mapping) and layer[key].get("name", name) != name:
                merged[key] = {}
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise InputError(_sentence(where, error)) from error
    missing = OmegaConf.missing_keys(merged)
    if missing:
        raise InputError(f"{where} lacks {', '.join(sorted(missing))}")
    try:
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise InputError(_sentence(where, error)) from error


def parse_words(words: Iterable[str]) -> dict[str, Any]:
    """`["sampler.steps=50", "compare=false"]` as a nested mapping."""
    words = list(words)
    for word in words:
        if "=" not in word:
            raise InputError(f"{word!r} is not of the form key=value, e.g. num_images=16")
    return to_mapping(OmegaConf.from_dotlist(words))


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in one YAML file."""
    path = Path(path)
    try:
        content = OmegaConf.load(path)
    except FileNotFoundError:
        raise InputError(f"there is no configuration file {path}") from None
    except (YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(content):
        raise InputError(f"{path} must hold a mapping of keys to values")
    return to_mapping(content)


def find(name: str | Path, folder: str = "") -> Path:
    """The YAML file that NAME means: a path as it is, else NAME.yaml of this folder's sub-folder `folder`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.exists():
            return path
        return ROOT / path if (ROOT / path).exists() else path
    known = {file.stem: file for file in (FOLDER / folder).glob("*.yaml")}
    one_of(str(name), known, f"the configuration{f' of {folder}' if folder else ''}")
    return known[str(name)]


def to_mapping(config: Any) -> dict[str, Any]:
    """An OmegaConf node as plain dicts, lists and scalars."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def _check_tree(schema: type, layer: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Keys are checked before OmegaConf sees them: its message names neither the nearest key nor the file."""
    types = get_type_hints(schema)
    for key, value in layer.items():
        if key not in types:
            near = difflib.get_close_matches(str(key), types, n=1, cutoff=0.5)
            hint = f"did you mean '{prefix}{near[0]}'? " if near else ""
            raise InputError(f"{where} has no key '{prefix}{key}'; {hint}known: {', '.join(prefix + n for n in types)}")
        if isinstance(value, Mapping) and is_dataclass(types[key]):
            _check_tree(types[key], value, where, f"{prefix}{key}.")


def _sentence(where: str, error: OmegaConfBaseException) -> str:
    key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
    return f"{where}: {key}{str(error).splitlines()[0]}"


def _set_writable(node: Any) -> None:
    """Frozen dataclasses become read-only nodes; until they are complete they must take the layers."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if OmegaConf.is_dict(child) and not child._is_none() and not child._is_missing():
            _set_writable(child)
