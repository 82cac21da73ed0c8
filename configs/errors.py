"""Bad input, and the sentences that it ends in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
