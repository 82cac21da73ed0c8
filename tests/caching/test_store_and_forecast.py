"""The feature store's buffers, and what a forecaster makes of them."""

import pytest
import torch

from caching import CachedDenoiser, FeatureStore, ImageStore, Moment, Reuse, Uniform
from caching.forecast import combine
from configs import InputError


def feature(value, batch=2):
    return torch.full((batch, 3, 4, 4), float(value))


def test_reuse_returns_the_stored_feature_itself():
    stored = feature(1)
    assert combine(Reuse().weights([Moment(0)], Moment(3), 1), [stored]) is stored


def test_the_last_features_are_kept_newest_first():
    store = FeatureStore(history=2)
    for evaluation in (0, 3, 6):
        store.write(1, feature(evaluation), evaluation)
    evaluations, features = store.read(1)
    assert evaluations == [6, 3]
    assert [float(f.mean()) for f in features] == [6, 3]


def test_buffers_are_written_in_place_and_outlive_a_trajectory():
    store = FeatureStore()
    store.write(0, feature(1), 0)
    buffer = store.read(0)[1][0]
    store.reset()
    store.write(0, feature(2), 0)
    assert store.read(0)[1][0] is buffer
    assert float(buffer.mean()) == 2
    assert store.nbytes == buffer.nbytes


def test_a_trajectory_under_inference_mode_may_be_followed_by_one_without():
    store = FeatureStore()
    with torch.inference_mode():
        store.write(0, feature(1), 0)
    store.reset()
    store.write(0, feature(2), 0)
    buffer = store.read(0)[1][0]
    assert float(buffer.mean()) == 2
    store.reset()
    with torch.inference_mode():
        store.write(0, feature(3), 0)
    assert store.read(0)[1][0] is buffer


def test_what_was_written_is_a_copy():
    store, live = FeatureStore(), feature(1)
    store.write(0, live, 0)
    live.zero_()
    assert float(store.read(0)[1][0].mean()) == 1


def test_nothing_can_be_read_before_it_is_written():
    store = FeatureStore()
    store.write(0, feature(1), 0)
    store.reset()
    with pytest.raises(InputError, match="no feature of branch 0"):
        store.read(0)


class Linear:
    """Extrapolates from the last two stored features: a forecaster as a user would write one."""

    history = 2

    def weights(self, stored, now, branch):
        if len(stored) < 2:
            return [1.0]
        slope = (now.evaluation - stored[0].evaluation) / (stored[0].evaluation - stored[1].evaluation)
        return [1 + slope, -slope]


def test_any_linear_forecaster_runs_through_the_same_path(recorder):
    """Features that grow by one per evaluation are forecast exactly once two are stored."""
    denoiser = CachedDenoiser(recorder, Uniform(interval=3, branch=2), Linear())
    denoiser.begin(9)
    for _ in range(9):
        denoiser(torch.zeros(1, 3, 8, 8), torch.tensor([0]))
    assert [call["feature"] for call in recorder.calls] == [None, 0, 0, None, 4, 5, None, 7, 8]


def test_combining_leaves_the_stored_features_alone():
    kept = [feature(4), feature(2)]
    assert float(combine([1.5, -0.5], kept).mean()) == 5
    assert [float(f.mean()) for f in kept] == [4, 2]


def test_the_buffer_of_rows_outlives_a_trajectory_and_its_contents_do_not():
    store = ImageStore(history=2)
    for rows, address in ((3, None), (3, "the same"), (2, "another")):
        store.reset()
        with pytest.raises(InputError, match="no feature has been stored"):
            store.combine([[1.0]] * rows)
        before = None if store._slots is None else store._slots.data_ptr()
        store.write(range(rows), torch.ones(rows, 1, 2, 2), 0)
        if address is not None:
            assert (store._slots.data_ptr() == before) == (address == "the same")
        assert torch.equal(store.combine([[1.0]] * rows), torch.ones(rows, 1, 2, 2))
        store.write(range(rows), torch.full((rows, 1, 2, 2), torch.nan), 1)
