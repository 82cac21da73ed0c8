"""A whole benchmark: its cases in turn, those that are missing, then table and plot."""

from __future__ import annotations

import sys

from tqdm import tqdm

from experiments.benchmark import plot, render
from experiments.benchmark.measure import about, measure
from experiments.benchmark.records import Records, identity
from experiments.benchmark.settings import BenchmarkConfig
from experiments.benchmark.workload import Workload
from experiments.images import save_figure
from models.files import check_writable, write_text


def run(config: BenchmarkConfig) -> str:
    """Measures the cases that are not in the file yet, and renders all of it -> the tables.

    Raises OSError, before the first measurement, where they cannot be written.
    """
    records = Records(config.file(".jsonl"))
    works = [Workload(case) for case in config.all_cases()]  # every case is checked before the first is measured
    check_writable(config.file(".jsonl"))
    for work in tqdm(works, desc="benchmark", unit="case", file=sys.stderr):
        digest = identity(work.case, about(work))
        if not records.has(digest):
            records.put(measure(work, digest))
            render_files(config, records)
    text = render_files(config, records)
    return f"{text}\n\n{config.file('.jsonl')}, .md and .png hold the measurements"


def render_files(config: BenchmarkConfig, records: Records) -> str:
    """Writes table and plot -> the table."""
    text = render.report(records.lines)
    write_text(config.file(".md"), text + "\n")
    save_figure(plot.figure(records.lines), config.file(".png"))
    return text
