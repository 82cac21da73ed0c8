"""Runs that are killed, starved of disk space and damaged, and end up as if nothing had happened."""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import finish, running, start

import configs
from caching import SavedPlan
from configs import InputError
from experiments.runs.run import SampleConfig, run, sampler_of

TINY = """
network: {resolution: 8, channels: 32, channel_mult: [1, 2], num_res_blocks: 1}
diffusion: {num_timesteps: 1000}
"""
SETTINGS = {
    "checkpoint": "random", "sampler.steps": 4, "policy.name": "uniform", "policy.interval": 2, "policy.branch": 0,
    "batch_size": 2, "device": "cpu",
}  # fmt: skip
CACHED = "uniform-interval2-branch0-lagrange-order1"
IMAGES = 240  # many more than ten kills leave time for


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def words_of(model: str, out: Path, **settings) -> list[str]:
    given = SETTINGS | {"model": model, "out": str(out)} | settings
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in given.items()]


def config_of(model: str, out: Path, **settings) -> SampleConfig:
    return configs.parse(SampleConfig, configs.parse_words(words_of(model, out, **settings)), where="test")


def sampled(model: str, out: Path, **settings) -> dict[str, str]:
    """An undisturbed run in this process -> what it leaves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(config_of(model, out, **settings))
    finally:
        torch.set_num_threads(threads)
    return left_in(out)


def left_in(out: Path) -> dict[str, str]:
    """Digests of all files in a run's folder; of JSON files without the times and the place that they tell."""
    digests = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(_timeless(json.loads(content)), sort_keys=True).encode()
        digests[str(path.relative_to(out))] = hashlib.sha256(content).hexdigest()
    return digests


TIMES = {"seconds", "decoding", "measured_speedup", "images_per_second", "environment"}


def _timeless(content):
    if isinstance(content, list):
        return [_timeless(entry) for entry in content]
    if not isinstance(content, dict):
        return content
    left_out = TIMES | ({"sha256"} if "environment" in content and "parts" in content else set()) | {"out"}
    return {key: _timeless(value) for key, value in content.items() if key not in left_out}


def records(out: Path) -> list[Path]:
    return sorted((out / "blocks").glob("*.json"))


