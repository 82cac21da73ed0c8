"""How the networks of a pipeline run: as they are, or transformed to compute the same numbers sooner."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from torch import nn

import configs
from caching import AdaptivePolicy, Reuse
from configs import InputError
from experiments.grid import Strategy
from models import SplitUNet, UNet, fast
from models.kernels import optimise
from models.memory_format import memory_format
from models.programs import compile_passes

Network = TypeVar("Network", bound=nn.Module)

ENGINES = ("fast", "plain")


@dataclass(frozen=True)
class EngineConfig:
    """What changes the speed of a run, and nothing else (but for `split: true`)."""

    engine: str = "fast"  # fast: transformed to compute the same numbers sooner; plain: the networks as they are
    # What a partial pass computes from the cached feature alone is stored in its place. null: with reuse, where it
    # changes nothing; true: also where features are forecast, which then forecasts these parts: another approximation.
    split: bool | None = None
    compile: bool = False  # one compiled program per depth (models/programs.py); compiling takes minutes, once

    def __post_init__(self) -> None:
        configs.one_of(self.engine, ENGINES, "engine")
        if self.split and self.engine == "plain":
            raise InputError("the plain engine splits nothing; leave split out, or take engine=fast")


class Engine:
    """The U-Net as strategies run it. All that it hands out share one set of parameters.

    num_timesteps: that the network was trained on.
    """

    def __init__(self, config: EngineConfig, unet: UNet, num_timesteps: int = 1000) -> None:
        self.config = config
        if config.engine == "plain":  # a copy, of the module alone: what was given stays uncompiled
            self.unet: UNet = copy.copy(unet.to(memory_format=memory_format(unet)))
        else:
            self.unet = fast(unet, num_timesteps)
        self._compile(self.unet)

    def layers(self, network: Network) -> Network:
        """Any network on the engine's layers."""
        return network if self.config.engine == "plain" else optimise(network)

    def network(self, strategy: Strategy) -> UNet:
        """What runs under `strategy`.

        Raises InputError for a policy that decides in the middle of passes that are to be compiled whole.
        """
        if self.config.compile and isinstance(strategy.policy, AdaptivePolicy):
            raise InputError("compile=true compiles whole passes, and adaptive policies decide in the middle of them; "
                             "leave compile out, or take a policy that decides beforehand")  # fmt: skip
        return self._split if self.splits(strategy) else self.unet

    def splits(self, strategy: Strategy) -> bool:
        """Are the features that are kept under `strategy` the parts of split convolutions?"""
        if self.config.engine == "plain" or isinstance(strategy.policy, AdaptivePolicy):
            return False
        if self.config.split is not None:
            return self.config.split
        return type(strategy.forecaster) is Reuse  # a class derived from it may weigh features otherwise

    @cached_property
    def _split(self) -> SplitUNet:
        split = SplitUNet(self.unet)
        self._compile(split)
        return split

    def _compile(self, network: UNet) -> None:
        if self.config.compile:
            compile_passes(network)
