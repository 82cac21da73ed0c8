"""Trajectories on transformed networks end where those on the plain network end, whatever is cached and forecast."""

import functools
from dataclasses import replace

import pytest
import torch
from small_networks import DDPM, GUIDED, LDM
from torch.utils._python_dispatch import TorchDispatchMode

import models
from caching import (
    NULL,
    Adaptive,
    CachedDenoiser,
    Explicit,
    Fitted,
    Lagrange,
    Moment,
    Nested,
    NoCache,
    Reuse,
    Taylor,
    Threshold,
    Uniform,
    cached_denoiser,
    pass_costs,
)
from caching.forecast import combine
from caching.store import FeatureStore
from models import FastUNet, SplitUNet
from models.feature import tensors
from models.split import PartialSums
from samplers import DiffusionConfig, ImageNoise, Sampler, SamplerConfig, guide

SMALL = replace(DDPM, resolution=8, num_res_blocks=1)
KINDS = {"ddpm": SMALL, "ldm": replace(LDM, num_res_blocks=1), "guided": GUIDED}
ENTRIES = [None, NULL, 2, None, 1, NULL, 2, 0, 1]
POLICIES = {
    "none": NoCache(),
    "uniform": Uniform(3, 2),
    "outermost": Uniform(4, 0),
    "nested": Nested([0, 1, 3], [2, 3, 5]),
    "null steps": Explicit(entries=ENTRIES),
}
FORECASTERS = {
    "reuse": Reuse(),
    "linear": Lagrange(1),
    "parabola": Lagrange(2, "log_snr"),
    "taylor": Taylor(2),
    "fitted": Fitted({f"{i}:{depth}": [1.1] for i, depth in enumerate(ENTRIES) if depth is not None}),
}


@pytest.fixture(params=KINDS, scope="module")
def networks(request):
    return of_kind(request.param)


@functools.cache
def of_kind(kind):
    """(plain, fast, split, the condition of two images)"""
    config = KINDS[kind]
    plain = models.load("random", config, dtype=torch.float64)
    cond = None
    if config.context_dim is not None:
        cond = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    elif config.num_classes is not None:
        cond = torch.tensor([4, 0])
    fast = FastUNet(plain)
    return plain, fast, SplitUNet(fast), cond


def final(cached, cond=None, name="ddim", denoisers=1):
    """The end of a trajectory of two images: nine network evaluations."""
    solver = Sampler(SamplerConfig(name=name, steps=8 if name == "plms" else 9, spacing="leading"), DiffusionConfig())
    noise = ImageNoise([1, 2], (3, 8, 8))
    for one in cached:
        one.begin(solver.num_evals, solver.eval_log_snr)
    first, *second = cached
    uncond = cond.flip(0) if denoisers else None
    denoiser = guide(first, cond, uncond, 3.0 if denoisers else 1.0, uncond_denoiser=second[0] if second else None)
    *_, last = solver.sample(denoiser, noise().double(), lambda: noise().double())
    return last.x


