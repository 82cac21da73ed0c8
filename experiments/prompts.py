"""Files of prompts."""

from __future__ import annotations

from pathlib import Path

from configs import InputError


def read_prompts(file: str | Path) -> list[str]:
    """The prompts in a text file in UTF-8, one per line; empty lines are left out.

    Raises InputError where it cannot be read, or holds none.
    """
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the prompts in {file} cannot be read ({error})") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{file} holds no prompts; it should have one per line")
    return prompts
