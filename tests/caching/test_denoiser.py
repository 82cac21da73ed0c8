"""The cached denoiser: exactness, what is kept and from when, and that nothing crosses trajectories."""

import pytest
import torch

import models
from caching import NULL, CachedDenoiser, Explicit, Lagrange, NoCache, Nonuniform, Reuse, Threshold, Uniform
from caching.forecast import combine
from configs import InputError
from samplers import DiffusionConfig, ImageNoise, Sampler, SamplerConfig
from samplers.sampler import SAMPLERS

T = torch.tensor([500, 500])


def run(denoiser, evals, x=None, t=T):
    denoiser.begin(evals)
    x = torch.zeros(2, 3, 16, 16) if x is None else x
    return [denoiser(x, t) for _ in range(evals)]


def test_no_cache_is_the_network_itself(network, x):
    expected, _ = network(x, T)
    assert torch.equal(run(CachedDenoiser(network, NoCache(), Reuse()), 1, x)[0], expected)


@pytest.mark.parametrize("branch", range(6))
def test_the_same_input_twice_is_bit_for_bit_the_full_pass(network, x, branch):
    full, partial = run(CachedDenoiser(network, Uniform(interval=2, branch=branch), Reuse()), 2, x)
    assert torch.equal(full, partial)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_interval_one_equals_no_cache_exactly(network, sampler):
    solver = Sampler(SamplerConfig(name=sampler, steps=5), DiffusionConfig())

    def final(policy):
        denoiser, noise = CachedDenoiser(network, policy, Reuse()), ImageNoise([1, 2], (3, 16, 16))
        denoiser.begin(solver.num_evals)
        *_, last = solver.sample(denoiser, noise(), noise)
        return last.x

    assert torch.equal(final(Uniform(interval=1, branch=3)), final(NoCache()))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "policy", [Uniform(3, 2), Nonuniform(3, 1, center=4, power=1.2), Explicit(full=[0, 1], branch=5)]
)
def test_every_policy_drives_every_sampler(network, sampler, policy):
    solver = Sampler(SamplerConfig(name=sampler, steps=8), DiffusionConfig())
    denoiser, noise = CachedDenoiser(network, policy, Reuse()), ImageNoise([3], (3, 16, 16))
    denoiser.begin(solver.num_evals)
    for step in solver.sample(denoiser, noise(), noise):
        assert step.x.isfinite().all()
    assert denoiser.trace == policy.plan(solver.num_evals)


def test_the_feature_comes_from_the_last_full_pass(recorder):
    run(CachedDenoiser(recorder, Uniform(interval=3, branch=2), Reuse()), 7)
    assert [call["feature"] for call in recorder.calls] == [None, 0, 0, None, 3, 3, None]
    assert [call["branch"] for call in recorder.calls] == [None, 2, 2, None, 2, 2, None]


def test_a_partial_pass_refreshes_the_cached_branches_outside_it(recorder):
    """A nested plan: what enters branch 1 is renewed by passes entered at branch 4, and never the reverse."""
    run(CachedDenoiser(recorder, Explicit(entries=[None, 1, 4, 1, 4, 1]), Reuse()), 6)
    assert [call["taps"] for call in recorder.calls] == [(1, 4), (), (1,), (), (1,), ()]
    assert [call["feature"] for call in recorder.calls] == [None, 0, 0, 2, 0, 4]


def test_nothing_is_tapped_without_a_cache(recorder):
    run(CachedDenoiser(recorder, NoCache(), Reuse()), 3)
    assert all(call["taps"] == () for call in recorder.calls)


def test_a_new_trajectory_never_sees_old_features(recorder):
    denoiser = CachedDenoiser(recorder, Uniform(interval=2, branch=1), Reuse())
    run(denoiser, 2)
    denoiser.begin(2)
    with pytest.raises(InputError, match="no feature of branch 1"):
        denoiser.store.read(1)
    denoiser(torch.zeros(1, 3, 16, 16), T[:1])  # another batch size is fine after begin
    denoiser(torch.zeros(1, 3, 16, 16), T[:1])
    assert [call["feature"] for call in recorder.calls] == [None, 0, None, 2]


