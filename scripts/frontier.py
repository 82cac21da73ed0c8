"""Error against MACs for every policy and forecaster: python scripts/frontier.py [key=value ...]

Evaluates the calibrated plans in the folder `plans` against fewer steps, published schedules and every forecaster, on
seeds that no plan was calibrated on. Results are kept in OUT/rows, one file per row, and only missing rows are run;
OUT/frontier.md and OUT/frontier.png are made from them.
  python scripts/frontier.py
  python scripts/frontier.py plans=my/plans num_images=64 out=my/frontier
"""

from __future__ import annotations

from experiments.cli import main
from experiments.planning.frontier import Frontier, FrontierConfig

if __name__ == "__main__":
    main(lambda config: print(Frontier(config).run()), FrontierConfig, doc=__doc__)
