"""Rows: run once, resumed, recorded when they fail."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import configs
import experiments.rows.rows
from caching import POLICIES, Uniform
from configs import InputError
from experiments.rows.judging import Judges
from experiments.rows.pricing import price
from experiments.rows.results import Result, as_text, load_result
from experiments.rows.rows import Row, execute, key
from experiments.runs.run import SampleConfig


def row(model: str, name: str = "row", **settings) -> Row:
    layer = {
        "model": model, "sampler": {"steps": 4}, "num_images": 3, "batch_size": 2, "device": "cpu",
        "policy": {"name": "uniform", "interval": 2, "branch": 1}, "forecaster": {"name": "reuse"},
    }  # fmt: skip
    if model != "mnist32":
        layer["checkpoint"] = "random"
    return Row(name, configs.parse(SampleConfig, layer | settings, where="test"))


@pytest.fixture
def counted(monkeypatch) -> list[SampleConfig]:
    """The configurations that were really sampled."""
    made = []

    def run(config, *world):
        made.append(config)
        return original(config, *world)

    original = experiments.rows.rows.run
    monkeypatch.setattr(experiments.rows.rows, "run", run)
    return made


def test_the_key_names_what_results_depend_on(tiny):
    one = row(tiny)
    assert key(one) == key(row(tiny, name="another name", out="elsewhere", storage="npz", device="auto", compare=False))
    assert key(one) == key(row(tiny, policy={"branch": 1, "interval": 2, "name": "uniform"}))
    for changed in (
        {"seed": 1},
        {"num_images": 4},
        {"sampler": {"steps": 5}},
        {"policy": {"name": "uniform", "interval": 3, "branch": 1}},
        {"forecaster": {"name": "lagrange", "order": 1}},
    ):
        assert key(row(tiny, **changed)) != key(one)


def test_a_setting_that_is_called_file_is_no_plan_file(tiny, tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Table:
        file: str
        branch: int = 0

        def plan(self, num_evals):
            return Uniform(2, self.branch).plan(num_evals)

    monkeypatch.setitem(POLICIES, "table", Table)
    (tmp_path / "table.json").write_text("[]")
    settings = {"name": "table", "file": str(tmp_path / "table.json")}
    assert key(row(tiny, policy=settings)) != key(row(tiny, policy={**settings, "branch": 1}))


def test_another_network_under_the_same_name_is_another_row(tiny):
    before = key(row(tiny))
    model = Path(tiny)
    model.write_text(model.read_text().replace("channels: 32", "channels: 64"))
    assert key(row(tiny)) != before


def test_the_default_forecaster_is_resolved(tiny):
    assert row(tiny, forecaster={"name": "auto"}).config.forecaster == {"name": "lagrange", "order": 1}
    uncached = row(tiny, policy={"name": "none"}, forecaster={"name": "auto"})
    assert key(uncached) == key(row(tiny).uncached)
    assert uncached.is_uncached
    assert not row(tiny).is_uncached
    plan = {"name": str(configs.ROOT / "docs/frontier/plans/ddim20-uniform-N3.json")}
    assert key(row(tiny, policy=plan)) == key(row(tiny, policy=plan, forecaster={"name": "lagrange"}))  # it has its own


def test_a_row_is_one_strategy(tiny):
    with pytest.raises(InputError, match="means 2"):
        row(tiny, policy={"name": "uniform", "interval": [2, 3], "branch": 0})


def test_finished_rows_are_not_run_again(tiny, tmp_path, counted):
    rows = [row(tiny, "a"), row(tiny, "b", policy={"name": "uniform", "interval": 3, "branch": 1})]
    first = execute(rows, tmp_path / "out")
    assert [result.name for result in first] == ["a", "b"]
    assert len(counted) == 3  # and the uncached one, once
    assert [result.error for result in first] == [None, None]
    assert first[0].uncached == first[1].uncached == key(rows[0].uncached)
    assert first[0].metrics["theoretical_speedup"] > first[1].metrics["theoretical_speedup"] * 0.5
    assert execute(rows, tmp_path / "out") == first
    assert len(counted) == 3
    assert load_result(tmp_path / "out" / "results" / f"{key(rows[0])}.json").plan == [None, 1, None, 1]


def test_a_failure_is_recorded_and_the_others_go_on(tiny, tmp_path, counted):
    rows = [row(tiny, "a", policy={"name": "uniform", "interval": 2, "branch": 9}), row(tiny, "b")]
    failed, fine = execute(rows, tmp_path / "out")
    assert "branch 9" in failed.error
    assert failed.metrics == {}
    assert fine.error is None
    stored = json.loads((tmp_path / "out" / "results" / f"{key(rows[0])}.json").read_text())
    assert stored["error"] == failed.error
    tried = len(counted)
    execute(rows, tmp_path / "out")
    assert len(counted) == tried + 1  # the failed one, and no other


def test_a_missing_checkpoint_fails_its_rows_in_one_sentence(tiny, tmp_path, counted):
    (result,) = execute([row(tiny, checkpoint=str(tmp_path / "missing.pt"))], tmp_path / "out")
    assert "missing.pt" in result.error
    assert not counted


def test_a_damaged_result_is_named(tiny, tmp_path):
    path = tmp_path / "out" / "results" / f"{key(row(tiny))}.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(InputError, match=path.name):
        execute([row(tiny)], tmp_path / "out")


def test_random_weights_have_times_and_no_quality(tiny, tmp_path):
    (result,) = execute([row(tiny)], tmp_path / "out")
    assert result.random_weights
    assert result.metrics["images_per_second"] > 0
    assert "psnr_mean" not in result.metrics


def test_trained_rows_are_compared_with_the_uncached_one(tmp_path):
    cached = row("mnist32")
    uncached, result, exact = execute(
        [cached.uncached, cached, row("mnist32", policy={"name": "uniform", "interval": 1, "branch": 1})],
        tmp_path / "out",
        judges=Judges(str(tmp_path / "missing")),
    )
    assert 10 < result.metrics["psnr_worst"] <= result.metrics["psnr_mean"] < 60
    assert "psnr_mean" not in uncached.metrics
    assert exact.metrics["identical"] == 3
    assert result.notes[0].startswith("no distances to real images: data must be")


def test_what_judges_can_say_is_added_to_finished_rows(tmp_path, counted):
    cached = row("mnist32")
    (before,) = execute([cached], tmp_path / "out")
    runs = len(counted)
    real = tmp_path / "out" / "samples" / before.uncached / "none"  # any digits will do
    (after,) = execute([cached], tmp_path / "out", judges=Judges(str(real)))
    assert len(counted) == runs
    assert after.metrics["frechet"] > 0
    assert "mnist_classifier" in after.settings[0]
    assert {name: after.metrics[name] for name in before.metrics} == before.metrics
    file = tmp_path / "out" / "results" / f"{after.key}.json"
    assert as_text(load_result(file)) == file.read_text(), "what is read is written alike"
    assert execute([cached], tmp_path / "out") == [after]


def test_what_was_measured_once_is_measured_again_for_other_real_images_alone(tmp_path, monkeypatch):
    measured = []
    measure = Judges.measure
    monkeypatch.setattr(Judges, "measure", lambda *args: measured.append(args[1].parent.name) or measure(*args))
    cached, out = row("mnist32"), tmp_path / "out"
    (result,) = execute([cached], out)
    real = out / "samples" / result.uncached / "none"
    for data, times in ((None, 0), (real, 2), (real, 0), (None, 0), (real.parent, 2)):
        measured.clear()
        before = execute([cached.uncached, cached], out, judges=Judges(data and str(data)))
        assert len(measured) == times, data
    after = execute([cached.uncached, cached], out, judges=Judges(str(tmp_path / "missing")))
    for was, now in zip(before, after, strict=True):
        assert now == replace(was, notes=now.notes)
        assert "no distances to real images" in now.notes[0]


def judged_again(out: Path, cached: Row, real: Path) -> Result:
    """The row, finished before, with real images for the first time."""
    return execute([cached], out, judges=Judges(str(real)))[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path, Result]:
    """A folder with a row and its uncached one, some real images, and the row's result."""
    folder = tmp_path_factory.mktemp("finished")
    (result,) = execute([row("mnist32")], folder / "out")
    shutil.copytree(folder / "out" / "samples" / result.uncached / "none", folder / "real")
    return folder / "out", folder / "real", result