def test_an_unfinished_trajectory_leaves_nothing_behind(network, x):
    fresh = run(CachedDenoiser(network, Uniform(interval=2, branch=1), Reuse()), 4, x)
    denoiser = CachedDenoiser(network, Uniform(interval=2, branch=1), Reuse())
    denoiser.begin(4)
    denoiser(x * 3, T)
    assert all(torch.equal(a, b) for a, b in zip(run(denoiser, 4, x), fresh, strict=True))


def test_running_past_the_trajectory_is_an_error(recorder):
    denoiser = CachedDenoiser(recorder, Uniform(interval=2, branch=1), Reuse())
    with pytest.raises(InputError, match="call begin"):
        denoiser(torch.zeros(1, 3, 16, 16), T[:1])
    run(denoiser, 2)
    with pytest.raises(InputError, match="trajectory of 2 network evaluations is over"):
        denoiser(torch.zeros(1, 3, 16, 16), T[:1])


def test_the_batch_cannot_change_within_a_trajectory(network):
    x = torch.zeros(2, 3, 16, 16)
    for depth in (None, 1, NULL):
        denoiser = CachedDenoiser(network, Explicit(entries=[None, depth]), Reuse())
        denoiser.begin(2)
        denoiser(x, T)
        for other in (x[:1], x[..., :8]):
            with pytest.raises(InputError, match="batch changed shape"):
                denoiser(other, T[: len(other)])
        denoiser(x, T)


def test_a_refused_beginning_leaves_nothing_to_go_on_with(network):
    denoiser = CachedDenoiser(network, Explicit(entries=[None, 1, 1, 1]), Reuse())
    denoiser.begin(4)
    denoiser(torch.zeros(2, 3, 16, 16), T)
    for refused in ({"num_evals": 4, "log_snr": [0.0]}, {"num_evals": 3}):
        with pytest.raises(InputError, match="entries"):
            denoiser.begin(**refused)
        with pytest.raises(InputError, match="call begin"):
            denoiser(torch.zeros(2, 3, 16, 16), T)


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (Uniform(2, branch=6), r"branches 0 \(outermost\) to 5"),
        (Uniform(2, branch=-2), r"branches 0 \(outermost\) to 5"),
        (Explicit(full=[1], branch=0), "first evaluation must be a full pass"),
        (Explicit(entries=[None, 1]), "2 entries, but the sampler makes 4"),
        (Explicit(full=[0, 9], branch=0), "full pass 9 is not an evaluation"),
    ],
)
def test_plans_that_do_not_fit_are_refused_before_anything_runs(recorder, policy, sentence):
    with pytest.raises(InputError, match=sentence):
        CachedDenoiser(recorder, policy, Reuse()).begin(4)
    assert recorder.calls == []


def test_cond_reaches_the_network(recorder):
    denoiser = CachedDenoiser(recorder, NoCache(), Reuse())
    denoiser.begin(1)
    denoiser(torch.zeros(1, 3, 16, 16), T[:1], torch.tensor([4]))
    assert recorder.calls[0]["cond"].tolist() == [4]


