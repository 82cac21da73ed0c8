"""The paper's tables on another model, and with another number of steps."""

from dataclasses import replace

import pytest

from configs import InputError
from experiments.paper.filling import runs
from experiments.paper.paper_tables import load_table, names
from experiments.paper.transfer import transfer


def moved(name: str, **changes):
    return transfer(load_table(name), changes)


def configurations(transferred) -> list:
    return [row.config for _, row in runs(transferred.table)]


@pytest.mark.parametrize("name", names())
def test_nothing_changed_is_the_table_itself(name):
    table = load_table(name)
    transferred = transfer(table, {"model": None, "steps": None})
    assert transferred.table == table
    assert transferred.changed == ""
    assert transferred.notes == ()


def test_settings_of_a_run_reach_every_row():
    changes = {"num_images": 7, "batch_size": 3, "seed": 5, "checkpoint": "random", "device": "cpu"}
    for config in configurations(moved("table2", **changes)):
        assert {key: getattr(config, key) for key in changes} == changes
    assert moved("table2", num_images=7).changed == ""


def test_another_model_samples_in_its_own_way():
    transferred = moved("table7", model="mnist32")
    assert transferred.changed == "mnist32"
    for config in configurations(transferred):
        assert config.model == "mnist32"
        assert config.checkpoint is None
        assert config.guidance.scale == 1
        assert (config.sampler.name, config.sampler.steps) == ("ddim", 250)
        assert (config.sampler.offset, config.sampler.final) == (0, "one")
        assert config.forecaster == {"name": "reuse"}
    centres = [config.policy["center"] for config in configurations(transferred)[1:]]
    assert centres == [10, 20, 50, 80, 100, 120, 150, 200]


def test_every_branch_of_table_12_exists_on_the_digits():
    transferred = moved("table12", model="mnist32")
    assert [config.policy.get("branch") for config in configurations(transferred)] == [None, *range(12)]


def test_branches_that_do_not_exist_are_left_out(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("network: {resolution: 16, channels: 32, channel_mult: [1, 2], attention_levels: [1]}\n"
                    "diffusion: {num_timesteps: 1000}\n")  # fmt: skip
    transferred = moved("table12", model=str(path))
    assert [config.policy.get("branch") for config in configurations(transferred)] == [None, *range(6)]
    left_out = [note for note in transferred.notes if "left out" in note]
    assert len(left_out) == 6
    assert left_out[0].startswith("m=7 is left out: ")


def test_figures_of_other_work_are_left_out_on_another_model():
    transferred = moved("table1", model="mnist32")
    assert not any(entry.quoted for entry in transferred.table.entries)
    assert any("Diff-Pruning*" in note for note in transferred.notes)


def test_sections_that_become_equal_are_run_once():
    transferred = moved("table2", model="mnist32")
    names = [section.name for section in transferred.table.sections]
    assert names == ["mnist32 in place of CIFAR-10 32x32", "mnist32 in place of LSUN Bedroom 256x256"]
    assert any("LSUN Church 256x256 is left out" in note for note in transferred.notes)


def test_sections_that_the_table_itself_repeats_stay():
    table = load_table("table2")
    first = table.sections[0]
    twice = replace(table, sections=[first, replace(first, name="again")])
    assert [section.name for section in transfer(twice, {"num_images": 7}).table.sections] == [first.name, "again"]
    assert len(transfer(twice, {"steps": 50}).table.sections) == 1


def test_what_is_counted_in_steps_scales_with_them():
    transferred = moved("table6", steps=20)
    assert transferred.changed == "20 steps"
    assert [config.sampler.steps for config in configurations(transferred)] == [20, 10, 20, 4, 20, 2, 20]
    assert [config.policy.get("interval") for config in configurations(transferred)[2::2]] == [2, 5, 10]
    halved = moved("table8", steps=125)
    assert {config.policy["center"] for config in configurations(halved)[1:]} == {60}
    plms = configurations(moved("table10", steps=100))
    assert {config.policy["horizon"] for config in plms if config.policy["name"] == "nonuniform"} == {100}


def test_schedules_that_do_not_exist_are_left_out():
    transferred = moved("table9", steps=10)
    names = [entry.name for entry in transferred.table.entries]
    assert "N=2" not in names
    assert any(note.startswith("N=2 is left out: there is no non-uniform schedule") for note in transferred.notes)


def test_random_text_models_get_a_prompt():
    assert {config.prompt is None for config in configurations(moved("table3", checkpoint="random"))} == {False}
    given = configurations(moved("table3", checkpoint="random", prompts="mine.txt"))
    assert {(config.prompt, config.prompts) for config in given} == {(None, "mine.txt")}


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="did you mean 'mnist32'"):
        moved("table2", model="mnist")
