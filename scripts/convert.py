"""Writes any supported U-Net checkpoint as our own safetensors: python scripts/convert.py CHECKPOINT out=FILE

The file carries the network's configuration, so that it loads without naming one. Examples:
  python scripts/convert.py ema_cifar10 model=cifar10 out=cifar10.safetensors
  python scripts/convert.py v1-5-pruned-emaonly.safetensors model=sd_v1 precision=fp16 out=sd_v1.safetensors
"""

from __future__ import annotations

from experiments.cli import main
from experiments.convert import ConvertConfig, convert

if __name__ == "__main__":
    main(lambda config: print(convert(config)), ConvertConfig, argument="checkpoint", doc=__doc__)
