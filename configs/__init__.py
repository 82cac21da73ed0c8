"""Configurations: the YAML files of this folder, read into the typed dataclasses that use them.

The schema is code: every dataclass that appears in a YAML file is defined beside the code it configures, and
`parse` merges files and `key=value` words into it with OmegaConf, refusing what the dataclass does not have.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass, make_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
KINDS_OF_LISTS = {int: "integers", float: "numbers", str: "texts", list: "lists", dict: "mappings"}
# What OmegaConf raises about values: not only exceptions of its own.
VALUE_ERRORS = (OmegaConfBaseException, TypeError, OverflowError)

T = TypeVar("T")
_hints = functools.cache(get_type_hints)  # of the same few dataclasses, again and again


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


def parse(schema: type[T], *layers: Mapping[str, Any], where: str | Sequence[str]) -> T:
    """Merges `layers` (later ones win) into an instance of the dataclass `schema`.

    where: what is being read, for the error sentence ("configs/mnist32.yaml", "the checkpoint's metadata"); one for
      all layers, or one for each.
    A free-form mapping with a `name` (a policy, say) is replaced by a later layer that gives another name: the
    settings of one thing mean nothing to another. The name alone stands for a mapping of nothing else.
    Raises InputError for a key the schema does not have (naming the nearest one), a value of the wrong type and a
    missing value.
    """
    merged = _blank(schema)
    free_form = {key for key, hint in _hints(schema).items() if get_origin(hint) is dict}
    places = [where] * len(layers) if isinstance(where, str) else where
    leaves: dict[str, _Leaf] = {}
    for given, place in zip(layers, places, strict=True):
        short = {key: {"name": given[key]} for key in free_form & given.keys() if isinstance(given[key], str)}
        layer = {**given, **short}
        leaves |= {leaf.name: leaf for leaf in _leaves(schema, layer, place)}
        with _naming_misfits(leaves, place):
            afresh = [key for key in free_form & layer.keys() if _has_other_name(merged, key, layer[key])]
            merged = OmegaConf.merge(merged, layer)
            for key in afresh:
                merged[key] = layer[key]
    first = where if isinstance(where, str) else where[0]
    with _naming_misfits(leaves, first):
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise InputError(f"{first} lacks {', '.join(sorted(missing))}")
        return OmegaConf.to_object(merged)  # type: ignore[return-value]


def parse_words(words: Iterable[str], schema: type | None = None) -> dict[str, Any]:
    """`["sampler.steps=50", "compare=false"]` as a nested mapping. `policy=adaptive` beside `policy.bound=1` means
    `policy.name=adaptive`.

    schema: the dataclass that the words are for. Where it wants text, what stands behind the `=` is that text, as it
      is; but for null, nothing at all and what is in quotes. Every other value, and all without a schema, is YAML.
    Raises InputError for a word that is no key=value, or no YAML, or contradicts an earlier one, and for OmegaConf's
    own notations: ??? and ${...}.
    """
    given = OmegaConf.create()
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise InputError(f"{word!r} is not of the form key=value, e.g. num_images=16")
        if "${" in word:
            raise InputError(f"{word!r} refers to something by ${{...}}; give the value itself")
        if value.strip("'\" ") == "???":
            raise InputError(f"{word!r} gives no value: ??? stands for one that is missing; leave the key out")
        try:
            if _is_text(value) and _hint(schema, key) in (str, str | None):
                one = OmegaConf.create()
                OmegaConf.update(one, key, value)
            else:
                one = OmegaConf.from_dotlist([word])
        except (YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"the value in {word!r} is not readable YAML") from error
        try:
            given.merge_with(_named(to_mapping(one), given))
        except OmegaConfBaseException as error:
            raise InputError(f"{word!r} contradicts an earlier word: a list has no keys of its own; leave one of the "
                             "two out") from error  # fmt: skip
    return to_mapping(given)


def _is_text(value: str) -> bool:
    """Is this the text of a key that wants one? Null and nothing are no text; what is in quotes is YAML's to read."""
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value not in ("", "null") and not in_quotes


