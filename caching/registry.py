"""What configuration files can name: a class for every name, its fields the settings."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import configs
from configs import InputError

T = TypeVar("T", bound=type)


class Registry(dict[str, type]):
    """The dataclasses of one kind, by name.

    interfaces: the attributes that a class must have, those of exactly one of these. reserved: names that mean
      something else.
    """

    def __init__(self, kind: str, interfaces: Sequence[Sequence[str]], reserved: Collection[str] = ()) -> None:
        super().__init__()
        self.kind, self.interfaces, self.reserved = kind, interfaces, reserved

    def register(self, name: str) -> Callable[[T], T]:
        """Makes a dataclass available to configuration files under `name`.

        Raises InputError for a class that is no dataclass or lacks what its kind must have, and for a name that has a
        meaning: two classes of one name would be mistaken for each other in everything that was made with them. (A
        module may define a class of its own anew, as notebooks do.)
        """

        if not isinstance(name, str):
            raise InputError(f'a {self.kind} is registered under a name: @register("mine"), not @register')

        def add(cls: T) -> T:
            self._check_class(name, cls)
            self._check_name(name, cls)
            self[name] = cls
            return cls

        return add

    def make(self, settings: Mapping[str, Any]) -> Any:
        """The object that a mapping with its `name` and its fields means.

        Raises InputError for an unknown name, a field that it does not have (naming the nearest), and a missing or
        wrong value.
        """
        settings = dict(settings)
        name = str(settings.pop("name", ""))
        configs.one_of(name, self, f"the {self.kind}")
        cls, where = self[name], f"the {self.kind} {name!r}"
        configs.check_keys(settings, [field.name for field in fields(cls)], where)
        return configs.parse(cls, settings, where=where)

    def _check_class(self, name: str, cls: type) -> None:
        what = f"the {self.kind} {name!r}, class {cls.__name__},"
        undecorated = "__dataclass_params__" not in vars(cls) and inspect.get_annotations(cls)
        if not is_dataclass(cls) or undecorated:  # a subclass of a dataclass: what it adds would be no settings
            raise InputError(f"{what} is no dataclass; put @dataclass(frozen=True) right above it, below the "
                             "registration")  # fmt: skip
        if not cls.__dataclass_params__.frozen:  # what it kept from one image would change the next
            raise InputError(f"{what} is not frozen; write @dataclass(frozen=True), and let it depend on its settings "
                             "and arguments alone")  # fmt: skip
        if "name" in (field.name for field in fields(cls)):
            raise InputError(f"{what} has a field `name`, which no configuration could set, since it says the class; "
                             "call it something else")  # fmt: skip
        configs.check_schema(cls, what)
        known = {*dir(cls), *(field.name for field in fields(cls))}
        matching = [interface for interface in self.interfaces if known.issuperset(interface)]
        if not matching:
            raise InputError(f"{what} lacks what a {self.kind} must have: {_alternatives(self.interfaces)}")
        if len(matching) > 1:
            raise InputError(f"{what} has what two kinds of {self.kind} have, and could mean either; give it "
                             f"{_alternatives(matching)}")  # fmt: skip

    def _check_name(self, name: str, cls: type) -> None:
        if name in self.reserved or name.endswith(".json"):
            raise InputError(f"no {self.kind} can be called {name!r}, which has another meaning; take another name")
        taken = self.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InputError(f"there is a {self.kind} {name!r} already, {taken.__module__}.{taken.__qualname__}; take "
                             "another name")  # fmt: skip


@contextmanager
def asking(thing: object, attribute: str) -> Iterator[None]:
    """Around what is asked of an object whose class anyone may have written. Raises InputError in the place of any
    other exception, naming the class and the line that failed."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cls = type(thing)
        source = getattr(sys.modules.get(cls.__module__), "__file__", None)
        frames = traceback.extract_tb(error.__traceback__)
        at = next((frame for frame in reversed(frames) if frame.filename == source), frames[-1])
        raise InputError(f"{cls.__name__}.{attribute} fails with {type(error).__name__}: {error} ({at.filename}, line "
                         f"{at.lineno})") from error  # fmt: skip


def _alternatives(interfaces: Sequence[Sequence[str]]) -> str:
    return ", or ".join(" and ".join(map(repr, interface)) for interface in interfaces)
