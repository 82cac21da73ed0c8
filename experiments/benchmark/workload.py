"""What every variant of a case computes: the same network on the same inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

import configs
import models
from caching import NoCache, PassCosts, Policy, Uniform, pass_costs
from configs import InputError
from experiments.benchmark.settings import Case
from experiments.model import ModelConfig, model_config, pick_device, read_config
from experiments.runs.run import SampleConfig
from models import UNet
from samplers import ImageNoise, Sampler

TIMESTEP = 500  # of single passes


@dataclass(frozen=True)
class Task:
    """One thing to time: a full pass, a partial pass, or a whole trajectory."""

    branch: int | None = None  # None: full passes alone
    interval: int | None = None  # N of a trajectory's uniform caching; None: one pass

    @property
    def name(self) -> str:
        if self.interval is None:
            return "full pass" if self.branch is None else f"branch {self.branch}"
        return "sampling" if self.branch is None else f"sampling N={self.interval} branch {self.branch}"

    @property
    def full(self) -> Task:
        """The same without a cache."""
        return Task(interval=None if self.interval is None else 1)


class Workload:
    """The network of a case, its inputs and what they cost. Weights are made anew by each `network()`: every variant
    owns its own, so that the memory it takes can be told."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.run = run_config(case.run)
        self.model: ModelConfig = model_config(self.run.model)
        self.device = pick_device(case.device)
        (self.batch,) = case.batch_size  # see Case.by_batch
        side = case.resolution or self.model.network.resolution
        self.shape = (self.model.network.in_channels, side, side)
        self.branches = tuple(case.branches) or (_branch(self.run),)
        deepest = self.model.network.num_branches - 1
        for branch in self.branches:
            if not 0 <= branch <= deepest:
                raise InputError(f"branch {branch} does not exist; {case.run} has branches 0 (outermost) to {deepest}")
        steps = case.steps or self.run.sampler.steps
        self.sampler = Sampler(replace(self.run.sampler, steps=steps), self.model.diffusion)

    def __str__(self) -> str:
        channels, height, width = self.shape
        rows = f" ({self.rows} rows)" if self.rows != self.batch else ""
        words = [Path(self.case.run).stem, f"{channels}x{height}x{width}", f"batch {self.batch}{rows}",
                 self.device.type, *filter(None, [self.case.title])]  # fmt: skip
        return ", ".join(words)

    def network(self) -> UNet:
        """With the case's weights in fp32, on the CPU."""
        return models.load(self.case.checkpoint, self.run.model)

    @property
    def tasks(self) -> tuple[list[Task], list[Task]]:
        """Passes, and trajectories."""
        passes = [Task(), *(Task(branch) for branch in self.branches)]
        return passes, [Task(None if n == 1 else self.branches[0], n) for n in self.case.intervals]

    # Inputs of a single pass: of as many rows as the passes of a trajectory have.

    @property
    def rows(self) -> int:
        """Of the network's batch: two per image where both halves of guidance are computed at once."""
        return self.batch * (1 if self.scale == 1 else 2)

    @cached_property
    def x(self) -> Tensor:
        """(rows, C, H, W)"""
        return self._randn(0, self.rows, *self.shape)

    @cached_property
    def t(self) -> Tensor:
        """(rows,)"""
        return torch.full((self.rows,), TIMESTEP, device=self.device)

    @cached_property
    def row_cond(self) -> Tensor | None:
        """Context (rows, L, D), or labels (rows,), or None, as the network needs."""
        return self.cond if self.scale == 1 else torch.cat([self.uncond, self.cond])

    # Inputs of a trajectory.

    @cached_property
    def cond(self) -> Tensor | None:
        """Context (B, L, D), or labels (B,), or None."""
        return self._cond(1)

    @cached_property
    def uncond(self) -> Tensor | None:
        """The same of the unconditional half of guidance."""
        return self._cond(2)

    def noise(self) -> ImageNoise:
        return ImageNoise(range(self.batch), self.shape, self.device)

    @property
    def scale(self) -> float:
        """Of guidance; 1 is none."""
        return self.run.guidance.scale

    def policy(self, task: Task) -> Policy:
        """Of a trajectory: full passes are laid over the sampler's steps, as in the released code."""
        if task.branch is None:
            return NoCache()
        return Uniform(task.interval, task.branch, horizon=len(self.sampler.table))

    # Costs.

    @cached_property
    def costs(self) -> PassCosts:
        return pass_costs(self.model.network, self.shape[1:], self.model.context_length)

    def macs(self, task: Task, split: bool = False) -> int:
        """Of the whole batch, attention products included. split: of a network whose concat convolutions are split."""
        costs = self.costs.split if split else self.costs
        if task.interval is None:
            return self.rows * costs.of(task.branch).total
        plan = self.policy(task).plan(self.sampler.num_evals)
        return self.rows * sum(costs.of(depth).total for depth in plan)

    def _cond(self, seed: int) -> Tensor | None:
        network = self.model.network
        if network.context_dim is not None:
            return self._randn(seed, self.batch, self.model.context_length, network.context_dim)
        if network.num_classes is not None:
            return torch.zeros(self.batch, dtype=torch.long, device=self.device)
        return None

    def _randn(self, seed: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)


def run_config(name: str) -> SampleConfig:
    """NAME in configs/, or a YAML file; a model's own file stands for a default run of that model."""
    return configs.parse(SampleConfig, read_config(name), where=name)


def _branch(run: SampleConfig) -> int:
    """The branch that a run caches at, or the first of those that it compares."""
    branch = run.policy.get("branch", 0)
    return branch[0] if isinstance(branch, list) else branch
