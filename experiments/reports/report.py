"""Reports: one HTML page that holds everything it shows and opens from disk.

    write_report(Path("report.html"), "Table 12", [
        Text("CIFAR-10, 100 DDIM steps, N = 5."),
        Table(header, rows, caption="Every branch, paper beside ours", footnotes=["a: see the notes"]),
        Picture(figure, caption="FID against MACs"),
        ImageGrid([("uncached", images), ("branch 2", images)], caption="The first seeds"),
        Configuration(asdict(config)),
        Versions(environment),
    ])

The page asks for nothing outside itself, and forbids itself to (its content security policy). It depends on the blocks
alone: the same results give the same bytes.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from configs import InputError
from experiments.images import to_image
from models.files import write_text

# What a picture may be given as: an image file's bytes or path, a figure, or pixels (C, H, W) uint8, C = 1 or 3.
Source: TypeAlias = bytes | Path | Figure | Tensor

FIGURE_DPI = 192  # twice that of the screen a figure is laid out for
SCREEN_DPI = 96
THUMBNAIL = 128  # pixels; larger images of a grid are shown at this size
SMALLEST_CELL = 56  # pixels; smaller ones are enlarged to it, without smoothing
NUMBER = re.compile(r"[~≈<>≤≥±]*\s*([+\-\u2212]?(?:\d[\d,]*\.?\d*(?:e[+\-]?\d+)?|inf\b|∞))", re.IGNORECASE)


@dataclass(frozen=True)
class Section:
    """A heading; the sections of a page are listed at its top."""

    title: str

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Text:
    """Paragraphs, with a blank line between them."""

    text: str

    @property
    def paragraphs(self) -> list[str]:
        return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", self.text) if paragraph.strip()]


@dataclass(frozen=True)
class Code:
    """Lines as they are: the command that makes the page, say."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a header. A click on a column's name sorts by it; columns of numbers are set right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    footnotes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row of {len(row)} cells under a header of {len(self.header)}: {row}")

    @cached_property
    def numeric(self) -> list[bool]:
        """Of every column: whether most of what stands in it begins with a number."""
        filled = [[row[i] for row in self.rows if row[i]] for i in range(len(self.header))]
        return [2 * sum(sort_key(cell) is not None for cell in cells) > len(cells) for cells in filled]


@dataclass(frozen=True)
class Picture:
    """One image or figure over the width it needs."""

    source: Source
    caption: str = ""

    @cached_property
    def png(self) -> bytes:
        return to_png(self.source)

    @property
    def uri(self) -> str:
        return data_uri(self.png)

    @property
    def width(self) -> int:
        """CSS pixels."""
        width, _ = _size(self.png)
        return round(width * SCREEN_DPI / FIGURE_DPI) if isinstance(self.source, Figure) else width


@dataclass(frozen=True)
class ImageGrid:
    """Small images under each other, one labelled row per setting; column i shows the same seed all the way down."""

    rows: Sequence[tuple[str, Sequence[Source]]]
    caption: str = ""
    columns: Sequence[str] = ()  # what stands above them

    @cached_property
    def cells(self) -> list[tuple[str, list[str]]]:
        """The rows with their images as data URIs."""
        return [(label, [data_uri(to_png(image, THUMBNAIL)) for image in images]) for label, images in self.rows]

    @cached_property
    def width(self) -> int:
        """CSS pixels of a cell."""
        first = next((image for _, images in self.rows for image in images), None)
        if first is None:
            return THUMBNAIL
        width, _ = _size(to_png(first, THUMBNAIL))
        return width * max(1, math.ceil(SMALLEST_CELL / width))


@dataclass(frozen=True)
class Configuration:
    """Settings as YAML, folded away until they are wanted."""

    settings: Mapping[str, Any]
    title: str = "Configuration"

    @property
    def yaml(self) -> str:
        return yaml.safe_dump(dict(self.settings), sort_keys=False, allow_unicode=True, default_flow_style=None)


@dataclass(frozen=True)
class Versions:
    """What the figures depend on besides the configuration: device, threads, versions."""

    entries: Mapping[str, Any] = field(default_factory=dict)


Block: TypeAlias = Section | Text | Code | Table | Picture | ImageGrid | Configuration | Versions


def write_report(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Writes the page, whole or not at all.

    Raises InputError for an image file that is missing or no image.
    """
    text = render(title, blocks)
    write_text(path, text)


def render(title: str, blocks: Sequence[Block]) -> str:
    """The page as text."""
    folder = Path(__file__).parent / "page"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["sort_key"] = sort_key
    sections = [block for block in blocks if isinstance(block, Section)]
    kinds = [(type(block).__name__, block) for block in blocks]
    return environment.get_template("report.html").render(title=title, sections=sections, blocks=kinds)


def sort_key(cell: str) -> float | None:
    """The number that a cell begins with ("46.7 / 34.9", "2.57x", "−1 %"); None where it is text."""
    match = NUMBER.match(cell)
    if match is None:
        return None
    return float(match[1].replace(",", "").replace("\u2212", "-").replace("∞", "inf"))


def to_png(source: Source, largest: int | None = None) -> bytes:
    """Any picture as the bytes of a PNG. largest: pixels of its longer side, to which a larger one is shrunk.

    Raises InputError for a file that is missing or no image.
    """
    if isinstance(source, Figure):
        buffer = io.BytesIO()
        # Without the library's version in it: the same figure gives the same bytes.
        source.savefig(buffer, format="png", dpi=FIGURE_DPI, bbox_inches="tight", metadata={"Software": None})
        return buffer.getvalue()
    image = to_image(source) if isinstance(source, Tensor) else _open(source)
    if largest is not None:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _open(source: bytes | Path) -> Image.Image:
    name = source if isinstance(source, Path) else "the given bytes"
    try:
        image = Image.open(source if isinstance(source, Path) else io.BytesIO(source))
        image.load()
    except FileNotFoundError:
        raise InputError(f"there is no image {name} to show") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{name} cannot be shown: it is no whole image ({error})") from error
    return image


def _size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        return image.size
