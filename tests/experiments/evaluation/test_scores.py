"""experiments/evaluation/scores.py: each metric against a computation of its own, and against torch-fidelity."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from configs import InputError
from experiments.evaluation.evaluator import Evaluator
from experiments.evaluation.frechet import FeatureStatistics, Gaussian, frechet_distance
from experiments.evaluation.references import Reference
from experiments.evaluation.scores import METRICS, inception_score, kernel_distance, precision_recall, score


def features(seed: int, count: int, width: int) -> torch.Tensor:
    """Correlated, not negative, as those of a network; of full rank."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return torch.from_numpy((rng.normal(size=(count, width)) @ mixing + rng.normal(size=width) + 1).clip(min=0)).float()


def statistics(x: torch.Tensor) -> FeatureStatistics:
    gathered = FeatureStatistics(x.shape[1])
    gathered.update(x)
    return gathered


# --- the Fréchet distance


@pytest.mark.parametrize("width", [8, 64, 256])
def test_the_distance_is_that_of_torch_fidelity_and_of_scipy(width):
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = features(0, 4 * width, width), features(1, 5 * width, width)
    ours = frechet_distance(statistics(x), statistics(y))
    theirs = fid.fid_statistics_to_metric(*(fid.fid_features_to_statistics(z.double()) for z in (x, y)), verbose=False)[
        "frechet_inception_distance"
    ]
    a, b = (np.cov(z.double().numpy(), rowvar=False) for z in (x, y))
    difference = x.double().mean(0) - y.double().mean(0)
    scipys = difference.square().sum().item() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert ours == pytest.approx(scipys, rel=1e-6)


@pytest.mark.slow
def test_the_distance_is_that_of_torch_fidelity_and_of_scipy_in_as_many_features_as_fid_has():
    test_the_distance_is_that_of_torch_fidelity_and_of_scipy(2048)


def test_stored_moments_are_as_good_as_gathered_ones():
    x, y = statistics(features(0, 100, 8)), statistics(features(1, 100, 8))
    assert frechet_distance(Gaussian(x.mean, x.cov), Gaussian(y.mean, y.cov)) == frechet_distance(x, y)


# --- the others


