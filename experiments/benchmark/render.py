"""The tables: times, and ratios side by side. They are made of the JSON lines alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from experiments.benchmark.records import Record
from experiments.reports.tables import markdown
from experiments.runs.memory import in_words

LEGEND = (
    "time: median of the rounds ± half the distance between quartiles. of peak: floating-point operations per second, "
    "as a share of what the best of a plain convolution and a matrix product reached in the same rounds; above 100% "
    "where an algorithm does with fewer multiplications than are counted. x ...: how many times as fast as that "
    "variant, peers in the same precision. time / MACs: of the full pass (of uncached sampling) of the same variant; "
    "over: their quotient, 1 where every MAC saved is time saved. Ratios are taken round by round, and their median is "
    "shown. error: largest difference to the first variant, relative to its largest output. memory: peak with the "
    "weights, of the first of its tasks; store: cached features."
)


def report(records: Sequence[Record]) -> str:
    """Every case's table."""
    cases = dict.fromkeys(record["case"] for record in records)
    parts = [case_table([record for record in records if record["case"] == case]) for case in cases]
    return "\n\n".join([*parts, LEGEND])


def case_table(records: Sequence[Record]) -> str:
    """What was measured of one case."""
    first = records[0]
    rows = [record for record in records if "engine" in record]
    lines = [f"### {first['case']}", "", conditions(first), ""]
    ceilings = [record for record in records if record["variant"] == "attainable"]
    lines += [f"- attainable in {c['precision']}: {c['flops'] / 1e9:.0f} GFLOP/s ({c['what']})" for c in ceilings]
    lines += [f"- {record['variant']} left out: {record['skipped']}" for record in records if "skipped" in record]
    if not rows:
        return "\n".join(lines)
    peers = [peer for peer in baselines(rows) if any(ratio_to(row, peer, rows) for row in rows)]
    header = ["", "variant", "time", "GFLOP/s", "of peak", *(f"x {peer}" for peer in peers), "time / MACs", "over",
              "error", "memory", "store"]  # fmt: skip
    whats = dict.fromkeys(row["what"] for row in rows)
    ordered = [row for what in whats for row in rows if row["what"] == what]
    table = markdown([header, *(_cells(row, peers, rows) for row in ordered)])
    return "\n".join([*lines, "", *table])


def conditions(record: Record) -> str:
    """What the figures of a case depend on, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    tf32 = ", TF32 convolutions" if record["tf32"] else ""
    threads = f"{record['threads']} thread{'s' * (record['threads'] > 1)}, " if record["threads"] else ""
    return f"{record['hardware']}, {threads}{record['clock']}{tf32}; {versions}; checkpoint {record['checkpoint']}."


def baselines(rows: Sequence[Record]) -> list[str]:
    """What the others are laid beside: the first variant, and every peer (compiled or not) in their own precision."""
    names = [rows[0]["variant"]]
    for row in rows:
        peer = unprecise(row)
        if row["engine"] in ("diffusers", "deepcache") and peer not in names:
            names.append(peer)
    return names


def ratio_to(row: Record, baseline: str, rows: Sequence[Record]) -> float | None:
    """How many times as fast as `baseline` at the same task. The first variant is compared with as it is, peers in
    the precision of the row. None where there is nothing to compare."""
    for other in rows:
        same_task = other["what"] == row["what"]
        is_first = other["variant"] == baseline == rows[0]["variant"]
        is_peer = unprecise(other) == baseline and other["precision"] == row["precision"]
        if same_task and (is_first or is_peer) and other["variant"] != row["variant"]:
            return time_ratio(other, row)
    return None


def partial_ratios(row: Record, rows: Sequence[Record]) -> tuple[float, float] | None:
    """Time and MACs of a partial pass (a cached trajectory) over the full one's of the same variant; None where there
    is none."""
    for other in rows:
        if other["what"] == row["full"] and other["variant"] == row["variant"]:
            return time_ratio(row, other), row["macs"] / other["macs"]
    return None


def time_ratio(row: Record, other: Record) -> float:
    """The time of `row` over that of `other`: the median over the rounds, in each of which both were measured. The
    ratio of two medians may lay a slow moment of the machine beside a quick one."""
    return median(mine / theirs for mine, theirs in zip(row["times"], other["times"], strict=True))


def unprecise(row: Record) -> str:
    """A variant's name without its precision."""
    return row["variant"].removesuffix(f" {row['precision']}")


def _cells(row: Record, peers: Sequence[str], rows: Sequence[Record]) -> list[str]:
    ratios = partial_ratios(row, rows)
    return [
        row["what"],
        row["variant"],
        f"{duration(row['seconds'])} ± {row['spread'] / 2 / row['seconds']:.0%}",
        f"{row['flops'] / 1e9:.0f}",
        f"{row['share']:.0%}",
        *(f"{ratio:.2f}" if (ratio := ratio_to(row, peer, rows)) else "" for peer in peers),
        f"{ratios[0]:.3f} / {ratios[1]:.3f}" if ratios else "",
        f"{ratios[0] / ratios[1]:.2f}" if ratios else "",
        f"{row['error']:.0e}" if row["error"] else "0",
        in_words(row["peak_bytes"]) if row["peak_bytes"] else "",
        in_words(row["store_bytes"]) if row["store_bytes"] else "",
    ]


def duration(seconds: float) -> str:
    """1.234 s, 56.7 ms"""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
