"""What tests of experiments share."""

from pathlib import Path

import pytest


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """The file of a model so small that a pass takes a millisecond."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "network: {resolution: 16, channels: 32, channel_mult: [1, 2], num_res_blocks: 1, attention_levels: [1]}\n"
        "diffusion: {num_timesteps: 1000}\n"
    )
    return str(path)