@pytest.mark.parametrize("name", ["sampler_deepcache_uniform10_N5_b2", "sampler_deepcache_quad10_N3_b2"])
def test_cached_ddim_equals_the_released_code(golden, name, tmp_path):
    gold, weights = golden(name), golden("deepcache_tiny32x3")
    torch.save(weights.state_dict(), tmp_path / "model.ckpt")
    spacing = {"uniform": "uniform", "quad": "quadratic"}[gold.config["kind"]]
    solver = Sampler(SamplerConfig(steps=gold.config["n"], spacing=spacing), DiffusionConfig(precision="float32"))
    # the released --branch r is branch r + 1
    policy = Uniform(gold.config["cache_interval"], gold.config["branch"] + 1)
    denoiser = CachedDenoiser(models.load(tmp_path / "model.ckpt"), policy, Reuse())
    denoiser.begin(solver.num_evals)
    x = gold.tensor("xT")
    *_, last = solver.sample(denoiser, x, ImageNoise([0], x.shape[1:]))
    assert [depth is None for depth in denoiser.trace] == [bool(full) for full in gold["full_step"]]
    gold.check("out", last.x, atol=4 * 1.5e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_image_i_does_not_depend_on_its_batch(network, batch_size):
    solver = Sampler(SamplerConfig(steps=6, eta=1.0), DiffusionConfig())
    denoiser = CachedDenoiser(network, Uniform(3, 2), Reuse())

    def final(seeds):
        noise = ImageNoise(seeds, (3, 16, 16))
        denoiser.begin(solver.num_evals)
        *_, last = solver.sample(denoiser, noise(), noise)
        return last.x

    together = final(range(8))
    apart = torch.cat([final(range(8)[i : i + batch_size]) for i in range(0, 8, batch_size)])
    scale = together.abs().amax()
    assert (apart - together).abs().amax() < 1e-5 * scale


def test_a_pass_due_at_an_evaluation_that_is_passed_over_is_deferred_at_the_next(recorder):
    denoiser = CachedDenoiser(recorder, Uniform(interval=4, branch=2), Reuse())
    denoiser.begin(12, at=[1, 2, 5, 6, 8])
    for _ in range(5):
        denoiser(torch.zeros(1, 3, 16, 16), T[:1])
    assert denoiser.trace == (None, 2, None, 2, None)
    with pytest.raises(InputError, match="trajectory of 5 network evaluations is over"):
        denoiser(torch.zeros(1, 3, 16, 16), T[:1])


def test_of_several_passes_that_are_due_the_deepest_is_made(recorder):
    denoiser = CachedDenoiser(recorder, Explicit(entries=[None, 1, 4, 1, None, 1, -1, 1]), Reuse())
    denoiser.begin(8, at=[0, 3, 5, 6])
    assert denoiser.plan == (None, 4, None, -1)


def test_called_at_every_evaluation_the_plan_is_the_policys(recorder):
    policy = Nonuniform(3, 1, center=4, power=1.2)
    denoiser = CachedDenoiser(recorder, policy, Reuse())
    denoiser.begin(12, at=range(12))
    assert denoiser.plan == policy.plan(12)


def test_forecasts_know_when_an_evaluation_that_was_made_happened(recorder):
    """Linear extrapolation over the gap: features of evaluations 0 and 3, read at 5."""
    denoiser = CachedDenoiser(recorder, Explicit(full=[0, 3], branch=1), Lagrange(order=1))
    denoiser.begin(8, at=[0, 3, 5])
    for _ in range(3):
        denoiser(torch.zeros(1, 3, 16, 16), T[:1])
    assert recorder.calls[2]["feature"] == pytest.approx(5 / 3)  # the recorder's features count its calls: 0, 1


@pytest.mark.parametrize("at", [[1, 1], [2, 1], [0, 4], [-1, 0]])
def test_evaluations_out_of_order_are_refused(recorder, at):
    with pytest.raises(InputError, match=r"must ascend within 0\.\.3"):
        CachedDenoiser(recorder, Uniform(2, 1), Reuse()).begin(4, at=at)


def test_adaptive_policies_are_refused_where_they_have_no_denoiser(network):
    with pytest.raises(InputError, match=r"Threshold decides during sampling; caching\.cached_denoiser makes"):
        CachedDenoiser(network, Threshold(), Reuse())


def test_forecasts_of_nothing_keep_its_strides():
    empty = [torch.empty(2, 0, 4, 4).to(memory_format=torch.channels_last) for _ in range(2)]
    assert combine([2.0, -1.0], empty) is empty[0]


def test_classes_are_no_policies(network):
    with pytest.raises(InputError, match=r"a policy and a forecaster, not their classes: Uniform\(\), Reuse\(\)"):
        CachedDenoiser(network, Uniform, Reuse())
    with pytest.raises(InputError, match="not their classes"):
        CachedDenoiser(network, Uniform(), Reuse)
