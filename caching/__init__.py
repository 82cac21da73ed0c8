"""How deep the U-Net runs, which features are kept, and what the cached feature is now."""

from caching.adapter import DiffusersUNet
from caching.cost import Macs, PassCosts, pass_costs
from caching.denoiser import CachedDenoiser
from caching.forecast import Forecaster, Reuse
from caching.plan import Depth, Plan, cached_branches, describe, full_evals
from caching.policies import POLICIES, Explicit, NoCache, Nonuniform, Policy, Uniform, make_policy, register
from caching.store import FeatureStore

__all__ = [
    "POLICIES", "Explicit", "NoCache", "Nonuniform", "Policy", "Uniform", "make_policy", "register",
    "Depth", "Plan", "cached_branches", "describe", "full_evals",
    "FeatureStore", "Forecaster", "Reuse",
    "CachedDenoiser", "DiffusersUNet",
    "Macs", "PassCosts", "pass_costs",
]  # fmt: skip
