"""Configurations: the YAML files of this folder, read into the typed dataclasses that use them.

The schema is code: every dataclass that appears in a YAML file is defined beside the code it configures, and
`parse` merges files and `key=value` words into it with OmegaConf, refusing what the dataclass does not have.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
# What OmegaConf raises about values: not only exceptions of its own.
VALUE_ERRORS = (OmegaConfBaseException, TypeError, OverflowError)

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


def parse(schema: type[T], *layers: Mapping[str, Any], where: str | Sequence[str]) -> T:
    """Merges `layers` (later ones win) into an instance of the dataclass `schema`.

    where: what is being read, for the error sentence ("configs/mnist32.yaml", "the checkpoint's metadata"); one for
      all layers, or one for each.
    A free-form mapping with a `name` (a policy, say) is replaced by a later layer that gives another name: the
    settings of one thing mean nothing to another. The name alone stands for a mapping of nothing else.
    Raises InputError for a key the schema does not have (naming the nearest one), a value of the wrong type and a
    missing value.
    """
    merged = OmegaConf.structured(schema)
    _set_writable(merged)
    free_form = {key for key, hint in get_type_hints(schema).items() if get_origin(hint) is dict}
    places = [where] * len(layers) if isinstance(where, str) else where
    leaves: dict[str, _Leaf] = {}
    for given, place in zip(layers, places, strict=True):
        short = {key: {"name": given[key]} for key in free_form & given.keys() if isinstance(given[key], str)}
        layer = {**given, **short}
        leaves |= {leaf.name: leaf for leaf in _leaves(schema, layer, place)}
        with _naming_misfits(leaves, place):
            for key in free_form & layer.keys():
                if OmegaConf.is_missing(merged, key):
                    continue
                name = merged[key].get("name")
                if isinstance(layer[key], Mapping) and layer[key].get("name", name) != name:
                    merged[key] = {}
            merged = OmegaConf.merge(merged, layer)
    first = where if isinstance(where, str) else where[0]
    with _naming_misfits(leaves, first):
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise InputError(f"{first} lacks {', '.join(sorted(missing))}")
        return OmegaConf.to_object(merged)  # type: ignore[return-value]


def parse_words(words: Iterable[str]) -> dict[str, Any]:
    """`["sampler.steps=50", "compare=false"]` as a nested mapping. `policy=adaptive` beside `policy.bound=1` means
    `policy.name=adaptive`."""
    given = OmegaConf.create()
    for word in words:
        key, equals, _ = word.partition("=")
        if not (key and equals):
            raise InputError(f"{word!r} is not of the form key=value, e.g. num_images=16")
        try:
            given.merge_with(_named(to_mapping(OmegaConf.from_dotlist([word])), given))
        except (YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"the value in {word!r} is not readable YAML") from error
    return to_mapping(given)


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
        wanted = KINDS.get(self.hint) or str(self.hint).removeprefix("typing.")
        if any(is_dataclass(part) for part in (self.hint, *get_args(self.hint))) and get_origin(self.hint) is not list:
            wanted = "a mapping of keys to values"
        return f"{self.where}: {self.name} must be {wanted}, not {self.value!r}"


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
    hints = get_type_hints(schema)
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise InputError(f"{where} has no key {name!r}; {nearest(name, [prefix + known for known in hints])}")
        yield from _leaves_below(hints[key], value, where, name)


def _leaves_below(hint: Any, value: Any, where: str, name: str) -> Iterator[_Leaf]:
    inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
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


def _set_writable(node: Any) -> None:
    """Frozen dataclasses become read-only nodes; until they are complete they must take the layers."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        child = node._get_node(key)
        if OmegaConf.is_dict(child) and not child._is_none() and not child._is_missing():
            _set_writable(child)
