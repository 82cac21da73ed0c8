"""experiments/evaluation/evaluator.py: features of blocks are those of the whole, whoever made them in what order."""

from dataclasses import replace

import pytest
import torch

from configs import InputError
from experiments.data import ArrayImages
from experiments.evaluation.evaluator import Evaluator, Evaluators, images_evaluator


def same(a: Evaluator, b: Evaluator) -> bool:
    return all(torch.equal(a.features(layer), b.features(layer)) for layer in ("pool", "spatial"))


@pytest.fixture
def whole(toy, pictures):
    evaluator = Evaluator(toy)
    for start in range(0, 60, 20):
        evaluator.update(pictures(0)[start : start + 20])
    return evaluator


def test_the_order_of_blocks_changes_no_bit(toy, pictures, whole):
    shuffled = Evaluator(toy)
    for start in (40, 0, 20):
        shuffled.update(pictures(0)[start : start + 20], range(start, start + 20))
    assert len(shuffled) == 60
    assert same(shuffled, whole)
    assert (shuffled.statistics("pool").cov == whole.statistics("pool").cov).all()


def test_shares_of_processes_merge_into_the_whole(toy, pictures, whole):
    shares = [Evaluator(toy), Evaluator(toy)]
    for block, start in enumerate(range(0, 60, 20)):
        shares[block % 2].update(pictures(0)[start : start + 20], range(start, start + 20))
    shares[1].merge(shares[0])
    assert same(shares[1], whole)


def test_blocks_on_disk_are_the_whole_again(toy, pictures, whole, tmp_path):
    for start in range(0, 60, 20):
        block = Evaluator(toy)
        block.update(pictures(0)[start : start + 20], range(start, start + 20))
        block.save(tmp_path / f"{start}.safetensors")
    resumed = Evaluator(toy)
    for start in (20, 40, 0):
        resumed.load(tmp_path / f"{start}.safetensors")
    assert same(resumed, whole)
    assert (tmp_path / "0.safetensors").stat().st_size < 20 * whole.bytes_per_image + 20 * 8 + 1000


def test_layers_that_are_not_wanted_are_not_kept(toy, pictures, tmp_path):
    pooled = Evaluator(toy, ["pool"])
    pooled.update(pictures(0))
    assert pooled.bytes_per_image == 4 * 12
    pooled.save(tmp_path / "block.safetensors")
    with pytest.raises(InputError, match="does not hold the features pool, spatial"):
        Evaluator(toy).load(tmp_path / "block.safetensors")


def test_an_image_counts_once(toy, pictures, tmp_path):
    evaluator = Evaluator(toy)
    evaluator.update(pictures(0, 4), [3, 9, 1, 5])
    with pytest.raises(InputError, match="image 5 is there already"):
        evaluator.update(pictures(0, 2), [7, 5])
    with pytest.raises(InputError, match="image 1 is there already"):
        evaluator.merge(evaluator)
    with pytest.raises(InputError, match="an image is there twice"):
        evaluator.update(pictures(0, 2), [7, 7])
    with pytest.raises(InputError, match="3 indices do not fit"):
        evaluator.update(pictures(0, 2), [7, 8, 10])
    assert len(evaluator) == 4


def test_features_of_another_network_are_refused(toy, pictures, tmp_path):
    evaluator, other = Evaluator(toy), Evaluator(replace(toy, sha256="1" * 64))
    other.update(pictures(0, 4))
    other.save(tmp_path / "block.safetensors")
    with pytest.raises(InputError, match="another network than inception-v3-compat"):
        evaluator.merge(other)
    with pytest.raises(InputError, match=r"block.safetensors are those of another network"):
        evaluator.load(tmp_path / "block.safetensors")


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8).byte(), torch.zeros(3, 8).byte()])
def test_what_is_no_image_is_refused(toy, images):
    with pytest.raises(InputError, match=r"must be \(N, 1 or 3, H, W\) uint8"):
        Evaluator(toy).update(images)


def test_an_empty_evaluator_has_no_features(toy):
    assert Evaluator(toy).features("pool").shape == (0, 12)
    assert Evaluator(toy).statistics("pool").count == 0


def test_images_go_through_in_batches(toy, pictures, whole):
    assert same(images_evaluator(toy, ArrayImages(pictures(0)), 20), whole)


def test_runs_feed_one_evaluator_for_each_strategy(toy, pictures):
    observer = Evaluators(toy, ["pool"])
    for seeds in (range(4, 8), range(4)):
        observer("uncached", seeds, pictures(0)[seeds])
        observer("cached", seeds, pictures(1)[seeds])
    assert list(observer.by_name) == ["uncached", "cached"]
    expected = toy(pictures(1)[:4])["pool"]
    assert torch.equal(observer.by_name["cached"].features("pool")[:4], expected)
