"""experiments/data.py: pixels come through exactly, and whatever is wrong with a file ends in one sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs import InputError
from experiments.data import ArrayImages, FolderImages, data_name, open_images, pad_to, to_tensor

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=90)
    return file.getvalue()


def save_stream(path: Path, parts: list[bytes], **more: np.ndarray) -> None:
    offsets = np.cumsum([0, *(len(part) for part in parts)])
    np.savez(path, train_jpeg=np.frombuffer(b"".join(parts), np.uint8), train_offsets=offsets, **more)


def shown(path: str | Path, size: int = 32, channels: int = 1, split: str = "train") -> torch.Tensor:
    images = open_images(str(path), split, channels, size)
    return images.batch(range(len(images)))


# --- .npz files of arrays


def test_npz_pixels_are_centred_on_black_unchanged(tmp_path):
    raw = pixels(5, 28, 28)
    np.savez(tmp_path / "digits.npz", train_images=raw)
    batch = shown(tmp_path / "digits.npz")
    assert batch.shape == (5, 1, 32, 32)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch[:, 0, 2:-2, 2:-2], torch.from_numpy(raw))
    batch[:, :, 2:-2, 2:-2] = 0
    assert not batch.any()


def test_npz_splits_and_labels_are_kept_apart(tmp_path):
    train, test = pixels(4, 8, 8), pixels(2, 8, 8)
    labels = np.array([3, 1, 2, 0], np.uint8)
    np.savez(tmp_path / "a.npz", train_images=train, train_labels=labels, test_images=test)
    assert torch.equal(shown(tmp_path / "a.npz", 8, split="test")[:, 0], torch.from_numpy(test))
    assert open_images(str(tmp_path / "a.npz"), "train", 1, 8).labels.tolist() == [3, 1, 2, 0]
    assert open_images(str(tmp_path / "a.npz"), "test", 1, 8).labels is None


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_npz_of_samples_is_of_every_split(tmp_path, split):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=pixels, arr_1=np.array([3, 1, 2]))
    images = open_images(str(tmp_path / "a.npz"), split, 1, 8)
    assert torch.equal(images.batch(range(3)), torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert images.labels.tolist() == [3, 1, 2]


@pytest.mark.parametrize("labels", [np.array(["3", "1"]), np.array([3.5, 1.0]), np.zeros((2, 1), int)], ids=str)
def test_labels_that_are_no_integers_end_in_one_sentence(tmp_path, labels):
    np.savez(tmp_path / "a.npz", train_images=pixels(2, 8, 8), train_labels=labels)
    with pytest.raises(InputError, match=r"a\.npz: train_labels must be integers \(N,\), not"):
        open_images(str(tmp_path / "a.npz"), "train", 1, 8)


def test_colour_images_are_channels_first(tmp_path):
    raw = pixels(3, 8, 8, 3)
    np.savez(tmp_path / "a.npz", train_images=raw)
    assert torch.equal(shown(tmp_path / "a.npz", 8, 3), torch.from_numpy(raw).permute(0, 3, 1, 2))


def test_colour_becomes_the_grey_of_pil(tmp_path):
    raw = pixels(6, 16, 16, 3)
    np.savez(tmp_path / "a.npz", train_images=raw)
    expected = torch.stack([to_tensor(Image.fromarray(image).convert("L")) for image in raw])
    assert torch.equal(shown(tmp_path / "a.npz", 16, 1), expected)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 8, 8, 1)])
def test_grey_becomes_three_equal_channels(tmp_path, shape):
    raw = pixels(*shape)
    np.savez(tmp_path / "a.npz", train_images=raw)
    expected = torch.from_numpy(raw.reshape(3, 1, 8, 8)).repeat(1, 3, 1, 1)
    assert torch.equal(shown(tmp_path / "a.npz", 8, 3), expected)


# --- .npz files of JPEGs end to end


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_stream_decodes_each_image_as_pil_does(tmp_path, channels):
    parts = [jpeg(image) for image in pixels(4, 16, 16, 3)]
    save_stream(tmp_path / "a.npz", parts, train_labels=np.arange(4))
    mode = {1: "L", 3: "RGB"}[channels]
    expected = torch.stack([to_tensor(Image.open(io.BytesIO(part)).convert(mode)) for part in parts])
    assert torch.equal(shown(tmp_path / "a.npz", 16, channels), expected)
    assert open_images(str(tmp_path / "a.npz"), "train", channels, 16).labels.tolist() == [0, 1, 2, 3]


def test_a_broken_jpeg_is_named_by_its_index(tmp_path):
    whole, broken = jpeg(pixels(16, 16, 3)), b"not a jpeg"
    save_stream(tmp_path / "a.npz", [whole, broken])
    with pytest.raises(InputError, match=r"a\.npz: train_jpeg\[1\] is not a readable image"):
        shown(tmp_path / "a.npz", 16)


def test_jpegs_of_several_sizes_are_refused(tmp_path):
    save_stream(tmp_path / "a.npz", [jpeg(pixels(16, 16, 3)), jpeg(pixels(8, 8, 3))])
    with pytest.raises(InputError, match="all of one size"):
        shown(tmp_path / "a.npz", 16)


# --- padding


@pytest.mark.parametrize(("height", "width"), [(28, 28), (7, 32), (31, 3), (32, 32)])
def test_padding_is_lossless_centred_and_black(height, width):
    images = torch.from_numpy(pixels(2, 3, height, width))
    padded = pad_to(images, 32, "these")
    top, left = (32 - height) // 2, (32 - width) // 2
    assert padded.shape == (2, 3, 32, 32)
    assert torch.equal(padded[:, :, top : top + height, left : left + width], images)
    assert padded.sum() == images.sum()


def test_images_larger_than_the_network_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=pixels(2, 40, 28))
    with pytest.raises(InputError, match=r"a\.npz are 40x28, larger than the network's 32"):
        shown(tmp_path / "a.npz")


# --- folders


@pytest.fixture
def folder(tmp_path):
    """Images of several sizes, modes and formats, in sub-folders, beside a file that is none."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.fromarray(pixels(32, 32, 3)).save(tmp_path / "a.png")
    Image.fromarray(pixels(50, 80, 3)).save(tmp_path / "b.jpg")
    Image.fromarray(pixels(20, 9)).save(tmp_path / "deep" / "c.PNG")
    Image.fromarray(pixels(32, 33, 4)).save(tmp_path / "deep" / "er" / "d.webp")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_images_of_any_size_and_mode_come_out_alike(folder, channels):
    images = open_images(str(folder), "train", channels, 32)
    assert isinstance(images, FolderImages)
    assert [path.name for path in images.paths] == ["a.png", "b.jpg", "c.PNG", "d.webp"]
    assert images.batch([3, 0, 1, 2]).shape == (4, channels, 32, 32)
    assert images.batch([0]).dtype == torch.uint8


