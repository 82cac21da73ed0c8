"""The networks: one U-Net with explicit skip branches for every public family, what surrounds it in latent diffusion,
and how their weights are read."""

from models.autoencoder import KLFirstStage, VQFirstStage, first_stage
from models.checkpoint import Provenance, from_diffusers, load, random
from models.conditioning import ClassEmbedder, ConditioningConfig
from models.config import FirstStageConfig, UNetConfig
from models.fast_unet import FastUNet, SplitUNet, fast
from models.feature import Feature
from models.known import PartsConfig
from models.native import save
from models.parts import Parts, load_conditioner, load_first_stage, load_parts
from models.text_encoder import TextEncoder
from models.unet import UNet

__all__ = [
    "fast", "from_diffusers", "load", "load_conditioner", "load_first_stage", "load_parts", "random", "save",
    "ClassEmbedder", "FastUNet", "Feature", "KLFirstStage", "Parts", "Provenance", "SplitUNet", "TextEncoder", "UNet",
    "VQFirstStage", "first_stage",
    "ConditioningConfig", "FirstStageConfig", "PartsConfig", "UNetConfig",
]  # fmt: skip
