"""experiments/model.py: which device is meant."""

import pytest
import torch

from configs import InputError
from experiments.model import pick_device


def test_a_device_that_is_not_here_ends_in_one_short_sentence():
    if torch.backends.mps.is_available():
        pytest.skip("it is here")
    with pytest.raises(InputError) as raised:
        pick_device("mps")
    assert str(raised.value).startswith("device 'mps' cannot be used here (")
    assert len(str(raised.value)) < 200
