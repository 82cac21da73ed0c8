"""What configuration files can name: a class for every name, its fields the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import configs

T = TypeVar("T", bound=type)


class Registry(dict[str, type]):
    """The dataclasses of one kind, by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[T], T]:
        """Makes a dataclass available to configuration files under `name`."""

        def add(cls: T) -> T:
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
