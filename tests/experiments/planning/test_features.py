"""Drift of features, and the pictures of it, on a tiny network."""

import numpy as np
import pytest
import torch
from PIL import Image

import configs
from configs import InputError
from experiments.planning import pictures
from experiments.planning.drift import Drift, measure_drift
from experiments.planning.features import FeaturesConfig, draw_features


def test_drift_is_what_the_features_say(pipeline, sampler):
    drift = measure_drift(pipeline, sampler, [0, 2], [1, 2])[2]
    assert drift.cosine.shape == (8, 8)
    assert np.allclose(np.diagonal(drift.cosine), 1, atol=1e-5)
    assert np.allclose(np.diagonal(drift.relative), 0, atol=1e-5)
    assert np.allclose(drift.l1, drift.l1.T, atol=1e-5)
    features = []
    for seed in (1, 2):
        noise, one = pipeline.noise([seed]), []

        def keep(x, t, one=one):
            eps, tapped = pipeline.unet(x, t, taps=[2])
            one.append(tapped[2].flatten())
            return eps

        with torch.inference_mode():
            list(sampler.sample(keep, noise(), noise))
        features.append(one)
    wanted = np.mean([float((one[1] - one[5]).norm() / one[1].norm()) for one in features])
    assert drift.relative[1, 5] == pytest.approx(wanted, rel=1e-4)
    wanted = np.mean([float(torch.cosine_similarity(one[1], one[5], dim=0)) for one in features])
    assert drift.cosine[1, 5] == pytest.approx(wanted, rel=1e-4)


def test_pictures_of_features(tmp_path, settings):
    config = configs.parse(FeaturesConfig, settings(out=str(tmp_path), num_images=1), where="test")
    draw_features(config)
    for name in ("similarity.png", "drift.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5
    with pytest.raises(InputError, match="branch 9 does not exist"):
        draw_features(configs.parse(FeaturesConfig, settings(branches=[9]), where="test"))
    with pytest.raises(InputError, match="at least 2"):
        draw_features(configs.parse(FeaturesConfig, settings(sampler={"steps": 1}), where="test"))


@pytest.mark.parametrize("count", [2, 5, 100])
def test_pictures_count_whole_evaluations_and_changes_from_the_second_on(count):
    some = np.random.default_rng(0).uniform(0.1, 0.9, (count, count))
    drifts = {0: Drift(some, some, some)}
    above, below, _ = pictures.similarity(drifts, range(count)).axes
    (drift,) = pictures.drift(drifts).axes
    for axes in (below, drift):
        assert [*axes.get_lines()[0].get_xdata()] == [*range(1, count)]
    for axis in (above.xaxis, above.yaxis, below.xaxis, drift.xaxis):
        assert all(tick == round(tick) for tick in axis.get_ticklocs())
