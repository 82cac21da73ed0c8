"""How deep the U-Net runs, which features are kept, and what the cached feature is now."""

from caching.adapter import DiffusersUNet
from caching.adaptive import Adaptive, AdaptivePolicy, Probe, Threshold
from caching.adaptive_denoiser import AdaptiveDenoiser, Cached, cached_denoiser
from caching.cost import Macs, PassCosts, pass_costs
from caching.denoiser import CachedDenoiser
from caching.forecast import (
    FORECASTERS,
    Fitted,
    Forecaster,
    Lagrange,
    Moment,
    Reuse,
    Taylor,
    make_forecaster,
    register_forecaster,
)
from caching.plan import (
    NULL,
    Depth,
    Plan,
    cached_branches,
    check_plan,
    describe,
    full_evals,
    partial_between,
    refreshed,
)
from caching.policies import POLICIES, Explicit, Nested, NoCache, Nonuniform, Policy, Uniform, plan_of, register
from caching.saved import MadeFor, PlanFile, SavedPlan, load_plan, make_policy
from caching.schedules import drift_threshold, least_drift
from caching.search import Budget, Shape, neighbour, shapes
from caching.store import FeatureStore, ImageStore

__all__ = [
    "POLICIES", "Explicit", "Nested", "NoCache", "Nonuniform", "Policy", "Uniform", "make_policy", "plan_of",
    "register",
    "Budget", "drift_threshold", "least_drift", "neighbour", "Shape", "shapes",
    "NULL", "Depth", "Plan", "cached_branches", "check_plan", "describe", "full_evals", "partial_between", "refreshed",
    "FORECASTERS", "Fitted", "Forecaster", "Lagrange", "Moment", "Reuse", "Taylor", "make_forecaster",
    "register_forecaster", "FeatureStore", "ImageStore",
    "Adaptive", "AdaptiveDenoiser", "AdaptivePolicy", "Cached", "Probe", "Threshold", "cached_denoiser",
    "CachedDenoiser", "DiffusersUNet",
    "Macs", "PassCosts", "pass_costs", "PlanFile", "SavedPlan", "MadeFor", "load_plan",
]  # fmt: skip