def close(got, wanted, tolerance=1e-10):
    # Eight steps on: what rounding makes of 1e-15 in one pass.
    return (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize(
    ("policy", "forecaster"),
    [
        (policy, forecaster)
        for policy in POLICIES
        for forecaster in FORECASTERS
        if forecaster != "fitted" or policy == "null steps"  # fitted weights go with their plan
    ],
)
def test_every_policy_with_every_forecaster(networks, policy, forecaster):
    plain, fast, split, cond = networks
    chosen = POLICIES[policy], FORECASTERS[forecaster]
    wanted = final([CachedDenoiser(plain, *chosen)], cond, denoisers=0)
    assert close(final([CachedDenoiser(fast, *chosen)], cond, denoisers=0), wanted)
    if forecaster == "reuse" or policy == "none":  # splitting changes nothing
        assert close(final([CachedDenoiser(split, *chosen)], cond, denoisers=0), wanted)


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("sampler", ["plms", "dpmpp_2m", "ddpm"])
@pytest.mark.parametrize("kind", ["ldm", "guided"])
def test_under_guidance_in_one_call_and_in_two(kind, sampler, calls):
    plain, _, split, cond = of_kind(kind)

    def sample(network):
        return final([CachedDenoiser(network, Uniform(3, 1), Reuse()) for _ in range(calls)], cond, sampler)

    assert close(sample(split), sample(plain))


@pytest.mark.parametrize("policy", [Threshold(0.7, 1), Adaptive(bound=2.0, branch=2)])
@pytest.mark.parametrize("forecaster", [Reuse(), Lagrange(1)])
def test_policies_that_decide_image_by_image(networks, policy, forecaster):
    plain, fast, split, cond = networks
    made = {network: cached_denoiser(network, policy, forecaster) for network in (plain, fast, split)}
    ends = {network: final([cached], cond, denoisers=0) for network, cached in made.items()}
    assert close(ends[fast], ends[plain])
    assert close(ends[split], ends[plain])
    assert made[fast].traces == made[split].traces == made[plain].traces
    assert any(depth is not None for trace in made[plain].traces for depth in trace), "nothing was cached"


def test_batches_of_other_sizes_follow_each_other(networks):
    plain, _, split, cond = networks
    cached = {network: CachedDenoiser(network, Uniform(2, 1), Reuse()) for network in (plain, split)}
    t = torch.tensor([500])
    for size in (2, 1):
        x = torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
        ends = []
        for denoiser in cached.values():
            denoiser.begin(2)
            denoiser(x, t.expand(size), None if cond is None else cond[:size])
            ends.append(denoiser(x * 0.9, t.expand(size) - 9, None if cond is None else cond[:size]))
        assert close(*ends)


def test_a_split_forecast_is_the_sum_of_separately_computed_parts(networks):
    """Its definition: partial sums, each Σ w_k of those made at the stored evaluations."""
    plain, _, split, cond = networks
    forecaster, branch = Lagrange(2), 2
    xs = [torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    ts = [torch.tensor([900 - 100 * i] * 2) for i in range(5)]
    cached = CachedDenoiser(split, Explicit(full=[0, 1, 3], branch=branch), forecaster)
    cached.begin(5)
    got = [cached(x, t, cond) for x, t in zip(xs, ts, strict=True)][-1]

    stored = [3, 1, 0]
    weights = forecaster.weights([Moment(i) for i in stored], Moment(4), branch)
    entering = [plain(xs[i], ts[i], cond, taps=[branch])[1][branch] for i in stored]
    kept = [split.splits[str(branch)].keep(feature) for feature in entering]
    parts = PartialSums(
        *(sum(w * part for w, part in zip(weights, column, strict=True)) for column in zip(*kept, strict=True))
    )
    wanted, _ = split(xs[4], ts[4], cond, branch=branch, feature=parts)
    assert close(got, wanted, 1e-12)
    whole = CachedDenoiser(plain, Explicit(full=[0, 1, 3], branch=branch), forecaster)
    whole.begin(5)
    assert not close([whole(x, t, cond) for x, t in zip(xs, ts, strict=True)][-1], got, 1e-6), "another approximation"


@pytest.mark.parametrize("branch", [1, 2])
def test_a_partial_pass_can_tap_the_branch_that_it_enters_at(networks, branch):
    plain, _, split, cond = networks
    x, t = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([500] * 2)
    for network in (plain, split):
        _, tapped = network(x, t, cond, taps=[branch])
        _, again = network(x, t, cond, branch=branch, feature=tapped[branch], taps=[branch])
        assert again[branch] is tapped[branch]


def test_the_store_holds_the_parts_and_says_their_bytes():
    store, parts = FeatureStore(history=2), PartialSums(*(torch.full((1, c, 2, 2), float(c)) for c in (4, 3, 0)))
    store.write(1, parts, 0)
    store.write(1, PartialSums(*(part * 3 for part in parts)), 2)
    evaluations, features = store.read(1)
    assert evaluations == [2, 0]
    assert all(isinstance(feature, PartialSums) for feature in features)
    ahead = combine([2.0, -1.0], features)
    assert isinstance(ahead, PartialSums)
    assert [part.unique().tolist() for part in ahead] == [[20.0], [15.0], []]
    assert store.nbytes == 2 * sum(part.nbytes for part in tensors(parts))


# What a step asks of the host


class Transfers(TorchDispatchMode):
    """Notes the operations that make the host wait for a device."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.WAITING or (name == "_to_copy" and (kwargs or {}).get("device") is not None):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpmpp_2m", "ddpm"])
def test_the_loop_never_waits_for_the_device(networks, sampler):
    _, _, split, cond = networks
    calls = 2 if cond is not None else 0
    cached = [CachedDenoiser(split, Uniform(3, 1), Reuse()) for _ in range(max(calls, 1))]
    solver = Sampler(SamplerConfig(name=sampler, steps=5), DiffusionConfig())
    noise = ImageNoise([1, 2], (3, 8, 8))
    for one in cached:
        one.begin(solver.num_evals, solver.eval_log_snr)
    second = {"uncond_denoiser": cached[1]} if calls else {}
    denoiser = guide(cached[0], cond, cond.flip(0) if calls else None, 3.0 if calls else 1.0, **second)
    x = noise().double()
    steps = solver.sample(denoiser, x, lambda: x)
    next(steps)  # timesteps go to the device at once, before the first
    with Transfers() as transfers:
        for _ in steps:
            pass
    assert transfers.seen == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_whole_trajectory_on_a_gpu_never_waits_for_it():
    plain = models.load("random", KINDS["ldm"], device="cuda")
    cached = CachedDenoiser(SplitUNet(FastUNet(plain)), Uniform(3, 1), Reuse())
    cond = torch.randn(2, 4, 8, device="cuda")
    solver = Sampler(SamplerConfig(steps=6, eta=1.0), DiffusionConfig())

    def sample():
        noise = ImageNoise([1, 2], (3, 8, 8), "cuda")
        cached.begin(solver.num_evals)
        steps = solver.sample(lambda x, t: cached(x, t, cond), noise(), noise)
        next(steps)
        try:
            torch.cuda.set_sync_debug_mode("error")
            for _ in steps:
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")

    sample()
    sample()


# What it costs


@pytest.mark.parametrize("name", KINDS)
def test_split_passes_are_priced_at_what_they_multiply(name):
    config = KINDS[name]
    costs = pass_costs(config, (8, 8), context_length=1)
    assert costs.split.full == costs.full
    for branch in range(config.num_branches):
        width, entering = config.width(config.branch(branch).level), config.branch(branch).entering_channels
        group = (entering + config.branch(branch).skip_channels) // 32
        side = 8 >> config.branch(branch).level
        kept = width * side * side * (9 * (entering // group * group) + entering)
        assert costs.partial[branch].total - costs.split.partial[branch].total == kept
    assert costs.split.split == costs.split
