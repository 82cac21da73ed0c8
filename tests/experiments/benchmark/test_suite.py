"""A whole benchmark of a tiny network."""

import json
import sys

import pytest

import configs
from experiments.benchmark import suite
from experiments.benchmark.settings import BenchmarkConfig
from experiments.benchmark.workload import Workload


@pytest.fixture
def config(tmp_path):
    network = {"resolution": 8, "channels": 32, "channel_mult": [1, 1]}
    configs.OmegaConf.save({"network": network}, tmp_path / "model.yaml")
    configs.OmegaConf.save({"model": str(tmp_path / "model.yaml"), "sampler": {"steps": 4}}, tmp_path / "run.yaml")
    return BenchmarkConfig(
        run=str(tmp_path / "run.yaml"), batch_size=[1, 2], branches=[0, 2], variants=["plain", "fast"],
        intervals=[1, 2], rounds=2, sampling_rounds=1, device="cpu", out=str(tmp_path / "out"), name="tiny",
    )  # fmt: skip


def like(config, **others):
    return BenchmarkConfig(**{**vars(config), "batch_size": 1, **others})


def lines(config):
    return [json.loads(line) for line in config.file(".jsonl").read_text().splitlines()]


def test_everything_is_measured_once(config, monkeypatch):
    text = suite.run(config)
    records = lines(config)
    cases = {record["case"] for record in records}
    assert len(cases) == 2
    ours = [record for record in records if record["variant"] == "fast"]
    assert [record["what"] for record in ours[:5]] == [
        "full pass", "branch 0", "branch 2", "sampling", "sampling N=2 branch 0",
    ]  # fmt: skip
    for record in records:
        if "engine" in record:
            assert record["seconds"] > 0
            assert record["share"] > 0
            assert record["flops"] == 2 * record["macs"] / record["seconds"]
            assert record["error"] < 1e-4
            assert record["threads"] == 1
    assert config.file(".png").read_bytes().startswith(b"\x89PNG")
    assert config.file(".md").read_text().strip() in text

    monkeypatch.setattr(suite, "measure", pytest.fail)
    suite.run(config)  # reads what is there
    assert lines(config) == records


def test_what_cannot_be_written_is_not_measured(config, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "measure", pytest.fail)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/tiny\.jsonl"):
        suite.run(like(config, out=str(tmp_path / "file")))


def test_the_digits_are_measured_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = configs.read(configs.find("mnist32", "benchmarks"))
    (case,) = configs.parse(BenchmarkConfig, content, where="mnist32").all_cases()
    assert Workload(case).network().provenance.sha256


def test_a_missing_peer_is_a_line_and_no_error(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    text = suite.run(like(config, intervals=[], variants=["plain", "diffusers"]))
    assert '- diffusers left out: diffusers is not installed: pip install -e ".[peers]"' in text
    (skipped,) = [record for record in lines(config) if record["variant"] == "diffusers"]
    assert "seconds" not in skipped


def test_a_precision_that_is_only_imitated_is_a_line(config, monkeypatch):
    """On such a processor convolutions in bf16 take many times as long, and a suite would take a day."""
    reason = "this processor has no arithmetic in bf16"
    monkeypatch.setattr(
        "experiments.benchmark.measure.emulation_warning", lambda name, device: reason if name == "bf16" else None
    )
    text = suite.run(like(config, intervals=[], variants=["plain", "plain bf16"]))
    assert f"- plain bf16 left out: {reason}" in text
    assert "attainable in bf16" not in text


def test_memory_holds_the_weights(config):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells the peak of a process")
    suite.run(like(config, intervals=[2], variants=["plain"]))
    (store,) = {record["store_bytes"] for record in lines(config) if record["variant"] == "plain"}
    assert store == 4 * 32 * 8 * 8  # what enters up[0], in float32
