"""Per-image randomness."""

import pytest
import torch

from configs import InputError
from samplers import NUM_SEEDS, DiffusionConfig, ImageNoise, Sampler, SamplerConfig

SHAPE = (3, 8, 8)


def draw(seeds, count=3):
    noise = ImageNoise(seeds, SHAPE)
    return [noise() for _ in range(count)]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_an_image_has_the_same_draws_at_any_batch_size(batch):
    alone = {seed: draw([seed]) for seed in range(8)}
    for start in range(0, 8, batch):
        seeds = range(start, min(start + batch, 8))
        for k, together in enumerate(draw(seeds)):
            for i, seed in enumerate(seeds):
                assert torch.equal(together[i], alone[seed][k][0])


def test_neither_order_nor_neighbours_matter():
    assert torch.equal(draw([5, 1, 9])[2][1], draw([1, 2])[2][0])


def test_the_stream_is_that_of_a_torch_generator():
    generator = torch.Generator().manual_seed(7)
    for drawn in draw([7]):
        assert torch.equal(drawn[0], torch.randn(SHAPE, generator=generator))


def test_seeds_differ_and_draws_differ():
    first, second, _ = draw([0, 1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_the_global_generator_is_neither_read_nor_advanced():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = draw([3])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(draw([3])[0], first[0])


@pytest.mark.parametrize(
    "config", [SamplerConfig("ddim", 10, eta=1.0), SamplerConfig("plms", 10), SamplerConfig("ddpm", 10)]
)
def test_an_image_is_the_same_sampled_alone_or_in_a_batch(toy_eps, config):
    sampler = Sampler(config, DiffusionConfig())

    def sample(seeds):
        noise = ImageNoise(seeds, SHAPE)
        *_, last = sampler.sample(toy_eps, noise(), noise)
        return last.x

    together = sample([4, 5, 6])
    for i, seed in enumerate([4, 5, 6]):
        assert torch.equal(sample([seed])[0], together[i])


@pytest.mark.parametrize("seed", [-1, NUM_SEEDS, 10**20])
def test_seeds_that_would_be_others_are_refused(seed):
    with pytest.raises(InputError, match=rf"must lie in 0\.\.4294967295, not {seed}"):
        ImageNoise([0, seed], SHAPE)


def test_the_last_seed_is_a_seed():
    assert not torch.equal(draw([NUM_SEEDS - 1])[0], draw([0])[0])
