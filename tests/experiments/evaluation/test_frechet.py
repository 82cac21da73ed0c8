"""experiments/evaluation/frechet.py: the distance of two Gaussians, from statistics that can be gathered in parts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from configs import InputError
from experiments.data import open_images
from experiments.evaluation.frechet import FeatureStatistics, frechet_distance
from experiments.evaluation.judge import JudgeConfig, image_statistics, judge, judge_images
from experiments.images import save_png
from experiments.training.classifier import load

MNIST = Path(__file__).parents[4] / "shared" / "data" / "mnist.npz"


def statistics(features: np.ndarray | torch.Tensor) -> FeatureStatistics:
    gathered = FeatureStatistics(features.shape[1])
    gathered.update(torch.as_tensor(features))
    return gathered


def correlated(seed: int, count: int, width: int) -> np.ndarray:
    """Features as the classifier's: correlated, not negative, some of them always 0."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)
    features[:, ::7] = 0
    return features.clip(min=0)


def with_moments(mean: np.ndarray, cov: np.ndarray, count: int = 50) -> FeatureStatistics:
    """Statistics of samples that have exactly this mean and covariance."""
    x = np.random.default_rng(count).normal(size=(count, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return statistics(white @ np.linalg.cholesky(cov).T + mean)


# --- the statistics


def test_mean_and_covariance_are_numpys():
    features = correlated(0, 100, 8)
    gathered = statistics(features)
    assert gathered.count == 100
    np.testing.assert_allclose(gathered.mean, features.mean(0), rtol=1e-13)
    np.testing.assert_allclose(gathered.cov, np.cov(features.T), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sizes", [[100], [1] * 100, [1, 99], [99, 1], [50, 0, 50], [33, 33, 34]])
@pytest.mark.parametrize("how", ["update", "merge"])
def test_parts_gathered_are_the_whole(sizes, how):
    features = torch.from_numpy(correlated(0, 100, 8))
    whole, parts = statistics(features), FeatureStatistics(8)
    for part in features.split(sizes):
        if how == "update":
            parts.update(part)
        else:
            parts.merge(statistics(part))
    assert parts.count == 100
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.cov, whole.cov, rtol=1e-11, atol=1e-12)


def test_merging_leaves_the_other_as_it_was():
    first, second = statistics(correlated(0, 10, 4)), statistics(correlated(1, 20, 4))
    mean, cov = second.mean.copy(), second.cov.copy()
    first.merge(second)
    first.update(torch.ones(5, 4))
    assert second.count == 20
    assert np.array_equal(second.mean, mean)
    assert np.array_equal(second.cov, cov)


def test_a_large_mean_does_not_drown_the_covariance():
    features = correlated(0, 200, 4)
    far = FeatureStatistics(4)
    for part in torch.from_numpy(features + 1e8).split(30):
        far.update(part)
    np.testing.assert_allclose(far.cov, np.cov(features.T), rtol=1e-5, atol=1e-6)


# --- the distance


def test_the_distance_is_the_one_with_the_matrix_square_root():
    for seed in range(3):
        x, y = np.random.default_rng(seed).normal(size=(2, 300, 16)) @ np.random.default_rng(9).normal(size=(16, 16))
        y = 1.5 * y + 0.3
        a, b = np.cov(x.T), np.cov(y.T)
        expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
        assert frechet_distance(statistics(x), statistics(y)) == pytest.approx(expected, rel=1e-9)


def test_gaussians_of_independent_features_are_apart_by_means_and_deviations():
    means, deviations = np.array([[0.0, 1, 2], [3, 1, -1]]), np.array([[1.0, 2, 3], [2, 0.5, 3]])
    a, b = (with_moments(mean, np.diag(sigma**2)) for mean, sigma in zip(means, deviations, strict=True))
    assert frechet_distance(a, b) == pytest.approx(9 + 9 + 1 + 1.5**2, rel=1e-12)


def test_gaussians_of_two_correlated_features_have_a_closed_form():
    a, b = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])  # they do not commute
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))  # tr M^½ of a 2x2 matrix M
    expected = 5 + np.trace(a + b) - 2 * root
    got = frechet_distance(with_moments(np.array([0.0, 0]), a), with_moments(np.array([1.0, 2]), b))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 5, 63, 64, 200])
def test_fewer_samples_than_features_give_a_distance_too(count):
    few, many = statistics(correlated(0, count, 64)), statistics(correlated(0, 1000, 64))
    distance = frechet_distance(few, many)
    assert np.isfinite(distance)
    assert distance > 0
    assert frechet_distance(many, few) == pytest.approx(distance, rel=1e-9)


@pytest.mark.parametrize("count", [2, 10, 500])
def test_a_set_is_at_no_distance_from_itself(count):
    for seed in range(8):  # some of which rounding would leave below 0
        features = correlated(seed, count, 64)
        same = statistics(features)
        assert 0 <= frechet_distance(same, same) < 1e-12 * np.trace(same.cov)
        parts = statistics(features[: count // 2])
        parts.merge(statistics(features[count // 2 :]))
        assert 0 <= frechet_distance(same, parts) < 1e-6 * np.trace(same.cov)


def test_what_has_no_distance_is_refused():
    one, two = statistics(np.ones((1, 3))), statistics(np.ones((2, 3)))
    with pytest.raises(InputError, match="at least 2 samples, not 1"):
        frechet_distance(two, one)
    with pytest.raises(InputError, match="features of 3 dimensions cannot be compared with features of 4"):
        frechet_distance(two, FeatureStatistics(4))
    with pytest.raises(InputError, match="features of 3 dimensions cannot be compared with features of 4"):
        two.merge(FeatureStatistics(4))
    with pytest.raises(InputError, match=r"must be \(N, 3\), not \(2, 4\)"):
        two.update(torch.ones(2, 4))
    with pytest.raises(InputError, match="must be finite"):
        two.update(torch.full((2, 3), torch.nan))


# --- of images


def test_the_judge_tells_the_distance_to_the_real_digits_it_is_given(tmp_path):
    network = load()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 30, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", test_images=pixels[0])
    for index, image in enumerate(pixels[1]):
        save_png(torch.from_numpy(image)[None], tmp_path / "run" / "many" / f"{index}.png")
    save_png(torch.from_numpy(pixels[1, :1]), tmp_path / "run" / "one" / "0.png")
    lines = judge(JudgeConfig(str(tmp_path / "run"), data=str(tmp_path / "real.npz"))).splitlines()
    column = [cell.strip() for cell in lines[0].split("|")].index("Fréchet")
    many, one, real = ([cell.strip() for cell in line.split("|")] for line in lines[2:5])
    sets = [
        image_statistics(network, open_images(str(p), "test", 1, 32))
        for p in (tmp_path / "run" / "many", tmp_path / "real.npz")
    ]
    assert many[column] == f"{frechet_distance(*sets):.4g}"
    assert one[column] == real[column] == ""
    assert lines[-1].startswith("Fréchet: distance of the set to the 30 test digits of real in the features of mnist_c")


def test_real_digits_are_nearer_to_real_digits_than_noise_is():
    if not MNIST.exists():
        pytest.skip("MNIST is not at hand (../shared/data)")
    network, test = load(), open_images(str(MNIST), "test", 1, 32)
    real = image_statistics(network, test)
    noise = torch.randint(0, 100, (1000, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    noisy = (test.pixels[:1000] + noise).clamp(max=255).to(torch.uint8)
    assert judge_images(network, test.pixels[:1000], "digits", real).frechet < 5
    assert judge_images(network, noisy, "noisy", real).frechet > 100
