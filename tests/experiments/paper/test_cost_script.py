"""scripts/cost.py: what cannot be priced is refused."""

import pytest

from configs import InputError
from experiments.paper.cost import CostConfig


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
