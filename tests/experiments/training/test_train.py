"""experiments/training/train.py: interruptions change nothing, and the finished checkpoint says what was done."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import models
from configs import InputError
from experiments.data import ArrayImages
from experiments.model import model_config
from experiments.training.layers import TRAINED_ON_CPU
from experiments.training.train import batch, train
from experiments.training.trainer import TrainConfig, Trainer, ema_decay, generator, learning_rate_factor
from models.kernels import replace_layers

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
TINY = """
network: {resolution: 4, in_channels: 1, out_channels: 1, channels: 32, channel_mult: [1], num_res_blocks: 1,
          dropout: 0.1}
diffusion: {num_timesteps: 5}
"""


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """6 steps of a tiny network on 10 images, saved after every 2."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "toys.npz", train_images=pixels)
    return TrainConfig(
        model=str(tmp_path / "tiny.yaml"), data=str(tmp_path / "toys.npz"), out=str(tmp_path / "run"),
        images=24, batch_size=4, save_every=8, flip=True, precision="fp32", device="cpu",
    )  # fmt: skip


@pytest.fixture
def trainer(config) -> Trainer:
    return Trainer(config, model_config(config.model), 10, CPU)


def state_of(folder: str | Path) -> dict:
    return torch.load(Path(folder) / "state.pt", weights_only=True)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """The next training run ends by Ctrl-C when it has made so many steps."""
    train_step = Trainer.train_step

    def interrupted(self: Trainer, x0: Tensor) -> Tensor:
        if self.steps == steps:
            raise KeyboardInterrupt
        return train_step(self, x0)

    monkeypatch.setattr(Trainer, "train_step", interrupted)


