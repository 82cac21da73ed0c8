"""Error against MACs for every policy and forecaster: python scripts/frontier.py [key=value ...]

Evaluates calibrated plans against fewer steps, published schedules and every forecaster, and ideas of your own against
all of them, on seeds that no plan was calibrated on. Only rows that are missing are run: those of docs/frontier are
there, and without more to measure it takes seconds. OUT/frontier.md and OUT/frontier.png are made from them.
  python scripts/frontier.py
Your own policies and forecasters, in the settings of the plans there (100, 50 and 20 steps), at their own MACs:
  python scripts/frontier.py import=FILE.py out=outputs/frontier \\
      'also=[{policy: {name: uniform, interval: [3,5,10], branch: 1}, forecaster: damped}, {policy: warmup}]'
On two cores that is ten minutes for the uncached images and the exact solution, which are kept, and about three for
every policy. A part of the settings is quicker, e.g. with 'plans=docs/frontier/plans/ddim20-*'.
Plans that scripts/calibrate.py found, among everything else at their cost:
  python scripts/frontier.py plans=plans out=outputs/frontier
For a budget that docs/frontier has, as after scripts/calibrate.py policy.interval=5 policy.branch=1 (or 3, or 10), all
but the plan is there; for another everything has to be run, twenty minutes for 100 steps. As one of yours it stands
beside the stored rows in any case:
  python scripts/frontier.py 'also=[{policy: plans/FILE.json}]' out=outputs/frontier
"""

from __future__ import annotations

from experiments.cli import main
from experiments.planning.frontier import Frontier, FrontierConfig

if __name__ == "__main__":
    main(lambda config: print(Frontier(config).run()), FrontierConfig, doc=__doc__)
