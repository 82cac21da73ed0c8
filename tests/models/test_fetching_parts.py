"""Where the parts of a model come from: zipped checkpoints, repositories on the hub."""

from __future__ import annotations

import functools
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

import configs
from configs import InputError
from models import download, hub
from models.part import CONDITIONER, FIRST_STAGE, UNET


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server for the folder it returns, with its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_zip(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, f"content of {name}")


def test_of_an_archive_the_checkpoint_is_kept(server, cache):
    folder, address = server
    write_zip(folder / "kl-f8.zip", "config.yaml", "model.ckpt")
    path = download.fetch(f"{address}/kl-f8.zip")
    assert path.read_text() == "content of model.ckpt"
    assert [file for file in cache.rglob("*") if file.is_file()] == [path]
    (folder / "kl-f8.zip").unlink()
    assert download.fetch(f"{address}/kl-f8.zip") == path


@pytest.mark.parametrize(("names", "count"), [(["config.yaml"], 0), (["a.ckpt", "b.ckpt"], 2)])
def test_an_archive_without_exactly_one_checkpoint_is_refused(server, cache, names, count):
    folder, address = server
    write_zip(folder / "model.zip", *names)
    with pytest.raises(InputError, match=rf"the archive holds {count} checkpoints, not one\); get http"):
        download.fetch(f"{address}/model.zip")
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_what_is_no_archive_is_refused(server, cache):
    folder, address = server
    (folder / "model.zip").write_text("<html>moved</html>")
    with pytest.raises(InputError, match=r"could not be downloaded .*zip"):
        download.fetch(f"{address}/model.zip")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository on the hub, of which `files` lists what it has; downloads land in one folder."""
    files = []

    def fetch_file(name, file):
        assert name == "owner/name"
        path = tmp_path / "snapshot" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
        return str(path)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    monkeypatch.setattr("huggingface_hub.file_exists", lambda name, file: file in files)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch_file)
    return files, tmp_path / "snapshot"


def test_a_pipeline_on_the_hub_gives_every_part(repository):
    files, folder = repository
    files += [
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ]
    assert download.fetch_parts("hf://owner/name") == {
        UNET: folder / "unet/diffusion_pytorch_model.bin",
        FIRST_STAGE: folder / "vae/diffusion_pytorch_model.safetensors",
        CONDITIONER: folder / "text_encoder/model.safetensors",
    }
    assert (folder / "vae/config.json").is_file()
    assert download.fetch("hf://owner/name", FIRST_STAGE) == folder / "vae/diffusion_pytorch_model.safetensors"


def test_an_unconditional_pipeline_on_the_hub_has_no_conditioner(repository):
    files, _ = repository
    files += ["unet/diffusion_pytorch_model.bin", "vqvae/diffusion_pytorch_model.bin"]
    assert set(download.fetch_parts("hf://owner/name")) == {UNET, FIRST_STAGE}


def test_a_unet_on_the_hub_is_no_first_stage(repository):
    files, _ = repository
    files += ["diffusion_pytorch_model.safetensors"]
    assert set(download.fetch_parts("hf://owner/name")) == {UNET}


def test_a_part_that_the_hub_lacks(repository):
    files, _ = repository
    files += ["unet/diffusion_pytorch_model.bin"]
    with pytest.raises(
        InputError, match=r"holds none of diffusion_pytorch_model.* neither at its top nor in vae or vqvae"
    ):
        download.fetch("hf://owner/name", FIRST_STAGE)


def test_tokenizers_on_the_hub_lie_at_the_top_or_in_a_folder(repository):
    files, folder = repository
    files += ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    assert hub.fetch_tokenizer("owner/name") == folder / "tokenizer"
    files += ["vocab.json", "merges.txt"]
    assert hub.fetch_tokenizer("owner/name") == folder


def test_a_repository_without_tokenizer_is_refused(repository):
    with pytest.raises(
        InputError, match=r"neither a folder nor a repository on the hub with vocab.json and merges.txt"
    ):
        hub.fetch_tokenizer("owner/name")


def test_published_models_name_their_files():
    for name, public in download.public_files().items():
        if public.url:
            assert public.location().is_relative_to(download.cache_folder()), name
            assert configs.ROOT not in public.location().parents
