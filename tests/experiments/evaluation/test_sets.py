"""experiments/evaluation/sets.py: samples as they lie on disk."""

import numpy as np
import pytest
import torch
from PIL import Image

from configs import InputError
from experiments.evaluation.sets import open_sets
from experiments.images import save_png
from experiments.runs.samples import open_samples


def save(folder, images: torch.Tensor, first: int = 0) -> None:
    for index, image in enumerate(images):
        save_png(image, folder / f"{first + index:06d}.png")


def shards(folder, images: torch.Tensor, size: int, first: int = 0) -> None:
    folder.mkdir(parents=True)
    pixels = images.permute(0, 2, 3, 1).numpy()
    for start in range(0, len(images), size):
        part = pixels[start : start + size]
        seeds = np.arange(first + start, first + start + len(part))
        np.savez(folder / f"{seeds[0]:06d}-{seeds[-1]:06d}.npz", part, seeds=seeds)


def content(found) -> torch.Tensor:
    return found.images.batch(range(len(found)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_images_is_a_set(pictures, tmp_path, channels):
    images = pictures(0, 5, channels)
    save(tmp_path / "uncached", images, first=7)
    (found,) = open_sets(tmp_path / "uncached")
    assert (found.name, len(found), found.shape) == ("uncached", 5, (channels, 8, 8))
    assert list(found.indices) == [7, 8, 9, 10, 11]
    assert torch.equal(content(found), images)


def test_every_strategy_of_a_run_is_a_set(pictures, tmp_path):
    save(tmp_path / "uncached", pictures(0, 2))
    save(tmp_path / "interval=5", pictures(1, 2))
    save_png(pictures(2, 1)[0][:, :4], tmp_path / "grid.png")
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "000000.json").write_text("{}")
    assert [found.name for found in open_sets(tmp_path)] == ["interval=5", "uncached"]


@pytest.mark.parametrize("channels", [1, 3])
def test_shards_are_the_set_that_their_images_are(pictures, tmp_path, channels):
    images = pictures(0, 10, channels)
    shards(tmp_path / "npz" / "uncached", images, 4, first=20)
    save(tmp_path / "png" / "uncached", images, first=20)
    ((packed,), (files,)) = (open_sets(tmp_path / name) for name in ("npz", "png"))
    assert packed.names == files.names
    assert packed.shape == files.shape
    assert torch.equal(content(packed), content(files))


def test_shards_of_images_that_are_not_square_are_a_set(tmp_path):
    images = torch.arange(5 * 3 * 4 * 6).remainder(256).byte().view(5, 3, 4, 6)
    shards(tmp_path / "shards", images, 3)
    (found,) = open_sets(tmp_path)
    assert found.shape == (3, 4, 6)
    assert torch.equal(content(found), images)


def test_seeds_of_seven_digits_come_after_those_of_six(pictures, tmp_path):
    images = pictures(0, 4, 3)
    save(tmp_path / "png", images, first=999_998)
    shards(tmp_path / "npz", images, 2, first=999_998)
    for name in ("png", "npz"):
        (found,) = open_sets(tmp_path / name)
        assert list(found.indices) == [999_998, 999_999, 1_000_000, 1_000_001]
        assert torch.equal(content(found), images)
        assert torch.equal(open_samples(tmp_path / name).batch(range(4)), images)


def test_an_npz_of_others_is_a_set(pictures, tmp_path):
    images = pictures(0, 5)
    np.savez(tmp_path / "samples_5x8x8x3.npz", images.permute(0, 2, 3, 1).numpy(), np.arange(5))  # arr_1: labels
    (found,) = open_sets(tmp_path / "samples_5x8x8x3.npz")
    assert (found.name, len(found), list(found.indices)) == ("samples_5x8x8x3", 5, [0, 1, 2, 3, 4])
    assert torch.equal(content(found), images)


def test_images_without_numbers_have_their_places(pictures, tmp_path):
    for name, image in zip(("cat", "ape"), pictures(0, 2), strict=True):
        save_png(image, tmp_path / f"{name}.png")
    (found,) = open_sets(tmp_path)
    assert found.names == ("ape", "cat")
    assert list(found.indices) == [0, 1]


def test_what_is_no_set_of_samples_ends_in_one_sentence(pictures, tmp_path):
    with pytest.raises(InputError, match=r"there are no samples at .*nowhere"):
        open_sets(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"there are no images and no \.npz files"):
        open_sets(tmp_path)
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    with pytest.raises(InputError, match="holds no images in arr_0"):
        open_sets(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"other\.npz is truncated or no"):
        open_sets(tmp_path)


@pytest.mark.parametrize(
    "seeds", [np.zeros(2), np.array(["a", "b"]), np.zeros((2, 1), int)], ids=["float", "text", "2d"]
)
@pytest.mark.parametrize("where", ["0.npz", ""])
def test_seeds_that_are_none_end_in_one_sentence(pictures, tmp_path, seeds, where):
    np.savez(tmp_path / "0.npz", pictures(0, 2).permute(0, 2, 3, 1).numpy(), seeds=seeds)
    with pytest.raises(InputError, match=r"0\.npz: seeds must be integers \(N,\), not"):
        open_sets(tmp_path / where)


def test_images_of_different_sizes_end_in_one_sentence(pictures, tmp_path):
    save(tmp_path / "png", pictures(0, 2))
    save_png(pictures(0, 1)[0][:, :6], tmp_path / "png" / "000002.png")
    (found,) = open_sets(tmp_path / "png")
    with pytest.raises(InputError, match=r"000002\.png has 8x6 pixels and 000000\.png 8x8"):
        content(found)
    shards(tmp_path / "npz", pictures(0, 2), 2)
    np.savez(tmp_path / "npz" / "more.npz", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="images of different sizes"):
        open_sets(tmp_path / "npz")


def test_a_damaged_image_ends_in_one_sentence(pictures, tmp_path):
    save(tmp_path, pictures(0, 3))
    (found,) = open_sets(tmp_path)
    file = tmp_path / "000001.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match=r"000001\.png is not a readable image"):
        content(found)


def test_a_palette_is_read_as_colours(tmp_path):
    Image.new("P", (8, 8)).save(tmp_path / "0.png")
    assert open_sets(tmp_path)[0].shape == (3, 8, 8)
