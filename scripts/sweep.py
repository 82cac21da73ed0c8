"""Every combination of a grid of settings: python scripts/sweep.py [SWEEP] [key=value ...]

SWEEP is a YAML file or its name in configs/sweeps (default interval_branch, on the bundled digits). Any key of a
sampling run can be given, or varied below `grid`: in place of the default's grid, or beside that of a SWEEP which is
named.
  python scripts/sweep.py num_images=16
  python scripts/sweep.py interval_branch grid.policy.interval=[2,3,5] num_images=64 out=outputs/mine
  python scripts/sweep.py policy_forecaster
  python scripts/sweep.py model=cifar10 checkpoint=FILE grid.sampler.steps=[50,100] out=outputs/cifar10
  torchrun --nproc-per-node 2 scripts/sweep.py
Each combination is one JSON file in OUT/results: finished ones are not run again, so the same command goes on after an
interruption. Ends with status 1 where rows failed, after all others have run; they are tried again by the next call.
only_render=true makes OUT/report.html of what there is.
"""

from __future__ import annotations

from experiments.cli import end_if_rows_failed, main
from experiments.runs.world import is_first
from experiments.sweeps.sweep import SweepConfig, run


def sweep(config: SweepConfig) -> None:
    outcome = run(config)
    if is_first():
        print(outcome, flush=True)
    end_if_rows_failed(outcome.failures)


if __name__ == "__main__":
    default = {"default": "configs/sweeps/interval_branch.yaml", "replaced": {"grid": ["title", "out"]}}
    main(sweep, SweepConfig, **default, doc=__doc__, shared=True)
