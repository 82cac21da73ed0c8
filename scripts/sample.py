"""Samples images with and without the cache: python scripts/sample.py [CONFIG] [key=value ...]

CONFIG is a YAML file or its name in configs/ (default mnist32, the bundled digits). Examples:
  python scripts/sample.py
  python scripts/sample.py cifar10 checkpoint=FILE policy.interval=5 num_images=64
  python scripts/sample.py policy.name=nonuniform policy.center=20 policy.branch=1
  python scripts/sample.py compare=false policy.name=none sampler.steps=50
Lists compare: policy.interval=[2,3,5]. Images, a grid and a summary go to the folder `out`.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.run import SampleConfig, run

if __name__ == "__main__":
    main(lambda config: print(run(config)), SampleConfig, default="mnist32", doc=__doc__)