def test_the_inception_score_is_the_exponential_of_the_divergence_from_the_marginal():
    pytest.importorskip("torch_fidelity")
    logits = 3 * torch.randn(205, 7, generator=torch.Generator().manual_seed(0))
    shuffled = logits[np.random.RandomState(2020).permutation(205)].double().numpy()
    scores = []
    for part in range(10):
        e = np.exp(shuffled[part * 205 // 10 : (part + 1) * 205 // 10])
        p = e / e.sum(1, keepdims=True)
        scores.append(np.exp((p * np.log(p / p.mean(0))).sum(1).mean()))
    assert inception_score(logits) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_the_kernel_distance_is_the_unbiased_discrepancy_of_all_pairs():
    pytest.importorskip("torch_fidelity")
    x, y = features(0, 40, 6), features(1, 40, 6)
    a, b = x.double().numpy(), y.double().numpy()

    def kernel(i: np.ndarray, j: np.ndarray) -> float:
        return (i @ j / 6 + 1) ** 3

    within = sum(kernel(z[i], z[j]) for z in (a, b) for i in range(40) for j in range(40) if i != j) / (40 * 39)
    across = np.mean([kernel(i, j) for i in a for j in b])
    mean, deviation = kernel_distance(x, y)  # of fewer than 1000 images every subset is the whole
    assert mean == pytest.approx(within - 2 * across, rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_the_kernel_distance_of_more_images_is_torch_fidelitys_default():
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = features(0, 1100, 6), features(1, 1050, 6)
    theirs = kid.kid_features_to_metric(x.double(), y.double(), verbose=False)
    assert kernel_distance(x, y) == (theirs[kid.KEY_METRIC_KID_MEAN], theirs[kid.KEY_METRIC_KID_STD])


def test_precision_and_recall_ask_for_the_third_neighbours_ball():
    pytest.importorskip("torch_fidelity")
    samples = torch.cat([features(0, 50, 4), 5 + features(3, 20, 4)])
    real = torch.cat([features(1, 40, 4), features(2, 30, 4) - 5])
    samples, real = samples.double(), real.double()

    def inside(points: np.ndarray, of: np.ndarray) -> float:
        radii = [sorted(np.linalg.norm(of - center, axis=1))[3] for center in of]  # the 0th is the centre itself
        return np.mean(
            [any(np.linalg.norm(point - c) <= r for c, r in zip(of, radii, strict=True)) for point in points]
        )

    expected = inside(samples.numpy(), real.numpy()), inside(real.numpy(), samples.numpy())
    assert precision_recall(samples, real) == pytest.approx(expected, abs=1e-6)
    assert expected[0] != expected[1]


@pytest.mark.parametrize(("metric", "least"), [(kernel_distance, 2), (precision_recall, 4)])
def test_a_metric_of_two_sets_takes_as_few_images_as_define_it(metric, least):
    """Of one image there are no pairs, and of three none has a third neighbour."""
    pytest.importorskip("torch_fidelity")
    x, y = features(0, least, 4), features(1, 10, 4)
    for pair in ((x, y), (y, x)):
        assert all(np.isfinite(metric(*pair)))
    for pair in ((x[1:], y), (y, x[1:])):
        with pytest.raises(InputError, match=f"at least {least} images, not {least - 1}"):
            metric(*pair)


# --- all of them


def evaluator(network, images: torch.Tensor, layers: list[str] | None = None) -> Evaluator:
    gathered = Evaluator(network, layers)
    gathered.update(images)
    return gathered


def reference(samples: Evaluator) -> Reference:
    moments = {layer: samples.statistics(layer) for layer in samples.layers}
    return Reference("real", moments, samples.features("pool"), len(samples))


def test_a_set_of_images_has_every_metric(toy, pictures):
    pytest.importorskip("torch_fidelity")
    samples, real = evaluator(toy, pictures(0)), evaluator(toy, pictures(1, 50))
    scores = score(samples, reference(real), list(METRICS))
    assert scores.missing == []
    assert set(scores.values) == {"FID", "sFID", "IS", "IS_std", "KID", "KID_std", "precision", "recall"}
    assert scores.values["FID"] == frechet_distance(samples.statistics("pool"), real.statistics("pool"))
    assert scores.values["sFID"] == frechet_distance(samples.statistics("spatial"), real.statistics("spatial"))
    logits = samples.features("pool") @ toy.head.T
    assert (scores.values["IS"], scores.values["IS_std"]) == inception_score(logits)
    assert len(set(scores.settings)) == 5  # FID is asked for as fd, too
    assert any("50 images of real in 12 features of inception-v3-compat" in line for line in scores.settings)


def test_what_is_missing_is_said_metric_by_metric(toy, pictures):
    pytest.importorskip("torch_fidelity")
    samples = evaluator(toy, pictures(0), ["pool"])
    stored = Reference("stored", {"pool": samples.statistics("pool")})
    scores = score(samples, stored, list(METRICS))
    assert set(scores.values) == {"FID", "IS", "IS_std"}
    assert [line.split(":")[0] for line in scores.missing] == ["no sfid", "no kid", "no prc"]
    assert "has no statistics of the spatial features" in scores.missing[0]
    assert "take real images for KID" in scores.missing[1]
    nothing = score(evaluator(toy, pictures(0, 3)), None, ["is", "fid"])
    assert nothing.values == {}
    assert nothing.missing[0] == "no is: it takes at least 10 images, not 3"
    assert "with reference=" in nothing.missing[1]


def test_only_the_network_of_fid_has_a_fid(toy, pictures):
    other = replace(toy, name="mine", metrics={"pool": "FD-mine"})
    samples = evaluator(other, pictures(0), ["pool"])
    scores = score(samples, reference(evaluator(other, pictures(1), ["pool"])), list(METRICS))
    assert set(scores.values) == {"FD-mine"}
    assert len(scores.missing) == 5
    assert all("is defined in the features of inception-v3-compat, not of mine" in line for line in scores.missing)
