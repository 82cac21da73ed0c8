"""Downloads from a local server: whole and right, or one sentence that says which file to put where."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch
from public_names import DDPM_OPTIONS, unet
from safetensors.torch import load_file

import models
from configs import InputError
from models import UNetConfig, download
from models.download import PublicFile

CONFIG = UNetConfig(resolution=16, channels=32, channel_mult=[1], num_res_blocks=1)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("served") / "model.safetensors"
    models.save(models.load("random", CONFIG), path)
    return path.read_bytes()


class Server:
    """An HTTP server on this machine that answers with what `answers` holds for a path, and counts the requests."""

    def __init__(self):
        self.answers = {}  # path -> (status, body, length that the header promises)
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                status, body, length = outer.answers.get(self.path, (404, b"", 0))
                self.send_response(status)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def serve(self, path, body, length=None):
        """Answers GET `path` with `body` -> the URL. length: of the body, or more where it is to be cut short."""
        self.answers[path] = (200, body, len(body) if length is None else length)
        return self.url(path)

    def url(self, path):
        return f"http://127.0.0.1:{self.http.server_port}{path}"

    def close(self):
        self.http.shutdown()
        self.thread.join(timeout=5)
        self.http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder, in a temporary place; nothing is asked of a proxy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache" / "diffusion_models_converted"


def publish(monkeypatch, url, md5="", path="tiny_model/model-1.safetensors"):
    files = {"tiny": PublicFile(path=path, url=url, md5=md5)}
    monkeypatch.setattr(download, "public_files", lambda: files)


def md5_of(content):
    return hashlib.md5(content).hexdigest()


def refused(checkpoint):
    with pytest.raises(InputError) as error:
        models.load(checkpoint)
    assert "\n" not in str(error.value)
    return str(error.value)


def left_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_published_file_is_downloaded_once_with_progress(server, cache, content, monkeypatch, capsys):
    publish(monkeypatch, server.serve("/f/1?dl=1", content), md5_of(content))
    network = models.load("tiny")
    assert network.config == CONFIG
    assert network.provenance.source == "tiny"
    assert network.provenance.file == cache / "tiny_model" / "model-1.safetensors"
    assert network.provenance.published == "tiny"
    assert left_in(cache) == [network.provenance.file]
    assert "model-1.safetensors: 100%" in capsys.readouterr().err

    models.load("tiny")
    assert server.requests == ["/f/1?dl=1"]


def test_a_cached_file_needs_no_network(cache, content, monkeypatch):
    publish(monkeypatch, f"http://127.0.0.1:{closed_port()}/model", md5_of(content))
    (cache / "tiny_model").mkdir(parents=True)
    (cache / "tiny_model" / "model-1.safetensors").write_bytes(content)
    assert models.load("tiny").config == CONFIG


def test_a_damaged_cached_file_is_noticed(server, cache, content, monkeypatch):
    publish(monkeypatch, server.serve("/model", content), md5_of(content))
    path = cache / "tiny_model" / "model-1.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(content[:-1] + b"\xff")
    sentence = refused("tiny")
    assert sentence.startswith(f"{path} is not the published tiny, whose md5 is {md5_of(content)}; delete it")
    path.unlink()
    assert models.load("tiny").config == CONFIG


def test_the_bytes_decide_which_published_file_it_is(tmp_path, content, monkeypatch):
    publish(monkeypatch, "https://example.org/model", md5_of(content))
    (tmp_path / "copy.safetensors").write_bytes(content)
    assert models.load(tmp_path / "copy.safetensors").provenance.published == "tiny"
    models.save(models.load("random", CONFIG), tmp_path / "other.safetensors", training={"seed": 1})
    assert models.load(tmp_path / "other.safetensors").provenance.published == ""


def test_a_file_that_changed_has_another_digest(tmp_path):
    """Though digests are kept: whether its size tells that it changed, or its time alone."""
    file = tmp_path / "model"
    for content, changed in ((b"one", 1), (b"two", 2), (b"three", 2)):
        file.write_bytes(content)
        os.utime(file, (changed, changed))
        assert download.digest(file, "md5") == md5_of(content)


def test_wrong_bytes_leave_nothing_behind(server, cache, content, monkeypatch):
    url = server.serve("/model", content + b"more")
    publish(monkeypatch, url, md5_of(content))
    path = cache / "tiny_model" / "model-1.safetensors"
    wrong = f"its md5 is {md5_of(content + b'more')}, the published file's is {md5_of(content)}"
    assert refused("tiny") == f"tiny could not be downloaded ({wrong}); get {url} and put it at {path}"
    assert left_in(cache) == []


def test_a_body_cut_short_leaves_nothing_behind(server, cache, content, monkeypatch):
    publish(monkeypatch, server.serve("/model", content[:1000], len(content)))
    assert f"only 1000 of {len(content)} bytes came" in refused("tiny")
    assert left_in(cache) == []


def test_of_a_body_of_unknown_length_the_md5_tells_that_it_was_cut_short(server, cache, content, monkeypatch):
    server.answers["/model"] = (200, content[:1000], None)
    publish(monkeypatch, server.url("/model"), md5_of(content))
    assert "its md5 is" in refused("tiny")
    assert left_in(cache) == []


def test_a_file_that_is_not_there(server, cache, monkeypatch):
    publish(monkeypatch, server.url("/gone"))
    path = cache / "tiny_model" / "model-1.safetensors"
    expected = f"tiny could not be downloaded (HTTP 404 Not Found); get {server.url('/gone')} and put it at {path}"
    assert refused("tiny") == expected
    assert left_in(cache) == []


def test_without_a_network_the_sentence_says_which_file_to_put_where(cache, content, monkeypatch):
    url = f"http://127.0.0.1:{closed_port()}/f/1"
    publish(monkeypatch, url)
    path = cache / "tiny_model" / "model-1.safetensors"
    assert refused("tiny") == f"tiny could not be downloaded (Connection refused); get {url} and put it at {path}"
    path.write_bytes(content)  # as the sentence says
    assert models.load("tiny").config == CONFIG


def test_a_host_that_does_not_exist(cache, monkeypatch):
    publish(monkeypatch, "https://nowhere.invalid/model.ckpt")
    assert "; get https://nowhere.invalid/model.ckpt and put it at " in refused("tiny")


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:port/model", "http://[::1/model", "http://a b/model"])
def test_a_url_that_is_none(cache, url):
    assert "could not be downloaded" in refused(url)


def test_a_cache_folder_that_cannot_be_made(server, content, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("no_proxy", "*")
    publish(monkeypatch, server.serve("/model", content))
    assert "could not be downloaded" in refused("tiny")


def test_without_xdg_cache_home_the_cache_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / ".cache" / "diffusion_models_converted"


def test_files_of_the_same_name_from_two_urls_are_two_files(server, cache, content):
    other = io.BytesIO()
    torch.save({"foreign": torch.zeros(1)}, other)
    first = server.serve("/a/model.safetensors", content)
    second = server.serve("/b/model.safetensors", other.getvalue())
    assert models.load(first).config == CONFIG
    assert "is truncated or not a safetensors file" in refused(second)
    assert models.load(first).config == CONFIG
    assert server.requests == ["/a/model.safetensors", "/b/model.safetensors"]


def test_the_url_of_a_published_file_is_that_file(server, cache, content, monkeypatch):
    url = server.serve("/f/1?dl=1", content)
    publish(monkeypatch, url, md5_of(content))
    assert models.load(url).provenance.file == cache / "tiny_model" / "model-1.safetensors"


def test_of_an_archive_the_sentence_says_what_to_put_where(server, cache, monkeypatch):
    publish(monkeypatch, server.url("/celeba.zip"))
    path = cache / "tiny_model" / "model-1.safetensors"
    assert refused("tiny").endswith(f"get {server.url('/celeba.zip')} and put the checkpoint in it at {path}")


def test_a_missing_bundled_file_is_not_looked_for_elsewhere(monkeypatch):
    publish(monkeypatch, url="", path="checkpoints/gone.safetensors")
    assert "the bundled checkpoint tiny is missing" in refused("tiny")


# --- the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the hub: repository -> {file: path}; counts what is downloaded."""
    repositories, downloaded, cached = {}, [], set()

    def file_exists(repository, file):
        return file in repositories.get(repository, {})

    def hf_hub_download(repository, file):
        downloaded.append(file)
        cached.add((repository, file))
        return str(repositories[repository][file])

    def try_to_load_from_cache(repository, file):
        return str(repositories[repository][file]) if (repository, file) in cached else None

    for function in (file_exists, hf_hub_download, try_to_load_from_cache):
        monkeypatch.setattr(huggingface_hub, function.__name__, function)
    return repositories, downloaded


