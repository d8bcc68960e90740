"""A stage ends on a plateau, a run that diverges or saturates is found out, and goes back with half the step size."""

import math
from dataclasses import replace

import pytest
import torch

from errors import InputError
from hparams import HParams
from progress import DIVERGED, ENOUGH, SATURATED, Progress

HP = HParams(patience=2, max_steps=1000, audio_from=5, lip_from=6)


def told(progress, scores, hp=HP):
    """The stages that begin with each of some validations, 10 steps apart."""
    return [progress.validated(score, hp, 10 * (i + 1)) for i, score in enumerate(scores)]


def test_without_patience_stages_begin_at_their_steps():
    hp = replace(HP, patience=0)
    progress = Progress.of(hp)
    assert progress.knobs(hp) == hp and told(progress, [1.0] * 9, hp) == [None] * 9


def test_a_stage_ends_after_more_than_so_many_validations_without_a_better_one():
    progress = Progress.of(HP)
    now = progress.knobs(HP)
    assert (now.audio_from, now.lip_from) == (1000, 1000), "neither has begun"
    assert told(progress, [0.5, 0.4, 0.4, 0.6, 0.3, 0.31, 0.31]) == [None] * 7
    assert progress.validated(0.31, HP, 80) == "audio"
    assert told(progress, [0.9, 0.95, 0.95]) == [None] * 3, "a new stage has a best of its own"
    assert progress.validated(0.95, HP, 120) == "lip"
    now = progress.knobs(HP)
    assert (now.audio_from, now.lip_from) == (80, 120)
    assert told(progress, [9.0] * 9) == [None] * 9 and not progress.over


def test_a_stage_that_would_change_nothing_is_not_waited_for():
    unguided = replace(HP, lip_weight=0.0)
    assert list(Progress.of(HP).waiting) == ["audio_from", "lip_from"]
    assert list(Progress.of(unguided).waiting) == ["audio_from"]
    assert list(Progress.of(replace(unguided, lip_batch_size=2)).waiting) == ["audio_from", "lip_from"]
    with pytest.raises(InputError, match="no stage begins after step 0"):
        replace(unguided, audio_from=0)


def test_the_published_plateau_keeps_one_best_for_all_stages_and_ends_the_run():
    hp = replace(HP, faithful=True)
    progress = Progress.of(hp)
    assert told(progress, [101.0, 102.0, 103.0], hp) == [None, None, "audio"], "the best begins at 100"
    assert told(progress, [50.0, 60.0, 60.0, 60.0], hp) == [None, None, None, "lip"]
    assert told(progress, [55.0, 55.0], hp) == [None, None] and not progress.over
    assert told(progress, [55.0], hp) == [None] and progress.over


def test_a_local_audio_encoder_has_no_stage_of_its_own():
    hp = replace(HP, speech="local")
    progress = Progress.of(hp)
    assert progress.starts == {"lip_from": None}
    assert told(progress, [0.5] * 4, hp)[-1] == "lip"


def test_a_stage_that_is_there_from_the_start_waits_for_no_plateau():
    hp = replace(HP, audio_from=0)
    progress = Progress.of(hp)
    assert progress.knobs(hp).audio_from == 0 and told(progress, [0.5] * 4, hp)[-1] == "lip"


def test_a_run_that_is_made_longer_still_waits_for_its_stages():
    progress, longer = Progress.of(HP), replace(HP, max_steps=5000)
    assert progress.knobs(longer).lip_from == 5000
    assert told(progress, [0.5] * 4, longer)[-1] == "audio" and not progress.over


def note(progress, steps, **losses):
    for _ in range(steps):
        progress.note({name: torch.tensor(float(value)) for name, value in losses.items()})


def test_a_sound_run_has_no_fault():
    progress = Progress.of(HP)
    for l1 in (0.2, 0.1, 0.05, 0.06, 0.05):
        note(progress, ENOUGH, l1=l1, adv=5.0, contrastive=9.0, d_real=0.01, d_fake=0.01)
        assert progress.fault() is None


@pytest.mark.parametrize("name", ["l1", "lip", "mouth"])
def test_a_loss_that_grows_is_named(name):
    progress = Progress.of(HP)
    note(progress, ENOUGH - 1, **{name: 0.1})
    assert progress.fault() is None, "too few to judge"
    note(progress, 100, **{name: 0.1})
    assert progress.fault() is None
    note(progress, 500, **{name: 0.11 * DIVERGED})
    assert progress.fault().startswith(f"{name} diverges: its running mean has gone from 0.1 to 0.3")


def test_one_odd_step_is_no_divergence():
    progress = Progress.of(HP)
    note(progress, 200, l1=0.1)
    progress.fault()
    note(progress, 1, l1=2.0)
    assert progress.fault() is None


def test_a_discriminator_that_is_too_sure_is_named():
    progress = Progress.of(HP)
    note(progress, 150, d_real=SATURATED / 3, d_fake=SATURATED / 3)
    assert "discriminator is saturated" in progress.fault()


def test_going_back_halves_the_step_size_and_knows_what_a_sound_run_is():
    early = Progress({"audio_from": 10}, 0.5, 1)
    note(early, ENOUGH, l1=0.02)
    assert early.fault() is None
    late = Progress({"audio_from": 10, "lip_from": 20}, 0.4, 0, brake=0.5, rollbacks=1)
    note(late, 200, l1=0.1)
    late.back(early)
    assert (late.starts, late.least, late.stale) == ({"audio_from": 10}, 0.5, 1)
    assert (late.brake, late.rollbacks, late.steps) == (0.25, 2, {"l1": ENOUGH})
    note(late, 60, l1=0.5)
    assert late.fault().startswith("l1 diverges: its running mean has gone from 0.02 to 0.")


def test_progress_is_stored_as_plain_values():
    progress = Progress.of(HP)
    note(progress, 120, l1=0.1, d_real=0.2, d_fake=0.3)
    progress.fault()
    again = Progress(**progress.state())
    assert again == progress and again.lows == progress.lows and math.isinf(again.least)
    note(progress, 3, l1=0.2)
    assert again != progress, "a copy"


def test_means_of_an_older_checkpoint_are_gone_on_with():
    progress = Progress.of(HP)
    progress.means, progress.steps = {"l1": torch.tensor(0.1, dtype=torch.float64)}, {"l1": ENOUGH}
    note(progress, 1, l1=0.1)
    assert progress.means["l1"].item() == pytest.approx(0.1) and progress.fault() is None