def test_folder_images_of_the_right_size_are_unchanged(folder):
    with Image.open(folder / "a.png") as image:
        expected = to_tensor(image)
    assert torch.equal(FolderImages(folder, 3, 32).batch([0])[0], expected)


def test_folder_images_keep_their_centre(tmp_path):
    wide = np.zeros((32, 97), np.uint8)
    wide[:, 32:64] = 200
    Image.fromarray(wide).save(tmp_path / "0.png")
    Image.fromarray(wide.T).save(tmp_path / "1.png")
    assert (FolderImages(tmp_path, 1, 32).batch([0, 1]) == 200).all()


def test_folder_images_shrink_by_the_filter_that_aliases_least(tmp_path):
    """Every other one of PIL's moves the statistics of real images, and so every FID."""
    with Image.fromarray(pixels(70, 70, 3)) as image:
        image.save(tmp_path / "a.png")
        expected = to_tensor(image.resize((32, 32), Image.Resampling.LANCZOS))
    assert torch.equal(FolderImages(tmp_path, 3, 32).batch([0])[0], expected)


def test_a_broken_image_is_named_when_it_is_read(folder):
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])
    images = FolderImages(folder, 3, 32)
    images.batch([1, 2, 3])
    with pytest.raises(InputError, match=r"a\.png is not a readable image"):
        images.batch([0])


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="there are no images"):
        shown(tmp_path)


# --- what is no data


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"test_images": pixels(2, 8, 8)}, "holds neither train_images, nor train_jpeg with train_offsets"),
        ({"train_jpeg": pixels(9)}, "holds neither train_images, nor train_jpeg with train_offsets"),
        ({"train_images": pixels(2, 8, 8).astype(np.float32)}, r"not \(2, 8, 8\) float32"),
        ({"train_images": pixels(2, 3, 8, 8)}, r"not \(2, 3, 8, 8\) uint8"),
        ({"train_images": pixels(8, 8)}, r"not \(8, 8\) uint8"),
        ({"train_images": pixels(0, 8, 8)}, r"with N > 0, not \(0, 8, 8\)"),
        ({"train_images": np.array([{}, None])}, "is truncated or not an .npz file of plain arrays"),
    ],
)
def test_an_npz_that_holds_something_else_is_refused(tmp_path, arrays, sentence):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        shown(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_npz_is_refused(tmp_path, keep):
    np.savez_compressed(tmp_path / "a.npz", train_images=pixels(50, 28, 28))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(InputError, match=r"a\.npz is truncated or not an \.npz file"):
        shown(tmp_path / "a.npz")


def test_a_damaged_npz_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", train_images=pixels(50, 28, 28))
    damaged = bytearray((tmp_path / "a.npz").read_bytes())
    damaged[1000:1100] = bytes(100)
    (tmp_path / "a.npz").write_bytes(damaged)
    with pytest.raises(InputError, match=r"a\.npz is truncated or not an \.npz file"):
        shown(tmp_path / "a.npz")


@pytest.mark.parametrize("data", ["minst", "no/such/folder", "no/such/file.npz"])
def test_data_that_is_not_there_is_refused_with_what_there_is(data):
    with pytest.raises(InputError, match=f"an existing .npz file, not '{data}'"):
        open_images(data, "train", 1, 32)


def test_networks_of_other_channel_counts_are_refused(tmp_path):
    with pytest.raises(InputError, match="images have 1 or 3 channels, but the network takes 4"):
        open_images(str(tmp_path), "train", 4, 32)


# --- names and access


def test_the_name_of_data_says_nothing_of_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data_name("mnist") == "mnist"
    assert data_name(str(tmp_path / "mnist.npz")) == "mnist"
    assert data_name("~/sets/faces.v2/") == "faces.v2"
    assert data_name(".") == tmp_path.name


def test_batches_follow_the_indices_asked_for():
    images = ArrayImages(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1))
    assert images.batch([4, 0, 4]).flatten().tolist() == [4, 0, 4]


def test_the_shared_mnist_is_whole():
    path = Path(__file__).parents[3] / "shared" / "data" / "mnist.npz"
    if not path.exists():
        pytest.skip("MNIST is not at hand (../shared/data)")
    images = open_images(str(path), "test", 1, 32)
    assert images.pixels.shape == (10000, 1, 32, 32)
    assert images.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
