"""Judges generated digits: python scripts/judge.py FOLDER [classifier=FILE]

For each folder of 32x32 images from FOLDER down (the output folder of scripts/sample.py, say): how many images the
classifier takes for a digit with a confidence above 0.9, its mean confidence, how many of each digit there are, and how
many are none. The last line is what it says of real test digits.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.judge import JudgeConfig, judge

if __name__ == "__main__":
    main(lambda config: print(judge(config)), JudgeConfig, argument="folder", doc=__doc__)
