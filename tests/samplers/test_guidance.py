"""Classifier-free guidance: what the network is called on, and what is made of it."""

import math

import pytest
import torch

from configs import InputError
from samplers import DiffusionConfig, GuidanceConfig, Sampler, SamplerConfig, guide
from samplers.sampler import SAMPLERS

LABELS = torch.tensor([3, 7]), torch.tensor([10, 10])
CONTEXTS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 5, 4)
T = torch.tensor([500, 500])


def denoiser(x, t, cond):
    """An eps that depends on x, t and cond, image by image."""
    signal = cond.float().flatten(1).sum(1) if cond.dim() > 1 else cond.float()
    return torch.tanh(x) + 0.01 * (t.float() + signal)[:, None, None, None]


@pytest.fixture
def calls():
    return []


@pytest.fixture
def recorded(calls):
    def record(x, t, cond):
        calls.append((x, t, cond))
        return denoiser(x, t, cond)

    return record


@pytest.mark.parametrize(("cond", "uncond"), [LABELS, CONTEXTS])
def test_one_call_on_uncond_then_cond(recorded, calls, x_t, cond, uncond):
    eps = guide(recorded, cond, uncond, 7.5)(x_t, T)
    ((x, t, both),) = calls
    assert torch.equal(x, torch.cat([x_t, x_t]))
    assert torch.equal(t, torch.cat([T, T]))
    assert torch.equal(both, torch.cat([uncond, cond]))
    eps_u, eps_c = denoiser(x_t, T, uncond), denoiser(x_t, T, cond)
    assert torch.equal(eps, eps_u + 7.5 * (eps_c - eps_u))


@pytest.mark.parametrize(("cond", "uncond"), [LABELS, CONTEXTS])
def test_two_denoisers_are_called_once_each_and_agree_with_one(x_t, cond, uncond):
    seen = {"cond": [], "uncond": []}

    def sees(name):
        def call(x, t, given):
            seen[name].append(given)
            return denoiser(x, t, given)

        return call

    eps = guide(sees("cond"), cond, uncond, 3.0, uncond_denoiser=sees("uncond"))(x_t, T)
    assert [len(seen["cond"]), len(seen["uncond"])] == [1, 1]
    assert seen["cond"][0] is cond
    assert seen["uncond"][0] is uncond
    assert torch.equal(eps, guide(denoiser, cond, uncond, 3.0)(x_t, T))


@pytest.mark.parametrize(("uncond", "scale"), [(LABELS[1], 1.0), (LABELS[1], 1), (None, 7.5), (None, 1.0)])
def test_without_uncond_or_at_scale_1_the_network_is_called_once_on_cond(recorded, calls, x_t, uncond, scale):
    eps = guide(recorded, LABELS[0], uncond, scale)(x_t, T)
    ((x, t, cond),) = calls
    assert (x is x_t, t is T, cond is LABELS[0]) == (True, True, True)
    assert torch.equal(eps, denoiser(x_t, T, LABELS[0]))


def test_scale_0_is_the_unconditional_prediction(x_t):
    assert torch.equal(guide(denoiser, *LABELS, 0.0)(x_t, T), denoiser(x_t, T, LABELS[1]))


def test_an_unconditional_network_is_passed_no_cond(recorder, x_t):
    record = recorder(lambda x, t, cond: x if cond is None else None)
    assert guide(record)(x_t, T) is x_t


def test_a_learned_variance_is_the_conditional_one(x_t):
    def learned(x, t, cond):
        return torch.cat([denoiser(x, t, cond), torch.sin(x) * cond.float()[:, None, None, None]], dim=1)

    output = guide(learned, *LABELS, 3.0)(x_t, T)
    assert torch.equal(output[:, :3], guide(denoiser, *LABELS, 3.0)(x_t, T))
    assert torch.equal(output[:, 3:], learned(x_t, T, LABELS[0])[:, 3:])


