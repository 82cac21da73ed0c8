"""The single values of a configuration, and what is said of one that is not what the schema wants."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass, make_dataclass
from enum import Enum
from pathlib import PurePath
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.errors import InputError, nearest

KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
KINDS_OF_LISTS = {int: "integers", float: "numbers", str: "texts", list: "lists", dict: "mappings"}
# What OmegaConf raises about values: not only exceptions of its own.
VALUE_ERRORS = (OmegaConfBaseException, TypeError, OverflowError)
NAMED = "a name, or a mapping of keys to values"

type_hints = functools.cache(get_type_hints)  # of the same few dataclasses, again and again


class Leaf(NamedTuple):
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
    def slips_through(self) -> bool:
        """Does OmegaConf take what does not fit? Lists or mappings in what should be a list of numbers or texts, and
        any number for true."""
        hints = (self.hint, *get_args(self.hint))
        if bool in hints:
            return isinstance(self.value, int) and self.value not in (0, 1)
        is_plain = any(get_args(part)[0] in KINDS for part in hints if get_origin(part) is list)
        return is_plain and isinstance(self.value, list) and any(isinstance(one, list | Mapping) for one in self.value)

    @property
    def is_too_large(self) -> bool:
        """Is there an integer of more than 64 bits, which nothing here can count to?"""
        ones = self.value if isinstance(self.value, list) else [self.value]
        return any(isinstance(one, int) and abs(one) >= 2**63 for one in ones)

    @property
    def refusal(self) -> str:
        wanted = _described(self.hint)
        several = (
            f"; of several the names: {self.name}.name=[…]" if wanted == NAMED and isinstance(self.value, list) else ""
        )
        return f"{self.where}: {self.name} must be {wanted}, not {self.value!r}{several}"


def can_be_set(hint: Any) -> bool:
    """Can a configuration hold values of this type?"""
    if hint in (list, dict, tuple) or get_origin(hint) is tuple:  # whose entries would be of no type, or of an odd one
        return False
    # OmegaConf takes these, but results could not be kept under settings that no JSON file holds.
    if any(isinstance(part, type) and issubclass(part, Enum | PurePath | bytes) for part in (hint, *get_args(hint))):
        return False
    try:
        OmegaConf.structured(make_dataclass("Alone", [("value", hint)]))
    except VALUE_ERRORS:
        return False
    return True


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
def naming_misfits(leaves: Mapping[str, Leaf], where: str) -> Iterator[None]:
    """Raises InputError about the first leaf that is not of its type; OmegaConf's message does not always name it."""
    try:
        yield
    except VALUE_ERRORS as error:
        misfit = next((leaf for leaf in leaves.values() if not leaf.fits), None)
        raise InputError(misfit.refusal if misfit else f"{where}: {str(error).splitlines()[0]}") from error


def leaves_of(schema: type, layer: Mapping[str, Any], where: str, prefix: str = "") -> Iterator[Leaf]:
    """The leaves of `layer`. Raises InputError for a key that the schema does not have, since OmegaConf's message names
    neither the nearest key nor the file, and for values that it takes although they do not fit."""
    hints = type_hints(schema)
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise InputError(f"{where} has no key {name!r}; {nearest(name, [prefix + known for known in hints])}")
        yield from _leaves_below(hints[key], value, where, name)


def _leaves_below(hint: Any, value: Any, where: str, name: str) -> Iterator[Leaf]:
    inner = dataclass_in(hint)
    if inner is not None and get_origin(hint) is list and isinstance(value, list):  # list[dataclass]
        for index, entry in enumerate(value):
            yield from _leaves_below(inner, entry, where, f"{name}[{index}]")
    elif inner is None or get_origin(hint) is list or not isinstance(value, Mapping):
        leaf = Leaf(where, name, hint, value)
        if leaf.slips_through:
            raise InputError(leaf.refusal)
        if leaf.is_too_large:
            raise InputError(f"{where}: {name} must be less than 2^63, not {value}")
        yield leaf
    elif get_origin(hint) is dict:  # dict[str, dataclass]
        for key, entry in value.items():
            yield from _leaves_below(inner, entry, where, f"{name}.{key}")
    else:  # a dataclass, or one that may be null
        yield from leaves_of(inner, value, where, f"{name}.")


def dataclass_in(hint: Any) -> type | None:
    """The dataclass of a hint that is one, or a list or mapping of it, or it or null."""
    return next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
