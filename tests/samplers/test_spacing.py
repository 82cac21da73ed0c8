"""Timestep spacings and their quirks, against the released codes' tables."""

import diffusers
import numpy as np
import pytest

import configs
from configs import InputError
from samplers import SamplerConfig, space
from samplers.spacing import SPACINGS


def test_quadratic_repeats_timesteps_at_100_steps():
    timesteps = space("quadratic", 100, 1000)
    assert timesteps[:9].tolist() == [0, 0, 0, 0, 1, 2, 2, 3, 5]
    assert timesteps[-2:].tolist() == [783, 800]
    assert len(timesteps) == 100
    assert len(set(timesteps.tolist())) == 96


@pytest.mark.parametrize(("steps", "made"), [(59, 63), (91, 100), (7, 8), (100, 100), (1, 1), (1000, 1000)])
def test_uniform_may_make_more_steps_than_asked_for(steps, made):
    timesteps = space("uniform", steps, 1000)
    assert len(timesteps) == made
    assert set(np.diff(timesteps).tolist()) <= {1000 // steps}


def test_the_timesteps_of_ermongroup(golden):
    toy = golden("toy_samplers")
    for steps in (7, 10, 100):
        assert space("uniform", steps, 1000).tolist() == toy[f"ddim_uniform{steps}_seq"].tolist()
    for steps in (10, 100):
        assert space("quadratic", steps, 1000).tolist() == toy[f"ddim_quad{steps}_seq"].tolist()


def test_every_step_count_of_compvis_gives_its_timesteps_or_one_sentence(golden):
    for steps, expected in golden("sampler_ldm_step_counts").config.items():
        if isinstance(expected, str):  # there the reference ends in an IndexError
            with pytest.raises(InputError, match=r"needs timestep 1000.*steps=\d+ works$") as error:
                space("uniform", int(steps), 1000, offset=1)
            advice = int(str(error.value).split("steps=")[1].split()[0])
            assert len(space("uniform", advice, 1000, offset=1))
        else:
            timesteps = space("uniform", int(steps), 1000, offset=1)
            assert (timesteps[0], timesteps[-1], len(timesteps)) == (1, expected["last"], expected["steps"])


def test_the_named_step_count_is_the_nearest():
    with pytest.raises(InputError, match="steps=100 works"):
        space("uniform", 101, 1000, offset=1)
    with pytest.raises(InputError, match="steps=334 works"):
        space("uniform", 333, 1000, offset=1)
    with pytest.raises(InputError, match="no integer stride makes exactly 37 of 1000 timesteps; steps=36 works"):
        space("strided", 37, 1000)
    with pytest.raises(InputError, match="take offset 0"):
        space("fractional", 50, 1000, offset=1)


def test_guided_diffusion_respacing(golden):
    tables = golden("sampler_guided_respacing_tables").config
    assert space("fractional", 250, 1000).tolist() == tables["250"]
    assert space("10,10,15,20", 55, 1000).tolist() == tables["10,10,15,20"]
    for steps in (25, 50, 250):
        assert space("strided", steps, 1000).tolist() == tables[f"ddim{steps}"]


@pytest.mark.parametrize("total", [1000, 333])
def test_fractional_adds_its_stride_up_and_rounds_as_python_does(total):
    for steps in range(1, total + 1):
        position, expected = 0.0, []
        for _ in range(steps):
            expected.append(round(position))
            position += (total - 1) / max(steps - 1, 1)
        assert space("fractional", steps, total).tolist() == expected


def test_sections_are_spaced_on_their_own():
    # 10 timesteps in sections of 4, 3 and 3
    assert space("2,3,1", 6, 10).tolist() == [0, 3, 4, 5, 6, 7]


def test_strided_makes_exactly_the_steps_that_an_integer_stride_can():
    possible = {len(range(0, 1000, stride)) for stride in range(1, 1001)}
    for steps in range(1, 1001):
        if steps in possible:
            assert len(space("strided", steps, 1000)) == steps
        else:
            with pytest.raises(InputError):
                space("strided", steps, 1000)


@pytest.mark.parametrize("steps", [1, 20, 30, 50, 999])
def test_leading_equals_diffusers(steps):
    scheduler = diffusers.DDIMScheduler(steps_offset=1)
    scheduler.set_timesteps(steps)
    assert space("leading", steps, 1000, offset=1)[::-1].tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("total", [1000, 250, 4])
def test_every_spacing_ascends_within_the_training_timesteps(spacing, total):
    for steps in range(1, total + 1, max(1, total // 50)):
        try:
            timesteps = space(spacing, steps, total)
        except InputError:
            assert spacing == "strided"
            continue
        assert timesteps[0] == 0
        assert timesteps[-1] < total
        assert (np.diff(timesteps) >= (0 if spacing == "quadratic" else 1)).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("unifrm", 10, 1000), "did you mean 'uniform'"),
        (("uniform", 0, 1000), "at least 1"),
        (("uniform", 1001, 1000), r"must lie in 1\.\.1000, not 1001"),
        (("uniform", 10, 1000, -1), "at least 0"),
        (("10,10", 21, 1000), "10,10 makes 20 steps, not 21"),
        (("300,300,300,10", 910, 1000), "section 1 of the timestep spacing has 250 timesteps; it cannot make 300"),
        (("10,0", 10, 1000), "section 2 of the timestep spacing has 500 timesteps; it cannot make 0"),
        (("10,10", 20, 1000, 1), "needs timestep 1000.*take offset 0"),
    ],
)
def test_impossible_spacings_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        space(*arguments)


def test_a_section_list_survives_the_command_line():
    words = configs.parse_words(["spacing=10,10,15,20", "steps=55"])
    assert configs.parse(SamplerConfig, words, where="the command line").spacing == "10,10,15,20"