def train_interrupted(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(KeyboardInterrupt):
            train(config)


def assert_same_run(folder: str | Path, other: str | Path) -> None:
    """Weights, moving average, optimiser and finished checkpoint are equal bit for bit."""
    ours, theirs = state_of(folder), state_of(other)
    for part in ("network", "ema"):
        assert all(torch.equal(ours[part][key], theirs[part][key]) for key in theirs[part])
    for index, moments in theirs["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][index][key], value) for key, value in moments.items())
    ours, theirs = (load_file(Path(path) / "model.safetensors") for path in (folder, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


# --- going on


@pytest.mark.parametrize("steps", [2, 3])
def test_an_interrupted_run_equals_an_uninterrupted_one(config, monkeypatch, tmp_path, steps):
    whole = replace(config, out=str(tmp_path / "whole"))
    train(whole)
    train_interrupted(config, monkeypatch, steps)
    train(config)
    assert_same_run(config.out, whole.out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_loses_no_step_and_leaves_a_checkpoint(config, monkeypatch, tmp_path, number):
    whole = replace(config, out=str(tmp_path / "whole"))
    train(whole)
    train_step = Trainer.train_step

    def interrupted(self: Trainer, x0: Tensor) -> Tensor:
        if self.steps == 2:
            os.kill(os.getpid(), number)  # in the middle of the third step
        return train_step(self, x0)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert signal.getsignal(number) is before
    assert state_of(config.out)["steps"] == 3
    unfinished = models.load(Path(config.out) / "model.safetensors")
    assert (unfinished.provenance.records["training"]["images"], whole.images) == (12, 24)
    train(config)
    assert_same_run(config.out, whole.out)


def test_the_same_data_and_network_may_be_spelled_otherwise(config, monkeypatch):
    train_interrupted(config, monkeypatch, 3)
    monkeypatch.chdir(Path(config.data).parent)
    Path("other.yaml").write_text(TINY)
    train(replace(config, data="./toys.npz", model="other.yaml"))
    assert state_of(config.out)["steps"] == 6


def test_a_run_killed_while_saving_goes_on_from_the_save_before(config, tmp_path):
    """SIGKILL with half of the second state written: nothing can be tidied up."""
    program = f"""
import os, signal, torch
from experiments.training.train import TrainConfig, train
save, saves = torch.save, 0
def killed(state, file):
    global saves
    saves += 1
    if saves == 2:
        file.write(b"half a state")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)
torch.save = killed
train({config!r})
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert state_of(config.out)["steps"] == 2
    train(config)
    whole = replace(config, out=str(tmp_path / "whole"))
    train(whole)
    assert_same_run(config.out, whole.out)


def test_a_full_disk_leaves_the_state_that_was_there(config, trainer):
    resource = pytest.importorskip("resource")
    state = Path(config.out) / "state.pt"
    trainer.save(state)
    before = state.read_bytes()
    trainer.steps = 3
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"state\.pt"):
            trainer.save(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert state.read_bytes() == before
    assert [path.name for path in state.parent.iterdir()] == ["state.pt"]


def test_what_the_operating_system_said_is_not_covered_up(config, trainer, monkeypatch):
    def failing(state: dict, file) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 - as torch.save does

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="No space left on device"):
        trainer.save(Path(config.out) / "state.pt")


def test_a_folder_with_something_else_in_it_is_refused_before_the_first_step(config, monkeypatch):
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("a step was taken"))
    folder = Path(config.out)
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not the folder of an earlier training"):
        train(config)
    with pytest.raises(OSError, match=r"thesis\.tex"):  # a file: nothing can be written into it
        train(replace(config, out=str(folder / "thesis.tex" / "run")))


def test_a_finished_run_is_not_trained_further(config, monkeypatch):
    train(config)
    interrupt_after(monkeypatch, 6)
    train(config)


def test_where_and_how_often_a_run_is_saved_may_change(config, monkeypatch):
    train_interrupted(config, monkeypatch, 3)
    train(replace(config, save_every=4, store="fp16"))
    assert state_of(config.out)["steps"] == 6


def test_a_state_of_another_configuration_is_refused_with_the_difference(config, trainer):
    trainer.save(Path(config.out) / "state.pt")
    with pytest.raises(InputError, match=r"another training run \(learning_rate is 0\.0004 there and 0\.001 here\)"):
        train(replace(config, learning_rate=1e-3))


def test_a_state_of_another_network_is_refused_with_the_difference(config, trainer):
    trainer.save(Path(config.out) / "state.pt")
    model = Path(config.model)
    model.write_text(model.read_text().replace("num_res_blocks: 1", "num_res_blocks: 2"))
    with pytest.raises(InputError, match=r"\(network\.num_res_blocks is 1 there and 2 here\)"):
        train(config)


def test_a_state_of_another_diffusion_is_refused_with_the_difference(config, trainer):
    trainer.save(Path(config.out) / "state.pt")
    Path(config.model).write_text(TINY.replace("num_timesteps: 5", "num_timesteps: 5, schedule: cosine"))
    with pytest.raises(InputError, match=r"\(diffusion\.schedule is linear there and cosine here\)"):
        train(config)


def test_a_state_of_fewer_images_is_refused_with_the_difference(config, trainer):
    trainer.save(Path(config.out) / "state.pt")
    np.savez(config.data, train_images=np.zeros((12, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"\(data\.images is 10 there and 12 here\)"):
        train(config)


def test_a_state_that_does_not_describe_its_network_is_loaded(config, trainer):
    """As they were first written."""
    trainer.save(Path(config.out) / "state.pt")
    state = state_of(config.out)
    described = json.loads(state["config"])
    state["config"] = json.dumps({key: value for key, value in described.items() if "." not in key})
    state["steps"] = 5
    torch.save(state, Path(config.out) / "state.pt")
    trainer.load(Path(config.out) / "state.pt")
    assert trainer.steps == 5


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_truncated_state_ends_in_one_sentence(config, trainer, keep):
    path = Path(config.out) / "state.pt"
    trainer.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(InputError, match=r"state\.pt is truncated or not a training state; remove it to start anew$"):
        train(config)


@pytest.mark.parametrize("content", [[1, 2], {"steps": 3}, Path("code")])
def test_a_file_that_is_no_state_ends_in_one_sentence(config, trainer, content):
    Path(config.out).mkdir()
    torch.save(content, Path(config.out) / "state.pt")
    with pytest.raises(InputError, match="not a training state; remove it to start anew"):
        train(config)


# --- the arithmetic


def test_the_loss_is_of_ho_et_al(trainer):
    """Algorithm 1: |eps - eps_θ(sqrt(ᾱ_t) x_0 + sqrt(1 - ᾱ_t) eps, t)|², averaged."""
    x0 = torch.rand(4, 1, 4, 4) * 2 - 1
    torch.nn.init.normal_(trainer.network.conv_out.weight)
    trainer.network.eval()
    t, eps = trainer.draw(x0)
    a = torch.from_numpy(trainer.model.diffusion.alphas_cumprod())[t].view(4, 1, 1, 1)
    with torch.no_grad():
        predicted, _ = trainer.network((a.sqrt() * x0 + (1 - a).sqrt() * eps).float(), t)
    torch.testing.assert_close(trainer.train_step(x0), (predicted - eps).square().mean())


def test_the_network_starts_by_predicting_nothing(trainer):
    predicted, _ = trainer.network(torch.randn(2, 1, 4, 4), torch.tensor([0, 4]))
    assert torch.equal(predicted, trainer.network.conv_out.bias.view(1, 1, 1, 1).expand(2, 1, 4, 4))


def test_what_is_trained_on_a_cpu_has_the_networks_values_and_gradients(config):
    trainer = Trainer(replace(config, seed=1), model_config(config.model), 10, CPU)
    trainer.train_step(torch.rand(4, 1, 4, 4) * 2 - 1)  # the last layers have left zero
    network = trainer.network.double().eval()
    predict = replace_layers(network, TRAINED_ON_CPU)
    assert {type(module) for module in predict.modules()} >= set(TRAINED_ON_CPU.values())
    x, t = torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 2, 4])
    values, gradients = [], []
    for each in (network, predict):
        values.append(each(x, t)[0])
        network.zero_grad()
        (values[-1] ** 2).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-12)


def test_training_lowers_the_loss(config):
    config = replace(config, images=50 * 16, batch_size=16, learning_rate=2e-3)
    trainer = Trainer(config, model_config(config.model), 10, CPU)
    x0 = torch.ones(16, 1, 4, 4)
    losses = [float(trainer.train_step(x0)) for _ in range(trainer.total_steps)]
    assert sum(losses[:5]) / 5 > 0.8
    assert sum(losses[-5:]) / 5 < 0.5


def test_bf16_keeps_the_weights_in_fp32(config):
    trainer = Trainer(replace(config, precision="bf16"), model_config(config.model), 10, CPU)
    trainer.train_step(torch.zeros(4, 1, 4, 4))
    assert {value.dtype for value in trainer.network.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("size", [4, 5])
def test_timesteps_are_antithetic(trainer, size):
    t, _ = trainer.draw(torch.zeros(size, 1, 4, 4))
    half = size // 2 + 1
    assert t.shape == (size,)
    assert torch.equal(t[half:], 4 - t[: size - half])


def test_timesteps_cover_all_of_the_schedule(trainer):
    t, _ = trainer.draw(torch.zeros(2000, 1, 1, 1))
    assert t.bincount(minlength=5).min() > 300


def test_the_average_is_the_exponential_one(trainer):
    expected = [value.clone() for value in trainer.ema.parameters()]
    for step in range(1, 4):
        trainer.train_step(torch.zeros(4, 1, 4, 4))
        decay = min(trainer.config.ema_decay, (1 + step) / (10 + step))
        pairs = zip(expected, trainer.network.parameters(), strict=True)
        expected = [decay * average + (1 - decay) * value.detach() for average, value in pairs]
    for ours, value in zip(trainer.ema.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, value)
    assert ema_decay(10**6, 0.999) == 0.999


def test_the_learning_rate_warms_up_then_follows_a_cosine(trainer):
    factors = [learning_rate_factor(step, 1000) for step in range(1000)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[20 + 490] == pytest.approx(0.5)
    assert factors[-1] < 1e-5
    trainer.train_step(torch.zeros(4, 1, 4, 4))
    assert trainer.optimizer.param_groups[0]["lr"] == trainer.config.learning_rate  # 6 steps: one of warm-up


# --- what is drawn


def test_every_epoch_is_a_permutation_of_its_own(config):
    images = ArrayImages(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1))
    config = replace(config, flip=False)
    drawn = torch.cat([batch(images, config, step, CPU) for step in range(10)]).add(1).mul(127.5).round().flatten()
    epochs = drawn.view(4, 10)  # 10 batches of 4: epochs end within batches
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_batches_lie_in_minus_one_to_one(config):
    images = ArrayImages(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    assert batch(images, config, 0, CPU).unique().tolist() == [-1, 1]


def test_half_of_the_images_are_flipped_where_asked_for(config):
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    images = ArrayImages(pixels.repeat(1000, 1, 1, 1))
    flipped = batch(images, replace(config, batch_size=1000), 0, CPU)[:, 0, 0, 0] == 1
    assert 400 < flipped.sum() < 600
    assert not (batch(images, replace(config, batch_size=1000, flip=False), 0, CPU)[:, 0, 0, 0] == 1).any()


def test_seeds_purposes_and_steps_have_streams_of_their_own():
    names = [
        (seed, purpose, index) for seed in (0, 1, 2**40) for purpose in ("step", "epoch", "flip") for index in (0, 1)
    ]
    draws = {float(torch.rand((), generator=generator(*name))) for name in names}
    assert len(draws) == len(names)


# --- the finished checkpoint


def test_the_finished_checkpoint_loads_and_says_what_was_done(config, tmp_path):
    path = train(config)
    network = models.load(path)
    records = network.provenance.records
    assert records["diffusion"]["num_timesteps"] == 5
    expected = {"model": "tiny", "data": "toys", "steps": 6, "batch_size": 4, "ema_decay": 0.999, "device": "cpu"}
    assert expected.items() <= records["training"].items()
    ema = state_of(config.out)["ema"]
    assert all(torch.equal(value, ema[key]) for key, value in network.state_dict().items())
    assert str(tmp_path).encode() not in path.read_bytes()


def test_training_can_go_on_from_a_checkpoint(config, tmp_path):
    """From its weights, with a new optimiser; the record names the file and what its training was."""
    first = train(config)
    start = models.load(first)
    further = replace(config, init=str(first), seed=1, out=str(tmp_path / "further"))
    trainer = Trainer(further, model_config(config.model), 10, CPU)
    for network in (trainer.network, trainer.ema):
        assert all(torch.equal(value, start.state_dict()[key]) for key, value in network.state_dict().items())
    assert trainer.network.training
    record = models.load(train(further)).provenance.records["training"]
    assert record["init"] == {"sha256": start.provenance.sha256, "training": start.provenance.records["training"]}
    assert start.provenance.records["training"]["init"] == "random"


def test_a_checkpoint_of_another_network_is_no_start(config, tmp_path):
    other = models.random(models.UNetConfig(resolution=4, channels=32, channel_mult=[1], num_res_blocks=2))
    models.save(other, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors"):
        train(replace(config, init=str(tmp_path / "other.safetensors")))


def test_half_precision_halves_the_checkpoint(config):
    network = models.load(train(config))
    assert models.load(config.out).provenance.sha256 == network.provenance.sha256, "the folder stands for it"
    whole = (Path(config.out) / "model.safetensors").stat().st_size
    halved = models.load(train(replace(config, store="fp16")))
    assert (Path(config.out) / "model.safetensors").stat().st_size < 0.6 * whole
    for key, value in network.state_dict().items():
        torch.testing.assert_close(halved.state_dict()[key], value, atol=1e-6, rtol=1e-3)


def test_every_save_leaves_a_grid_of_samples(config):
    train(config)
    assert sorted(path.name for path in Path(config.out, "samples").iterdir()) == [
        "0000002.png", "0000004.png", "0000006.png",
    ]  # fmt: skip


# --- what is refused


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(config):
    with pytest.raises(InputError, match=r"the loss is (nan|inf) after step 2; start anew .* lower learning_rate"):
        train(replace(config, learning_rate=1e30))
    assert not (Path(config.out) / "state.pt").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("num_classes: 10,", "is a conditional network"),
        ("context_dim: 8, num_heads: 1,", "is a conditional network"),
        ("out_channels: 2,", "has 1 channels in but 2 out"),
    ],
)
def test_networks_that_predict_more_than_noise_are_refused(config, change, sentence):
    model = Path(config.model)
    model.write_text(TINY.replace("out_channels: 1,", change))
    with pytest.raises(InputError, match=sentence):
        train(config)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": 0}, "images must be at least 1, not 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, not -1"),
        ({"seed": -1}, r"seed must lie in 0\.\.4294967295, not -1"),
        ({"seed": 10**23}, r"seed must lie in 0\.\.4294967295, not 1000"),
        ({"learning_rate": 0.0}, r"learning_rate must be above 0, not 0\.0"),
        ({"grad_clip": float("nan")}, "grad_clip must be above 0, not nan"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in 0\.\.1"),
        ({"precision": "fp8"}, "precision 'fp8' does not exist"),
        ({"store": "int8"}, "store 'int8' does not exist"),
    ],
)
def test_settings_out_of_range_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainConfig(**change)
