"""A stage ends on a plateau, a run that diverges or saturates is found out, and goes back with half the step size."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from errors import InputError
from hparams import HParams
from training import DIVERGED, ENOUGH, SATURATED, DivergenceGuard, Plateaus

HP = HParams(patience=2, max_steps=1000, audio_from=5, lip_from=6)


def told(plateaus, scores, hp=HP):
    """The stages that begin with each of some validations, 10 steps apart."""
    return [plateaus.validated(score, hp, 10 * (i + 1)) for i, score in enumerate(scores)]


def test_without_patience_stages_begin_at_their_steps():
    hp = replace(HP, patience=0)
    plateaus = Plateaus.of(hp)
    assert plateaus.applied(hp) == hp and told(plateaus, [1.0] * 9, hp) == [None] * 9


def test_a_stage_ends_after_more_than_so_many_validations_without_a_better_one():
    plateaus = Plateaus.of(HP)
    now = plateaus.applied(HP)
    assert (now.audio_from, now.lip_from) == (1000, 1000), "neither has begun"
    assert told(plateaus, [0.5, 0.4, 0.4, 0.6, 0.3, 0.31, 0.31]) == [None] * 7
    assert plateaus.validated(0.31, HP, 80) == "audio"
    assert told(plateaus, [0.9, 0.95, 0.95]) == [None] * 3, "a new stage has a best of its own"
    assert plateaus.validated(0.95, HP, 120) == "lip"
    now = plateaus.applied(HP)
    assert (now.audio_from, now.lip_from) == (80, 120)
    assert told(plateaus, [9.0] * 9) == [None] * 9 and not plateaus.over


def test_a_stage_that_would_change_nothing_is_not_waited_for():
    unguided = replace(HP, lip_weight=0.0)
    assert list(Plateaus.of(HP).waiting) == ["audio_from", "lip_from"]
    assert list(Plateaus.of(unguided).waiting) == ["audio_from"]
    assert list(Plateaus.of(replace(unguided, lip_batch_size=2)).waiting) == ["audio_from", "lip_from"]
    with pytest.raises(InputError, match="no stage begins after step 0"):
        replace(unguided, audio_from=0)


def test_the_published_plateau_keeps_one_best_for_all_stages_and_ends_the_run():
    hp = replace(HP, faithful=True)
    plateaus = Plateaus.of(hp)
    assert told(plateaus, [101.0, 102.0, 103.0], hp) == [None, None, "audio"], "the best begins at 100"
    assert told(plateaus, [50.0, 60.0, 60.0, 60.0], hp) == [None, None, None, "lip"]
    assert told(plateaus, [55.0, 55.0], hp) == [None, None] and not plateaus.over
    assert told(plateaus, [55.0], hp) == [None] and plateaus.over


def test_a_local_audio_encoder_has_no_stage_of_its_own():
    hp = replace(HP, speech="local")
    plateaus = Plateaus.of(hp)
    assert plateaus.starts == {"lip_from": None}
    assert told(plateaus, [0.5] * 4, hp)[-1] == "lip"


def test_a_stage_that_is_there_from_the_start_waits_for_no_plateau():
    hp = replace(HP, audio_from=0)
    plateaus = Plateaus.of(hp)
    assert plateaus.applied(hp).audio_from == 0 and told(plateaus, [0.5] * 4, hp)[-1] == "lip"


def test_a_run_that_is_made_longer_still_waits_for_its_stages():
    plateaus, longer = Plateaus.of(HP), replace(HP, max_steps=5000)
    assert plateaus.applied(longer).lip_from == 5000
    assert told(plateaus, [0.5] * 4, longer)[-1] == "audio" and not plateaus.over


def note(guard, steps, **losses):
    for _ in range(steps):
        guard.note({name: torch.tensor(float(value)) for name, value in losses.items()})


def test_a_sound_run_has_no_fault():
    guard = DivergenceGuard()
    for l1 in (0.2, 0.1, 0.05, 0.06, 0.05):
        note(guard, ENOUGH, l1=l1, adv=5.0, contrastive=9.0, d_real=0.01, d_fake=0.01)
        assert guard.fault() is None


@pytest.mark.parametrize("name", ["l1", "lip", "mouth"])
def test_a_loss_that_grows_is_named(name):
    guard = DivergenceGuard()
    note(guard, ENOUGH - 1, **{name: 0.1})
    assert guard.fault() is None, "too few to judge"
    note(guard, 100, **{name: 0.1})
    assert guard.fault() is None
    note(guard, 500, **{name: 0.11 * DIVERGED})
    assert guard.fault().startswith(f"{name} diverges: its running mean has gone from 0.1 to 0.3")


def test_one_odd_step_is_no_divergence():
    guard = DivergenceGuard()
    note(guard, 200, l1=0.1)
    guard.fault()
    note(guard, 1, l1=2.0)
    assert guard.fault() is None


def test_a_discriminator_that_is_too_sure_is_named():
    guard = DivergenceGuard()
    note(guard, 150, d_real=SATURATED / 3, d_fake=SATURATED / 3)
    assert "discriminator is saturated" in guard.fault()


def asleep(guard):
    return bool(guard.warning())


def test_a_discriminator_that_sleeps_is_named_once_and_is_no_fault():
    guard = DivergenceGuard()
    note(guard, ENOUGH - 1, d_real=0.692, d_fake=0.694, d_gap=1e-5)
    assert guard.warning() is None, "too few to judge"
    note(guard, 1, d_real=0.692, d_fake=0.694, d_gap=1e-5)
    assert guard.fault() is None and "discriminator is asleep: its loss stays at 0.6930" in guard.warning()
    again = DivergenceGuard(**asdict(guard))
    assert guard.warning() is None and again.warning() is None, "it has been said, also to a run that is resumed"
    assert guard.rolled_back(DivergenceGuard()).warned


def test_a_discriminator_that_is_awake_is_not_said_to_sleep():
    at_odds, learning = DivergenceGuard(), DivergenceGuard()
    for k in range(200):  # evenly matched: now right, now wrong
        note(at_odds, 1, d_real=0.69, d_fake=0.69, d_gap=0.1 * (-1) ** k)
    note(learning, 200, d_real=0.5, d_fake=0.6, d_gap=0.5)
    assert not asleep(at_odds) and not asleep(learning)
    note(learning, 900, d_real=0.693, d_fake=0.693, d_gap=-1e-4)
    assert asleep(learning), "it has fallen asleep"
    patches = DivergenceGuard()
    note(patches, ENOUGH, d_real=0.8, d_fake=1.2, d_gap=0.0005)
    assert asleep(patches), "chance is 1 with a hinge"
    none = DivergenceGuard()
    note(none, 200, l1=0.1)
    assert none.fault() is None and none.warning() is None


def test_going_back_halves_the_step_size_and_knows_what_a_sound_run_is():
    early = DivergenceGuard()
    note(early, ENOUGH, l1=0.02)
    assert early.fault() is None
    late = DivergenceGuard(brake=0.5, rollbacks=1)
    note(late, 200, l1=0.1)
    back = late.rolled_back(early)
    assert (back.brake, back.rollbacks, back.steps) == (0.25, 2, {"l1": ENOUGH})
    assert (early.brake, late.brake) == (1.0, 0.5), "neither has changed"
    note(back, 60, l1=0.5)
    assert back.fault().startswith("l1 diverges: its running mean has gone from 0.02 to 0.")


def test_both_are_stored_as_plain_values():
    plateaus, guard = Plateaus.of(HP), DivergenceGuard()
    told(plateaus, [0.5, 0.6, 0.6, 0.6, 0.4])
    again = Plateaus(**asdict(plateaus))
    assert again == plateaus and again.starts == {"audio_from": 40, "lip_from": None}
    told(again, [0.3])
    assert again != plateaus, "a copy"
    assert math.isinf(Plateaus(**asdict(Plateaus.of(HP))).least)
    note(guard, 120, l1=0.1, d_real=0.2, d_fake=0.3)
    guard.fault()
    again = DivergenceGuard(**asdict(guard))
    assert again == guard and again.lows == guard.lows
    note(again, 3, l1=0.2)
    assert again != guard, "a copy"


def test_means_of_an_older_checkpoint_are_gone_on_with():
    guard = DivergenceGuard(means={"l1": torch.tensor(0.1, dtype=torch.float64)}, steps={"l1": ENOUGH})
    note(guard, 1, l1=0.1)
    assert guard.means["l1"].item() == pytest.approx(0.1) and guard.fault() is None


@pytest.mark.parametrize("name", ["reading", "clusters", "word", "sync"])
def test_the_losses_of_experts_are_watched_as_well(name):
    guard = DivergenceGuard()
    note(guard, 200, **{name: 0.1})
    assert guard.fault() is None
    note(guard, 500, **{name: 0.11 * DIVERGED})
    assert guard.fault().startswith(f"{name} diverges")
