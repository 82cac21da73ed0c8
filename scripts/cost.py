"""MACs of the full pass and of every branch: python scripts/cost.py [MODEL] [key=value ...]

MODEL is a file of configs/models (default mnist32). Examples:
  python scripts/cost.py configs/models/cifar10.yaml
  python scripts/cost.py configs/models/lsun256.yaml steps=50 intervals=[2,5]
"""

from __future__ import annotations

from experiments.cli import main
from experiments.paper.cost import CostConfig, report

if __name__ == "__main__":
    main(lambda config: print(report(config)), CostConfig, default="configs/models/mnist32.yaml", doc=__doc__)
