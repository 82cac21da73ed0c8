"""Measures samples: python scripts/evaluate.py FOLDER [reference=...] [against=...] [metrics=[...]] [key=value ...]

FOLDER holds images (each sub-folder is a set of its own), or is an .npz of them in arr_0. Examples:
  python scripts/evaluate.py FOLDER reference=cifar10 statistics=cifar10_train.npz
  python scripts/evaluate.py FOLDER reference=VIRTUAL_imagenet256_labeled.npz metrics=[fid,sfid,is,prc]
  python scripts/evaluate.py FOLDER reference=lsun:church_outdoor_train_lmdb metrics=[fid]
  python scripts/evaluate.py FOLDER against=OTHER metrics=[psnr,ssim,lpips]
  python scripts/evaluate.py FOLDER metrics=[clip]
  torchrun --nproc-per-node 4 scripts/evaluate.py FOLDER reference=cifar10
metrics: fid, sfid, is, kid, prc (precision and recall), fd (the Fréchet distance in another network's features,
  features=FILE), psnr, ssim, lpips (to the images of the same name in against=), clip.
reference: an .npz of statistics (pytorch-fid's or OpenAI's) or of images, an image folder, cifar10, mnist,
  lsun:FOLDER; split=train or test.
inception=FILE: torch-fidelity's weights; else they are downloaded.
The table is printed and added to the list in FOLDER.metrics.json, with all definitions, digests and versions; there it
takes the place of what was measured before by the same words.
"""

from __future__ import annotations

from experiments.cli import main
from experiments.evaluation.evaluate import EvaluateConfig, evaluate
from experiments.runs.world import is_first


def measure(config: EvaluateConfig) -> None:
    result = evaluate(config)
    if is_first():
        print(result, flush=True)  # first: it is not lost where the file cannot be written
        result.save()
        print(f"written to {result.file}")


if __name__ == "__main__":
    main(measure, EvaluateConfig, argument="folder", doc=__doc__, shared=True)
