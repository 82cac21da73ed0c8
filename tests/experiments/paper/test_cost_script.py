"""scripts/cost.py: every branch under all its names, and what cannot be priced is refused."""

import pytest

from configs import InputError
from experiments.paper.cost import CostConfig, report


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_branch_stands_under_its_number_in_the_paper_and_in_the_released_code():
    text = report(CostConfig("configs/models/cifar10.yaml"))
    assert cells(text, "full")[:5] == ["full", "", "", "6.0655", "6.0655"]
    assert cells(text, "branch 0")[1:4] == ["1", "", "0.4956"]  # the released code cannot reach it
    assert cells(text, "branch 2")[1:5] == ["3", "1", "2.2449", "1.9135"]  # the last with the split


def test_where_the_paper_deviates_from_its_own_rule_is_said():
    (line,) = [line for line in report(CostConfig("cifar10")).splitlines() if "deviates" in line]
    assert line.endswith("at: table12, m=6; table12, m=7; table12, m=8.")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps and intervals must be at least 1"),
        ({"intervals": [2, 0]}, "steps and intervals must be at least 1"),
        ({"intervals": []}, "intervals must name at least one"),
    ],
)
def test_what_means_nothing_is_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        CostConfig(**change)
