"""diffusers' networks are built with our architecture and weights: otherwise nothing would be compared."""

import sys

import pytest
import small_networks
import torch

import configs
import models
from caching import Uniform
from experiments.benchmark.engines import Ours, Unavailable
from experiments.benchmark.measure import deviation
from experiments.benchmark.peers import DeepCache, Diffusers, diffusers_unet
from experiments.benchmark.settings import Case
from experiments.benchmark.variants import parse_variant
from experiments.benchmark.workload import Task, Workload
from experiments.model import model_config

pytest.importorskip("diffusers", reason="diffusers is not installed")

NAMES = ["cifar10", "lsun256", "celeba64", "ldm_cin256_v2", "ldm_cin256_f8", "ldm_beds256", "sd_v1"]


@pytest.mark.parametrize("name", NAMES)
def test_published_architectures_have_the_same_parameters(name):
    """Translated strictly: every key of diffusers' is filled, and none is left over."""
    with torch.device("meta"):
        network = models.UNet(model_config(name).network)
    theirs = diffusers_unet(network)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert count == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("config", [small_networks.DDPM, small_networks.LDM], ids=["ddpm", "ldm"])
def test_they_compute_what_ours_computes(config):
    network = models.random(config).eval()
    theirs = diffusers_unet(network)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 951])
    cond = () if config.context_dim is None else (torch.randn(2, 5, config.context_dim),)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, t, *cond).sample, network(x, t, *cond)[0], atol=1e-5, rtol=0)


def test_families_without_a_peer_are_left_out_with_a_reason():
    with pytest.raises(Unavailable, match="no network of this family"):
        diffusers_unet(models.random(small_networks.GUIDED))


def test_a_missing_package_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(Unavailable, match=r'diffusers is not installed: pip install -e "\.\[peers\]"'):
        diffusers_unet(models.random(small_networks.DDPM))


@pytest.fixture(scope="module", params=["ddpm", "text"])
def work(request, tmp_path_factory):
    """A tiny DDPM under DDIM; a tiny Stable Diffusion under PLMS with guidance."""
    folder = tmp_path_factory.mktemp("work")
    is_text = request.param == "text"
    network = {"resolution": 16, "channels": 32, "channel_mult": [1, 2], "attention_levels": [1]}
    model = {"network": network, "diffusion": {"schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}}
    run = {"model": str(folder / "model.yaml"), "sampler": {"name": "ddim", "steps": 5}}
    if is_text:
        network |= {"in_channels": 4, "out_channels": 4, "context_dim": 24, "timestep_embedding": "cos_sin",
                    "norm_eps": 1e-5, "downsample_padding": "symmetric"}  # fmt: skip
        model["diffusion"] = {"schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        model["conditioning"] = {"text": {"vocab_size": 516, "dim": 24, "layers": 1, "heads": 4, "mlp_dim": 64,
                                          "length": 7}}  # fmt: skip
        run["sampler"] = {"name": "plms", "steps": 5, "offset": 1, "final": "first"}
        run |= {"guidance": {"scale": 3.0}, "prompt": "a cat"}
    for name, content in (("model", model), ("run", run)):
        configs.OmegaConf.save(content, folder / f"{name}.yaml")
    return Workload(Case(run=str(folder / "run.yaml"), batch_size=2, branches=[1], device="cpu"))


@pytest.mark.parametrize("task", [Task(), Task(1), Task(4), Task(None, 1), Task(1, 3)], ids=lambda task: task.name)
@torch.inference_mode()
def test_every_task_is_the_same_computation(work, task):
    """Passes and trajectories of the packages, and of our engines, end where the plain network's do."""
    pytest.importorskip("DeepCache", reason="DeepCache is not installed")
    expected = Ours(work, parse_variant("plain")).call(task)()
    # Rounding grows along a trajectory, under guidance above all.
    tolerance = 1e-5 if task.interval is None else 1e-3
    assert deviation(Ours(work, parse_variant("fast")).call(task)(), expected) < tolerance
    assert deviation(DeepCache(work, parse_variant("deepcache")).call(task)(), expected) < tolerance
    diffusers = Diffusers(work, parse_variant("diffusers"))
    if task.branch is None:
        assert deviation(diffusers.call(task)(), expected) < tolerance
    else:
        with pytest.raises(Unavailable, match="no partial passes"):
            diffusers.call(task)


@torch.inference_mode()
def test_passes_of_the_package_stay_partial_between_other_tasks(work):
    """The package keeps one cache: what else it computed in the meantime does not end up in a partial pass."""
    pytest.importorskip("DeepCache", reason="DeepCache is not installed")
    engine = DeepCache(work, parse_variant("deepcache"))
    ran = []
    engine.unet.mid_block.resnets[0].register_forward_hook(lambda *call: ran.append(True))
    partial, full, sampling = (engine.call(task) for task in (Task(1), Task(), Task(1, 3)))
    expected = partial()
    full(), sampling()
    assert torch.equal(partial(), expected)
    ran.clear()
    partial()
    assert not ran
    full()
    assert ran


def test_uncached_trajectories_are_full_passes_alone(work):
    """Also where a sampler calls the network more often than it steps."""
    assert set(work.policy(Task(None, 1)).plan(work.sampler.num_evals)) == {None}


def test_macs_of_a_trajectory_are_those_of_its_plan(work):
    plan = Uniform(3, 1, horizon=5).plan(work.sampler.num_evals)
    full, partial = work.costs.full.total, work.costs.partial[1].total
    assert work.macs(Task(1, 3)) == work.rows * (plan.count(None) * full + plan.count(1) * partial)
    assert work.macs(Task(1), split=True) == work.rows * work.costs.split.partial[1].total < work.macs(Task(1))
