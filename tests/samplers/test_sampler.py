"""What holds for every sampler, and what a configuration may say."""

import itertools

import pytest
import torch

from configs import InputError
from samplers import DiffusionConfig, Sampler, SamplerConfig, eps_only

CONFIGS = [
    SamplerConfig("ddim", 10),
    SamplerConfig("ddim", 10, eta=1.0, clip=True),
    SamplerConfig("ddim", 59, offset=1, final="first"),
    SamplerConfig("plms", 10),
    SamplerConfig("dpmpp_2m", 10),
    SamplerConfig("dpmpp_2m", 100, "quadratic", final="first", clip=True),
    SamplerConfig("ddpm", 10, "quadratic"),
    SamplerConfig("ddpm", 6, "2,3,1", variance="learned_range", clip=True),
]


@pytest.fixture(params=CONFIGS, ids=lambda config: f"{config.name}-{config.spacing}-{config.steps}")
def sampler(request):
    return Sampler(request.param, DiffusionConfig())


@pytest.fixture
def two_outputs(toy_eps):
    """A denoiser that has learned a variance beside eps."""
    return lambda x, t: torch.cat([toy_eps(x, t), torch.cos(3 * x)], dim=1)


def test_running_twice_gives_identical_results(sampler, recorder, two_outputs, x_t, draws):
    runs = []
    for _ in range(2):
        record = recorder(two_outputs, draws)
        runs.append(list(sampler.sample(record, x_t, record.noise)))
    for first, second in zip(*runs, strict=True):
        assert first.timestep == second.timestep
        assert torch.equal(first.x, second.x)
        assert torch.equal(first.x0, second.x0)


def test_runs_may_be_interleaved_and_abandoned(sampler, two_outputs, x_t, draws):
    def run():
        return sampler.sample(two_outputs, x_t, lambda: draws(0))

    next(run())
    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first.x, second.x)


def test_x_t_is_left_untouched(sampler, two_outputs, x_t, draws):
    before = x_t.clone()
    list(sampler.sample(two_outputs, x_t, lambda: draws(0)))
    assert torch.equal(x_t, before)


def test_the_network_is_evaluated_at_the_announced_timesteps(sampler, recorder, two_outputs, x_t, draws):
    record = recorder(two_outputs, draws)
    steps = list(sampler.sample(record, x_t, record.noise))
    assert tuple(record.timesteps) == sampler.eval_timesteps
    assert len(record.timesteps) == sampler.num_evals
    assert tuple(step.timestep for step in steps) == sampler.table.timesteps


def test_timesteps_are_int64_of_shape_b(sampler, two_outputs, x_t, draws):
    def denoiser(x, t):
        assert (t.shape, t.dtype) == ((2,), torch.int64)
        return two_outputs(x, t)

    assert list(sampler.sample(denoiser, x_t, lambda: draws(0)))


def test_no_value_is_read_back_from_the_device(sampler, two_outputs):
    """On the meta device tensors have no values: whatever asks for one raises."""
    x = torch.empty(2, 3, 8, 8, device="meta")
    *_, last = sampler.sample(two_outputs, x, lambda: torch.empty_like(x))
    assert (last.x.device.type, last.x.shape) == ("meta", x.shape)


def test_timesteps_are_moved_to_the_device_once(sampler, two_outputs, x_t, draws, monkeypatch):
    make, made = torch.tensor, []
    monkeypatch.setattr(torch, "tensor", lambda *args, **kwargs: made.append(args) or make(*args, **kwargs))
    list(sampler.sample(two_outputs, x_t, lambda: torch.zeros_like(x_t)))
    assert len(made) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_states_keep_the_type_of_x(sampler, two_outputs, x_t, draws, dtype):
    def denoiser(x, t):
        return two_outputs(x, t).to(dtype)

    for step in sampler.sample(denoiser, x_t.to(dtype), lambda: draws(0).to(dtype)):
        assert (step.x.dtype, step.x0.dtype) == (dtype, dtype)


@pytest.mark.parametrize("name", ["ddim", "plms", "dpmpp_2m"])
def test_a_learned_variance_is_dropped_where_it_has_no_use(toy_eps, two_outputs, x_t, name):
    sampler = Sampler(SamplerConfig(name, 10), DiffusionConfig())
    for with_variance, without in zip(
        sampler.sample(two_outputs, x_t, None), sampler.sample(toy_eps, x_t, None), strict=True
    ):
        assert torch.equal(with_variance.x, without.x)


def test_other_numbers_of_channels_are_refused(x_t):
    with pytest.raises(InputError, match=r"returns 4 channels for an x of 3, where a sampler needs 3 .* or 6"):
        eps_only(lambda x, t: torch.zeros(2, 4, 8, 8))(x_t, torch.zeros(2))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "dimm"}, "did you mean 'ddim'"),
        ({"spacing": "quad"}, "did you mean 'quadratic'"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 50, "spacing": "10,10,15,20"}, "makes 55 steps, not 50"),
        ({"final": "last"}, "known: first, one"),
        ({"name": "ddpm", "variance": "large"}, "did you mean 'fixedlarge'"),
        ({"eta": 1.5}, r"eta must lie in 0\.\.1"),
        ({"eta": float("nan")}, r"eta must lie in 0\.\.1"),
        ({"name": "ddpm", "eta": 1.0}, "ddpm has no eta; leave sampler.eta at 0"),
        ({"name": "plms", "eta": 1.0}, "plms has no eta"),
        ({"name": "dpmpp_2m", "eta": 1.0}, "dpmpp_2m has no eta"),
        ({"name": "dpmpp"}, "did you mean 'dpmpp_2m'"),
        ({"name": "plms", "clip": True}, "plms has no clip; leave sampler.clip at null"),
        ({"name": "ddim", "variance": "fixedlarge"}, "ddim has no variance; leave sampler.variance at fixedsmall"),
    ],
)
def test_settings_that_are_wrong_or_without_effect_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        SamplerConfig(**settings)


def test_every_setting_has_an_effect(recorder, two_outputs, x_t, draws):
    """Each change of one setting changes the result: nothing is accepted and ignored."""

    def result(config):
        record = recorder(two_outputs, draws)
        *_, last = Sampler(config, DiffusionConfig()).sample(record, x_t, record.noise)
        return last.x

    common = [{}, {"steps": 11}, {"spacing": "quadratic"}, {"spacing": "5,5"}, {"offset": 1}, {"final": "first"}]
    own = {
        "ddim": [{"eta": 0.5}, {"clip": True}],
        "plms": [],
        "dpmpp_2m": [{"clip": True}],
        "ddpm": [{"variance": "fixedlarge"}, {"variance": "learned_range"}, {"clip": False}],
    }
    results = []
    for name, changes in own.items():
        results += [result(SamplerConfig(**{"name": name, "steps": 10, **change})) for change in common + changes]
    for a, b in itertools.combinations(results, 2):
        assert not torch.equal(a, b)
