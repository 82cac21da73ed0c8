"""Trains a DDPM: python scripts/train.py configs/train/mnist32.yaml [key=value ...]

Stops and goes on at will: the same command resumes from the folder `out`, which also receives a grid of samples at
every save and, at the end, model.safetensors.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.train import TrainConfig, train


def run(config: TrainConfig) -> None:
    print(f"wrote {train(config)}")


if __name__ == "__main__":
    main(run, TrainConfig, default="configs/train/mnist32.yaml", doc=__doc__)
