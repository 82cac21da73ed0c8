"""Judges generated digits: python scripts/judge.py FOLDER [data=mnist] [classifier=FILE]

For each folder of 32x32 images from FOLDER down (the output folder of scripts/sample.py, say): how many images the
classifier takes for a digit with a confidence above 0.9, its mean confidence, the Fréchet distance of the set to the
real test digits of `data` in the classifier's features, how many of each digit there are, and how many are none. The
last row is what it says of real test digits. data: mnist (downloaded into ./data), an .npz file or an image folder;
without it there are no distances.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.evaluation.judge import JudgeConfig, judge

if __name__ == "__main__":
    main(lambda config: print(judge(config)), JudgeConfig, argument="folder", doc=__doc__)
