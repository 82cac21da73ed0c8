"""Plain DDPM training with an exponential moving average of the weights, in a folder it can go on in."""

from __future__ import annotations

import functools
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import models
from configs import InputError
from experiments.data import Images, data_name, open_images
from experiments.images import save_grid
from experiments.model import ModelConfig, model_config, pick_device
from experiments.precision import emulation_warning
from experiments.training.trainer import STORES, TrainConfig, Trainer, generator, to_device
from models import reading
from samplers import DiffusionConfig, ImageNoise, Sampler, SamplerConfig

CHECKPOINT = reading.OURS  # beside the state
CHECK_STEPS = 20  # steps between two looks at the loss, for each of which a GPU must be waited for


def train(config: TrainConfig) -> Path:
    """Trains, or goes on training, in the folder config.out -> the finished checkpoint.

    The folder receives the state, model.safetensors and a grid of samples at every save, and where it is interrupted.
    Raises InputError for a model that cannot be trained, data that cannot be read, a folder that holds something else,
    and a loss that is no longer finite.
    """
    model = model_config(config.model)
    _check_trainable(model, config.model)
    device = pick_device(config.device)
    images = open_images(config.data, "train", model.network.in_channels, model.network.resolution)
    if sentence := emulation_warning(config.precision, device):
        print(f"{sentence}; precision=fp32 trains sooner", file=sys.stderr)
    out = Path(config.out)
    trainer = Trainer(config, model, len(images), device)
    if (out / "state.pt").exists():
        trainer.load(out / "state.pt")
    else:
        out.mkdir(parents=True, exist_ok=True)  # whether it can be shows now, and not at the first save
        if any(not path.name.startswith(".") for path in out.iterdir()):
            raise InputError(f"{out} exists and is not the folder of an earlier training; choose another out=FOLDER")
    save_steps = max(1, config.save_every // config.batch_size)
    progress = tqdm(total=config.images, initial=trainer.steps * config.batch_size, unit="image", smoothing=0.02)
    with progress as bar, interruption() as is_asked:
        while trainer.steps < trainer.total_steps:
            start = time.perf_counter()
            loss = trainer.train_step(batch(images, config, trainer.steps, device))
            bar.update(config.batch_size)
            save = trainer.steps % save_steps == 0 or trainer.steps == trainer.total_steps or is_asked()
            if save or trainer.steps % CHECK_STEPS == 0:
                _check_finite(float(loss), trainer)  # waits for a GPU to be done with the steps since the last
                bar.set_postfix(loss=f"{float(loss):.4f}")
            trainer.seconds += time.perf_counter() - start
            if save:
                _save(trainer, out)
            if is_asked():
                raise KeyboardInterrupt
    _save_checkpoint(trainer, out)  # also where there was nothing left to train: `store` may be another
    return out / CHECKPOINT


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Within it an interruption (Ctrl-C, or SIGTERM) can be asked about, and stops nothing; a second one does."""
    asked: list[int] = []

    def take_note(number: int, frame: object) -> None:
        asked.append(number)
        for one in before:
            signal.signal(one, before[one])

    is_main = threading.current_thread() is threading.main_thread()  # no other may
    before = {one: signal.signal(one, take_note) for one in (signal.SIGINT, signal.SIGTERM) if is_main}
    try:
        yield lambda: bool(asked)
    finally:
        for one in before:
            signal.signal(one, before[one])


def _save(trainer: Trainer, out: Path) -> None:
    trainer.save(out / "state.pt")
    _save_checkpoint(trainer, out)
    samples = sample_grid(trainer.ema, trainer.model.diffusion, trainer.device)
    save_grid(samples, out / "samples" / f"{trainer.steps:07d}.png")


def _save_checkpoint(trainer: Trainer, out: Path) -> None:
    records = {"diffusion": asdict(trainer.model.diffusion), "training": _record(trainer)}
    models.save(trainer.ema, out / CHECKPOINT, dtype=STORES[trainer.config.store], **records)


@torch.no_grad()
def sample_grid(network: models.UNet, diffusion: DiffusionConfig, device: torch.device, count: int = 32) -> Tensor:
    """A few DDIM samples, always from the same seeds -> (count, C, H, W) in [-1, 1]."""
    config = network.config
    noise = ImageNoise(range(count), (config.in_channels, config.resolution, config.resolution), device)
    sampler = Sampler(SamplerConfig(steps=min(50, diffusion.num_timesteps)), diffusion)
    *_, last = sampler.sample(lambda x, t: network(x, t)[0], noise(), noise)
    return last.x


def batch(images: Images, config: TrainConfig, step: int, device: torch.device) -> Tensor:
    """The images of one step -> (batch_size, C, H, W) in [-1, 1].

    Every epoch is a permutation of its own; an image's place in it, and its flip, follow from the step alone.
    """
    positions = range(step * config.batch_size, (step + 1) * config.batch_size)
    places = [divmod(position, len(images)) for position in positions]
    pixels = images.batch([int(_epoch_order(len(images), config.seed, epoch)[place]) for epoch, place in places])
    x0 = to_device(pixels, device).float() / 127.5 - 1
    if config.flip:
        flips = torch.rand(len(x0), generator=generator(config.seed, "flip", step)) < 0.5
        x0 = torch.where(to_device(flips, device)[:, None, None, None], x0.flip(-1), x0)
    return x0


@functools.lru_cache(maxsize=2)
def _epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=generator(seed, "epoch", epoch))


def _check_trainable(model: ModelConfig, name: str) -> None:
    network = model.network
    if network.context_dim or network.num_classes:
        raise InputError(f"{name} is a conditional network; only unconditional ones are trained here")
    if network.out_channels != network.in_channels:
        raise InputError(f"{name} has {network.in_channels} channels in but {network.out_channels} out; only networks "
                         "that predict the noise alone are trained here")  # fmt: skip


def _check_finite(loss: float, trainer: Trainer) -> None:
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} after step {trainer.steps}; start anew in another out=FOLDER, "
                         "with a lower learning_rate or precision=fp32")  # fmt: skip


def _record(trainer: Trainer) -> dict[str, Any]:
    """What the checkpoint says of its training: all that was done so far, but not where things lay."""
    config = trainer.config
    return {
        **{key: value for key, value in asdict(config).items() if key not in ("out", "save_every")},
        "model": Path(config.model).stem,
        "data": data_name(config.data),
        "init": _start(trainer.network.provenance),
        "images": min(config.images, trainer.steps * config.batch_size),
        "steps": trainer.steps,
        "hours": round(trainer.seconds / 3600, 2),
        "device": str(trainer.device),
        "torch": torch.__version__,
    }


def _start(init: models.Provenance) -> str | dict[str, Any]:
    """Where the weights came from, with the record of the training that was behind them."""
    if init.file is None:
        return init.source
    return {"sha256": init.sha256, "training": init.records.get("training")}
