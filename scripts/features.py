"""Draws how features drift over a trajectory: python scripts/features.py [CONFIG] [key=value ...]

CONFIG is as for scripts/sample.py. Writes similarity.png (the paper's figure 2: cosine similarity of a branch's
features between all pairs of steps, and between neighbours) and drift.png (relative change per branch) into the folder
`out`.
  python scripts/features.py
  python scripts/features.py cifar10 checkpoint=FILE branches=[0,2,5,11] num_images=4
"""

from __future__ import annotations

from experiments.cli import main
from experiments.planning.features import FeaturesConfig, draw_features

if __name__ == "__main__":
    main(lambda config: print(draw_features(config)), FeaturesConfig, default="mnist32", doc=__doc__)
