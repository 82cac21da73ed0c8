"""Classifier-free guidance: what the network is called on, and what is made of it."""

import pytest
import torch

from configs import InputError
from samplers import DiffusionConfig, Sampler, SamplerConfig, guide

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
