"""MACs as the paper counts them."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import configs
import models
from caching import Macs, NoCache, Uniform, pass_costs
from configs import InputError
from experiments.model import model_config

# G MACs by our branch number, from the reference networks: facts of the released code
CIFAR10 = {None: 6.0655, 1: 1.2862, 2: 2.2449, 3: 3.3577, 4: 4.2154, 5: 5.1402, 6: 5.4509, 7: 5.6485, 8: 5.8462,
           9: 5.9240, 10: 5.9736, 11: 6.0232}  # fmt: skip
LSUN256 = {None: 248.6912, 1: 82.2846, 2: 132.8764, 3: 152.7701, 4: 165.4181, 5: 180.7547}
SD_V1 = {None: 338.83, 1: 57.33, 2: 98.14, 3: 132.73, 4: 167.72, 5: 208.58, 6: 243.24, 7: 278.37, 8: 315.18}
LDM_4_G = {None: 99.817, 0: 4.4254}

LATENT = {"timestep_embedding": "cos_sin", "norm_eps": 1e-5, "downsample_padding": "symmetric", "resolution": 64}


def paper(macs: Macs, group_norms: bool = True) -> float:
    return macs.paper(group_norms) / 1e9


@pytest.mark.parametrize(("name", "figures"), [("cifar10", CIFAR10), ("lsun256", LSUN256)])
def test_ddpm_passes_cost_what_the_reference_networks_cost(name, figures):
    costs = pass_costs(model_config(name).network)
    for depth, expected in figures.items():
        assert paper(costs.of(depth)) == pytest.approx(expected, abs=1e-4)


def test_stable_diffusion_passes_cost_what_the_reference_network_costs():
    config = models.UNetConfig(
        channels=320, channel_mult=[1, 2, 4, 4], in_channels=4, out_channels=4, attention_levels=[0, 1, 2], num_heads=8,
        context_dim=768, **LATENT,
    )  # fmt: skip
    costs = pass_costs(config, context_length=77)
    for depth, expected in SD_V1.items():
        assert paper(costs.of(depth)) == pytest.approx(expected, abs=6e-3)
    assert costs.full.attention / 1e9 == pytest.approx(63.03, abs=6e-3)


def test_ldm_4_g_passes_cost_what_the_reference_network_costs():
    config = models.UNetConfig(
        channels=192, channel_mult=[1, 2, 3, 5], attention_levels=[1, 2, 3], num_heads=1, context_dim=512, **LATENT
    )
    costs = pass_costs(config)
    for depth, expected in LDM_4_G.items():
        assert paper(costs.of(depth), group_norms=False) == pytest.approx(expected, abs=6e-4)


def test_layers_and_attention_are_what_torch_counts():
    """FlopCounterMode counts two operations per multiplication, no biases and no normalisation."""
    config = models.UNetConfig(resolution=32, channels=32, channel_mult=[1, 2], attention_levels=[0, 1])
    with torch.device("meta"):
        network = models.UNet(config).eval()
        x, t = torch.empty(1, 3, 32, 32), torch.empty(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, t)
    assert pass_costs(config).full.total == pytest.approx(counter.get_total_flops() / 2, rel=5e-3)


def test_a_deeper_branch_costs_more_and_the_full_pass_most():
    costs = pass_costs(model_config("mnist32").network)
    totals = [macs.total for macs in (*costs.partial, costs.full)]
    assert totals == sorted(totals)
    assert len(set(totals)) == len(totals)


def test_the_speedup_of_a_plan_is_the_ratio_of_macs():
    costs = pass_costs(model_config("mnist32").network)
    assert costs.speedup(NoCache().plan(10)) == 1
    plan = Uniform(interval=5, branch=1).plan(100)
    expected = costs.full.total / (0.2 * costs.full.total + 0.8 * costs.partial[1].total)
    assert costs.speedup(plan) == pytest.approx(expected)


def test_every_configured_model_can_be_priced():
    for path in sorted((configs.FOLDER / "models").glob("*.yaml")):
        if "network" not in configs.read(path):
            continue
        network = model_config(path.stem).network
        costs = pass_costs(network, (64, 64) if network.resolution > 64 else None)
        assert len(costs.partial) == network.num_branches


@pytest.mark.parametrize("size", [(33, 32), (4, 4), (-8, 8)])
def test_a_size_that_cannot_be_halved_is_refused(size):
    with pytest.raises(InputError, match="is no multiple of 8"):
        pass_costs(model_config("cifar10").network, size)
