"""Distances between images, against scikit-image and by hand."""

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from experiments.images import to_uint8
from experiments.metrics import closeness


def images(seed: int, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_is_that_of_scikit_image():
    a, b = images(0), images(1)
    expected = [
        peak_signal_noise_ratio(((y + 1) / 2).double().numpy(), ((x + 1) / 2).double().numpy(), data_range=1)
        for x, y in zip(a, b, strict=True)
    ]
    assert closeness(a, b).psnr == pytest.approx(expected, rel=1e-6)


def test_a_known_error_has_its_known_psnr():
    a = torch.zeros(1, 1, 8, 8)
    assert closeness(a + 0.2, a).psnr[0] == pytest.approx(20.0, abs=1e-4)  # 0.1 in [0, 1]: 10 log10(1 / 0.01)


def test_equal_images_are_identical():
    same = closeness(images(0), images(0))
    assert all(math.isinf(value) for value in same.psnr)
    assert same.summary() == {
        "psnr_mean": None, "psnr_worst": None, "ssim_mean": 1.0, "ssim_worst": 1.0, "identical": 3,
    }  # fmt: skip


@pytest.mark.parametrize("bad", [0, 2])
def test_images_that_are_no_numbers_are_close_to_nothing(bad):
    a = images(0)
    b = a.clone()
    b[bad] = math.nan
    summary = closeness(b, a).summary()
    assert summary["identical"] == 2
    assert all(math.isnan(summary[name]) for name in ("psnr_mean", "psnr_worst", "ssim_mean", "ssim_worst"))


def test_the_worst_image_counts():
    a = images(0)
    b = a.clone()
    b[1] += 0.5
    b[2] += 0.01
    summary = closeness(b, a).summary()
    assert summary["identical"] == 1
    assert summary["psnr_worst"] < summary["psnr_mean"]
    assert summary["ssim_worst"] < summary["ssim_mean"] < 1


def test_out_of_range_values_are_clipped_before_comparing():
    a = torch.ones(1, 1, 8, 8)
    assert math.isinf(closeness(a * 3, a).psnr[0])


def test_eight_bits_are_rounded_as_save_image_does():
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 5.0, 0.5 / 127.5 - 1, 0.49 / 127.5 - 1])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255, 1, 0]
