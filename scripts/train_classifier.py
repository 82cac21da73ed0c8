"""Trains the classifier that judges digits: python scripts/train_classifier.py [data=mnist|FILE.npz] [key=value ...]

Two to three minutes on one CPU core; writes `out` with the architecture, the training record and the test accuracy.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.training.train_classifier import TrainClassifierConfig, train_classifier


def run(config: TrainClassifierConfig) -> None:
    network = train_classifier(config)
    print(f"wrote {config.out}: {network.record['test_accuracy']:.2%} of the test images right")


if __name__ == "__main__":
    main(run, TrainClassifierConfig, doc=__doc__)
