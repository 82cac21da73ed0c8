"""experiments/evaluation/references.py: statistics of others, our own, and real images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs import InputError
from experiments.evaluation.evaluator import Evaluator
from experiments.evaluation.references import open_reference, read_statistics, save_statistics
from experiments.images import save_png


def open_it(source, network, layers=("pool", "spatial"), shape=(3, 8, 8), **more):
    return open_reference(str(source), network, split="train", shape=shape, batch_size=20, layers=layers, **more)


def moments(network, images: torch.Tensor, layer: str) -> tuple[np.ndarray, np.ndarray]:
    x = network(images)[layer].double().numpy()
    return x.mean(0), np.cov(x, rowvar=False)


@pytest.fixture
def openai(toy, pictures, tmp_path):
    """A file as OpenAI's: statistics of 60 images, and 30 images."""
    (mu, sigma), (mu_s, sigma_s) = (moments(toy, pictures(0), layer) for layer in ("pool", "spatial"))
    images = pictures(1, 30).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "openai.npz", mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s, arr_0=images)
    return tmp_path / "openai.npz"


def test_statistics_of_pytorch_fid(toy, pictures, tmp_path):
    mu, sigma = moments(toy, pictures(0), "pool")
    np.savez(tmp_path / "fid_stats_cifar10_train.npz", mu=mu, sigma=sigma)
    reference = open_it(tmp_path / "fid_stats_cifar10_train.npz", toy)
    assert (reference.name, reference.features, reference.images) == ("fid_stats_cifar10_train", None, None)
    assert set(reference.moments) == {"pool"}
    assert np.array_equal(reference.moments["pool"].mean, mu)
    assert np.array_equal(reference.moments["pool"].cov, sigma)


def test_statistics_and_images_of_openai(toy, pictures, openai):
    reference = open_it(openai, toy)
    for layer in ("pool", "spatial"):
        mean, cov = moments(toy, pictures(0), layer)
        assert np.array_equal(reference.moments[layer].mean, mean)
        assert np.array_equal(reference.moments[layer].cov, cov)
    torch.testing.assert_close(reference.features, toy(pictures(1, 30))["pool"], rtol=1e-4, atol=1e-4)
    assert open_it(openai, toy, singles=False).features is None


def test_images_in_any_form_are_the_same_reference(toy, pictures, tmp_path):
    images = pictures(0, 40)
    for index, image in enumerate(images):
        save_png(image, tmp_path / "folder" / f"{index:03d}.png")
    np.savez(tmp_path / "arr.npz", images.permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "split.npz", train_images=images.permute(0, 2, 3, 1).numpy())
    expected = Evaluator(toy)
    for part in images.split(20):
        expected.update(part)
    for source in ("folder", "arr.npz", "split.npz"):
        reference = open_it(tmp_path / source, toy)
        assert reference.images == 40
        assert torch.equal(reference.features, expected.features("pool"))
        assert np.array_equal(reference.moments["spatial"].cov, expected.statistics("spatial").cov)


def test_many_images_are_measured_part_by_part(toy, pictures, tmp_path, monkeypatch):
    np.savez(tmp_path / "arr.npz", pictures(0, 50).permute(0, 2, 3, 1).numpy())
    whole = open_it(tmp_path / "arr.npz", toy)
    monkeypatch.setattr("experiments.evaluation.references.PART", 20)
    parts = open_it(tmp_path / "arr.npz", toy)
    assert parts.images == 50
    assert torch.equal(parts.features, whole.features[:20])
    for layer in ("pool", "spatial"):
        assert parts.moments[layer].count == 50
        np.testing.assert_allclose(parts.moments[layer].mean, whole.moments[layer].mean, rtol=1e-12)
        np.testing.assert_allclose(parts.moments[layer].cov, whole.moments[layer].cov, rtol=1e-11)


def test_our_statistics_are_read_by_us_and_by_others(toy, pictures, openai, tmp_path):
    reference = open_it(openai, toy)
    save_statistics(tmp_path / "mine.npz", replace(reference, images=60), toy)
    again = open_it(tmp_path / "mine.npz", toy)
    assert again.images == 60
    with np.load(tmp_path / "mine.npz") as file, np.load(openai) as original:
        for key in ("mu", "sigma", "mu_s", "sigma_s"):
            assert np.array_equal(file[key], original[key])
    assert np.array_equal(again.moments["spatial"].cov, reference.moments["spatial"].cov)


def test_statistics_of_another_network_are_refused(toy, openai, tmp_path):
    save_statistics(tmp_path / "mine.npz", open_it(openai, toy), toy)
    with pytest.raises(InputError, match="in the features of inception-v3-compat, not of other"):
        open_it(tmp_path / "mine.npz", replace(toy, name="other"))
    with pytest.raises(InputError, match="with other weights"):
        open_it(tmp_path / "mine.npz", replace(toy, sha256="1" * 64))
    with pytest.raises(InputError, match="in the features of inception-v3-compat, not of other"):
        open_it(openai, replace(toy, name="other"))  # which does not say: FID's network


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"mu": np.zeros(12)}, "holds mu but no sigma"),
        ({"mu": np.zeros(5), "sigma": np.eye(5)}, r"mu has the shape \(5,\), not \(12,\)"),
        ({"mu": np.zeros(12), "sigma": np.eye(11)}, r"mu and sigma are no statistics: .* not \(12,\) and \(11, 11\)"),
        ({"mu": np.full(12, np.nan), "sigma": np.eye(12)}, "must be finite"),
        ({"mu": np.array(["a"] * 12), "sigma": np.eye(12)}, "mu and sigma are no statistics"),
        ({"other": np.zeros(3)}, "holds neither train_images"),
        ({"arr_0": np.zeros((2, 8, 8, 3))}, "arr_0 must hold images .* float64"),
    ],
)
def test_foreign_files_end_in_one_sentence(toy, tmp_path, arrays, sentence):
    np.savez(tmp_path / "file.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        open_it(tmp_path / "file.npz", toy)


def test_truncated_files_end_in_one_sentence(toy, openai):
    content = openai.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 30):
        openai.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"is truncated or not an \.npz file"):
            open_it(openai, toy)


def test_a_reference_that_is_not_there_is_said(toy, tmp_path):
    with pytest.raises(InputError, match="must be mnist, cifar10, an existing image folder"):
        open_it(tmp_path / "nowhere.npz", toy)
    save_png(torch.zeros(3, 9, 8, dtype=torch.uint8), tmp_path / "0.png")
    with pytest.raises(InputError, match=r"samples of 9x8 pixels need an \.npz"):
        open_it(tmp_path, toy, shape=(3, 9, 8))


def test_files_without_statistics_have_none(toy, tmp_path):
    np.savez(tmp_path / "images.npz", np.zeros((2, 8, 8, 3), np.uint8))
    assert read_statistics(tmp_path / "images.npz", toy) is None