def hub_folder(tmp_path):
    unet([32, 64], [1], sample_size=16, **DDPM_OPTIONS).save_pretrained(tmp_path / "snapshot")
    return tmp_path / "snapshot"


@pytest.mark.parametrize("where", ["", "unet/"])
def test_a_repository_on_the_hub(hub, tmp_path, where):
    repositories, downloaded = hub
    files = ("config.json", "diffusion_pytorch_model.safetensors")
    folder = hub_folder(tmp_path)
    repositories["google/ddpm"] = {where + name: folder / name for name in files}
    network = models.load("hf://google/ddpm")
    assert network.config.channel_mult == (1, 2)
    assert sorted(downloaded) == [where + name for name in files]
    models.load("hf://google/ddpm")
    assert len(downloaded) == 2


def test_of_files_that_belong_together_none_is_missing(hub, tmp_path, monkeypatch):
    """Weights that are at hand without their config.json, as another program may have left them."""
    repositories, downloaded = hub
    folder = hub_folder(tmp_path)
    weights = "diffusion_pytorch_model.safetensors"
    repositories["google/ddpm"] = {name: folder / name for name in ("config.json", weights)}
    known = {weights: str(folder / weights)}  # of what the hub is known not to have, its cache says so
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda _, file: known.get(file, huggingface_hub._CACHED_NO_EXIST)
    )
    models.load("hf://google/ddpm")
    assert downloaded == [weights, "config.json"]


