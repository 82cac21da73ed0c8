"""Plain DDPM training with an exponential moving average of the weights; resumable bit for bit."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import models
from configs import InputError, one_of
from experiments.data import Images, open_images
from experiments.files import write_atomically
from experiments.images import save_grid
from experiments.model import ModelConfig, model_config, pick_device
from samplers import DiffusionConfig, ImageNoise, Sampler, SamplerConfig


@dataclass(frozen=True)
class TrainConfig:
    """One training run (Ho et al. 2020, algorithm 1)."""

    model: str = "mnist32"  # the network and its noise schedule: NAME in configs/models, or a YAML file
    data: str = "mnist"  # mnist | cifar10 | an image folder | an .npz file
    images: int = 500_000  # training images in all
    batch_size: int = 128
    learning_rate: float = 4e-4  # peak; warmed up over the first 2%, then a cosine down to 0
    ema_decay: float = 0.999
    grad_clip: float = 1.0
    flip: bool = False  # random horizontal flips
    precision: str = "bf16"  # of the forward and backward pass: bf16 | fp32; the weights stay fp32
    seed: int = 0
    device: str = "auto"
    save_every: int = 20_000  # images between two saves of the state, each with a grid of samples
    out: str = "outputs/train"

    def __post_init__(self) -> None:
        one_of(self.precision, ("bf16", "fp32"), "precision")
        for name in ("images", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay must lie in 0..1 (1 excluded), not {self.ema_decay}")


class Trainer:
    """The state of a training run: weights, their moving average, optimiser, steps taken."""

    def __init__(self, config: TrainConfig, model: ModelConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        self.network = models.UNet(model.network).to(device)
        _zero_residuals(self.network)
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
        t, eps = self._draw(x0)
        a = self.alphas_cumprod[t][:, None, None, None]
        x = a.sqrt() * x0 + (1 - a).sqrt() * eps
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            predicted, _ = self.network(x, t)
        loss = nn.functional.mse_loss(predicted.float(), eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.steps += 1
        # Early on the average must forget the initial weights: the usual (1 + n)/(10 + n) warm-up.
        decay = min(self.config.ema_decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)
        return loss.detach()

    def _draw(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps, antithetic as in ermongroup/ddim, and noise; from the step's own generator, so that an
        interrupted run goes on with the very draws it would have made."""
        generator = _generator(self.config.seed, self.steps)
        batch = len(x0)
        half = torch.randint(len(self.alphas_cumprod), (batch // 2 + 1,), generator=generator)
        t = torch.cat([half, len(self.alphas_cumprod) - 1 - half])[:batch]
        eps = torch.randn(x0.shape, generator=generator)
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # dropout
        return t.to(self.device), eps.to(self.device)

    def save(self, path: Path) -> None:
        state = {
            "config": json.dumps(asdict(self.config)),
            "steps": self.steps,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_atomically(path, lambda unfinished: torch.save(state, unfinished))

    def load(self, path: Path) -> None:
        """Goes on from a saved state. Raises InputError where it belongs to another configuration."""
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            raise InputError(f"{path} is not a readable training state ({error}); remove it to start anew") from error
        theirs, ours = json.loads(state["config"]), asdict(self.config)
        free = {"out", "device", "save_every"}
        changed = [key for key in ours if key not in free and theirs.get(key) != ours[key]]
        if changed:
            difference = ", ".join(f"{key} {theirs.get(key)} there, {ours[key]} here" for key in changed)
            raise InputError(f"{path.parent} holds another training run ({difference}); choose another out=FOLDER")
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seconds = state["steps"], state["seconds"]


def train(config: TrainConfig) -> Path:
    """Trains, or goes on training, in the folder config.out -> the finished checkpoint."""
    model = model_config(config.model)
    device = pick_device(config.device)
    images = open_images(config.data, "train", model.network.in_channels, model.network.resolution)
    out = Path(config.out)
    trainer = Trainer(config, model, device)
    if (out / "state.pt").exists():
        trainer.load(out / "state.pt")
    save_steps = max(1, config.save_every // config.batch_size)
    with tqdm(total=config.images, initial=trainer.steps * config.batch_size, unit="image", smoothing=0.02) as bar:
        while trainer.steps < trainer.total_steps:
            start = time.perf_counter()
            loss = trainer.train_step(_batch(images, config, trainer.steps, device))
            trainer.seconds += time.perf_counter() - start
            bar.update(config.batch_size)
            if trainer.steps % 20 == 0:
                bar.set_postfix(loss=f"{float(loss):.4f}")
            if trainer.steps % save_steps == 0 or trainer.steps == trainer.total_steps:
                trainer.save(out / "state.pt")
                samples = sample_grid(trainer.ema, model.diffusion, device)
                save_grid(samples, out / "samples" / f"{trainer.steps:07d}.png")
    record = {
        **asdict(config),
        "steps": trainer.steps,
        "hours": round(trainer.seconds / 3600, 2),
        "device": str(device),
        "torch": torch.__version__,
    }
    models.save(trainer.ema, out / "model.safetensors", diffusion=asdict(model.diffusion), training=record)
    return out / "model.safetensors"


@torch.no_grad()
def sample_grid(network: models.UNet, diffusion: DiffusionConfig, device: torch.device, count: int = 32) -> Tensor:
    """A few DDIM samples, always from the same seeds -> (count, C, H, W) in [-1, 1]."""
    config = network.config
    noise = ImageNoise(range(count), (config.in_channels, config.resolution, config.resolution), device)
    sampler = Sampler(SamplerConfig(steps=50), diffusion)
    *_, last = sampler.sample(lambda x, t: network(x, t)[0], noise(), noise)
    return last.x


def learning_rate_factor(step: int, total: int) -> float:
    """Linear warm-up over the first 2% of the steps, then a cosine down to 0."""
    warm_up = max(1, total // 50)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + torch.cos(torch.tensor((step - warm_up) / max(1, total - warm_up) * torch.pi)).item())


def _batch(images: Images, config: TrainConfig, step: int, device: torch.device) -> Tensor:
    """The images of one step in [-1, 1]. Every epoch is a permutation of its own; both follow from the step alone."""
    positions = range(step * config.batch_size, (step + 1) * config.batch_size)
    orders = {epoch: _epoch_order(len(images), config.seed, epoch) for epoch in {p // len(images) for p in positions}}
    batch = images.batch([int(orders[p // len(images)][p % len(images)]) for p in positions])
    x0 = batch.to(device).float() / 127.5 - 1
    if config.flip:
        flips = torch.rand(len(x0), generator=_generator(config.seed, step, "flip")) < 0.5
        x0 = torch.where(flips.to(device)[:, None, None, None], x0.flip(-1), x0)
    return x0


def _epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=_generator(seed, epoch, "epoch"))


def _generator(seed: int, index: int, purpose: str = "step") -> torch.Generator:
    streams = ("step", "epoch", "flip")
    return torch.Generator().manual_seed((seed * len(streams) + streams.index(purpose)) * 2**32 + index)


def _zero_residuals(network: models.UNet) -> None:
    """The last layer of every residual branch starts at zero (Ho et al. 2020, code): the network starts as the
    identity and trains without warm-up trouble."""
    for module in network.modules():
        if isinstance(module, models.blocks.ResBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, models.attention.SelfAttention):
            nn.init.zeros_(module.proj.weight)
    nn.init.zeros_(network.conv_out.weight)
