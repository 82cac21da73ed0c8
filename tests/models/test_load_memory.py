"""Loading never holds two copies of the weights: what the file maps is what the network computes with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from public_names import DDPM_OPTIONS, pesser, unet
from safetensors.torch import save_file

import models
from models import UNetConfig

TINY = {"resolution": 32, "channels": 32, "channel_mult": [1, 2], "attention_levels": [1]}

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory is looked at through /proc")


def mapped(path):
    """The ranges of addresses at which a file is mapped into this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            start, end = line.split()[0].split("-")
            yield range(int(start, 16), int(end, 16))


def write_own(path):
    models.save(models.load("random", TINY), path)


def write_pesser(path):
    torch.save(pesser(unet([32, 64], [1], **DDPM_OPTIONS).state_dict(), 2), path)


def write_pesser_safetensors(path):
    save_file(pesser(unet([32, 64], [1], **DDPM_OPTIONS).state_dict(), 2), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("own.safetensors", write_own), ("model.ckpt", write_pesser), ("model.safetensors", write_pesser_safetensors)],
)
def test_the_weights_lie_in_the_mapped_file(tmp_path, name, write):
    write(tmp_path / name)
    network = models.load(tmp_path / name)
    ranges = list(mapped(tmp_path / name))
    outside = [name for name, parameter in network.named_parameters()
               if not any(parameter.data_ptr() in addresses for addresses in ranges)]  # fmt: skip
    # Only q, k and v of public files, which become one tensor, have to be copied.
    assert all(".qkv." in name for name in outside)
    assert bool(outside) == (write is not write_own)


# Prints by how many bytes loading and reading every weight once raised the peak of the resident memory.
SCRIPT = """
import sys
from pathlib import Path
import models

def memory(which):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024

before = memory("VmRSS")
network = models.load(sys.argv[1])
for parameter in network.parameters():
    parameter.sum()
print(memory("VmHWM") - before)
"""


def test_the_weights_are_in_memory_once(tmp_path):
    with torch.device("meta"):
        network = models.UNet(UNetConfig(resolution=32, channels=160, channel_mult=[1, 2, 2, 2], attention_levels=[1]))
    path = tmp_path / "large.safetensors"
    models.save(network.to_empty(device="cpu"), path)
    size = path.stat().st_size
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, path], env=environment, capture_output=True, text=True, check=True
    )
    path.unlink()
    assert size > 200e6
    assert 0.9 * size < int(result.stdout) < 1.5 * size  # below: the weights were not read, and nothing was measured