def test_a_repository_with_a_bin_file_only(hub, tmp_path):
    repositories, _ = hub
    folder = hub_folder(tmp_path)
    weights = folder / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), folder / "diffusion_pytorch_model.bin")
    weights.unlink()
    files = ("config.json", "diffusion_pytorch_model.bin")
    repositories["google/ddpm"] = {name: folder / name for name in files}
    assert models.load("hf://google/ddpm").provenance.file == folder / "diffusion_pytorch_model.bin"


def test_a_repository_that_does_not_exist_or_holds_no_network(hub):
    sentence = refused("hf://google/nothing")
    assert sentence.startswith("hf://google/nothing does not exist on the hub, or holds none of")


@pytest.mark.parametrize("name", ["hf://google", "hf://", "hf://a/b/c", "hf://a b/c", "hf:///x"])
def test_a_name_that_no_repository_can_have(name):
    assert refused(name) == f"{name} is not of the form hf://owner/name"


def test_the_hub_without_a_network_fails_at_once(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("[Errno -2] Name or service not known")

    def slow(*args, **kwargs):
        raise AssertionError("a download would try again and again")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "file_exists", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", slow)
    sentence = refused("hf://google/ddpm-cifar10-32")
    assert sentence.startswith("hf://google/ddpm-cifar10-32 could not be downloaded ([Errno -2] Name or service not")
    assert "get config.json and diffusion_pytorch_model.safetensors (or .bin) from " in sentence
    assert sentence.endswith("into a folder and give that folder as the checkpoint")


# Retries wait in between; the stand-in for `sleep` says so and does not wait.
SCRIPT = """
import time
time.sleep = lambda seconds: print("waiting")
import models
try:
    models.load("hf://google/ddpm-cifar10-32")
except ValueError as error:
    print(error)
"""


def test_the_real_hub_client_does_not_try_again_and_again(tmp_path):
    """In a process of its own, with the hub at a port where nobody listens."""
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{closed_port()}", "HF_HOME": str(tmp_path), "no_proxy": "*",
                "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("hf://google/ddpm-cifar10-32 could not be downloaded (")
    assert result.stdout.count("\n") == 1
