"""The picture of a comparison: the same seeds under every policy, above each other, with their differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from experiments.images import to_image
from models.files import write_atomically

GAINS = (64, 32, 16, 8, 4, 2, 1)  # differences are small: they are shown so many times brighter
SATURATED = 0.02  # share of a row that may come out brighter than can be shown
LABEL_WIDTH, MARGIN, GAP, SMALLEST_CELL, LARGEST_CELL = 190, 8, 4, 64, 256
COLUMNS = 8  # images shown


def save_comparison(runs: Sequence[tuple[str, Tensor]], first_is_reference: bool, path: Path) -> None:
    """Writes one PNG: a row of images (N, C, H, W) uint8 per run, and below each run but the reference a row of
    |difference| to it. All differences are brightened alike, as much as the largest of them allow."""
    (first, reference), *others = runs
    rows = [(first, reference)]
    differences = [(images.int() - reference.int()).abs() for _, images in others] if first_is_reference else []
    gain = _gain(differences)
    for i, (name, images) in enumerate(others):
        rows.append((name, images))
        if differences:
            rows.append((f"|difference| x {gain}", (differences[i] * gain).clamp(max=255).to(torch.uint8)))
    write_atomically(path, lambda unfinished: _draw(rows).save(unfinished, format="png"))


def _gain(differences: Sequence[Tensor]) -> int:
    """The largest gain at which hardly anything of any row is saturated."""

    def is_fine(gain: int) -> bool:
        return all((row * gain > 255).float().mean() <= SATURATED for row in differences)

    return next((gain for gain in GAINS if is_fine(gain)), GAINS[-1])


def _draw(rows: Sequence[tuple[str, Tensor]]) -> Image.Image:
    count, (height, width) = len(rows[0][1]), rows[0][1].shape[-2:]
    # Small images are enlarged by a whole number, pixel by pixel; large ones shrink.
    scale = max(1, -(-SMALLEST_CELL // width)) if width <= LARGEST_CELL else LARGEST_CELL / width
    cell_height, cell = round(height * scale), round(width * scale)
    canvas = Image.new("RGB", (LABEL_WIDTH + count * (cell + GAP), len(rows) * (cell_height + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for r, (name, images) in enumerate(rows):
        top = GAP + r * (cell_height + GAP)
        draw.text((MARGIN, top + cell_height // 2), _wrap(name, font), fill="black", font=font, anchor="lm")
        for c, image in enumerate(images):
            picture = to_image(image).convert("RGB")
            how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
            picture = picture.resize((cell, cell_height), how)
            canvas.paste(picture, (LABEL_WIDTH + c * (cell + GAP), top))
    return canvas


def _wrap(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As many words to a line as fit beside the images."""
    lines: list[str] = []
    for word in name.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= LABEL_WIDTH - 2 * MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
