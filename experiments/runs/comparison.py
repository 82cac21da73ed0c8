"""The picture of a comparison: the same seeds under every policy, above each other, with their differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from experiments.images import to_image
from models.files import write_atomically

DIFFERENCE_GAIN = 4  # differences are small; shown this many times brighter
LABEL_WIDTH, MARGIN, GAP, SMALLEST_CELL, LARGEST_CELL = 190, 8, 4, 64, 256
COLUMNS = 8  # images shown


def save_comparison(runs: Sequence[tuple[str, Tensor]], first_is_reference: bool, path: Path) -> None:
    """Writes one PNG: a row of images (N, C, H, W) uint8 per run, and below each run but the reference a row of
    |difference| to it."""
    rows = []
    for i, (name, images) in enumerate(runs):
        rows.append((name, images))
        if first_is_reference and i:
            difference = (images.int() - runs[0][1].int()).abs() * DIFFERENCE_GAIN
            rows.append((f"|difference| x {DIFFERENCE_GAIN}", difference.clamp(max=255).to(torch.uint8)))
    write_atomically(path, lambda unfinished: _draw(rows).save(unfinished, format="png"))


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