@pytest.mark.parametrize(
    ("keep", "note"),
    [(0, "there are no images"), (1, "holds 1 images, and the row has 3"), (None, "is not a readable image")],
    ids=["none", "some", "truncated"],
)
def test_a_finished_row_is_not_measured_on_what_is_left_of_its_images(finished, tmp_path, keep, note):
    out = shutil.copytree(finished[0], tmp_path / "out")
    paths = sorted((out / "samples" / finished[2].key).glob("*/*.png"))
    if keep is None:
        paths[1].write_bytes(paths[1].read_bytes()[:80])
    for path in paths[len(paths) if keep is None else keep :]:
        path.unlink()
    for _ in range(2):
        result = judged_again(out, row("mnist32"), finished[1])
        assert result == replace(finished[2], notes=result.notes)
        assert len(result.notes) == 1  # also the second time
        assert result.notes[0].startswith("not measured again: ")
        assert note in result.notes[0]
    assert load_result(out / "results" / f"{result.key}.json").notes == result.notes


def test_closeness_stays_where_uncached_images_are_gone(finished, tmp_path):
    out = shutil.copytree(finished[0], tmp_path / "out")
    next((out / "samples" / finished[2].uncached).glob("*/*.png")).unlink()
    result = judged_again(out, row("mnist32"), finished[1])
    assert result.metrics["frechet"] > 0
    assert finished[2].metrics.items() <= result.metrics.items()


