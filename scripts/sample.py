"""Samples images with and without the cache: python scripts/sample.py [CONFIG] [key=value ...]

CONFIG is a YAML file or its name in configs/ (default mnist32, the bundled digits). Examples:
  python scripts/sample.py
  python scripts/sample.py cifar10 checkpoint=FILE policy.interval=5 num_images=64
  python scripts/sample.py policy.name=nonuniform policy.center=20 policy.branch=1
  python scripts/sample.py compare=false policy.name=none sampler.steps=50
  python scripts/sample.py num_images=50000 batch_size=250 storage=npz compare=false
  torchrun --nproc-per-node 2 scripts/sample.py num_images=1000
Lists compare: policy.interval=[2,3,5]. Images, a grid and a summary go to the folder `out`. A run that was broken off
goes on where it was when the same command is given again, with any number of processes; so does one with more images.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.runs.run import SampleConfig, run
from experiments.runs.world import is_first


def sample(config: SampleConfig) -> None:
    summary = run(config)
    if is_first():
        print(summary)


if __name__ == "__main__":
    main(sample, SampleConfig, default="mnist32", doc=__doc__, shared=True)
