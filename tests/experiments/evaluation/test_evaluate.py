"""experiments/evaluation/evaluate.py: everything that can be had, and why the rest is not."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

import configs
from configs import InputError
from experiments.evaluation import evaluate as module
from experiments.evaluation.evaluate import EvaluateConfig, evaluate
from experiments.evaluation.evaluator import Evaluator, Evaluators
from experiments.evaluation.frechet import frechet_distance
from experiments.evaluation.judge import JudgeConfig, judge
from experiments.evaluation.result import Evaluation
from experiments.evaluation.sets import open_sets
from experiments.grid import folder_name
from experiments.images import save_png
from experiments.runs.run import SampleConfig, run
from samplers import SamplerConfig


def save(folder, images: Tensor) -> str:
    for index, image in enumerate(images):
        save_png(image, folder / f"{index:06d}.png")
    return str(folder)


def digits(seed: int, count: int = 20) -> Tensor:
    """Blobs: of noise the classifier's features are all zero."""
    coarse = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    blobs = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
    return ((blobs > 0.6) * 255).to(torch.uint8)


@pytest.fixture
def without_weights(monkeypatch):
    """No Inception weights, no network."""

    def nothing(weights, device, resize):
        raise InputError("the Inception weights are not here")

    monkeypatch.setattr(module, "load_inception", nothing)


@pytest.fixture
def with_toy(monkeypatch, toy):
    """The toy network in the place of Inception."""
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(module, "load_inception", lambda weights, device, resize: toy)
    return toy


def test_every_strategy_has_a_row_and_every_metric_a_column(with_toy, pictures, tmp_path):
    samples = tmp_path / "samples"
    save(samples / "uncached", pictures(0, 30))
    save(samples / "cached", pictures(1, 30))
    save(tmp_path / "real", pictures(2, 40))
    result = evaluate(EvaluateConfig(str(samples), str(tmp_path / "real"), against=f"{samples}/uncached"))
    assert result.missing == []
    assert result.images == {"cached": 30, "uncached": 30}
    ours, real = Evaluator(with_toy), Evaluator(with_toy)
    ours.update(pictures(1, 30))
    real.update(pictures(2, 40))
    values = result.values["cached"]
    assert values["FID"] == pytest.approx(frechet_distance(ours.statistics("pool"), real.statistics("pool")), rel=1e-6)
    assert set(values) == {"FID", "sFID", "IS", "IS_std", "KID", "KID_std", "precision", "recall",
                           "psnr_mean", "psnr_worst", "ssim_mean", "ssim_worst", "identical"}  # fmt: skip
    head, _, cached, uncached = str(result).splitlines()[:4]
    columns = ["samples", "images", "FID", "sFID", "IS", "KID", "precision", "recall"]
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [*columns, "PSNR mean / worst", "SSIM mean / worst"]
    assert f"{values['FID']:.2f}" in cached
    assert "identical" in uncached
    assert "the weights of inception-v3-compat are not the published ones" in str(result)


def test_the_result_lies_beside_the_samples_as_json(with_toy, pictures, tmp_path):
    save(tmp_path / "samples", pictures(0, 30))
    save(tmp_path / "real", pictures(2, 30))
    result = evaluate(EvaluateConfig(str(tmp_path / "samples"), str(tmp_path / "real")))
    result.save()
    (stored,) = json.loads((tmp_path / "samples.metrics.json").read_text())
    assert stored["values"] == result.values
    assert stored["networks"] == {"inception-v3-compat": "0" * 64}
    assert torch.__version__.startswith(stored["versions"]["torch"])
    assert any("Fréchet distance to 30 images of real" in line for line in stored["settings"])


def test_other_evaluations_of_the_same_samples_are_kept(pictures, tmp_path):
    samples, file = tmp_path / "samples", tmp_path / "samples.metrics.json"
    save(samples, pictures(0, 3))
    save(tmp_path / "uncached", pictures(1, 3))
    for metric in ("psnr", "ssim", "psnr"):
        evaluate(EvaluateConfig(str(samples), metrics=[metric], against=str(tmp_path / "uncached"))).save()
    stored = json.loads(file.read_text())
    assert [next(iter(each["values"]["samples"])) for each in stored] == ["ssim_mean", "psnr_mean"]


