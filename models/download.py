"""From what the user names to a file on disk: local paths, published files, URLs, the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.error import URLError

from tqdm import tqdm

import configs
from configs import InputError

HUB = "https://huggingface.co"
HUB_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


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
    where the bytes that came are not the published ones.
    """
    name = str(checkpoint)
    if name in public_files():
        return _fetch_public(name, public_files()[name])
    if name.startswith("hf://"):
        return _fetch_hub(name.removeprefix("hf://"))
    if name.startswith(("http://", "https://")):
        known = [public for public in public_files().values() if public.url == name]
        file_name = name.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
        public = known[0] if known else PublicFile(path=file_name, url=name)
        return _fetch_public(name, public)
    path = Path(name).expanduser()
    if path.exists():
        return path
    raise InputError(
        f"there is no checkpoint {name}: neither a file or folder, nor a published name; "
        + configs.nearest(name, [*public_files(), "random"])
    )


def _fetch_public(name: str, public: PublicFile) -> Path:
    path = public.location()
    if path.exists():
        return path
    if not public.url:
        raise InputError(f"the bundled checkpoint {name} is missing: {path} is not there; restore it from the project")
    try:
        _download(public.url, path, public.md5)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise InputError(f"{name} could not be downloaded ({reason}); get {public.url} and put it at {path}") from error
    return path


def _download(url: str, path: Path, md5: str) -> None:
    """Downloads with a progress bar; the file appears under its name only when whole and, where known, right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    hasher = hashlib.md5()
    try:
        with urllib.request.urlopen(url, timeout=30) as response, unfinished.open("wb") as file:
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name) as bar:
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    hasher.update(chunk)
                    bar.update(len(chunk))
        if size and unfinished.stat().st_size != size:
            raise URLError(f"only {unfinished.stat().st_size} of {size} bytes came")
        if md5 and hasher.hexdigest() != md5:
            raise URLError(f"its md5 is {hasher.hexdigest()}, the published file's is {md5}")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _fetch_hub(repository: str) -> Path:
    """A diffusers folder on the hub: its config.json and weights, the U-Net's where it is a whole pipeline."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if repository.count("/") != 1:
        raise InputError(f"hf://{repository} is not of the form hf://owner/name")
    try:
        for folder in ("", "unet/"):
            for name in HUB_FILES:
                try:
                    weights = Path(hf_hub_download(repository, folder + name))
                    hf_hub_download(repository, f"{folder}config.json")
                except LocalEntryNotFoundError:
                    raise  # no network and nothing cached; a subclass of the next
                except EntryNotFoundError:
                    continue
                return weights.parent
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        raise InputError(
            f"{repository} could not be downloaded ({str(error).splitlines()[0]}); get config.json and {HUB_FILES[0]} "
            f"(or .bin) from {HUB}/{repository}/tree/main into a folder and give that folder as the checkpoint"
        ) from error
    raise InputError(f"{repository} on the hub holds none of {', '.join(HUB_FILES)}")
