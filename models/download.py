"""From what the user names to a file on disk: local paths, published files, URLs, the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.request
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tqdm import tqdm

import configs
from configs import InputError
from models.reading import WEIGHT_FILES

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class PublicFile:
    """One published checkpoint, an entry of `checkpoints` in a file of configs/models."""

    path: str = ""  # below the cache folder; of a bundled file (no url): below the project
    url: str = ""
    md5: str = ""
    about: str = ""  # licence, size, what it is

    def location(self) -> Path:
        return cache_folder() / self.path if self.url else configs.ROOT / self.path


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/diffusion_models_converted: where pesser/pytorch_diffusion, ermongroup/ddim and DeepCache keep
    theirs, so that what a user of those has downloaded is found."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffusion_models_converted"


@cache
def public_files() -> dict[str, PublicFile]:
    """Every published checkpoint that configs/models knows, by name."""
    files = {}
    for path in sorted((configs.FOLDER / "models").glob("*.yaml")):
        for name, entry in configs.read(path).get("checkpoints", {}).items():
            files[name] = configs.parse(PublicFile, entry, where=f"{path.name}: checkpoints.{name}")
    return files


def known_by_md5(file: Path) -> str:
    """The name of the published file that has the bytes of `file`; "" where there is none."""
    names = {public.md5: name for name, public in public_files().items() if public.md5}
    return names.get(digest(file, "md5"), "")


def digest(file: Path, algorithm: str) -> str:
    hasher = hashlib.new(algorithm)
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def fetch(checkpoint: str | Path) -> Path:
    """The file or folder that `checkpoint` means, downloaded where need be.

    Raises InputError where there is no such thing, where a download fails (saying which file to put where), and
    where the bytes are not the published ones.
    """
    name = str(checkpoint)
    if name in public_files():
        return _fetch_public(name, public_files()[name])
    if name.startswith("hf://"):
        return _fetch_hub(name.removeprefix("hf://"))
    if name.startswith(("http://", "https://")):
        known = [public for public in public_files().values() if public.url == name]
        return _fetch_public(name, known[0] if known else PublicFile(path=_path_of_url(name), url=name))
    path = Path(name).expanduser()
    if path.exists():
        return path
    raise InputError(
        f"there is no checkpoint {name}: neither a file or folder, nor a published name; "
        + configs.nearest(name, [*public_files(), "random"])
    )


def _path_of_url(url: str) -> str:
    """Different URLs may end in the same file name (model.ckpt), so each has a folder of its own."""
    file_name = urlsplit(url).path.rstrip("/").rsplit("/", 1)[-1] or "checkpoint"
    return f"urls/{hashlib.sha256(url.encode()).hexdigest()[:12]}/{file_name}"


def _fetch_public(name: str, public: PublicFile) -> Path:
    path = public.location()
    if path.exists():
        if public.md5 and digest(path, "md5") != public.md5:
            raise InputError(f"{path} is not the published {name}, whose md5 is {public.md5}; delete it to have it "
                             "downloaded again, or give its path to load it all the same")  # fmt: skip
        return path
    if not public.url:
        raise InputError(f"the bundled checkpoint {name} is missing: {path} is not there; restore it from the project")
    try:
        _download(public.url, path, public.md5)
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(f"{name} could not be downloaded ({_reason(error)}); get {public.url} and put it at {path}") \
            from error  # fmt: skip
    return path


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", error)  # a URLError wraps what happened
    return getattr(reason, "strerror", None) or " ".join(str(reason).split()) or type(reason).__name__


def _download(url: str, path: Path, md5: str) -> None:
    """Downloads with a progress bar; the file appears under its name only when whole and, where known, right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may want the same file
    hasher = hashlib.md5()
    received = 0
    try:
        with urllib.request.urlopen(url, timeout=30) as response, unfinished.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name) as bar:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    hasher.update(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
        if received < size:
            raise URLError(f"only {received} of {size} bytes came")
        if md5 and hasher.hexdigest() != md5:
            raise URLError(f"its md5 is {hasher.hexdigest()}, the published file's is {md5}")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _fetch_hub(repository: str) -> Path:
    """A diffusers folder on the hub: its config.json and weights, the U-Net's where it is a whole pipeline."""
    # Imported here: it takes a while, and most checkpoints do not come from the hub.
    from huggingface_hub import file_exists, hf_hub_download, try_to_load_from_cache

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise InputError(f"hf://{repository} is not of the form hf://owner/name")
    files = [folder + name for folder in ("", "unet/") for name in WEIGHT_FILES]
    try:
        for weights in files:
            pair = [try_to_load_from_cache(repository, file) for file in (weights, _config_beside(weights))]
            if all(isinstance(path, str) for path in pair):
                return Path(pair[0])
        # Asked first: file_exists fails at once where there is no network, a download only after many retries.
        weights = next((file for file in files if file_exists(repository, file)), None)
        if weights is not None:
            hf_hub_download(repository, _config_beside(weights))
            return Path(hf_hub_download(repository, weights))
    except Exception as error:  # the hub's exceptions differ from version to version
        raise InputError(
            f"hf://{repository} could not be downloaded ({_reason(error)}); get config.json and {WEIGHT_FILES[0]} "
            f"(or .bin) from {HUB}/{repository}/tree/main into a folder and give that folder as the checkpoint"
        ) from error
    raise InputError(f"hf://{repository} does not exist on the hub, or holds none of {', '.join(files)}")


def _config_beside(weights: str) -> str:
    return weights.rsplit("diffusion_pytorch_model", 1)[0] + "config.json"
