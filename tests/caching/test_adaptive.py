"""Adaptive caching: images decide for themselves, alone or in any company."""

from dataclasses import dataclass

import pytest
import torch
from small_networks import DDPM, GUIDED, LDM

import models
from caching import (
    Adaptive,
    AdaptiveDenoiser,
    CachedDenoiser,
    Lagrange,
    NoCache,
    Probe,
    Reuse,
    Threshold,
    Uniform,
    full_evals,
    make_policy,
)
from configs import InputError
from samplers import DiffusionConfig, ImageNoise, Sampler, SamplerConfig
from samplers.sampler import SAMPLERS

STEPS = 12
SEEDS = range(5)
NEVER = float("inf")
CONDS = {
    "ddpm": (DDPM, lambda seeds: None),
    "ldm": (LDM, lambda seeds: ImageNoise(seeds, (3, 8))()),
    "classes": (GUIDED, lambda seeds: torch.tensor([seed % 5 for seed in seeds])),
}


def solver(name="ddim", clip=None):
    return Sampler(SamplerConfig(name=name, steps=STEPS, clip=clip), DiffusionConfig())


def sample(denoiser, seeds=SEEDS, sampler=None, cond=None):
    """Final images of these seeds, in the network's precision. They start at different sizes, so that they change at
    different speeds."""
    sampler, noise = sampler or solver(clip=True), ImageNoise(seeds, (3, 16, 16))
    denoiser.begin(sampler.num_evals, sampler.eval_log_snr)
    start = noise() * torch.tensor([0.25 + seed for seed in seeds])[:, None, None, None]
    start = start.to(next(denoiser.unet.parameters()).dtype)
    *_, last = sampler.sample(lambda x, t: denoiser(x, t, cond), start, noise)
    return last.x


def close(a, b, tolerance=1e-4):
    return (a - b).abs().amax() <= tolerance * b.abs().amax()


def drive(denoiser, xs):
    """The outputs for these inputs (B, C, H, W), one evaluation each."""
    denoiser.begin(len(xs))
    return [denoiser(x, torch.full((len(x),), 500)) for x in xs]


@dataclass(frozen=True)
class Recording:
    """Refreshes at the given evaluations and keeps the probes it sees."""

    probes: list
    full: tuple = ()
    branch: int = 1

    def due(self, probe):
        self.probes.append(probe)
        return probe.evaluation in self.full


# The policies


def probe(*changes, evaluation=50, num_evals=100):
    return Probe(evaluation, num_evals, evaluation - len(changes), changes, changes)


def test_threshold_asks_for_the_change_since_the_last_refresh():
    assert not Threshold(0.3).due(probe(0.1, 0.29))
    assert Threshold(0.3).due(probe(0.1, 0.3))
    assert Threshold(0.0).due(probe(0.0))
    assert not Threshold(NEVER).due(probe(1e9))


def test_adaptive_adds_up_estimated_errors():
    policy = Adaptive(bound=0.5, scale=2.0, power=2.0)  # 2 · 0.3² = 0.18, 2 · 0.4² = 0.32
    assert not policy.due(probe(0.3, 0.39))
    assert policy.due(probe(0.3, 0.4001))
    assert policy.due(probe(0.5))


def test_a_change_that_is_not_finite_asks_for_a_full_pass():
    assert Threshold(0.3).due(probe(float("nan")))
    assert Adaptive().due(probe(float("nan")))


def test_the_guards_of_adaptive():
    policy = Adaptive(bound=NEVER, max_age=3, warm_up=4, window=[0.2, 0.8])
    due = [policy.due(probe(0.1, evaluation=i, num_evals=20)) for i in range(20)]
    assert [i for i in range(20) if due[i]] == [0, 1, 2, 3, 16, 17, 18, 19]
    assert not policy.due(probe(0.1, 0.1))
    assert policy.due(probe(0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "threshold", "threshold": -1}, "threshold must be 0"),
        ({"name": "adaptive", "bound": -0.1}, "bound must be 0"),
        ({"name": "adaptive", "scale": 0}, "scale must be above 0"),
        ({"name": "adaptive", "power": -1}, "power must lie above 0"),
        ({"name": "adaptive", "power": 400}, "not above 10, not 400"),
        ({"name": "adaptive", "max_age": 0}, "max_age must be at least 1"),
        ({"name": "adaptive", "warm_up": 0}, "warm_up must be at least 1"),
        ({"name": "adaptive", "window": [0.5]}, "two fractions"),
        ({"name": "adaptive", "window": [0.0, 0.5, 1.0]}, "two fractions"),
        ({"name": "adaptive", "window": [0.6, 0.5]}, "two fractions"),
        ({"name": "adaptive", "window": [0.5, 0.5]}, "two fractions"),
        ({"name": "adaptive", "window": [-0.1, 0.5]}, "two fractions"),
        ({"name": "adaptive", "window": [0.5, 1.1]}, "two fractions"),
        ({"name": "adaptive", "bond": 1}, "did you mean 'bound'"),
    ],
)
def test_wrong_settings_end_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        make_policy(settings)
    assert "\n" not in str(error.value)


