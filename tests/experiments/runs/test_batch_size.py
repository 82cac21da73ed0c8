"""batch_size=auto: the line through two peaks, powers of two, and what runs do with it."""

import json

import pytest
import torch

from configs import InputError
from experiments.grid import UNCACHED
from experiments.model import model_config
from experiments.pipeline import PipelineConfig, load_pipeline
from experiments.runs import batch_size
from experiments.runs.batch_size import MemoryModel, auto_batch_size, tried, whole
from experiments.runs.run import SampleConfig, run
from samplers import Sampler, SamplerConfig


def test_the_model_is_a_line():
    model = MemoryModel.through(one=150, two=250)
    assert model == MemoryModel(fixed=50, per_image=100)
    assert model.largest(450) == 4
    assert model.largest(449) == 3
    assert model.largest(149) == 0


def test_a_peak_that_does_not_grow_is_all_fixed():
    assert MemoryModel.through(100, 100).largest(1100) > 500


@pytest.mark.parametrize(
    ("fits", "most", "batch"), [(50, 100, 32), (100, 100, 100), (64, 100, 64), (3, 3, 3), (0, 5, 0)]
)
def test_batches_are_all_or_a_power_of_two(fits, most, batch):
    assert whole(fits, most) == batch


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("random", "mnist32", PipelineConfig())


@pytest.fixture(scope="module")
def sampler():
    return Sampler(SamplerConfig(steps=4), model_config("mnist32").diffusion)


def answer(monkeypatch, pipeline, sampler, *, free, most, peaks=(150, 250), sharers=1):
    measured = iter([999, *peaks])  # the first is for what happens once
    monkeypatch.setattr(batch_size, "can_measure", lambda device: True)
    monkeypatch.setattr(batch_size, "free_bytes", lambda device: free)
    monkeypatch.setattr(batch_size, "peak", lambda *arguments: next(measured))
    return auto_batch_size(pipeline, sampler, [UNCACHED], most, sharers)


def test_half_of_the_free_memory_is_used(monkeypatch, pipeline, sampler):
    assert answer(monkeypatch, pipeline, sampler, free=2 * (50 + 900), most=1000) == 8
    assert answer(monkeypatch, pipeline, sampler, free=2 * (50 + 900), most=9) == 9


def test_who_shares_a_device_shares_its_memory(monkeypatch, pipeline, sampler):
    assert answer(monkeypatch, pipeline, sampler, free=3 * 2 * (50 + 900), most=1000, sharers=3) == 8


def test_a_cpu_gets_no_larger_batch_than_helps(monkeypatch, pipeline, sampler):
    assert answer(monkeypatch, pipeline, sampler, free=10**9, most=1000) == 32
    assert answer(monkeypatch, pipeline, sampler, free=10**9, most=20) == 20


def test_where_nothing_fits_it_says_so(monkeypatch, pipeline, sampler):
    peaks = (150 * 2**20, 250 * 2**20)
    with pytest.raises(InputError, match=r"one image needs 150\.0 MiB of memory, and 200\.0 MiB are free"):
        answer(monkeypatch, pipeline, sampler, free=200 * 2**20, most=10, peaks=peaks)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")],
)
def test_a_gpu_that_overflows_gets_half(monkeypatch, pipeline, sampler, error):
    tries = []

    def trial(pipeline, sampler, chosen, batch):
        tries.append(batch)
        if batch > 4:
            raise error

    monkeypatch.setattr(batch_size, "trial", trial)
    assert tried(pipeline, sampler, [UNCACHED], 16) == 4
    assert tries == [16, 8, 4]


def test_other_failures_of_a_gpu_are_not_taken_for_its_memory(monkeypatch, pipeline, sampler):
    def trial(*arguments):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(batch_size, "trial", trial)
    for attempt in (tried, batch_size.peak):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            attempt(pipeline, sampler, [UNCACHED], 4)


def test_a_gpu_that_holds_no_image_is_told_of(monkeypatch, pipeline, sampler):
    def trial(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(batch_size, "trial", trial)
    with pytest.raises(InputError, match="does not hold one image"):
        tried(pipeline, sampler, [UNCACHED], 4)


def test_it_is_measured_on_the_pipeline_itself(pipeline, sampler):
    assert auto_batch_size(pipeline, sampler, [UNCACHED], 3) == 3


def test_a_trial_holds_what_two_steps_of_a_batch_leave_and_decodes_one_image(pipeline, sampler, monkeypatch):
    """A second step meets the stores that the first one filled; any more hold nothing more."""
    evaluated, decoded = [], []
    monkeypatch.setattr(pipeline, "decode", lambda x: decoded.append(len(x)))
    network = pipeline.engine.network(UNCACHED)
    hook = network.register_forward_pre_hook(lambda _, inputs: evaluated.append(len(inputs[0])))
    with hook:
        batch_size.trial(pipeline, sampler, [UNCACHED], 3)
    assert evaluated == [3, 3]
    assert decoded == [1]


def test_programs_wait_for_the_batch_that_is_found(tiny, sampler, monkeypatch):
    """They are for one shape of batch, so trials of others run uncompiled, on a table of all the timesteps."""
    measured = []

    def peak(pipeline, sampler, chosen, batch):
        assert not pipeline.config.compile
        batch_size.trial(pipeline, sampler, chosen, batch)
        measured.append(batch)
        return batch

    monkeypatch.setattr(batch_size, "can_measure", lambda device: True)
    monkeypatch.setattr(batch_size, "peak", peak)
    compiled = load_pipeline("random", tiny, PipelineConfig(compile=True))
    assert auto_batch_size(compiled, sampler, [UNCACHED], 3) == 3
    assert measured == [1, 1, 2]
    assert len(compiled.unet.run) == 0


def settings(out, **others):
    return SampleConfig(
        checkpoint="random", sampler=SamplerConfig(steps=2), policy={"name": "uniform", "interval": 2, "branch": 0},
        compare=False, out=str(out), **others,
    )  # fmt: skip


def test_a_run_records_the_batch_that_was_found_and_goes_on_with_it(tmp_path, monkeypatch, capsys):
    summary = run(settings(tmp_path, batch_size="auto", num_images=2))
    assert summary.config["batch_size"] == 2
    assert json.loads((tmp_path / "run.json").read_text())["identity"]["batch_size"] == 2
    assert "batch_size=2 fits" in capsys.readouterr().err
    assert "MiB of cached features for a batch of 2" in str(summary)

    monkeypatch.setattr("experiments.runs.run.auto_batch_size", pytest.fail)
    assert run(settings(tmp_path, batch_size="auto", num_images=4)).config["batch_size"] == 2
    assert run(settings(tmp_path, batch_size=2, num_images=4)).config["batch_size"] == 2


def test_other_words_are_refused():
    with pytest.raises(InputError, match="batch_size must be a number of images or auto, not 'many'"):
        SampleConfig(batch_size="many")