def test_the_uncached_row_is_judged_beside_a_row_that_is_finished(finished, tmp_path, counted):
    out = shutil.copytree(finished[0], tmp_path / "out")
    judged_again(out, row("mnist32"), finished[1])
    uncached = load_result(out / "results" / f"{finished[2].uncached}.json")
    assert uncached.metrics["frechet"] == pytest.approx(0, abs=1e-3)  # the real ones are its own
    assert not counted


def test_a_missing_file_of_one_row_stops_no_other(tiny, tmp_path):
    broken = row(tiny, "a", prompts=str(tmp_path / "none.txt"))
    failed, fine = execute([broken, row(tiny, "b")], tmp_path / "out")
    assert "none.txt" in failed.error
    assert fine.error is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[1]", "is damaged"),
        ("5", "is damaged"),
        ('{"name": "a"}', r"is damaged \(.*missing 2 required .*\); remove it, and the row is run again"),
        ('{"name": "a", "keys": "b"}', "a result has no key 'keys'; did you mean 'key'"),
    ],
)
def test_a_file_that_is_no_result_is_named(content, sentence, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=sentence) as caught:
        load_result(tmp_path / "a.json")
    assert str(caught.value).startswith(str(tmp_path / "a.json"))


def test_results_say_what_the_row_costs(tiny, tmp_path):
    cached = row(tiny)
    (result,) = execute([cached], tmp_path / "out")
    priced = price(cached.config)
    assert result.metrics["macs"] == priced.macs
    assert result.metrics["macs_attention"] == pytest.approx(priced.macs_attention)
    assert result.metrics["theoretical_speedup"] == priced.theoretical_speedup
    assert result.calls == {"full": 2, "partial": 2, "null": 0}


def test_adaptive_policies_have_no_price_beforehand(tiny):
    assert price(row(tiny, policy={"name": "threshold", "branch": 0}).config) is None
    assert price(replace(row(tiny).config, policy={"name": "none"})).theoretical_speedup == 1