def test_policies_come_from_configuration_files():
    assert make_policy({"name": "threshold", "threshold": 0.2}) == Threshold(threshold=0.2)
    assert make_policy({"name": "adaptive", "bound": NEVER, "max_age": None, "window": [0.1, 1]}) == Adaptive(
        bound=NEVER, max_age=None, window=[0.1, 1.0]
    )


# The probe


@pytest.mark.parametrize("branch", range(6))
def test_the_probe_is_the_relative_change_of_the_skip(network, branch):
    xs = [ImageNoise([seed], (3, 16, 16))() for seed in range(4)]
    probes: list[Probe] = []
    drive(AdaptiveDenoiser(network, Recording(probes, full=(2,), branch=branch), Reuse()), xs)
    emb, _ = network.embed(torch.tensor([500]), None)
    skips = [network.descend(x, emb, None, 0, branch + 1)[branch] for x in xs]

    def change(a, b):
        return pytest.approx(float((a - b).norm() / b.norm()), rel=1e-4)

    assert [(seen.evaluation, seen.num_evals, seen.age) for seen in probes] == [(1, 4, 1), (2, 4, 2), (3, 4, 1)]
    assert probes[0].change == change(skips[1], skips[0])
    assert probes[1].changes == (change(skips[1], skips[0]), change(skips[2], skips[0]))
    assert probes[1].steps == (change(skips[1], skips[0]), change(skips[2], skips[1]))
    assert probes[2].changes == probes[2].steps == (change(skips[3], skips[2]),)


def test_the_probe_knows_the_noise_level(network):
    probes: list[Probe] = []
    denoiser, sampler = AdaptiveDenoiser(network, Recording(probes), Reuse()), solver()
    sample(denoiser, range(2), sampler)
    assert [seen.log_snr for seen in probes[::2]] == list(sampler.eval_log_snr[1:])


# What is computed


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", CONDS)
def test_a_bound_of_zero_is_no_caching(kind, sampler):
    config, conds = CONDS[kind]
    network, cond = models.load("random", config), conds(range(2))
    plain = sample(CachedDenoiser(network, NoCache(), Reuse()), range(2), solver(sampler), cond)
    for policy in (Threshold(0.0), Adaptive(bound=0.0)):
        denoiser = AdaptiveDenoiser(network, policy, Lagrange())
        assert torch.equal(sample(denoiser, range(2), solver(sampler), cond), plain)
        assert denoiser.traces == [(None,) * solver(sampler).num_evals] * 2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", CONDS)
@pytest.mark.parametrize("forecaster", [Reuse(), Lagrange(2, clock="log_snr")], ids=["reuse", "lagrange"])
def test_without_a_bound_the_greatest_age_is_the_interval_of_uniform(kind, sampler, forecaster):
    config, conds = CONDS[kind]
    network, cond = models.load("random", config), conds(range(2))
    uniform = CachedDenoiser(network, Uniform(3, 2), forecaster)
    adaptive = AdaptiveDenoiser(network, Adaptive(bound=NEVER, max_age=3, branch=2), forecaster)
    expected = sample(uniform, range(2), solver(sampler), cond)
    got = sample(adaptive, range(2), solver(sampler), cond)
    assert adaptive.traces == [uniform.trace] * 2
    assert torch.equal(got, expected) if forecaster == Reuse() else close(got, expected)


@pytest.mark.parametrize("branch", range(6))
def test_at_every_branch_the_greatest_age_is_the_interval_of_uniform(network, branch):
    uniform = sample(CachedDenoiser(network, Uniform(2, branch), Reuse()), range(2))
    adaptive = AdaptiveDenoiser(network, Adaptive(bound=NEVER, max_age=2, branch=branch), Reuse())
    assert torch.equal(sample(adaptive, range(2)), uniform)


