"""From what the user names to a file on disk: local paths, published files, URLs; for the hub see models/hub.py."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from tqdm import tqdm

import configs
from configs import InputError
from models.hub import fetch_hub, reason
from models.part import PARTS, UNET, Part


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
    """A file's digest, in hexadecimal; of one that is unchanged it is computed once. Raises OSError where it cannot be
    read."""
    about = file.stat()
    return _digest(file, algorithm, about.st_mtime_ns, about.st_size)


def together(digests: Sequence[str]) -> str:
    """One digest for files that belong together: of one its own, of none ""."""
    return "".join(digests) if len(digests) < 2 else hashlib.sha256("".join(digests).encode()).hexdigest()


@cache
def _digest(file: Path, algorithm: str, changed: int, size: int) -> str:
    hasher = hashlib.new(algorithm)
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()


def fetch(checkpoint: str | Path, part: Part = UNET) -> Path:
    """The file or folder that `checkpoint` means, downloaded where need be: of a diffusers pipeline on the hub, the
    file of `part` alone.

    Raises InputError where there is no such thing, where a download fails (saying which file to put where), and
    where the bytes are not the published ones.
    """
    name = str(checkpoint)
    if name in public_files():
        return _fetch_public(name, public_files()[name])
    if name.startswith("hf://"):
        path = fetch_hub(name, part, ("", *part.folders))
        if path is None:
            raise InputError(f"{name} does not exist on the hub, or holds none of {', '.join(part.files)}, neither at "
                             f"its top nor in {' or '.join(part.folders)}")  # fmt: skip
        return path
    if name.startswith(("http://", "https://")):
        known = [public for public in public_files().values() if public.url == name]
        return _fetch_public(name, known[0] if known else PublicFile(path=_path_of_url(name), url=name))
    path = Path(name).expanduser()
    if _is_tensorflow(path):
        converted = ", ".join(published for published in public_files() if published.startswith("ema_"))
        raise InputError(f"{name} is a checkpoint of TensorFlow, which is not read; the weights of Ho et al. are "
                         f"published as .ckpt under the names {converted}")  # fmt: skip
    if path.exists():
        return path
    raise InputError(
        f"there is no checkpoint {name}: neither a file or folder, nor a published name; "
        + configs.nearest(name, [*public_files(), "random"])
    )


def fetch_parts(checkpoint: str | Path) -> dict[Part, Path]:
    """Where each part of a model lies: one file may hold all of them; a diffusers pipeline has a folder for each.

    Raises InputError as `fetch`.
    """
    path = fetch(checkpoint)
    if str(checkpoint).startswith("hf://"):
        pipeline = path.parent.name in UNET.folders
        others = {part: fetch_hub(str(checkpoint), part, part.folders) for part in PARTS if pipeline and part != UNET}
        return {UNET: path} | {part: found for part, found in others.items() if found is not None}
    if path.is_file():
        return dict.fromkeys(PARTS, path)
    return {part: path for part in PARTS if part == UNET or any((path / name).is_dir() for name in part.folders)}


def _is_tensorflow(path: Path) -> bool:
    """Is this a checkpoint of TensorFlow: its folder, one of its files, or what their names begin with?"""
    if path.is_dir():
        return any(path.glob("*.data-*-of-*"))
    if path.exists():
        return re.search(r"\.(index|meta|data-\d+-of-\d+)$", path.name) is not None
    return path.with_name(f"{path.name}.index").exists()


def _path_of_url(url: str) -> str:
    """Different URLs may end in the same file name (model.ckpt), so each has a folder of its own."""
    file_name = url.split("?")[0].rstrip("/").rsplit("/", 1)[-1].removesuffix(".zip")
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
    zipped = public.url.split("?")[0].endswith(".zip")
    try:
        if zipped:
            _download_zipped(public.url, path)
        else:
            _download(public.url, path, public.md5)
    except (OSError, HTTPException, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{name} could not be downloaded ({reason(error)}); get {public.url} and put "
                         f"{'the checkpoint in it' if zipped else 'it'} at {path}") from error  # fmt: skip
    return path


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


def _download_zipped(url: str, path: Path) -> None:
    """Downloads an archive and keeps the one checkpoint in it, which appears under its name only when whole."""
    archive, unfinished = (path.with_name(f"{path.name}.{os.getpid()}{suffix}") for suffix in (".zip", ".part"))
    try:
        _download(url, archive, md5="")
        with zipfile.ZipFile(archive) as opened:
            inside = [name for name in opened.namelist() if name.endswith((".ckpt", ".pt", ".safetensors"))]
            if len(inside) != 1:
                raise URLError(f"the archive holds {len(inside)} checkpoints, not one")
            with opened.open(inside[0]) as source, unfinished.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        os.replace(unfinished, path)
    finally:
        archive.unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