@pytest.mark.parametrize("name", ["ddim", "plms", "ddpm"])
def test_every_sampler_takes_a_guided_denoiser(x_t, draws, name):
    sampler = Sampler(SamplerConfig(name, 5), DiffusionConfig())
    one = sampler.sample(guide(denoiser, *CONTEXTS, 2.0), x_t, lambda: draws(0))
    two = sampler.sample(guide(denoiser, *CONTEXTS, 2.0, uncond_denoiser=denoiser), x_t, lambda: draws(0))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.x, b.x)


@pytest.mark.parametrize(
    ("cond", "uncond", "sentence"),
    [
        (CONTEXTS[0], CONTEXTS[1][:1], r"theirs are \(2, 5, 4\) and \(1, 5, 4\)"),
        (None, LABELS[1], r"theirs are None and \(2,\)"),
    ],
)
def test_cond_and_uncond_must_have_one_shape(cond, uncond, sentence):
    with pytest.raises(InputError, match=sentence):
        guide(denoiser, cond, uncond, 2.0)


def fractional(x, t, cond):
    """As `denoiser`, but the difference of two conditions depends on x and t too."""
    return denoiser(x, t, cond) * torch.cos(x + cond.float()[:, None, None, None])


EVERYWHERE, FOUR = ("both",) * 4, [torch.tensor([value] * 2) for value in (900, 600, 300, 0)]


@pytest.mark.parametrize("uncond_denoiser", [None, fractional])
def test_a_plan_of_both_everywhere_moves_no_bit(x_t, uncond_denoiser):
    plain = guide(fractional, *LABELS, 3.0)
    planned = guide(fractional, *LABELS, 3.0, uncond_denoiser=uncond_denoiser, plan=EVERYWHERE)
    assert all(torch.equal(planned(x_t, t), plain(x_t, t)) for t in FOUR)


@pytest.mark.parametrize("two_calls", [False, True])
def test_a_held_difference_is_the_last_computed_one(x_t, two_calls):
    plan = ("both", "held", "both", "held")
    guided = guide(fractional, *LABELS, 3.0, uncond_denoiser=fractional if two_calls else None, plan=plan)
    for i, t in enumerate(FOUR):
        x, then = x_t + i, i - i % 2
        held = fractional(x_t + then, FOUR[then], LABELS[0]) - fractional(x_t + then, FOUR[then], LABELS[1])
        expected = fractional(x, t, LABELS[0]) + 2.0 * held
        assert torch.allclose(guided(x, t), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_where_guidance_is_off_the_prediction_is_the_conditional_one(x_t):
    guided = guide(fractional, *LABELS, 3.0, plan=("off", "both", "off", "both"))
    plain = guide(fractional, *LABELS, 3.0)
    for i, t in enumerate(FOUR):
        assert torch.equal(guided(x_t, t), plain(x_t, t) if i % 2 else fractional(x_t, t, LABELS[0]))


def test_a_plan_calls_the_unconditional_half_only_where_it_says_both(recorder, x_t):
    cond, uncond = recorder(denoiser), recorder(denoiser)
    guided = guide(cond, *LABELS, 3.0, uncond_denoiser=uncond, plan=("off", "both", "held", "both"))
    for t in FOUR:
        guided(x_t, t)
    assert cond.timesteps == [900, 600, 300, 0]
    assert uncond.timesteps == [600, 0]


def test_a_held_difference_leaves_the_learned_variance_alone(x_t):
    def learned(x, t, cond):
        return torch.cat([denoiser(x, t, cond), torch.sin(x) * cond.float()[:, None, None, None]], dim=1)

    guided = guide(learned, *LABELS, 3.0, plan=("both", "held"))
    guided(x_t, T)
    output = guided(x_t + 1, T)
    assert output.shape[1] == 6
    assert torch.equal(output[:, 3:], learned(x_t + 1, T, LABELS[0])[:, 3:])


def test_running_past_the_guidance_plan_is_an_error(x_t):
    guided = guide(denoiser, *LABELS, 3.0, plan=("both",))
    guided(x_t, T)
    with pytest.raises(InputError, match="plan of 1 network evaluations is over"):
        guided(x_t, T)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [(("off", "held", "both"), "holds a difference before"), (("both", "hold"), "did you mean 'held'")],
)
def test_plans_that_cannot_be_followed_are_refused(plan, sentence):
    with pytest.raises(InputError, match=sentence):
        guide(denoiser, *LABELS, 3.0, plan=plan)