def test_an_image_that_always_refreshes_beside_one_that_never_does(network):
    generator = torch.Generator().manual_seed(0)
    still, moving = torch.randn(1, 3, 16, 16, generator=generator), torch.randn(6, 3, 16, 16, generator=generator)
    denoiser = AdaptiveDenoiser(network, Threshold(0.1, branch=2), Lagrange(2))
    outputs = drive(denoiser, [torch.cat([still, x[None]]) for x in moving])
    assert [len(full_evals(trace)) for trace in denoiser.traces] == [1, 6]  # of 6 evaluations
    t = torch.tensor([500])
    for x, output in zip(moving, outputs, strict=True):
        assert close(output[:1], network(still, t)[0])
        assert close(output[1:], network(x[None], t)[0])


@dataclass(frozen=True)
class Nothing:
    """Foretells zeros, whatever is known."""

    history: int = 2

    def weights(self, stored, now, branch):
        return [0.0] * len(stored)


def test_what_is_made_at_this_very_evaluation_is_no_forecast(network):
    """An image that is refreshed beside one that is not gets its own feature, whatever the forecaster makes of it."""
    generator = torch.Generator().manual_seed(0)
    still, moving = torch.randn(1, 3, 16, 16, generator=generator), torch.randn(2, 3, 16, 16, generator=generator)
    denoiser = AdaptiveDenoiser(network, Threshold(0.1), Nothing())
    _, output = drive(denoiser, [torch.cat([still, x[None]]) for x in moving])
    assert denoiser.traces == [(None, 1), (None, None)]
    now, t = torch.cat([still, moving[1:]]), torch.tensor([500, 500])
    whole, features = network(now, t, taps=[1])
    forecast, _ = network(now, t, branch=1, feature=torch.zeros_like(features[1]))
    assert close(output[:1], forecast[:1])
    assert close(output[1:], whole[1:])


# Company


@pytest.mark.parametrize("kind", CONDS)
@pytest.mark.parametrize(
    "policy", [Threshold(0.3), Adaptive(bound=0.7, power=1.0, branch=3)], ids=["threshold", "adaptive"]
)
def test_an_image_does_not_depend_on_its_batch_mates(kind, policy):
    config, conds = CONDS[kind]
    # In float64: how far a trajectory carries the rounding of another batch size depends on the machine.
    denoiser = AdaptiveDenoiser(models.load("random", config).double(), policy, Lagrange())

    def cond(seeds):
        given = conds(seeds)
        return given if given is None or not given.is_floating_point() else given.double()

    def run(*batches):
        made = [(sample(denoiser, seeds, cond=cond(seeds)), denoiser.traces) for seeds in batches]
        seeds = [seed for batch in batches for seed in batch]
        images, traces = torch.cat([x for x, _ in made]), [trace for _, traces in made for trace in traces]
        order = sorted(range(len(seeds)), key=seeds.__getitem__)
        return images[order], [traces[i] for i in order]

    images, traces = run(list(SEEDS))
    assert len(set(traces)) > 1  # else nothing is tested
    for batches in ([[0], [1], [2], [3], [4]], [[0, 1], [2, 3], [4]], [[3, 0, 4, 2, 1]]):
        others, their_traces = run(*batches)
        assert their_traces == traces
        assert close(others, images, 1e-10)


def test_a_new_trajectory_never_sees_old_features(network):
    fresh = sample(AdaptiveDenoiser(network, Threshold(0.3), Lagrange()))
    denoiser = AdaptiveDenoiser(network, Threshold(0.3), Lagrange())
    drive(denoiser, [torch.full((2, 3, 16, 16), 3.0)] * 2)
    denoiser.begin(9)
    denoiser(torch.full((3, 3, 16, 16), torch.nan), torch.full((3,), 500))  # broken off
    assert torch.equal(sample(denoiser), fresh)


