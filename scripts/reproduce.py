"""The paper's tables beside ours: python scripts/reproduce.py TABLE [key=value ...]

TABLE is table1 … table14 (configs/tables) or --all. Examples:
  python scripts/reproduce.py --all --cost-only              MACs and theoretical speed-ups of every row, no checkpoints
  python scripts/reproduce.py table2 sections=["CIFAR-10 32x32"] data=cifar10
  python scripts/reproduce.py table2 checkpoint=random batch_size=4         costs and times on random weights
  python scripts/reproduce.py table3 prompts=FILE sections=["COCO 2017"]
  python scripts/reproduce.py table12 model=mnist32 num_images=256          the same experiment on the bundled digits
  torchrun --nproc-per-node 8 scripts/reproduce.py table1 data=STATISTICS.npz
Rows are run once: each leaves OUT/results/KEY.json, and the same command goes on after an interruption. The tables go
to OUT (outputs/tables) as .md, .csv, .tex and one .html page, images to `samples` (outputs/samples). Ends with status 1
where rows failed, after all others have run; they are tried again by the next call.
"""

from __future__ import annotations

from experiments.cli import end_if_rows_failed, main
from experiments.paper.reproduce import ReproduceConfig, reproduce
from experiments.reports.tables import sheet_markdown
from experiments.runs.world import is_first


def run(config: ReproduceConfig) -> None:
    made = reproduce(config)
    if is_first():
        print("\n".join(sheet_markdown(table.sheet) for table in made))
        print(f"the same as .md, .csv and .tex, and one page to look at, are in {config.out}", flush=True)
    end_if_rows_failed({name: sentence for table in made for name, sentence in table.failures.items()})


if __name__ == "__main__":
    main(run, ReproduceConfig, argument="table", doc=__doc__, shared=True)