def _hint(schema: Any, key: str) -> Any:
    """What a dataclass wants at a dotted key; None where it does not say."""
    hint = schema
    for name in key.split("."):
        inner = _dataclass_in(hint)
        if inner is None:
            return None
        hint = inner if get_origin(hint) is dict else _hints(inner).get(name)
    return hint


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass of a hint that is one, or a list or mapping of it, or it or null."""
    return next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)


def _named(word: dict[str, Any], given: DictConfig) -> dict[str, Any]:
    """One word as a mapping, where it or `given` before it has a name for what the other one has settings of."""
    for key, value in word.items():
        if isinstance(value, str) and isinstance(given.get(key), DictConfig):
            return {key: {"name": value}}
        if isinstance(value, Mapping) and isinstance(given.get(key), str):
            given[key] = {"name": given[key]}
    return word


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in one YAML file."""
    path = Path(path)
    try:
        content = OmegaConf.load(path)
        if OmegaConf.is_dict(content):
            return to_mapping(content)
    except FileNotFoundError:
        raise InputError(f"there is no configuration file {path}") from None
    except (YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    raise InputError(f"{path} must hold a mapping of keys to values")


def find(name: str | Path, folder: str = "") -> Path:
    """The YAML file that NAME means: a path as it is, else NAME.yaml of this folder's sub-folder `folder`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.exists():
            return path
        return ROOT / path if (ROOT / path).exists() else path
    known = {file.stem: file for file in (FOLDER / folder).glob("*.yaml")}
    if str(name) not in known:
        raise InputError(
            f"there is no configuration {str(name)!r} in {Path('configs', folder)}; {nearest(str(name), known)}"
        )
    return known[str(name)]


def to_mapping(config: Any) -> dict[str, Any]:
    """An OmegaConf node as plain dicts, lists and scalars."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


class _Leaf(NamedTuple):
    """One value of a layer that is no mapping of its own, and what the schema wants there."""

    where: str
    name: str
    hint: Any
    value: Any

    @property
    def fits(self) -> bool:
        alone = OmegaConf.structured(make_dataclass("Alone", [("value", self.hint)]))
        try:
            OmegaConf.to_object(OmegaConf.merge(alone, {"value": self.value}))
        except VALUE_ERRORS:
            return False
        return True

    @property
    def is_nested(self) -> bool:
        """Are there lists or mappings in what should be a list of numbers or texts? OmegaConf takes them."""
        lists = [part for part in (self.hint, *get_args(self.hint)) if get_origin(part) is list]
        plain = any(get_args(part)[0] in KINDS for part in lists)
        return plain and isinstance(self.value, list) and any(isinstance(one, list | Mapping) for one in self.value)

    @property
    def refusal(self) -> str:
        wanted = _described(self.hint)
        several = (
            f"; of several the names: {self.name}.name=[…]" if wanted == NAMED and isinstance(self.value, list) else ""
        )
        return f"{self.where}: {self.name} must be {wanted}, not {self.value!r}{several}"


NAMED = "a name, or a mapping of keys to values"


def _described(hint: Any) -> str:
    """What a hint wants, in words."""
    if hint in KINDS:
        return KINDS[hint]
    inside = get_args(hint)
    if get_origin(hint) is list:
        kind = dict if is_dataclass(inside[0]) else get_origin(inside[0]) or inside[0]
        return f"a list of {KINDS_OF_LISTS[kind]}" if kind in KINDS_OF_LISTS else "a list"
    if get_origin(hint) is dict and inside[1] is Any:  # the name alone stands for it, see `parse`
        return NAMED
    if get_origin(hint) is dict or is_dataclass(hint):
        return "a mapping of keys to values"
    return " or ".join(map(_described, inside)) or str(hint).removeprefix("typing.")


@contextmanager
def _naming_misfits(leaves: Mapping[str, _Leaf], where: str) -> Iterator[None]:
    """Raises InputError about the first leaf that is not of its type; OmegaConf's message does not always name it."""
    try:
        yield
    except VALUE_ERRORS as error:
        misfit = next((leaf for leaf in leaves.values() if not leaf.fits), None)
        raise InputError(misfit.refusal if misfit else f"{where}: {str(error).splitlines()[0]}") from error


def _leaves(schema: type, layer: Mapping[str, Any], where: str, prefix: str = "") -> Iterator[_Leaf]:
    """The leaves of `layer`. Raises InputError for a key that the schema does not have, since OmegaConf's message names
    neither the nearest key nor the file, and for nested lists."""
    hints = _hints(schema)
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise InputError(f"{where} has no key {name!r}; {nearest(name, [prefix + known for known in hints])}")
        yield from _leaves_below(hints[key], value, where, name)


def _leaves_below(hint: Any, value: Any, where: str, name: str) -> Iterator[_Leaf]:
    inner = _dataclass_in(hint)
    if inner is not None and get_origin(hint) is list and isinstance(value, list):  # list[dataclass]
        for index, entry in enumerate(value):
            yield from _leaves_below(inner, entry, where, f"{name}[{index}]")
    elif inner is None or get_origin(hint) is list or not isinstance(value, Mapping):
        leaf = _Leaf(where, name, hint, value)
        if leaf.is_nested:
            raise InputError(leaf.refusal)
        yield leaf
    elif get_origin(hint) is dict:  # dict[str, dataclass]
        for key, entry in value.items():
            yield from _leaves_below(inner, entry, where, f"{name}.{key}")
    else:  # a dataclass, or one that may be null
        yield from _leaves(inner, value, where, f"{name}.")


def _has_other_name(merged: DictConfig, key: str, value: Any) -> bool:
    """Does `value` name another thing than the free-form mapping at `key` does?"""
    if OmegaConf.is_missing(merged, key) or not isinstance(value, Mapping):
        return False
    name = merged[key].get("name")
    return value.get("name", name) != name


@functools.cache
def _blank(schema: type) -> DictConfig:
    """The node of a dataclass without any layer. It is slow to make, and never changed: OmegaConf.merge copies it."""
    node = OmegaConf.structured(schema)
    _set_writable(node)
    return node


def _set_writable(node: Any) -> None:
    """Frozen dataclasses become read-only nodes; until they are complete they must take the layers."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if OmegaConf.is_dict(child) and not child._is_none() and not child._is_missing():
            _set_writable(child)
