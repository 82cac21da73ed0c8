"""experiments/evaluation/lsun.py: LSUN's lmdb, cut as torchvision cuts it in the DDPM code."""

import io
import sys

import pytest
import torch
from PIL import Image
from torchvision import transforms

from configs import InputError
from experiments.evaluation.lsun import LsunImages
from experiments.evaluation.references import open_reference


@pytest.fixture
def lsun(tmp_path):
    """Five images of several sizes, under keys that are not in order, and the images by key."""
    lmdb = pytest.importorskip("lmdb")
    images = {}
    with lmdb.open(str(tmp_path / "church_lmdb"), map_size=1 << 22) as environment, environment.begin(write=True) as t:
        for index, (width, height) in enumerate([(40, 30), (30, 40), (64, 32), (32, 32), (33, 50)]):
            pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator())
            file = io.BytesIO()
            Image.fromarray(pixels.numpy()).save(file, format="webp", lossless=True)
            key = f"{(index * 7) % 5}abc".encode()
            t.put(key, file.getvalue())
            images[key] = Image.fromarray(pixels.numpy())
    return tmp_path / "church_lmdb", [images[key] for key in sorted(images)]


def test_images_are_those_of_the_ddpm_code(lsun):
    folder, originals = lsun
    cut = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(16), transforms.PILToTensor()])
    images = LsunImages(folder, 16)
    assert len(images) == 5
    assert torch.equal(images.batch([3, 0, 4]), torch.stack([cut(originals[i]) for i in (3, 0, 4)]))


def test_lsun_is_a_reference(lsun, toy):
    reference = open_reference(
        f"lsun:{lsun[0]}", toy, split="train", shape=(3, 8, 8), batch_size=2, layers=["pool", "spatial"]
    )
    assert (reference.name, reference.images) == ("church_lmdb", 5)
    assert torch.equal(reference.features[:2], toy(LsunImages(lsun[0], 8).batch([0, 1]))["pool"])


def test_what_is_no_lsun_ends_in_one_sentence(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with pytest.raises(InputError, match=r"there is no data\.mdb in it"):
        LsunImages(tmp_path / "nothing", 8)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "data.mdb").write_bytes(b"nothing of the kind" * 500)
    with pytest.raises(InputError, match="is no readable lmdb"):
        LsunImages(tmp_path / "damaged", 8)
    with lmdb.open(str(tmp_path / "empty")):
        pass
    with pytest.raises(InputError, match="is empty"):
        LsunImages(tmp_path / "empty", 8)
    with lmdb.open(str(tmp_path / "text")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"key1", b"no image")
    with pytest.raises(InputError, match="text: key1 is not a readable image"):
        LsunImages(tmp_path / "text", 8).batch([0])


def test_a_missing_package_is_said_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(InputError, match=r"LSUN needs the lmdb package; install it with pip install -e '\.\[eval\]"):
        LsunImages(tmp_path, 8)
