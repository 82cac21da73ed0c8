"""Packs samples into one .npz of OpenAI's evaluator: python scripts/collect.py FOLDER out=FILE.npz

FOLDER holds images or .npz shards, or is the output folder of a run of scripts/sample.py with one set of images. The
file holds arr_0 (N, H, W, C) uint8, in the order of the seeds, and of class-conditional models arr_1 (N,), the labels.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.runs.collect import CollectConfig, collect

if __name__ == "__main__":
    main(lambda config: print(collect(config)), CollectConfig, argument="folder", doc=__doc__)
