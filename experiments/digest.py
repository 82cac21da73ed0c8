"""One short name for equal settings, whatever the order in which they were written down."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def json_digest(content: Any) -> str:
    """The first 16 hexadecimal digits of the sha256 of `content`, which JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
