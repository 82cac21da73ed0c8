"""experiments/runs/comparison.py: what the grid shows of differences."""

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.runs.comparison import GAP, LABEL_WIDTH, save_comparison

SIZE = 64  # of an image, which is then drawn as it is


def grid(tmp_path, *rows: int, compare: bool = True) -> np.ndarray:
    """The grid of one image of an even grey per row; the pixels of the cells, one per row."""
    runs = [(f"run {i}", torch.full((1, 1, SIZE, SIZE), grey, dtype=torch.uint8)) for i, grey in enumerate(rows)]
    save_comparison(runs, compare, tmp_path / "grid.png")
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    return pixels[GAP + SIZE // 2 :: SIZE + GAP, LABEL_WIDTH + SIZE // 2]


@pytest.mark.parametrize(
    ("greys", "shown"),
    [
        ((100, 103), [100, 103, 3 * 64]),
        ((100, 110), [100, 110, 10 * 16]),
        ((100, 110, 101), [100, 110, 10 * 16, 101, 1 * 16]),  # all alike, by the largest
        ((0, 255), [0, 255, 255]),
        ((100, 100), [100, 100, 0]),
    ],
)
def test_differences_are_as_bright_as_the_largest_allows(tmp_path, greys, shown):
    assert grid(tmp_path, *greys).tolist() == shown


@pytest.mark.parametrize(("large", "gain"), [(2, 64), (81, 64), (82, 1)])
def test_large_differences_in_two_per_cent_of_the_pixels_do_not_hide_the_others(tmp_path, large, gain):
    images = torch.zeros(2, 1, SIZE, SIZE, dtype=torch.uint8)
    images[1] = 3
    images[1].view(-1)[:large] = 255  # of 4096
    save_comparison([("a", images[:1]), ("b", images[1:])], True, tmp_path / "grid.png")
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    assert pixels[-GAP - SIZE // 2, LABEL_WIDTH + SIZE // 2] == 3 * gain


def test_without_a_reference_there_are_no_differences(tmp_path):
    assert grid(tmp_path, 10, 20, compare=False).tolist() == [10, 20]
