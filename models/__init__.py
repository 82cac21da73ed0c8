"""The networks: one U-Net with explicit skip branches for every public family, and how its weights are read."""

from models.checkpoint import Provenance, load, random
from models.config import UNetConfig
from models.native import save
from models.unet import UNet

__all__ = ["Provenance", "UNet", "UNetConfig", "load", "random", "save"]