SIGMAS = (20.0, 5.0, 4.0, 2.0, 1.0, 0.5, 0.3, 0.1)
LOG_SNR = [-2 * math.log(sigma) for sigma in SIGMAS]


@pytest.mark.parametrize(
    ("settings", "plan"),
    [
        ({}, "both both both both both both both both"),
        ({"every": 3}, "both held held both held held both held"),
        ({"interval": [0.4, 4.5]}, "off off both both both both off off"),
        ({"interval": [0.4, 4.5], "every": 3}, "off off both held held both off off"),
        ({"interval": [0, math.inf]}, "both both both both both both both both"),
    ],
)
def test_the_plan_follows_from_the_noise_levels(settings, plan):
    assert GuidanceConfig(2.0, **settings).plan(LOG_SNR) == tuple(plan.split())


@pytest.mark.parametrize("interval", [[1.0, 2.0], [0.5, 1.0]])
def test_both_ends_of_the_interval_belong_to_it(interval):
    assert GuidanceConfig(2.0, interval=interval).plan([0.0]) == ("both",)  # ln(ᾱ/(1-ᾱ)) = 0: σ = 1 exactly


def test_at_scale_1_guidance_is_off():
    assert GuidanceConfig().plan(LOG_SNR) == ("off",) * 8


def test_an_interval_without_any_evaluation_is_refused():
    with pytest.raises(InputError, match=r"no network evaluation lies in .*=\[30, 40\].* from 20 to 0\.1"):
        GuidanceConfig(2.0, interval=[30, 40]).plan(LOG_SNR)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("settings", [{}, {"interval": [0, 1e9]}, {"interval": [0.3, 5.0], "every": 2}])
def test_every_sampler_makes_as_many_calls_as_the_plan(x_t, draws, recorder, name, settings):
    """PLMS asks at one timestep twice; ending early or late would raise."""
    sampler = Sampler(SamplerConfig(name, 6), DiffusionConfig())
    plan = GuidanceConfig(2.0, **settings).plan(sampler.eval_log_snr)
    cond, uncond = recorder(denoiser), recorder(denoiser)
    guided = guide(cond, *LABELS, 2.0, uncond_denoiser=uncond, plan=plan)
    *_, last = sampler.sample(guided, x_t, lambda: draws(0))
    assert tuple(cond.timesteps) == sampler.eval_timesteps
    made = [t for t, entry in zip(sampler.eval_timesteps, plan, strict=True) if entry == "both"]
    assert uncond.timesteps == made
    *_, plain = sampler.sample(guide(denoiser, *LABELS, 2.0), x_t, lambda: draws(0))
    assert torch.equal(last.x, plain.x) == (set(plan) == {"both"})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"calls": 3}, "calls must be 1, 2 or null, not 3"),
        ({"every": 0}, "every must be at least 1"),
        ({"interval": [5.0, 0.3]}, r"0 <= low < high, not \[5.0, 0.3\]"),
        ({"interval": [1.0, 1.0]}, "0 <= low < high"),
        ({"interval": [1.0]}, "two noise levels"),
        ({"scale": 1.0, "every": 2}, "set the scale"),
        ({"scale": float("nan")}, "guidance.scale must be a finite number, not nan"),
        ({"calls": 1, "interval": [0.3, 5.0]}, "leave guidance.calls out, or set it to 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        GuidanceConfig(**{"scale": 2.0} | settings)
