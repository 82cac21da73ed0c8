"""Samples on disk: what is read is what was made, whether it lies in PNGs, in shards or in one file."""

from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from configs import InputError
from experiments.data import open_images
from experiments.images import save_png
from experiments.runs.collect import CollectConfig, collect
from experiments.runs.run import SampleConfig, run
from experiments.runs.samples import Batch, labels_of, open_samples, storage

CLASSES = """
network: {resolution: 8, channels: 32, channel_mult: [1, 2], num_res_blocks: 1, num_classes: 7}
"""


@pytest.fixture
def made(tmp_path: Path):
    """made("npz") is the output folder of a run of a class-conditional model, without a cache."""

    def make(kind: str, **settings) -> Path:
        (tmp_path / "classes.yaml").write_text(CLASSES)
        given = {
            "model": str(tmp_path / "classes.yaml"), "checkpoint": "random", "sampler": {"steps": 2}, "num_images": 7,
            "batch_size": 3, "seed": 1, "compare": False, "policy": {"name": "none"}, "storage": kind, "device": "cpu",
            "out": str(tmp_path / kind),
        }  # fmt: skip
        run(configs.parse(SampleConfig, given | settings, where="test"))
        return tmp_path / kind

    return make


def pixels(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("kind", ["png", "npz"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_read_is_what_was_encoded(tmp_path, kind, channels):
    block, seeds, images = range(8, 12), [9, 11], pixels(2, channels, 4, 6)
    files = storage(kind).encode(block, Batch(seeds, images))
    assert list(files) == storage(kind).names(block, seeds)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(storage(kind).read(tmp_path, block, [11, 9]), images.flip(0))
    assert storage(kind).present(tmp_path, block) == {9, 11}
    assert storage(kind).encode(block, Batch(seeds, images)) == files  # bytes depend on nothing else


def test_shards_have_the_format_of_openais_evaluator(made):
    folder = made("npz") / "none"
    assert sorted(path.name for path in folder.iterdir()) == ["000000-000002.npz", "000003-000005.npz",
                                                              "000006-000008.npz"]  # fmt: skip
    with np.load(folder / "000000-000002.npz") as shard:
        assert (shard["arr_0"].shape, shard["arr_0"].dtype) == ((2, 8, 8, 3), np.uint8)
        assert shard["seeds"].tolist() == [1, 2]
        assert shard["arr_1"].shape == (2,)


def test_shards_and_files_are_the_same_set(made):
    files, shards = open_samples(made("png")), open_samples(made("npz"))
    assert len(files) == len(shards) == 7
    everything = range(7)
    assert torch.equal(files.batch(everything), shards.batch(everything))
    assert torch.equal(shards.batch([6, 0]), files.batch([6, 0]))
    assert torch.equal(labels_of(made("png") / "none"), labels_of(made("npz") / "none"))


@pytest.mark.parametrize("kind", ["png", "npz"])
@pytest.mark.parametrize(("channels", "size"), [(3, 8), (1, 8), (3, 6)])
def test_open_images_takes_a_run_of_one_strategy(made, kind, channels, size):
    images = open_images(str(made(kind)), "test", channels, size)
    assert images.batch([0, 6]).shape == (2, channels, size, size)
    expected = open_images(str(made("png") / "none"), "test", channels, size).batch([0, 6])
    assert torch.equal(images.batch([0, 6]), expected)


def test_a_run_of_several_strategies_is_no_single_set(made):
    folder = made("png", policy={"name": "uniform", "interval": [2, 3]}, forecaster={"name": "reuse"}, num_images=1)
    with pytest.raises(InputError, match=r"2 sets .*uniform-interval2-branch0, uniform-interval3-branch0"):
        open_images(str(folder), "test", 3, 8)


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_collected_samples_are_the_samples(made, tmp_path, kind):
    line = collect(CollectConfig(str(made(kind)), str(tmp_path / "all.npz")))
    assert line.endswith("all.npz: 7 images, 8x8, 3 channels, with labels")
    with np.load(tmp_path / "all.npz") as file:
        assert file.files == ["arr_0", "arr_1"]
        images, labels = torch.from_numpy(file["arr_0"]), torch.from_numpy(file["arr_1"])
    assert torch.equal(images.permute(0, 3, 1, 2), open_samples(made("npz")).batch(range(7)))
    assert torch.equal(labels, labels_of(made("npz") / "none"))


def test_any_folder_of_images_can_be_collected(tmp_path):
    images = pixels(70, 1, 4, 6)  # more than are read at once, and not square
    for i, image in enumerate(images):
        save_png(image, tmp_path / "in" / f"{i:03d}.png")
    assert "70 images, 4x6, 1 channel, without labels" in collect(
        CollectConfig(str(tmp_path / "in"), str(tmp_path / "all.npz"))
    )
    with np.load(tmp_path / "all.npz") as file:
        assert np.array_equal(file["arr_0"], images.permute(0, 2, 3, 1).numpy())


def _empty(folder: Path) -> None:
    folder.mkdir()


def _sizes(folder: Path) -> None:
    save_png(pixels(3, 8, 8), folder / "a.png")
    save_png(pixels(3, 8, 6), folder / "b.png")


def _damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / "000000-000003.npz").write_bytes(b"PK")


@pytest.mark.parametrize(
    ("fill", "sentence"),
    [(lambda folder: None, "there is no folder"), (_empty, "there are no images"), (_sizes, "several sizes"),
     (_damaged, "truncated or no")],
)  # fmt: skip
def test_folders_that_hold_no_set_end_in_one_sentence(tmp_path, fill, sentence):
    fill(tmp_path / "in")
    with pytest.raises(InputError, match=sentence):
        collect(CollectConfig(str(tmp_path / "in"), str(tmp_path / "all.npz")))
    assert not (tmp_path / "all.npz").exists()


def test_a_run_whose_records_lack_labels_is_not_collected(made, tmp_path):
    """Labels of seven images' neighbours, in a file that does not say so, would be taken for theirs."""
    folder = made("png")
    (folder / "blocks" / "000003.json").unlink()
    with pytest.raises(InputError, match="holds 7 images, but 4 labels; let its run be finished"):
        collect(CollectConfig(str(folder), str(tmp_path / "all.npz")))
    assert not (tmp_path / "all.npz").exists()


def test_out_must_be_an_npz_file(made, tmp_path):
    with pytest.raises(InputError, match=r"name of an \.npz file"):
        collect(CollectConfig(str(made("png")), str(tmp_path / "all.zip")))


def test_unknown_storage_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="did you mean 'npz'"):
        SampleConfig(storage="npy")
