"""Names for equal content: of settings, whatever the order in which they were written down, and of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from configs import InputError
from models.download import digest


def json_digest(content: Any) -> str:
    """The first 16 hexadecimal digits of the sha256 of `content`, which JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(file: str | Path) -> str:
    """sha256 of a file. Raises InputError where it cannot be read."""
    try:
        return digest(Path(file), "sha256")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from error
