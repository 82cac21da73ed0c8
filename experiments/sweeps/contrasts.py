"""What one setting of a sweep changes, everything else being equal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.rows.measures import Measure

HEADER = ["setting", "value", "instead of", "pairs", "better in", "median", "from", "to"]


@dataclass(frozen=True)
class Contrast:
    """One value of an axis beside the first one: rows that differ in nothing else are a pair."""

    axis: str
    value: str
    first: str
    differences: Sequence[float]  # of the measure, one per pair, ascending

    def cells(self, measure: Measure) -> list[str]:
        """A table's row, under HEADER."""
        better = sum(difference < 0 if measure.lower_is_better else difference > 0 for difference in self.differences)
        ends = (statistics.median(self.differences), self.differences[0], self.differences[-1])
        texts = [format(end * measure.scale, f"+{measure.form}") for end in ends]
        return [self.axis, self.value, self.first, str(len(self.differences)), str(better), *texts]


def contrasts(axes: Mapping[str, Sequence[str]], found: Mapping[frozenset[tuple[str, str]], float]) -> list[Contrast]:
    """axes: name -> values. found: the measure of every row that has it, by its place: {(axis, value), ...}."""
    made = []
    for axis, (first, *others) in axes.items():
        for value in others:
            here = {place - {(axis, value)}: number for place, number in found.items() if (axis, value) in place}
            pairs = [(number, found.get(rest | {(axis, first)})) for rest, number in here.items()]
            differences = sorted(number - base for number, base in pairs if base is not None)
            if differences:
                made.append(Contrast(axis, value, first, differences))
    return made
