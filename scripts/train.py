"""Trains a DDPM: python scripts/train.py [CONFIG] [key=value ...]

CONFIG is a YAML file or its name in configs/train (default mnist32, the bundled digits). Examples:
  python scripts/train.py
  python scripts/train.py cifar10_small
  python scripts/train.py mnist32 data=FOLDER_OR_NPZ images=100000 out=outputs/mine
Stops and goes on at will: the same command resumes from the folder `out`, which at every save also receives
model.safetensors, as far as it is, and a grid of samples.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.training.train import train
from experiments.training.trainer import TrainConfig

if __name__ == "__main__":
    main(lambda config: print(f"wrote {train(config)}"), TrainConfig, default="configs/train/mnist32.yaml", doc=__doc__)
