"""How x at the next timestep is made from eps."""

from samplers.contract import Denoiser, Noise, Step
from samplers.ddim import ddim
from samplers.ddpm import ddpm
from samplers.noise import ImageNoise
from samplers.plms import plms
from samplers.sampler import Sampler, SamplerConfig
from samplers.schedule import DiffusionConfig
from samplers.timetable import Timetable, timetable

__all__ = [
    "ddim", "ddpm", "plms",
    "Denoiser", "DiffusionConfig", "ImageNoise", "Noise", "Sampler", "SamplerConfig", "Step", "Timetable", "timetable",
]  # fmt: skip
