"""What every script does around its work: read the configuration, and end bad input in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import configs
from configs import InputError

T = TypeVar("T")


def main(run: Callable[[T], None], schema: type[T], default: str, doc: str, words: Sequence[str] | None = None) -> None:
    """Runs `run` on the configuration that the command line `[CONFIG] [key=value ...]` means.

    Exit status 0; 2 after bad input, in one sentence on stderr; 130 when interrupted.
    """
    words = list(sys.argv[1:] if words is None else words)
    if any(word in ("-h", "--help") for word in words):
        print(doc.strip())
        return
    try:
        path = words.pop(0) if words and "=" not in words[0] else default
        content = configs.read(configs.find(path))
        if "network" in content:  # a model's own file stands for a default run of that model
            content = {"model": path}
        run(configs.parse(schema, content, configs.parse_words(words), where=path))
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it can", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def fail(sentence: str) -> None:
    """Ends the process with status 2 and one sentence."""
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)
