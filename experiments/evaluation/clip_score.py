"""CLIP scores: how well images fit their prompts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from tqdm import tqdm

from configs import InputError
from experiments.evaluation.extras import optional
from experiments.evaluation.sets import ImageSet
from experiments.prompts import read_prompts
from models.hub import reason

ARCHITECTURE = "ViT-g-14"
CLIP = f"{ARCHITECTURE}/laion2b_s34b_b88k"  # of the DeepCache paper
Scorer = Callable[[Tensor, Sequence[str]], Tensor]  # images (N, C, H, W) uint8 and N prompts -> (N,)


def load_clip(name: str, device: torch.device) -> Scorer:
    """100·cos of the embeddings of image and prompt, clipped at 0 (Hessel et al. 2021).

    name: ARCHITECTURE/WEIGHTS of open_clip, where WEIGHTS is a tag or a file; a file alone is one of ViT-g-14.
    Raises InputError where open_clip or the weights are not to be had.
    """
    open_clip = optional("open_clip", "eval", "CLIP scores need")
    architecture, weights = _parts(name)
    if architecture not in open_clip.list_models():
        raise InputError(f"open_clip knows no model {architecture!r}; name clip=ARCHITECTURE/WEIGHTS, {CLIP} "
                         "for one")  # fmt: skip
    logging.disable(logging.ERROR)  # retries of a download; what matters is in the exception
    try:
        network, _, prepare = open_clip.create_model_and_transforms(architecture, pretrained=weights, device=device)
    except Exception as error:  # its ways of saying that a download failed, or that a file is another network's
        raise InputError(f"the CLIP weights {name} cannot be had ({reason(error).split('. ')[0]}); name a file of "
                         f"{architecture} with clip=FILE") from error  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    network.eval()
    tokenize = open_clip.get_tokenizer(architecture)

    @torch.inference_mode()
    def score(images: Tensor, prompts: Sequence[str]) -> Tensor:
        pixels = torch.stack([prepare(to_pil_image(image.expand(3, -1, -1))) for image in images])
        image = network.encode_image(pixels.to(device), normalize=True)
        text = network.encode_text(tokenize(list(prompts)).to(device), normalize=True)
        return 100 * (image * text).sum(1).clamp(min=0).float().cpu()

    return score


def clip_score(images: ImageSet, prompts: Sequence[str], scorer: Scorer, batch_size: int) -> float:
    """The mean over the images. prompts: one for each of them."""
    values = []
    with tqdm(total=len(images), unit="image", desc=f"CLIP: {images.name}") as bar:
        for start in range(0, len(images), batch_size):
            batch = range(start, min(start + batch_size, len(images)))
            values.append(scorer(images.images.batch(batch), [prompts[i] for i in batch]))
            bar.update(len(batch))
    return torch.cat(values).double().mean().item()


def prompts_of(file: str | None, folder: Path, images: ImageSet) -> list[str]:
    """The prompt of every image.

    file: one prompt per line, where image i (its name, a seed, or its position) has line i modulo their number, as in
      sampling. None takes the prompts from the summary of the run that made the folder.
    Raises InputError where there are none.
    """
    if file is None:
        return _run_prompts(folder, images)
    prompts = read_prompts(file)
    return [prompts[index % len(prompts)] for index in images.indices]


def _run_prompts(folder: Path, images: ImageSet) -> list[str]:
    file = next((at / "summary.json" for at in (folder, *folder.parents[:1]) if (at / "summary.json").is_file()), None)
    if file is None:
        raise InputError(f"there is no summary.json with prompts in {folder}; name them with prompts=FILE")
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        config, conditions = summary["config"], summary["conditions"]
        had_prompts = config["prompt"] is not None or config["prompts"] is not None
        by_seed = dict(enumerate(conditions, config["seed"]))  # of the last run; the folder may hold others' images
        prompts = [by_seed[index] for index in images.indices]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} does not tell the prompts of these images; name them with prompts=FILE") from error
    if not had_prompts:
        raise InputError(f"the run of {file} had no prompts; CLIP scores are of images that were made from prompts")
    return prompts


def _parts(name: str) -> tuple[str, str]:
    if Path(name).expanduser().is_file():
        return ARCHITECTURE, str(Path(name).expanduser())
    architecture, slash, weights = name.partition("/")
    if not (architecture and slash and weights):
        raise InputError(f"clip must be a file or ARCHITECTURE/WEIGHTS, {CLIP} for one, not {name!r}")
    return architecture, weights
