"""Finds the plan that ends nearest to the uncached images: python scripts/calibrate.py [CONFIG] [key=value ...]

CONFIG is as for scripts/sample.py; budget= is the plan's MACs as a fraction of the uncached ones (default: what its
policy costs, of several the first). Examples:
  python scripts/calibrate.py budget=0.35
  python scripts/calibrate.py policy.interval=5 policy.branch=1
  python scripts/calibrate.py policy.interval=5 policy.branch=1 import=FILE.py forecasters=[damped]
  python scripts/calibrate.py cifar10 checkpoint=FILE budget=0.4 seeds=32 branches=[-1,0,1,2]
The plan goes to plans/ (or plan=FILE); what was measured is kept beside it, so a run that was broken off goes on. It
takes about ten minutes for 100 steps of the bundled digits on two cores, and in proportion to seeds, steps and budget.
Then, on other seeds:
  python scripts/frontier.py plans=plans out=outputs/frontier     compares it with everything else at its cost
  python scripts/sample.py policy=plans/FILE.json                 samples with it
"""

from __future__ import annotations

from experiments.cli import main
from experiments.planning.calibration import calibrate
from experiments.planning.search import CalibrateConfig

if __name__ == "__main__":
    main(lambda config: print(calibrate(config)), CalibrateConfig, default="mnist32", doc=__doc__)
