"""experiments/evaluation/clip_score.py on a tiny random CLIP: scores are those of its embeddings, prompts find their
images."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from configs import InputError
from experiments.data import ArrayImages
from experiments.evaluation.clip_score import clip_score, load_clip, prompts_of
from experiments.evaluation.sets import ImageSet

CPU = torch.device("cpu")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PROMPTS = ["a red square", "an astronaut riding a horse", "two cats"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The name of a tiny architecture, and a file of random weights of it."""
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip-of-tests.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-clip-of-tests.json")
    torch.manual_seed(0)
    network, _, _ = open_clip.create_model_and_transforms("tiny-clip-of-tests")
    torch.save(network.state_dict(), folder / "weights.pt")
    return f"tiny-clip-of-tests/{folder / 'weights.pt'}"


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8, generator=generator)
    return ImageSet("set", ArrayImages(pixels), tuple(f"{seed:06d}" for seed in range(40, 45)), (3, 24, 24))


def test_scores_are_cosines_in_per_cent_clipped_at_zero(tiny, images):
    import open_clip

    name, _, file = tiny.partition("/")
    network, _, prepare = open_clip.create_model_and_transforms(name, pretrained=file)
    network.eval()
    prompts = [PROMPTS[i % 3] for i in range(5)]
    expected = []
    with torch.no_grad():
        for image, prompt in zip(images.images.pixels, prompts, strict=True):
            a = network.encode_image(prepare(to_pil_image(image))[None])[0].double()
            b = network.encode_text(open_clip.get_tokenizer(name)([prompt]))[0].double()
            expected.append(max(0.0, 100 * (a @ b / a.norm() / b.norm()).item()))
    scorer = load_clip(tiny, CPU)
    assert scorer(images.images.pixels, prompts).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert 0 < sum(expected) < 500
    assert clip_score(images, prompts, scorer, batch_size=2) == pytest.approx(sum(expected) / 5, rel=1e-4)


class Angles(torch.nn.Module):
    """Stands in for CLIP, where open_clip is not installed, too: whatever is encoded is an angle in degrees."""

    def encode(self, degrees: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        radians = degrees.deg2rad()
        embedding = 3 * torch.stack([radians.cos(), radians.sin()], 1)
        return F.normalize(embedding, dim=1) if normalize else embedding

    encode_image = encode_text = encode


def test_an_image_unlike_its_prompt_scores_zero_and_not_less(monkeypatch):
    stand_in = SimpleNamespace(
        list_models=lambda: ["angles"],
        create_model_and_transforms=lambda *_, **__: (Angles(), None, lambda picture: torch.tensor(picture.width)),
        get_tokenizer=lambda _: lambda prompts: torch.tensor([float(prompt) for prompt in prompts]),
    )
    monkeypatch.setitem(sys.modules, "open_clip", stand_in)
    image = torch.zeros(1, 2, 10, dtype=torch.uint8)  # at 10 degrees
    scores = load_clip("angles/any", CPU)(image.expand(4, -1, -1, -1), ["10", "70", "-80.5", "190"])
    assert scores.tolist() == pytest.approx([100, 50, 0, 0], abs=1e-4)


def test_prompts_of_a_file_take_turns_by_seed(images, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n")
    prompts = prompts_of(str(tmp_path / "prompts.txt"), tmp_path, images)
    assert prompts == [PROMPTS[seed % 3] for seed in range(40, 45)]


def test_prompts_of_a_run_are_found_in_its_summary(images, tmp_path):
    conditions = [f"prompt of seed {seed}" for seed in range(38, 50)]
    summary = {"config": {"seed": 38, "prompt": None, "prompts": "prompts.txt"}, "conditions": conditions}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    expected = [f"prompt of seed {seed}" for seed in range(40, 45)]
    assert prompts_of(None, tmp_path, images) == expected
    assert prompts_of(None, tmp_path / "uncached", images) == expected


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        (None, "there is no summary.json with prompts"),
        ("{", "does not tell the prompts"),
        (
            {"config": {"seed": 44, "prompt": "x", "prompts": None}, "conditions": ["x"] * 2},
            "does not tell the prompts",
        ),
        (
            {"config": {"seed": 42, "prompt": None, "prompts": "prompts.txt"}, "conditions": ["x", "y", "z"]},
            "does not tell the prompts",  # of seeds 40 and 41, which an earlier run left
        ),
        ({"config": {"seed": 0, "prompt": None, "prompts": None}, "conditions": ["class 7"] * 99}, "had no prompts"),
    ],
)
def test_images_without_prompts_end_in_one_sentence(images, tmp_path, summary, sentence):
    if summary is not None:
        text = summary if isinstance(summary, str) else json.dumps(summary)
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError, match=sentence):
        prompts_of(None, tmp_path, images)


def test_an_empty_file_of_prompts_ends_in_one_sentence(images, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no prompts"):
        prompts_of(str(tmp_path / "prompts.txt"), tmp_path, images)
    with pytest.raises(InputError, match="cannot be read"):
        prompts_of(str(tmp_path / "nothing.txt"), tmp_path, images)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ViT-g-14", "clip must be a file or ARCHITECTURE/WEIGHTS"),
        ("ViT-q-14/laion", "open_clip knows no model 'ViT-q-14'"),
        ("tiny-clip-of-tests/nothing.pt", "cannot be had .* name a file of tiny-clip-of-tests with clip=FILE"),
    ],
)
def test_a_network_that_cannot_be_had_ends_in_one_sentence(tiny, name, sentence):
    with pytest.raises(InputError, match=sentence):
        load_clip(name, CPU)


def test_code_in_a_file_of_weights_is_never_run(tiny, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"logit_scale": Trap()}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="cannot be had"):
        load_clip(f"tiny-clip-of-tests/{tmp_path / 'weights.pt'}", CPU)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_package_is_said_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"install it with pip install -e '\.\[eval\]'"):
        load_clip("ViT-g-14/laion2b_s34b_b88k", CPU)