def wait_for(condition, seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return condition()


@pytest.mark.parametrize("storage", ["png", "npz"])
def test_a_run_killed_ten_times_leaves_the_files_of_an_undisturbed_one(model, tmp_path, storage):
    """Two processes at first, then one to three; killed at random points of their work, once a process alone."""
    rng, out, said = random.Random(storage), tmp_path / "killed", tmp_path / "said"
    settings = {"num_images": IMAGES, "storage": storage}
    for size in [2, 1, 3, 2, 1, 2, 3, 1, 2, 2]:
        before = len(records(out))
        with running(size, said, words_of(model, out, **settings)) as processes:
            more = rng.randint(0, 3)
            assert wait_for(lambda goal=before + more: len(records(out)) >= goal), said.read_text()
            time.sleep(rng.uniform(0, 0.1))
            rng.choice(processes).kill()  # the others a moment later, as torchrun would end them
            time.sleep(rng.choice([0, 0.05]))
    assert len(records(out)) < IMAGES / 2  # else nothing was left to resume
    assert finish(start(3, said, words_of(model, out, **settings))) == [0, 0, 0], said.read_text()
    assert left_in(out) == sampled(model, tmp_path / "undisturbed", **settings)


@contextlib.contextmanager
def torchrun(processes: int, words: list[str]) -> Iterator[subprocess.Popen]:
    script = str(configs.ROOT / "scripts" / "sample.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"PYTHONPATH": str(configs.ROOT), "OMP_NUM_THREADS": "1"}
    launched = subprocess.Popen(
        [*launcher, script, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield launched
    finally:
        launched.terminate()  # it ends its processes, too
        launched.communicate(timeout=60)


def workers_of(launcher: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]


@pytest.mark.parametrize("kills", [1, pytest.param(9, marks=pytest.mark.slow)])
def test_torchrun_completes_what_a_killed_torchrun_left(model, tmp_path, kills):
    if shutil.which("ps") is None:
        pytest.skip("there is no ps to find the processes of torchrun with")
    out, settings = tmp_path / "out", {"num_images": IMAGES}
    for kill in range(kills):
        before = len(records(out))
        with torchrun(2 - kill % 2, words_of(model, out, **settings)) as launched:
            assert wait_for(lambda goal=before + 1 + kill % 3: len(records(out)) >= goal)
            os.kill(random.choice(workers_of(launched.pid)), signal.SIGKILL)
            launched.communicate(timeout=60)
            assert launched.returncode != 0
    with torchrun(2, words_of(model, out, **settings)) as launched:
        text, _ = launched.communicate(timeout=120)
    assert launched.returncode == 0, text
    assert text.count("images, grid.png and summary.json are in") == 1
    assert left_in(out) == sampled(model, tmp_path / "undisturbed", **settings)


@pytest.mark.parametrize("storage", ["png", "npz"])
def test_an_image_has_the_same_bits_in_every_range(model, tmp_path, storage):
    whole = sampled(model, tmp_path / "whole", num_images=12, batch_size=4, storage=storage)
    for seed, count in [(5, 2), (8, 4), (0, 7), (0, 12)]:  # in one folder, one after the other
        run(config_of(model, tmp_path / "parts", seed=seed, num_images=count, batch_size=4, storage=storage))
    assert left_in(tmp_path / "parts") == whole


def test_another_range_in_the_same_folder_keeps_what_is_there(model, tmp_path):
    sampled(model, tmp_path / "out", seed=0, num_images=3, batch_size=4)
    left = sampled(model, tmp_path / "out", seed=10, num_images=1, batch_size=4)
    names = [f"{CACHED}/{seed:06d}.png" for seed in (0, 1, 2, 10)]
    assert [name for name in left if name.startswith(CACHED)] == names
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["config"]["seed"] == 10


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize(
    ("storage", "file"),
    [("png", f"{CACHED}/000005.png"), ("png", "uncached/000004.png"), ("png", "blocks/000004.json"),
     ("npz", f"{CACHED}/000004-000005.npz"), ("npz", "blocks/000004.json")],
)  # fmt: skip
def test_what_is_damaged_is_noticed_and_made_again(model, tmp_path, capsys, storage, file, damage):
    out, settings = tmp_path / "out", {"num_images": 8, "storage": storage}
    whole = sampled(model, out, **settings)
    others = {path: path.stat().st_mtime_ns for path in out.glob("*/00000[01236]*")}
    damage(out / file)
    capsys.readouterr()
    assert sampled(model, out, **settings) == whole
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "made again" in line]
    assert line.startswith("seeds 4 to 5 are made again: ")
    assert {path: path.stat().st_mtime_ns for path in others} == others  # nothing else was touched


@pytest.mark.parametrize("lost", ["*/000002.png", "blocks/000000.json"])
def test_a_block_that_is_made_again_keeps_images_that_are_not_asked_for(model, tmp_path, lost):
    """Those that its record promises, and those that are there without a record."""
    out = tmp_path / "out"
    sampled(model, out, num_images=3, batch_size=4)
    for path in out.glob(lost):
        path.unlink()
    sampled(model, out, num_images=1, batch_size=4)
    assert json.loads((out / "blocks" / "000000.json").read_text())["seeds"] == [0, 1, 2]
    assert sorted(path.name for path in (out / CACHED).iterdir()) == ["000000.png", "000001.png", "000002.png"]


def test_a_record_that_was_edited_is_noticed(model, tmp_path, capsys):
    whole = sampled(model, tmp_path / "out", num_images=4)
    record = tmp_path / "out" / "blocks" / "000002.json"
    record.write_text(record.read_text().replace('"python": "', '"python": "0'))
    capsys.readouterr()
    assert sampled(model, tmp_path / "out", num_images=4) == whole
    assert "seeds 2 to 3 are made again: " in capsys.readouterr().err


def test_strangers_among_the_images_are_named(model, tmp_path, capsys):
    sampled(model, tmp_path / "out", num_images=2)
    for name in ("cat.png", "000001.png.old"):
        (tmp_path / "out" / CACHED / name).write_bytes(b"")
        sampled(model, tmp_path / "out", num_images=2)
        assert f"{name} is not of this run" in capsys.readouterr().err
        (tmp_path / "out" / CACHED / name).unlink()


def test_a_whole_run_is_not_made_again(model, tmp_path, monkeypatch):
    sampled(model, tmp_path / "out", num_images=3)
    monkeypatch.setattr("experiments.runs.making.sample_images", None)
    run(config_of(model, tmp_path / "out", num_images=3))


@pytest.mark.parametrize(
    ("settings", "difference"),
    [({"sampler.steps": 5}, "sampler.steps 4 there, 5 here"), ({"batch_size": 3}, "batch_size 2 there, 3 here"),
     ({"policy.interval": 3}, "policy.interval 2 there, 3 here"), ({"storage": "npz"}, "storage png there, npz here"),
     ({"compare": False}, "compare True there, False here")],
)  # fmt: skip
def test_another_configuration_is_refused_with_the_difference(model, tmp_path, settings, difference):
    before = sampled(model, tmp_path / "out", num_images=2)
    with pytest.raises(InputError, match=difference):
        run(config_of(model, tmp_path / "out", **{"num_images": 2} | settings))
    assert left_in(tmp_path / "out") == before


def test_another_network_under_the_same_name_is_refused(model, tmp_path):
    sampled(model, tmp_path / "out", num_images=2)
    Path(model).write_text(TINY.replace("[1, 2]", "[1, 1]"))
    with pytest.raises(InputError, match=r"network .* there, .* here"):
        run(config_of(model, tmp_path / "out", num_images=2))


def test_a_plan_file_may_move_but_not_change(model, tmp_path):
    def plan(file: str, entries: list) -> dict[str, str]:
        made_for = config({}).trajectories("", sampler_of(config({})))
        assert made_for.timesteps == [750, 500, 250, 0]
        SavedPlan(entries, {"name": "reuse"}, made_for).save(tmp_path / file)
        return {"policy.name": str(tmp_path / file), "num_images": 2}

    words = [word for word in words_of(model, tmp_path / "out") if not word.startswith("policy.")]

    def config(settings: dict) -> SampleConfig:
        given = [*words, *(f"{key}={value}" for key, value in settings.items())]
        return configs.parse(SampleConfig, configs.parse_words(given), where="test")

    run(config(plan("a/mine.json", [None, 0, None, 0])))
    run(config(plan("b/mine.json", [None, 0, None, 0])))
    with pytest.raises(InputError, match=r"policy\.plans .* there, .* here"):
        run(config(plan("a/mine.json", [None, 0, 0, 0])))


def test_a_manifest_that_cannot_be_read_is_refused(model, tmp_path):
    sampled(model, tmp_path / "out", num_images=2)
    _truncate(tmp_path / "out" / "run.json")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        run(config_of(model, tmp_path / "out", num_images=2))


def in_a_process(words: list[str], prefix: list[str] | None = None, **options) -> subprocess.CompletedProcess:
    script = str(configs.ROOT / "scripts" / "sample.py")
    environment = os.environ | {"PYTHONPATH": str(configs.ROOT), "OMP_NUM_THREADS": "1"}
    command = [*(prefix or []), sys.executable, script, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


def errors(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.replace("\r", "\n").splitlines() if "error" in line.lower()]


def test_a_limit_on_file_sizes_ends_in_one_sentence_and_keeps_what_is_whole(model, tmp_path):
    out, settings = tmp_path / "out", {"num_images": 16, "batch_size": 16, "storage": "npz"}

    def limit() -> None:
        # No shard fits, but the module does that torch 2.6 writes when it is imported.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))

    (tmp_path / "tmp").mkdir()
    done = in_a_process(words_of(model, out, **settings), preexec_fn=limit)
    assert done.returncode == 2
    (sentence,) = errors(done)
    assert sentence.startswith("error: File too large: ")
    assert "Traceback" not in done.stderr
    assert not [path for path in out.rglob("*") if path.is_file() and path.name != "run.json"]
    assert sampled(model, out, **settings) == sampled(model, tmp_path / "undisturbed", **settings)


def test_a_full_disk_ends_in_one_sentence_and_keeps_what_is_whole(model, tmp_path):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    inside = f'mount -t tmpfs -o size=150k none {disk} && {{ "$@"; status=$?; cp -r {disk}/out {kept}; exit $status; }}'
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*namespace, f"mount -t tmpfs none {disk}"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets nobody mount a small file system")
    settings = {"num_images": 24}
    done = in_a_process(words_of(model, disk / "out", **settings), [*namespace, inside, "sh"])
    assert done.returncode == 2, done.stderr
    (sentence,) = errors(done)
    assert sentence.startswith("error: No space left on device: ")
    assert "Traceback" not in done.stderr
    whole = len(records(kept))
    assert 0 < whole < 12
    assert not list(kept.rglob("*.part"))
    before = {path: path.stat().st_mtime_ns for path in records(kept)}
    assert sampled(model, kept, **settings) == sampled(model, tmp_path / "undisturbed", **settings)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_images_made_on_another_device_are_named(model, tmp_path, monkeypatch, capsys):
    sampled(model, tmp_path / "out", num_images=2)
    capsys.readouterr()
    sampled(model, tmp_path / "out", num_images=4)
    assert "round otherwise" not in capsys.readouterr().err
    there = json.loads((tmp_path / "out" / "blocks" / "000000.json").read_text())["environment"]
    for count, key, other in ((6, "device", "cuda (another)"), (8, "torch", "1.0")):
        here = {**there, key: other}
        monkeypatch.setattr("experiments.runs.run.environment", lambda pipeline, here=here: here)
        sampled(model, tmp_path / "out", num_images=count)
        assert f"{there[key]}, which may round otherwise than {other} does here" in capsys.readouterr().err
