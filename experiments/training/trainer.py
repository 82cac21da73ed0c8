"""One training run: its settings, its state, and one step of it.

Everything random in a step follows from the seed and the step's number, so an interrupted run goes on as if nothing
had happened: bit for bit on a CPU, and up to the order of its kernels' sums on a GPU.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import models
from configs import InputError, one_of
from experiments.data import data_name
from experiments.model import ModelConfig
from experiments.training.layers import TRAINED_ON_CPU
from models.files import write_atomically
from models.kernels import replace_layers
from samplers import NUM_SEEDS

STORES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainConfig:
    """One training run (Ho et al. 2020, algorithm 1)."""

    model: str = "mnist32"  # the network and its noise schedule: NAME in configs/models, or a YAML file
    data: str = "mnist"  # mnist | cifar10 | an image folder | an .npz file with train_images or arr_0 (N, H, W[, C])
    images: int = 500_000  # training images in all
    batch_size: int = 128
    learning_rate: float = 4e-4  # peak; warmed up over the first 2%, then a cosine down to 0
    ema_decay: float = 0.999
    grad_clip: float = 1.0
    flip: bool = False  # random horizontal flips
    precision: str = "bf16"  # of the forward and backward pass: bf16 | fp32; the weights stay fp32
    seed: int = 0
    init: str = "random"  # the weights it starts from: random, or a checkpoint to go on from with a new optimiser
    device: str = "auto"
    save_every: int = 20_000  # images between two saves of the state, each with a grid of samples
    store: str = "fp32"  # precision of the weights in the finished checkpoint: fp32 | fp16, half the size
    out: str = "outputs/train"

    def __post_init__(self) -> None:
        one_of(self.precision, ("bf16", "fp32"), "precision")
        one_of(self.store, STORES, "store")
        for name in ("images", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        check_seed(self.seed)
        for name in ("learning_rate", "grad_clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must lie in 0..1 (1 excluded), not {self.ema_decay}")


FREE = ("device", "save_every", "store", "out", "model")  # what may change when a run goes on; the network may not


def check_seed(seed: int) -> None:
    """Raises InputError for a seed that torch would refuse, or take for another one."""
    if not 0 <= seed < NUM_SEEDS:
        raise InputError(f"seed must lie in 0..{NUM_SEEDS - 1}, not {seed}")


class Trainer:
    """The state of a training run: weights, their moving average, optimiser, steps taken.

    data_size: the number of images there are to draw from; every epoch's order depends on it.
    """

    def __init__(self, config: TrainConfig, model: ModelConfig, data_size: int, device: torch.device) -> None:
        self.config, self.model, self.data_size, self.device = config, model, data_size, device
        # The layout that convolutions are fastest in, and their gradients.
        self.network = _initial(config, model.network).to(device, memory_format=torch.channels_last)
        self.predict = replace_layers(self.network, TRAINED_ON_CPU) if device.type == "cpu" else self.network
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, fused=True)
        self.alphas_cumprod = torch.from_numpy(model.diffusion.alphas_cumprod()).float().to(device)
        self.total_steps = -(-config.images // config.batch_size)
        self.steps = 0
        self.seconds = 0.0

    def train_step(self, x0: Tensor) -> Tensor:
        """One optimiser step on images x0 (B, C, H, W) in [-1, 1] -> the loss, mean of |eps - eps_θ|²."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * learning_rate_factor(self.steps, self.total_steps)
        t, eps = self.draw(x0)
        a = self.alphas_cumprod[t][:, None, None, None]
        x = a.sqrt() * x0 + (1 - a).sqrt() * eps
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            predicted, _ = self.predict(x, t)
        loss = nn.functional.mse_loss(predicted.float(), eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.steps += 1
        with torch.no_grad():
            weight = 1 - ema_decay(self.steps, self.config.ema_decay)
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), weight)
        return loss.detach()

    def draw(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The next step's timesteps (B,), antithetic (t and T-1-t) as in ermongroup/ddim, and noise as x0.

        Also seeds the dropout of that step.
        """
        step = generator(self.config.seed, "step", self.steps)
        batch, total = len(x0), len(self.alphas_cumprod)
        half = torch.randint(total, (batch // 2 + 1,), generator=step)
        t = torch.cat([half, total - 1 - half])[:batch]
        eps = torch.randn(x0.shape, generator=step)
        torch.manual_seed(int(torch.randint(2**62, (), generator=step)))
        return to_device(t, self.device), to_device(eps, self.device)

    def identity(self) -> dict[str, Any]:
        """All that the outcome depends on, by dotted name, as JSON holds it."""
        settings = {key: value for key, value in asdict(self.config).items() if key not in FREE}
        settings["data"] = data_name(self.config.data)
        network = {f"network.{key}": value for key, value in asdict(self.model.network).items()}
        diffusion = {f"diffusion.{key}": value for key, value in asdict(self.model.diffusion).items()}
        return json.loads(json.dumps(settings | {"data.images": self.data_size} | network | diffusion))

    def save(self, path: Path) -> None:
        """Writes the state. Where that fails (a full disk, say) the one that was there stays whole."""
        state = {
            "config": json.dumps(self.identity()),
            "steps": self.steps,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_atomically(path, lambda unfinished: _write(state, unfinished))

    def load(self, path: Path) -> None:
        """Goes on from a saved state.

        Raises InputError where it is damaged, and where it belongs to another configuration, naming the difference.
        """
        state = _read(path, self.device)
        ours, theirs = self.identity(), json.loads(state["config"])
        theirs["data"] = data_name(theirs["data"])
        changed = [key for key in ours if key in theirs and theirs[key] != ours[key]]
        if changed:
            difference = ", ".join(f"{key} is {theirs[key]} there and {ours[key]} here" for key in changed)
            raise InputError(f"{path.parent} holds another training run ({difference}); choose another out=FOLDER")
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seconds = state["steps"], state["seconds"]


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU's tensor, for which a GPU is not waited for."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def learning_rate_factor(step: int, total: int) -> float:
    """Linear warm-up over the first 2% of the steps, then a cosine down to 0."""
    warm_up = max(1, total // 50)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


def ema_decay(steps: int, decay: float) -> float:
    """The decay after so many steps: at first lower, (1 + n)/(10 + n), for the initial weights to be forgotten."""
    return min(decay, (1 + steps) / (10 + steps))


def generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A generator of its own for each step's draws, each epoch's order and each step's flips."""
    # Mixed into 32 bits, since torch's CPU generator ignores all higher bits of its seed.
    entropy = (seed, ("step", "epoch", "flip").index(purpose), index)
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def _initial(config: TrainConfig, network: models.UNetConfig) -> models.UNet:
    if config.init != "random":
        return models.load(config.init, network).requires_grad_(True).train()
    fresh = models.random(network, config.seed)
    fresh.provenance = models.Provenance("random", "none")
    _zero_residuals(fresh)
    return fresh


def _zero_residuals(network: models.UNet) -> None:
    """The last layer of every residual branch starts at zero (Ho et al. 2020, code): the network starts as the
    identity and trains without warm-up trouble."""
    for module in network.modules():
        if isinstance(module, models.blocks.ResBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, models.attention.SelfAttention):
            nn.init.zeros_(module.proj.weight)
    nn.init.zeros_(network.conv_out.weight)


def _write(state: Mapping[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # what the operating system said, which torch covers up
            raise error.__context__ from error
        raise


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is truncated or not a training state; remove it to start anew") from error
    if not isinstance(state, dict) or "optimizer" not in state:
        raise InputError(f"{path} is not a training state; remove it to start anew")
    return state
