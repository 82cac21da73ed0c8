"""Configurations: the YAML files of this folder, read into the typed dataclasses that use them.

The schema is code: every dataclass that appears in a YAML file is defined beside the code it configures, and
`parse` merges files and `key=value` words into it with OmegaConf, refusing what the dataclass does not have.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from configs.errors import InputError, check_keys, nearest, one_of
from configs.leaves import Leaf, can_be_set, dataclass_in, leaves_of, naming_misfits, type_hints

__all__ = ["FOLDER", "ROOT", "InputError", "check_keys", "check_schema", "find", "nearest", "one_of", "parse",
           "parse_words", "read", "to_mapping"]  # fmt: skip

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent

T = TypeVar("T")


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
    free_form = {key for key, hint in type_hints(schema).items() if get_origin(hint) is dict}
    places = [where] * len(layers) if isinstance(where, str) else where
    leaves: dict[str, Leaf] = {}
    for given, place in zip(layers, places, strict=True):
        short = {key: {"name": given[key]} for key in free_form & given.keys() if isinstance(given[key], str)}
        layer = {**given, **short}
        leaves |= {leaf.name: leaf for leaf in leaves_of(schema, layer, place)}
        with naming_misfits(leaves, place):
            afresh = [key for key in free_form & layer.keys() if _has_other_name(merged, key, layer[key])]
            merged = OmegaConf.merge(merged, layer)
            for key in afresh:
                merged[key] = layer[key]
    first = where if isinstance(where, str) else where[0]
    with naming_misfits(leaves, first):
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise InputError(f"{first} lacks {', '.join(sorted(missing))}")
        return OmegaConf.to_object(merged)  # type: ignore[return-value]


def check_schema(schema: type, what: str) -> None:
    """Raises InputError for a dataclass with a field that no configuration can set; `parse` would stumble over it."""
    for name, hint in type_hints(schema).items():
        if get_origin(hint) is not ClassVar and hint is not ClassVar and not can_be_set(hint):
            raise InputError(f"{what} has a field {name} of a type that no configuration can set; it must be int, "
                             "float, bool, str, list[...], dict[str, ...], one of these or None, or Any")  # fmt: skip


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
        if value.startswith("~/"):  # shells expand it at the beginning of a word alone
            value = str(Path(value).expanduser())
            word = f"{key}={value}"
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
        inner = dataclass_in(hint)
        if inner is None:
            return None
        hint = inner if get_origin(hint) is dict else type_hints(inner).get(name)
    return hint


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
