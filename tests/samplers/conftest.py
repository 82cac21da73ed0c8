"""What the sampler tests share: a denoiser in closed form, the goldens' networks, and the references' noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import models
from samplers import DiffusionConfig


class Recorder:
    """A denoiser that records what it is asked, and a noise source in step with it.

    The references draw noise at every step, whether it has a weight or not; ours draw only where it has. Draw k is
    therefore the reference's draw at evaluation k.
    """

    def __init__(self, denoiser: Callable[..., Tensor], draw: Callable[[int], Tensor] | None = None) -> None:
        self.denoiser, self.draw = denoiser, draw
        self.timesteps: list[int] = []
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, *cond: Tensor) -> Tensor:
        self.timesteps.append(int(t[0]))
        self.batches.append(len(x))
        return self.denoiser(x, t, *cond)

    def noise(self) -> Tensor:
        assert self.draw is not None, "this run must not draw noise"
        return self.draw(len(self.timesteps) - 1)


@pytest.fixture
def recorder():
    return Recorder


@pytest.fixture
def toy_eps():
    """The closed-form eps of toy_samplers.npz."""

    def eps(x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        out = 0.8 * torch.tanh(x) + 0.05 * torch.cos(0.01 * t.float())[:, None, None, None]
        return out if cond is None else out + 0.1 * cond.mean(dim=(1, 2))[:, None, None, None]

    return eps


@pytest.fixture
def network(golden, tmp_path):
    """network("ddim_tiny16") is the denoiser (x, t, cond) -> network output with that golden's weights."""

    def load(name: str) -> Callable[..., Tensor]:
        file = golden(name)
        path = tmp_path / f"{name}.ckpt"
        torch.save(file.state_dict(), path)
        unet = models.load(path, None if name.startswith("ddim") else openai_config(file.config))
        return torch.inference_mode()(lambda x, t, cond=None: unet(x, t, cond)[0])

    return load


def openai_config(config: dict) -> dict:
    """A guided-diffusion or CompVis U-Net configuration in our terms."""
    heads = "head_channels" if config.get("num_head_channels") else "num_heads"
    levels = range(len(config["channel_mult"]))
    network = {
        "resolution": config["image_size"],
        "channels": config["model_channels"],
        "channel_mult": config["channel_mult"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "num_res_blocks": config["num_res_blocks"],
        "attention_levels": [level for level in levels if 2**level in config["attention_resolutions"]],
        heads: config["num_head_channels" if heads == "head_channels" else "num_heads"],
        "context_dim": config.get("context_dim"),
        "num_classes": config.get("num_classes"),
        "timestep_embedding": "cos_sin",
        "norm_eps": 1e-5,
        "downsample_padding": "symmetric",
        "resample": "resblock" if config.get("resblock_updown") else "conv",
        "scale_shift_norm": config.get("use_scale_shift_norm", False),
    }
    return {"network": network, "attention_order": "new" if config.get("use_new_attention_order") else "legacy"}


@pytest.fixture
def compvis():
    """compvis(0.0015, 0.0195) is the forward process of a CompVis model."""
    return lambda start, end: DiffusionConfig("scaled_linear", start, end, precision="rounded")


@pytest.fixture
def ermongroup():
    """The forward process of the DDPMs as ermongroup/ddim and DeepCache compute it."""
    return DiffusionConfig(precision="float32")


@pytest.fixture
def x_t():
    """Some x_T (2, 3, 8, 8)."""
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def draws():
    """Some noise, the same at every call for the same k: draws(k) (2, 3, 8, 8)."""
    return lambda k: torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1000 + k))
