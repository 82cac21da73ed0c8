"""experiments/evaluation/pairs.py: images beside those of the same name."""

import sys

import pytest
import torch

from configs import InputError
from experiments.data import ArrayImages
from experiments.evaluation.pairs import compare, load_lpips, perceptual
from experiments.evaluation.sets import ImageSet
from experiments.metrics import closeness


def image_set(name: str, pixels: torch.Tensor, names: list[str] | None = None) -> ImageSet:
    names = names or [f"{i:06d}" for i in range(len(pixels))]
    return ImageSet(name, ArrayImages(pixels), tuple(names), tuple(pixels.shape[1:]))


def test_images_are_compared_with_those_of_their_name(pictures):
    ours, theirs = pictures(0, 7), pictures(1, 7)
    theirs[3] = ours[3]
    close = compare(image_set("ours", ours), image_set("theirs", theirs), batch_size=3)
    expected = closeness(ours.float() / 127.5 - 1, theirs.float() / 127.5 - 1)
    assert close == expected
    assert close.summary()["identical"] == 1
    names = [f"{i:06d}" for i in reversed(range(7))]
    assert compare(image_set("ours", ours), image_set("theirs", theirs.flip(0), names)) == expected


def test_the_other_set_may_be_larger(pictures):
    many = pictures(0, 9)
    few = image_set("few", many[4:6], ["000004", "000005"])
    assert compare(few, image_set("many", many)).summary()["identical"] == 2


def test_images_smaller_than_the_window_of_ssim_end_in_one_sentence(pictures):
    small = image_set("small", pictures(0, 2)[..., :5])
    with pytest.raises(InputError, match="SSIM looks at 7x7 pixels at a time, but the images of small are 8x5"):
        compare(small, small)


def test_missing_counterparts_end_in_one_sentence(pictures):
    with pytest.raises(InputError, match="theirs lacks 2 of the 5 images of ours, 000003 first"):
        compare(image_set("ours", pictures(0, 5)), image_set("theirs", pictures(1, 3)))
    with pytest.raises(InputError, match="the images of ours are 3x8x8, those of theirs 1x8x8"):
        compare(image_set("ours", pictures(0, 5)), image_set("theirs", pictures(1, 5, channels=1)))


def test_lpips_is_that_of_its_package():
    lpips = pytest.importorskip("lpips")
    distance = load_lpips(torch.device("cpu"), pretrained=False)
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8, generator=generator)
    theirs[1] = ours[1]
    values = perceptual(image_set("ours", ours), image_set("theirs", theirs), distance, batch_size=2)
    assert len(values) == 3
    assert values[1] == 0
    cells = [cell.cell_contents for cell in distance.__wrapped__.__closure__]
    network = next(cell for cell in cells if isinstance(cell, lpips.LPIPS))
    with torch.no_grad():
        expected = network(lpips.im2tensor(ours[0].permute(1, 2, 0).numpy()),
                           lpips.im2tensor(theirs[0].permute(1, 2, 0).numpy()))  # fmt: skip
    assert values[0] == pytest.approx(expected.item(), rel=1e-4)
    assert values[0] > 0


def test_grey_images_have_a_perceptual_distance(pictures):
    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.shape == b.shape == (2, 3, 8, 8)
        return (a - b).abs().mean((1, 2, 3))

    ours, theirs = image_set("ours", pictures(0, 2, 1)), image_set("theirs", pictures(0, 2, 1))
    assert perceptual(ours, theirs, distance) == [0, 0]


def test_a_missing_package_is_said_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match=r"LPIPS needs the lpips package; install it with pip install -e '\.\[lp"):
        load_lpips(torch.device("cpu"))


def test_missing_weights_are_said_with_their_place(tmp_path, monkeypatch):
    pytest.importorskip("lpips")

    def offline(*arguments, **more):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(InputError, match=r"AlexNet's weights could not be downloaded .* put alexnet-owt-7be5be79\.pth"):
        load_lpips(torch.device("cpu"))
