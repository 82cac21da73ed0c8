"""Speed and memory of the passes and of sampling: python scripts/benchmark.py [BENCHMARK] [key=value ...]

BENCHMARK is a file of configs/benchmarks (default mnist32): a model, or the suites cpu and gpu. Variants are measured
in turn, against each other, against installed peers (pip install -e ".[peers]") and against what a plain convolution
reaches. Results are JSON lines in the folder `out`; cases that are there are not measured again. Examples:
  python scripts/benchmark.py
  python scripts/benchmark.py cifar10 batch_size=[8,32] threads=1
  python scripts/benchmark.py run=lsun_church batch_size=4 'variants=[plain, plain bf16, diffusers]'
  python scripts/benchmark.py gpu
"""

from __future__ import annotations

from experiments.benchmark.settings import BenchmarkConfig
from experiments.benchmark.suite import run
from experiments.cli import main

if __name__ == "__main__":
    main(lambda config: print(run(config)), BenchmarkConfig, default="configs/benchmarks/mnist32.yaml", doc=__doc__)
