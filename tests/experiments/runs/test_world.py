"""Processes that share a run: what one of them makes or suffers, all of them get."""

import errno
import itertools
import os
import time
from pathlib import Path

import pytest
import torch
from processes import finish, start

import experiments.runs.world
from configs import InputError
from experiments.cli import main
from experiments.runs import blocks
from experiments.runs.run import SampleConfig, run
from experiments.runs.world import PART, World, _describe, _rebuild, join

TINY = """
network: {resolution: 8, channels: 32, channel_mult: [1, 2], num_res_blocks: 1}
diffusion: {num_timesteps: 1000}
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(TINY)
    given = ["checkpoint=random", "sampler.steps=3", "policy.interval=2", "policy.branch=0", "num_images=12"]
    return [f"model={tmp_path / 'tiny.yaml'}", f"out={tmp_path / 'out'}", *given, "batch_size=2", "device=cpu"]


def together(work, size: int, words: list[str], tmp_path: Path) -> tuple[list[int | None], list[str]]:
    """`work` in `size` processes -> their exit statuses, and the sentences they ended with."""
    said = tmp_path / "said"
    statuses = finish(start(size, said, words, work), seconds=60)
    lines = said.read_text().replace("\r", "\n").splitlines()
    return statuses, [line[line.index("error: ") :] for line in lines if "error: " in line]


def _meet(config: SampleConfig) -> None:
    world = join()
    assert world.first(lambda: world.rank + 10) == 10
    assert world.first_then_others(lambda: world.rank) == world.rank
    assert world.gather(world.rank) == ([0, 1, 2] if world.is_first else None)
    large = [bytes([rank]) * (5 * PART // 2) for rank in range(3)]  # in several messages
    assert world.gather(large[world.rank]) == (large if world.is_first else None)
    assert world.first(lambda: large[0]) == large[0]
    progress = world.progress(6, "thing")
    with progress, world.together(while_waiting=progress.report):
        progress.update(world.rank + 1)
        progress.report()
    if world.is_first:
        assert progress.bar.n == 6  # of all three
    with pytest.raises(InputError, match="it does not fit"), world.together():  # on every one of them
        _fail_if(world.rank == 1)
    assert world.first(lambda: "and on they go") == "and on they go"


def _fail_if(wanted: bool) -> None:
    if wanted:
        raise InputError("it does not fit")


def test_processes_meet(words, tmp_path):
    assert together(_meet, 3, words, tmp_path) == ([0, 0, 0], [])


def _see(config: SampleConfig) -> None:
    """The runs of a sweep: one after the other, each shared by all; one of them cannot be made."""
    world, seen = join(), []
    for steps in (2, 99999, 4):
        settings = {"steps": steps, "name": "ddim"}
        out = f"{config.out}-{steps}"
        row = SampleConfig(
            model=config.model, checkpoint="random", policy={"name": "none"}, num_images=6, batch_size=2, device="cpu",
            compare=False, out=out, sampler=type(config.sampler)(**settings),
        )  # fmt: skip
        try:
            summary = run(row, world, lambda name, seeds, images: seen.extend(seeds))
        except InputError:
            assert steps == 99999
        else:
            assert summary.steps_made == steps  # on every process
    everything = world.gather(seen)
    if world.is_first:
        assert sorted(itertools.chain(*everything)) == sorted([*range(6), *range(6)])


def test_runs_follow_each_other_and_observers_see_every_image_once(words, tmp_path):
    assert together(_see, 2, words, tmp_path) == ([0, 0], [])


def _full_disk_elsewhere(config: SampleConfig) -> None:
    """The second process cannot write its second batch."""
    world, written = join(), []
    if world.rank == 1:

        def full(path: Path, content: bytes) -> None:
            written.append(path)
            if len(written) > 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        blocks.write_bytes = full
    run(config)


def test_an_error_of_one_process_ends_all_in_one_sentence(words, tmp_path):
    statuses, sentences = together(_full_disk_elsewhere, 2, [*words, "num_images=400", "sampler.steps=20"], tmp_path)
    assert statuses == [2, 2]
    (sentence,) = sentences
    assert sentence.startswith("error: No space left on device: ")
    assert len(list((tmp_path / "out" / "blocks").glob("*.json"))) < 150  # the first did not go on to the end


def _fail_before(config: SampleConfig) -> None:
    if join().rank == 1:
        experiments.runs.world.LAST_WORDS = 0.5
        raise InputError("this machine lacks the file")
    run(config)


@pytest.mark.parametrize("setting", ["policy.branch=99", "sampler.step=3", "num_images=0", "checkpoint=nowhere.ckpt"])
def test_bad_input_is_said_once(words, tmp_path, setting):
    statuses, sentences = together(run, 2, [*words, setting], tmp_path)
    assert statuses == [2, 2]
    assert len(sentences) == 1


def test_only_one_process_knows_what_is_wrong(words, tmp_path):
    """Outside of any meeting: it gives the first one some time, then says it itself."""
    processes = start(2, tmp_path / "said", words, _fail_before)
    processes[1].join(60)
    assert processes[1].exitcode == 2
    finish(processes, 0)  # torchrun would end the other one
    assert (tmp_path / "said").read_text().count("error: this machine lacks the file") == 1


def test_a_process_alone_touches_nothing_of_torch_distributed(words, monkeypatch):
    monkeypatch.setattr(torch.distributed, "rendezvous", None)
    world = join()
    assert (world.rank, world.size, world.is_first) == (0, 1, True)
    with world.together():
        world.check()
    assert world.first(lambda: 3) == world.first_then_others(lambda: 3) == 3
    assert world.gather("a") == ["a"]
    main(run, SampleConfig, doc="", default="mnist32", words=words)


def test_errors_of_a_process_alone_are_its_own():
    with pytest.raises(InputError, match="no"), World().together():
        raise InputError("no")


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", torch.cuda._utils._get_device_index)  # raises as it does
    monkeypatch.setattr("experiments.runs.world.pick_device", torch.device)
    assert World().device("cuda") == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert World(3, 4).device("auto") == torch.device("cuda:1")
    assert World(3, 4).device("cuda:0") == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="more processes than the 2 GPUs"):
        World(2, 4).device("auto")


def test_what_failed_elsewhere_fails_here_as_what_it_was():
    for error in (InputError("no"), OSError(28, "full", "a"), torch.OutOfMemoryError("CUDA out of memory")):
        again = _rebuild(_describe(error))
        assert type(again) is type(error)
        assert str(again) == str(error)


def test_progress_of_a_process_alone_adds_up():
    world = World()
    with world.progress(10, "step") as bar, world.together():
        for _ in range(4):
            bar.update(2)
        bar.report()
        time.sleep(0)
        bar.update(2)
    assert bar.bar.n == 10


@pytest.mark.parametrize(("name", "sharers"), [("auto", 1), ("cuda", 1), ("cuda:0", 3), ("cpu", 3)])
def test_processes_share_what_is_not_a_gpu_of_their_own(monkeypatch, name, sharers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert World(1, 6).sharers(name) == sharers
    assert World().sharers(name) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert World(1, 6).sharers("auto") == 3
