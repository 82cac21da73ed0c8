"""What every script does around its work: read the configuration, and end bad input in one sentence."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import torch

import configs
from configs import InputError
from experiments import options, plugins
from experiments.model import read_config
from experiments.runs.world import LAST_WORDS, is_first, join
from models.memory import keep_freed_memory

T = TypeVar("T")

HELP = ("-h", "--help")
CONFIGURATIONS = {path.stem for path in configs.FOLDER.glob("*.yaml")}  # of sampling runs


def main(
    run: Callable[[T], object],
    schema: type[T],
    *,
    doc: str,
    default: str | None = None,
    argument: str | None = None,
    replaced: Mapping[str, Collection[str]] = {},
    words: Sequence[str] | None = None,
    shared: bool = False,
) -> None:
    """Runs `run` on the configuration that the command line means.

    `[CONFIG] [key=value ...]` where the script has a `default` file: CONFIG is another YAML file, or the name of one
    beside it. Else `[ARGUMENT] [key=value ...]`, where ARGUMENT is the value of the key `argument`, if there is one.
    replaced: keys whose value on the command line takes the place of the default file's, and is not merged into it;
      with each the keys of that file that then mean nothing any more.
    words: the command line; None is the process's own. `--some-key` is short for some_key=true. `import=FILE.py`, or a
      list, here or in the configuration file, runs files that register policies and forecasters of the user's own;
      those of the command line `--help` lists as well.
    shared: whether the processes of torchrun share the work; without it more than one of them are refused.

    Exit status 0; 2 after bad input, in one sentence on stderr; 130 when interrupted.
    """
    words = list(sys.argv[1:] if words is None else words)
    if not shared and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _refuse_processes()
    if (other := _other_checkout()) is not None:
        fail(f"this script belongs to the checkout {other}, but the code that is installed to {configs.ROOT}; install "
             f"this one: pip install -e {other}")  # fmt: skip
    wants_help = any(word in HELP for word in words)
    words = [_flag(word) for word in words if word not in HELP]
    imports = [word for word in words if word.startswith("import=")]
    words = [word for word in words if word not in imports]
    try:
        _import(imports)
        if wants_help:
            print(f"{doc.strip()}\n\n{options.describe(schema)}", flush=True)
            return
        keep_freed_memory()
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32; by default a GPU's convolutions keep 10 bits of 23
        run(_configuration(words, schema, default, argument, replaced))
    except InputError as error:
        fail(str(error))
    except torch.OutOfMemoryError as error:
        fail(_out_of_memory(error))
    except KeyboardInterrupt:
        if is_first():
            print("interrupted; the same command goes on where it can", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has had enough, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python flushes in the end
        sys.exit(0)
    except OSError as error:
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def _configuration(
    words: Sequence[str],
    schema: type[T],
    default: str | None,
    argument: str | None,
    replaced: Mapping[str, Collection[str]],
) -> T:
    """See main. Raises InputError for what is no configuration of this kind."""
    takes_first = words and "=" not in words[0] and (default or argument)
    first, words = (words[0], words[1:]) if takes_first else (None, words)
    layers = {}
    if default is not None:
        layers[first or default] = read_config(first or default, Path(default).parent.name)
        _load(layers[first or default].pop("import", []))
    given = configs.parse_words(words, schema)
    _check_import(given.keys() - {each.name for each in fields(schema)})
    for key in given.keys() & replaced.keys() if first is None else ():
        for name in (key, *replaced[key]):
            layers[default].pop(name, None)
    for key in given.keys() & set(options.unused(schema)):
        raise InputError(f"{key} changes nothing here; leave it out")
    model = str(given.get("model", default))
    is_other = first is None and default in CONFIGURATIONS and model in CONFIGURATIONS - {default}
    if is_other and is_first():
        print(f"{model} is sampled with the settings of {default}; its own are those of the configuration "
              f"{model}, named in front of all keys", file=sys.stderr)  # fmt: skip
    if argument is not None and first is not None:
        given = {argument: first, **given}
    layers["the command line"] = given
    return configs.parse(schema, *layers.values(), where=list(layers))


def _check_import(unknown: Iterable[str]) -> None:
    """Raises InputError for a misspelled `import`, which is no key of any schema that could be named as the nearest."""
    for key in unknown:
        if get_close_matches(key, ["import"]):
            raise InputError(f"there is no key {key!r}; did you mean import=FILE.py?")


def _other_checkout() -> Path | None:
    """The checkout of the script that runs, where that is not the one whose code is imported: it would read and write
    the files of the other."""
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or configs.ROOT).resolve()
    root = script.parent.parent
    is_ours = script.parent.name == "scripts" and (root / "configs" / "__init__.py").is_file()
    return root if is_ours and root != configs.ROOT.resolve() else None


def _out_of_memory(error: torch.OutOfMemoryError) -> str:
    size = str(error).partition("Tried to allocate ")[2].partition(". ")[0]
    return (f"the memory of the GPU does not hold this{size and f' ({size} more were asked for)'}; take a smaller "
            "batch_size, or precision=bf16")  # fmt: skip


def fail(sentence: str) -> None:
    """Ends the process with status 2 and one sentence."""
    _end(f"error: {' '.join(sentence.split())}", status=2)


def end_if_rows_failed(failures: Mapping[str, str]) -> None:
    """Ends the process with status 1 and one line about the rows that failed, whose sentences are given by name."""
    if failures:
        name, sentence = next(iter(failures.items()))
        rows = "row" if len(failures) == 1 else "rows"
        _end(f"{len(failures)} {rows} failed; the first, {name}: {sentence}", status=1)


def _end(last_words: str, status: int) -> None:
    """Of several processes the first one says the last words."""
    join().say_last(lambda: print(last_words, file=sys.stderr, flush=True))
    sys.exit(status)


def _refuse_processes() -> None:
    """The first process says so. The others wait for that: torchrun ends all of them once one has ended."""
    if is_first():
        print("error: this script is the work of one process; start it without torchrun", file=sys.stderr, flush=True)
    else:
        time.sleep(LAST_WORDS)
    sys.exit(2)


def _import(words: Sequence[str]) -> None:
    """Runs the files that `import=FILE.py` and `import=[FILE.py, ...]` name."""
    for word in words:
        _load(configs.parse_words([word])["import"])


def _load(files: Any) -> None:
    plugins.load([str(file) for file in files] if isinstance(files, list) else [str(files)])


def _flag(word: str) -> str:
    """`--some-key` as some_key=true, `--some-key=value` as some_key=value; any other word as it is."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.removeprefix("--").partition("=")
    return f"{name.replace('-', '_')}={value if equals else 'true'}"
