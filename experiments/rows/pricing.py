"""What a row of a table will cost, known before anything is sampled and without weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from caching import AdaptivePolicy, PassCosts, Plan, check_plan, pass_costs, plan_of
from experiments.grid import Strategy, strategies
from experiments.model import model_config
from experiments.runs.run import SampleConfig, sampler_of


@dataclass(frozen=True)
class Price:
    """The static cost of one strategy: per network call and image, and how much less than full passes that is."""

    plan: Plan
    steps: int  # of the sampler
    macs: float  # per call, counted as in the paper
    macs_per_step: float  # the same over as many calls as there are steps: the paper knows no additional call of PLMS
    macs_attention: float  # per call: layers and attention products, what a device has to multiply
    theoretical_speedup: float  # over full passes at as many calls, in MACs with attention products

    @property
    def calls(self) -> int:
        """Network calls of a trajectory."""
        return len(self.plan)


def price(config: SampleConfig) -> Price | None:
    """The price of the one strategy that `config` means; None where it shows during sampling only (adaptive policies,
    and guidance that leaves calls out).

    Raises InputError where the policy has no plan for this sampler or network.
    """
    plan = static_plan(config)
    if plan is None:
        return None
    model, costs = model_config(config.model), costs_of(config)
    steps = len(sampler_of(config).table)
    speedup = costs.speedup(plan)
    return Price(
        plan=plan,
        steps=steps,
        macs=costs.average(plan, model.paper_macs),
        macs_per_step=costs.average(plan[:steps], model.paper_macs),
        macs_attention=costs.full.total / speedup,
        theoretical_speedup=speedup,
    )


def static_plan(config: SampleConfig) -> Plan | None:
    """The depth of every network evaluation, where that is settled before sampling starts."""
    sampler = sampler_of(config)
    policy = only_strategy(config).policy
    if config.guidance.is_partial or isinstance(policy, AdaptivePolicy):
        return None
    plan = plan_of(policy, sampler.num_evals)
    check_plan(plan, sampler.num_evals, model_config(config.model).network.num_branches)
    return plan


def costs_of(config: SampleConfig) -> PassCosts:
    """What the passes of the network of `config` cost, at its size."""
    return _pass_costs(config.model, config.height, config.width)


def only_strategy(config: SampleConfig) -> Strategy:
    """The strategy of a configuration without lists."""
    (strategy,) = strategies(config.policy, config.forecaster, sampler_of(config))
    return strategy


@cache
def _pass_costs(model: str, height: int | None, width: int | None) -> PassCosts:
    config = model_config(model)
    return pass_costs(config.network, config.latent_size(height, width), config.context_length)