@pytest.mark.parametrize(
    "other",
    [
        {"reference": "mnist"},
        {"split": "test"},
        {"against": "uncached"},
        {"metrics": ["fid", "is"]},
        {"images": {"samples": 4}},
        {"networks": {"inception": "1" * 64}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_an_evaluation_gives_way_only_to_one_that_answers_the_same_question(tmp_path, other):
    first = Evaluation(
        folder=str(tmp_path / "samples"), reference="cifar10", split="train", against=None, metrics=["fid"],
        images={"samples": 3}, values={"samples": {"FID": 1.0}}, networks={"inception": "0" * 64}, settings=[],
        missing=[],
    )  # fmt: skip
    again = replace(first, values={"samples": {"FID": 2.0}}, settings=["in other words"], versions={"torch": "3"})
    for each in (first, replace(first, **other), again):
        each.save()
    assert json.loads(first.file.read_text()) == [asdict(replace(first, **other)), asdict(again)]


@pytest.mark.parametrize("content", ["{", '{"values": {}}', "[1]"])
def test_a_file_of_something_else_is_not_written_over(pictures, tmp_path, content):
    save(tmp_path / "samples", pictures(0, 3))
    (tmp_path / "samples.metrics.json").write_text(content)
    with pytest.raises(InputError, match=r"samples\.metrics\.json is damaged, or no list of evaluations"):
        evaluate(EvaluateConfig(str(tmp_path / "samples"), metrics=["psnr"], against=str(tmp_path / "samples")))
    assert (tmp_path / "samples.metrics.json").read_text() == content


def test_statistics_of_a_reference_stand_for_it(with_toy, pictures, tmp_path):
    save(tmp_path / "samples", pictures(0, 30))
    save(tmp_path / "real", pictures(2, 30))
    config = EvaluateConfig(
        str(tmp_path / "samples"), str(tmp_path / "real"), ["fid", "sfid"], statistics=str(tmp_path / "real.npz")
    )
    first = evaluate(config)
    second = evaluate(replace(config, reference=str(tmp_path / "real.npz"), statistics=None))
    assert second.values == first.values


@pytest.mark.parametrize(("metrics", "seen"), [(["fid", "sfid"], 30), (["kid"], 70), (["fid", "prc"], 70)])
def test_images_beside_statistics_are_measured_only_for_metrics_of_single_ones(
    with_toy, monkeypatch, pictures, tmp_path, metrics, seen
):
    """OpenAI's files hold both, and at full size the features of their images take minutes."""
    save(tmp_path / "samples", pictures(0, 30))
    features = with_toy(pictures(1))
    moments = {}
    for suffix, layer in (("", "pool"), ("_s", "spatial")):
        x = features[layer].double().numpy()
        moments |= {f"mu{suffix}": x.mean(0), f"sigma{suffix}": np.cov(x, rowvar=False)}
    np.savez(tmp_path / "openai.npz", arr_0=pictures(2, 40).permute(0, 2, 3, 1).numpy(), **moments)
    counts = []

    def extract(images: Tensor) -> dict[str, Tensor]:
        counts.append(len(images))
        return with_toy.extract(images)

    monkeypatch.setattr(module, "load_inception", lambda *_: replace(with_toy, extract=extract))
    result = evaluate(EvaluateConfig(str(tmp_path / "samples"), str(tmp_path / "openai.npz"), metrics))
    assert result.missing == []
    assert sum(counts) == seen


def test_without_inception_weights_digits_have_the_distance_of_their_classifier(without_weights, tmp_path):
    save(tmp_path / "samples", digits(0))
    np.savez(tmp_path / "real.npz", test_images=digits(1)[:, 0].numpy())
    config = EvaluateConfig(str(tmp_path / "samples"), str(tmp_path / "real.npz"), split="test")
    result = evaluate(config)
    assert list(result.values["samples"]) == ["FD-mnist_classifier"]
    assert result.missing == ["no fid, sfid, is, kid, prc: the Inception weights are not here"]
    line = judge(JudgeConfig(str(tmp_path / "samples"), data=str(tmp_path / "real.npz"))).splitlines()[2]
    assert result.values["samples"]["FD-mnist_classifier"] > 0.1
    assert f" {result.values['samples']['FD-mnist_classifier']:.4g} " in line  # the judge's figure is the same
    assert "FID" not in str(result).splitlines()[0]


def test_a_run_is_measured_without_a_detour_through_files(with_toy, tmp_path):
    observer = Evaluators(with_toy)
    policy = {"name": "uniform", "interval": 3, "branch": 1}
    run(
        SampleConfig(num_images=4, batch_size=2, sampler=SamplerConfig(steps=4), policy=policy, out=str(tmp_path)),
        observer=observer,
    )
    stored = {found.name: found for found in open_sets(tmp_path)}
    assert len(stored) == len(observer.by_name) == 2
    for name, evaluator in observer.by_name.items():
        images = stored[folder_name(name)].images
        expected = torch.cat([with_toy(images.batch(block))["pool"] for block in ([0, 1], [2, 3])])
        assert torch.equal(evaluator.features("pool"), expected)


# --- what cannot be measured


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"metrics": ["fid"]}, "no fid: the Inception weights are not here"),
        ({"metrics": ["psnr"]}, "name the images to compare with by against=FOLDER"),
        ({"metrics": ["fd"]}, "name the network with features=FILE"),
        ({"metrics": ["clip"]}, r"there is no summary\.json with prompts"),
        ({}, "no is: the Inception weights are not here"),
    ],
)
def test_nothing_to_measure_ends_in_one_sentence(without_weights, pictures, tmp_path, more, sentence):
    folder = save(tmp_path / "samples", pictures(0, 12))
    with pytest.raises(InputError, match=sentence):
        evaluate(EvaluateConfig(folder, **more))
    assert not (tmp_path / "samples.metrics.json").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"metrics": ["fib"]}, "the metric 'fib' does not exist; did you mean 'fid'"),
        ({"reference": "mnist", "statistics": "real.txt"}, r"statistics must be the name of an \.npz file, not real"),
        ({"statistics": "real.npz"}, "statistics are those of the reference; name it"),
        ({"split": "val"}, "the split 'val' does not exist"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_keys_are_checked_first(more, sentence):
    with pytest.raises(InputError, match=sentence):
        EvaluateConfig("samples", **more)


@pytest.mark.parametrize("which", ["statistics", "result"])
def test_a_file_that_cannot_be_written_shows_before_anything_is_measured(monkeypatch, pictures, tmp_path, which):
    monkeypatch.setattr(module, "load_inception", None)
    folder = save(tmp_path / "samples", pictures(0, 2))
    (tmp_path / "file").touch()
    if which == "result":
        (tmp_path / "samples.metrics.json").mkdir()
    statistics = str(tmp_path / "file" / "real.npz") if which == "statistics" else None
    with pytest.raises(OSError, match=r"real\.npz" if statistics else r"samples\.metrics\.json"):
        evaluate(EvaluateConfig(folder, folder, statistics=statistics))


def test_sets_of_different_sizes_are_not_of_one_evaluation(pictures, tmp_path):
    save(tmp_path / "a", pictures(0, 2))
    save(tmp_path / "b", pictures(0, 2, channels=1))
    with pytest.raises(InputError, match="of different sizes; name one of them"):
        evaluate(EvaluateConfig(str(tmp_path)))


def test_an_unclear_counterpart_ends_in_one_sentence(pictures, tmp_path):
    save(tmp_path / "samples", pictures(0, 2))
    for name in ("a", "b"):
        save(tmp_path / "others" / name, pictures(1, 2))
    with pytest.raises(InputError, match="holds a, b; name one of them"):
        evaluate(EvaluateConfig(str(tmp_path / "samples"), against=str(tmp_path / "others")))


# --- the script


def script(words: list[str], processes: int = 1) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(configs.ROOT / "scripts" / "evaluate.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(configs.ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


def test_processes_share_the_work_and_change_no_bit(tmp_path):
    folder = save(tmp_path / "samples", digits(0, 30))
    np.savez(tmp_path / "real.npz", test_images=digits(1, 25)[:, 0].numpy())
    words = [folder, f"reference={tmp_path / 'real.npz'}", "split=test", "metrics=[fd]", "batch_size=8",
             "device=cpu"]  # fmt: skip
    results = []
    for processes in (1, 2):
        done = script(words, processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("FD-mnist_classifier") == 2  # in the head of the table and below it; said once
        results.append((tmp_path / "samples.metrics.json").read_text())
    assert results[0] == results[1]


def test_bad_input_ends_the_script_in_one_sentence(tmp_path):
    done = script([str(tmp_path / "nowhere")])
    assert done.returncode == 2
    assert (
        done.stderr == f"error: there are no samples at {tmp_path}/nowhere: it is neither a folder nor an .npz file\n"
    )
