"""experiments/training/classifier.py, train_classifier.py and judge.py: digits are told from what is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import configs
import experiments.data
from configs import InputError
from experiments.data import ArrayImages, open_images
from experiments.evaluation.judge import JudgeConfig, judge, judge_images, read_folders
from experiments.training.classifier import (
    BUNDLED,
    FORMAT,
    Classifier,
    ClassifierConfig,
    Prediction,
    load,
    predict,
    save,
)
from experiments.training.train_classifier import TrainClassifierConfig, add_non_digits, shuffle_tiles, train_classifier

MNIST = Path(__file__).parents[4] / "shared" / "data" / "mnist.npz"


def strokes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten kinds of grainy bars (N, 28, 28) and which of them each is: digits enough to be learned in seconds."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 10
    images = np.zeros((count, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        start = 3 + 4 * (label % 5)
        bar = image[start : start + 4] if label < 5 else image[:, start : start + 4]
        bar[:] = rng.integers(150, 256, bar.shape)
    return images, labels


@pytest.fixture
def network() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig()).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    train, test = strokes(1000), strokes(100)
    np.savez(
        folder / "bars.npz", train_images=train[0], train_labels=train[1], test_images=test[0], test_labels=test[1]
    )
    train_classifier(
        TrainClassifierConfig(data=str(folder / "bars.npz"), epochs=2, out=str(folder / "bars.safetensors"))
    )
    return folder / "bars.safetensors"


# --- the network


def test_features_are_the_penultimate_layer(network):
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    features = network.features(x)
    assert features.shape == (3, 64)
    assert features.min() >= 0
    torch.testing.assert_close(network(x), network.head(features))


def test_predictions_do_not_depend_on_the_batch_size(network):
    images = ArrayImages(torch.randint(0, 256, (7, 1, 32, 32), dtype=torch.uint8))
    whole, parts = predict(network, images), predict(network, images, batch_size=3)
    torch.testing.assert_close(parts.features, whole.features)
    torch.testing.assert_close(parts.probabilities.sum(1), torch.ones(7))


def test_a_prediction_is_confident_above_nine_tenths():
    prediction = Prediction(torch.tensor([[0.05, 0.95], [0.9, 0.1]]), torch.zeros(2, 3))
    assert prediction.confident.tolist() == [True, False]
    assert prediction.classes.tolist() == [1, 0]


def test_saving_and_loading_keeps_weights_architecture_and_record(tmp_path):
    network = Classifier(ClassifierConfig(resolution=8, channels=[4], features=5, num_classes=3)).eval()
    network.record = {"test_accuracy": 0.5}
    save(network, tmp_path / "a.safetensors")
    loaded = load(tmp_path / "a.safetensors")
    assert loaded.config == network.config
    assert loaded.record == network.record
    assert not loaded.training
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(x), network(x))


def test_files_that_are_no_classifier_are_refused(network, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match="there is no checkpoint"):
        load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"is not a classifier; scripts/train_classifier\.py makes one"):
        load(path)
    save(network, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        load(path)
    for metadata in ({}, {"network": "{"}, {"network": "[]", "training": "{}"}):
        save_file({"x": torch.zeros(1)}, path, {"format": FORMAT, **metadata})
        with pytest.raises(InputError, match=r"a\.safetensors is damaged: its metadata"):
            load(path)
    network.head = torch.nn.Linear(64, 7)
    save(network, path)
    with pytest.raises(InputError, match="does not hold the weights its metadata promises"):
        load(path)


def test_a_resolution_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(InputError, match="3 convolutions cannot halve a resolution of 28"):
        ClassifierConfig(resolution=28)


# --- its training


def test_training_learns_and_records_what_it_did(trained):
    record = load(trained).record
    assert record["test_accuracy"] > 0.95
    expected = {"data": "bars", "epochs": 2, "train_images": 1000, "test_images": 100}
    assert expected.items() <= record.items()
    assert str(trained.parent).encode() not in trained.read_bytes()


def test_training_again_gives_the_same_weights(trained):
    again = trained.with_name("again.safetensors")
    train_classifier(TrainClassifierConfig(data=str(trained.with_name("bars.npz")), epochs=2, out=str(again)))
    ours, theirs = load_file(again), load_file(trained)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_digits_are_learned_with_a_little_grain(tmp_path, monkeypatch):
    """Of any strength up to a tenth of black to grey: as much as is left in samples, not as much as hides a stroke."""
    grey, labels = np.full((256, 28, 28), 128, np.uint8), np.arange(256) % 10
    np.savez(tmp_path / "a.npz", train_images=grey, train_labels=labels, test_images=grey, test_labels=labels)
    seen = []

    def watched(x, target):
        seen.append(x[:, 0, 8:24, 8:24].flatten(1).std(1))
        return add_non_digits(x, target)

    monkeypatch.setattr("experiments.training.train_classifier.add_non_digits", watched)
    train_classifier(TrainClassifierConfig(str(tmp_path / "a.npz"), epochs=1, out=str(tmp_path / "a.safetensors")))
    strengths = torch.cat(seen)
    assert 0.09 < strengths.max() < 0.11
    assert strengths.mean() == pytest.approx(0.05, abs=0.01)
    assert strengths.min() < 0.01


def test_without_images_that_are_no_digits_it_is_surer_of_them(trained):
    surer = trained.with_name("surer.safetensors")
    train_classifier(
        TrainClassifierConfig(data=str(trained.with_name("bars.npz")), epochs=2, non_digits=False, out=str(surer))
    )
    noise = ArrayImages(torch.randint(0, 256, (50, 1, 32, 32), generator=torch.Generator().manual_seed(0)).byte())
    with_them, without = (predict(load(file), noise).confidence.mean() for file in (trained, surer))
    assert without > with_them + 0.01
    assert load(surer).record["non_digits"] is False


@pytest.mark.parametrize("batch", [1, 7, 8, 20, 128])
def test_half_as_many_images_that_are_no_digits_are_added(batch):
    x = torch.rand(batch, 1, 32, 32)
    target = torch.eye(10)[torch.arange(batch) % 10]
    more, targets = add_non_digits(x, target)
    eighth = batch // 8
    assert more.shape == (batch + 4 * eighth, 1, 32, 32)
    assert torch.equal(more[:batch], x)
    assert torch.equal(targets[:batch], target)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(more)))
    halves, none = targets[batch : batch + 2 * eighth], targets[batch + 2 * eighth :]
    assert set(halves.flatten().tolist()) <= {0.0, 0.5, 1.0}
    assert (none == 0.1).all()


def test_the_halves_come_from_the_two_images_of_the_target():
    x = torch.arange(16.0).view(16, 1, 1, 1).expand(16, 1, 4, 4)
    x = torch.nn.functional.interpolate(x, 32)
    more, targets = add_non_digits(x, torch.eye(16))
    for image, target in zip(more[16:20], targets[16:20], strict=True):
        assert image.unique().tolist() == target.nonzero().flatten().tolist()
        assert image.unique(return_counts=True)[1].tolist() == [512, 512]


def test_shuffled_tiles_are_the_same_tiles_elsewhere():
    x = torch.arange(2.0 * 16).view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    shuffled = shuffle_tiles(x)
    assert not torch.equal(shuffled, x)
    tiles = shuffled[:, :, ::8, ::8]
    assert torch.equal(tiles.flatten(1).sort().values, x[:, :, ::8, ::8].flatten(1))
    assert torch.equal(tiles.repeat_interleave(8, 2).repeat_interleave(8, 3), shuffled)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({}, "has no train labels"),
        ({"train_labels": np.arange(5)}, "must be one class per image, 0 to 9"),
        ({"train_labels": np.full(10, 10)}, "must be one class per image, 0 to 9"),
        ({"train_labels": np.arange(10)}, "holds neither test_images"),
    ],
)
def test_data_without_fitting_labels_is_refused(tmp_path, labels, sentence):
    np.savez(tmp_path / "a.npz", train_images=strokes(10)[0], **labels)
    with pytest.raises(InputError, match=sentence):
        train_classifier(TrainClassifierConfig(data=str(tmp_path / "a.npz"), out=str(tmp_path / "a.safetensors")))


# --- judging


def save_images(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03d}.png")


def offline(*_):
    raise InputError("MNIST is not there, and there is no network")


def test_each_folder_is_judged_by_itself(trained, tmp_path, monkeypatch):
    bars = np.pad(strokes(20)[0], ((0, 0), (2, 2), (2, 2)))
    noise = np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)
    save_images(tmp_path / "run" / "bars", bars)
    save_images(tmp_path / "run" / "noise", noise)
    Image.new("L", (100, 68)).save(tmp_path / "run" / "grid.png")
    Image.new("L", (28, 28)).save(tmp_path / "run" / "small.png")
    monkeypatch.setattr(experiments.data, "_torchvision", offline)
    lines = judge(JudgeConfig(str(tmp_path / "run"), str(trained))).splitlines()
    head, _, first, second, real = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:5])
    assert head == ["folder", "images", "above 0.9", "mean", "Fréchet", *"0123456789", "none"]
    assert first[:2] == ["bars", "20"]
    assert second == ["noise", "6", "0.0%", second[3], "", *"0000000000", "6"]
    assert real[:2] == ["real test digits", "100"]
    assert lines[6] == "no Fréchet distances, for want of real digits: MNIST is not there, and there is no network"
    assert lines[7:] == ["images of another size, left out: 1"]
    with pytest.raises(InputError, match="data must be mnist,"):
        judge(JudgeConfig(str(tmp_path / "run"), str(trained), str(tmp_path / "no.npz")))


def test_shards_are_judged_as_their_images_are(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.data, "_torchvision", offline)
    bars = np.pad(strokes(20)[0], ((0, 0), (2, 2), (2, 2)))
    save_images(tmp_path / "images" / "bars", bars)
    (tmp_path / "shards" / "bars").mkdir(parents=True)
    np.savez(tmp_path / "shards" / "bars" / "000000.npz", arr_0=bars[..., None], seeds=np.arange(20))
    rows = [judge(JudgeConfig(str(tmp_path / kind), str(trained))).splitlines()[2] for kind in ("images", "shards")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": -1}, r"seed must lie in 0\.\.4294967295, not -1"),
        ({"seed": 10**23}, r"seed must lie in 0\.\.4294967295, not 1000"),
        ({"learning_rate": -1.0}, r"learning_rate must be above 0 and finite, not -1\.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0 and finite, not nan"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainClassifierConfig(**change)


def test_a_classifier_that_cannot_be_written_is_not_trained(tmp_path):
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "classifier.safetensors")
    with pytest.raises(OSError, match=r"file/classifier\.safetensors"):
        train_classifier(TrainClassifierConfig(data="nowhere", out=out))


def test_a_judgement_counts_the_confident_images_of_each_class(network):
    network.head.weight.data.zero_()
    network.head.bias.data = torch.tensor([0.0] * 3 + [9.0] + [0.0] * 6)
    judgement = judge_images(network, torch.zeros(4, 1, 32, 32, dtype=torch.uint8), "black")
    assert judgement.counts == (0, 0, 0, 4, 0, 0, 0, 0, 0, 0)
    assert judgement.confident == 1
    assert judgement.confidence == pytest.approx(1 / (1 + 9 * np.exp(-9)), abs=1e-6)


def test_images_are_read_as_they_are_from_every_depth(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    save_images(tmp_path / "run" / "a" / "b", images)
    Image.fromarray(images[0]).convert("RGB").save(tmp_path / "run" / "colour.png")
    folders, left_out = read_folders(tmp_path / "run", 32)
    assert left_out == 0
    assert sorted(folders) == [str(Path("a", "b")), "run"]
    assert torch.equal(folders[str(Path("a", "b"))][:, 0], torch.from_numpy(images))
    assert torch.equal(folders["run"][0, 0], torch.from_numpy(images[0]))


def test_a_folder_without_fitting_images_is_refused(trained, tmp_path):
    with pytest.raises(InputError, match="there are no images"):
        judge(JudgeConfig(str(tmp_path), str(trained)))
    with pytest.raises(InputError, match=r"there are no samples at .*nosuch"):
        judge(JudgeConfig(str(tmp_path / "nosuch"), str(trained)))
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"none of the 1 images at .* has 32x32 pixels"):
        judge(JudgeConfig(str(tmp_path), str(trained)))


# --- the bundled one


def test_the_bundled_classifier_is_small_and_says_how_it_was_made():
    path = configs.ROOT / BUNDLED
    assert path.stat().st_size < 1_000_000
    record = load().record
    assert record["data"] == "mnist"
    assert record["test_accuracy"] >= 0.985
    assert record["train_images"] == 60000


@pytest.mark.parametrize("level", [0, 20, 80, 255])
def test_the_bundled_classifier_takes_noise_for_no_digit(level):
    noise = torch.rand(100, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert judge_images(load(), (level * noise).to(torch.uint8), "noise").confident == 0


def test_the_bundled_classifier_reads_mnist_as_its_record_says():
    if not MNIST.exists():
        pytest.skip("MNIST is not at hand (../shared/data)")
    network, test = load(), open_images(str(MNIST), "test", 1, 32)
    prediction = predict(network, test)
    accuracy = (prediction.classes == test.labels).float().mean().item()
    assert accuracy == pytest.approx(network.record["test_accuracy"], abs=2e-4)
    assert prediction.confident.float().mean().item() == pytest.approx(network.record["test_confident"], abs=1e-3)