def test_rows_of_one_image_decide_together(network):
    """Guidance in one call: the batch is [uncond, cond], and the half that moves refreshes both."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(2, 3, 16, 16, generator=generator)
    moving = [torch.randn(1, 3, 16, 16, generator=generator) for _ in range(3)]
    denoiser = AdaptiveDenoiser(network, Threshold(0.1), Reuse(), rows_per_image=2)
    drive(denoiser, [torch.cat([still, still[:1], x]) for x in moving])
    assert denoiser.traces == [(None, 1, 1), (None, None, None)]


# Misuse


@pytest.mark.parametrize("branch", [-1, 6])
def test_a_branch_that_does_not_exist_is_refused_before_anything_runs(network, branch):
    with pytest.raises(InputError, match=r"branches 0 \(outermost\) to 5"):
        AdaptiveDenoiser(network, Threshold(branch=branch), Reuse()).begin(4)


def test_trajectories_that_do_not_fit_are_refused(network):
    x, t = torch.zeros(2, 3, 16, 16), torch.full((2,), 500)
    denoiser = AdaptiveDenoiser(network, Threshold(), Reuse())
    with pytest.raises(InputError, match="call begin"):
        denoiser(x, t)
    with pytest.raises(InputError, match="log_snr has 1 entries for 2"):
        denoiser.begin(2, [0.0])
    denoiser.begin(2)
    with pytest.raises(InputError, match="x of 15x15 does not fit this network; both sides must be multiples of"):
        denoiser(x[..., :15, :15], t)
    denoiser(x, t)
    for other in (x[:1], x[..., :8]):
        with pytest.raises(InputError, match=r"changed shape within a trajectory, from \[2, 3, 16, 16\] to"):
            denoiser(other, t[: len(other)])
    denoiser(x, t)
    with pytest.raises(InputError, match="trajectory of 2 network evaluations is over"):
        denoiser(x, t)
    paired = AdaptiveDenoiser(network, Threshold(), Reuse(), rows_per_image=2)
    paired.begin(1)
    with pytest.raises(InputError, match="a batch of 1 rows is no multiple of the 2"):
        paired(x[:1], t[:1])


@pytest.mark.parametrize("due", [None, 0.07, 1, torch.tensor([True])])
def test_a_decision_that_is_neither_yes_nor_no_is_refused(network, due):
    class Undecided:
        branch = 1

        def due(self, probe):
            return due

    with pytest.raises(InputError, match=r"Undecided\.due gives .*; it must give True \(refresh\) or False"):
        drive(AdaptiveDenoiser(network, Undecided(), Reuse()), torch.zeros(2, 2, 3, 16, 16))


def test_a_decision_that_fails_names_its_class(network):
    class Broken:
        branch = 1

        def due(self, probe):
            return probe.changes[7] > 1

    with pytest.raises(InputError, match=r"Broken\.due fails with IndexError: .*test_adaptive\.py, line"):
        drive(AdaptiveDenoiser(network, Broken(), Reuse()), torch.zeros(2, 2, 3, 16, 16))


def test_a_refused_beginning_leaves_nothing_to_go_on_with(network):
    x, t = torch.zeros(2, 3, 16, 16), torch.full((2,), 500)
    denoiser = AdaptiveDenoiser(network, Threshold(), Reuse())
    denoiser.begin(3)
    denoiser(x, t)
    with pytest.raises(InputError, match="log_snr has 1 entries"):
        denoiser.begin(3, [0.0])
    with pytest.raises(InputError, match="call begin"):
        denoiser(x, t)


def test_the_greatest_age_counts_evaluations_and_not_calls(network):
    """The unconditional half of guidance that is computed at every fourth evaluation alone."""
    denoiser = AdaptiveDenoiser(network, Adaptive(bound=NEVER, max_age=8), Reuse())
    denoiser.begin(20, at=range(0, 20, 4))
    for _ in range(5):
        denoiser(torch.zeros(1, 3, 16, 16), torch.tensor([500]))
    assert denoiser.traces == [(None, 1, None, 1, None)]


def test_a_cond_of_another_kind_is_refused(network):
    denoiser = AdaptiveDenoiser(network, Threshold(), Reuse())
    denoiser.begin(1)
    with pytest.raises(InputError, match="takes no cond"):
        denoiser(torch.zeros(1, 3, 16, 16), torch.tensor([500]), torch.tensor([1]))


def test_a_denoiser_that_is_not_called_at_every_evaluation_has_a_trajectory_of_its_own():
    """As the unconditional half of guidance; its forecasts know when its calls are."""
    network, x = models.load("random", DDPM), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seldom = AdaptiveDenoiser(network, Recording([], full=(5,)), Lagrange(1))
    static = CachedDenoiser(network, Uniform(5, 1), Lagrange(1))
    for denoiser in (seldom, static):
        denoiser.begin(10, at=[0, 2, 5, 6])
    for step in range(4):
        eps = [denoiser(x * (1 + step), torch.full((2,), 500)) for denoiser in (seldom, static)]
        assert close(*eps)
    assert seldom.traces == [(None, 1, None, 1)] * 2
    assert static.trace == (None, 1, None, 1)
    with pytest.raises(InputError, match="trajectory of 4 network evaluations is over"):
        seldom(x, torch.full((2,), 500))
