"""Files on the Hugging Face hub: parts of diffusers pipelines, and tokenizers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError

from configs import InputError
from models.part import Part

HUB = "https://huggingface.co"


def fetch_hub(checkpoint: str, part: Part, folders: Sequence[str]) -> Path | None:
    """The weights of `part` in one of `folders` of a repository on the hub, with the config.json beside them; None
    where it has none."""
    repository = checkpoint.removeprefix("hf://")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(f"{checkpoint} is not of the form hf://owner/name")
    places = [f"{folder}/" if folder else "" for folder in folders]
    try:
        return _from_hub(repository, [(f"{at}{name}", f"{at}config.json") for at in places for name in part.files])
    except Exception as error:  # the hub's exceptions differ from version to version
        raise InputError(
            f"{checkpoint} could not be downloaded ({reason(error)}); get config.json and {part.files[0]} "
            f"(or .bin) from {HUB}/{repository}/tree/main into a folder and give that folder as the checkpoint"
        ) from error


def _from_hub(repository: str, choices: Sequence[tuple[str, ...]]) -> Path | None:
    """The first file of the first of `choices` (files that belong together) in a repository; None where it has none."""
    # Imported here: it takes a while, and most checkpoints do not come from the hub.
    from huggingface_hub import file_exists, hf_hub_download, try_to_load_from_cache

    for files in choices:
        cached = [try_to_load_from_cache(repository, file) for file in files]
        if all(isinstance(path, str) for path in cached):
            return Path(cached[0])
    # Asked first: file_exists fails at once where there is no network, a download only after many retries.
    wanted = next((files for files in choices if file_exists(repository, files[0])), ())
    downloaded = [Path(hf_hub_download(repository, file)) for file in wanted]
    return downloaded[0] if downloaded else None


def fetch_tokenizer(source: str | Path) -> Path:
    """The folder with vocab.json and merges.txt (or tokenizer.json) that `source` means: a folder, or a repository on
    the hub. Raises InputError where there is none."""
    files = ("vocab.json", "merges.txt")
    folder = Path(source).expanduser()
    if folder.is_dir():
        if any(all((folder / name).is_file() for name in names) for names in (files, ("tokenizer.json",))):
            return folder
        raise InputError(f"the tokenizer folder {source} must hold {' and '.join(files)}")
    try:
        path = _from_hub(str(source), [tuple(folder + name for name in files) for folder in ("", "tokenizer/")])
    except Exception as error:  # the hub's exceptions differ from version to version
        raise InputError(
            f"the tokenizer {source} could not be downloaded ({reason(error)}); get {' and '.join(files)} from "
            f"{HUB}/{source}/tree/main into a folder and give that folder as the tokenizer"
        ) from error
    if path is None:
        raise InputError(f"the tokenizer {source} is neither a folder nor a repository on the hub with "
                         f"{' and '.join(files)}")  # fmt: skip
    return path.parent


def reason(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = getattr(error, "reason", error)  # a URLError wraps what happened
    return getattr(cause, "strerror", None) or " ".join(str(cause).split()) or type(cause).__name__
