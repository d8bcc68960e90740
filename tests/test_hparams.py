"""Flags are made from knobs, what is given wins, what is not given changes nothing, and bad values say what to do."""

import argparse
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest
import torch

from errors import InputError
from faces.landmarks import LIP_POINTS
from faces.shape import POINTS
from hparams import METHODS, PRESETS, WEIGHTS, ExpertHParams, HParams, add_flags, loss_weights, override, preset
from models import build_generator
from models.talklip import Discriminator, pick


def parser_of_knobs():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser


def given(*argv):
    return parser_of_knobs().parse_args(argv)


def other_value(knob):
    """A value of a knob's type that is not its default, as it is typed."""
    if knob.metadata["choices"]:
        return str(next((choice for choice in knob.metadata["choices"] if choice != knob.default), knob.default))
    return str(knob.default + 1)


def test_every_knob_is_a_flag_of_its_type():
    for knob in fields(HParams):
        if knob.type is bool:
            argv = [f"--no-{knob.name}" if knob.default else f"--{knob.name}"]
        else:
            argv = [f"--{knob.name}", other_value(knob)]
        (found,) = vars(given(*argv)).items()
        assert found[0] == knob.name and type(found[1]) is knob.type, argv
        assert found[1] != knob.default or knob.metadata["choices"] == (knob.default,), argv


def test_flags_that_are_not_given_stay_absent():
    assert vars(given()) == {}
    assert override(HParams(), given()) == HParams()


def test_help_tells_every_default_and_its_note():
    text = " ".join(parser_of_knobs().format_help().split())
    for knob in fields(HParams):
        assert f"{knob.metadata['note']} (default: {knob.default})" in text, knob.name


def test_bools_are_switched_on_and_off_by_name():
    assert override(HParams(), given("--amp")).amp is True
    assert override(HParams(amp=True), given("--no-amp")).amp is False
    assert override(HParams(amp=True), given()).amp is True
    with pytest.raises(SystemExit) as stopped:
        given("--amp", "False")
    assert stopped.value.code == 2


def test_a_flag_beats_the_preset_and_the_preset_beats_the_defaults():
    hp = override(HParams(), given("--preset", "compact", "--lr", "0.25"))
    assert hp == replace(preset("compact"), lr=0.25) and hp.width == 0.5
    assert override(HParams(), given("--lr", "0.25", "--preset", "compact")) == hp


def test_a_checkpoints_knobs_stay_where_no_flag_is_given():
    stored = HParams(**asdict(replace(preset("compact"), seed=7, batch_size=3)))
    assert override(stored, given("--max_steps", "9")) == replace(stored, max_steps=9)
    again = override(stored, given("--preset", "compact"))
    assert again.seed == 7 and again.batch_size == 16


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--contrastive_weight", "1", "--model", "wav2lip", "--speech", "local"], "no space"),
        (["--audio_dim", "100"], "audio_dim 100.*audio_heads 12"),
        (["--model", "wav2lip"], "--speech local"),
        (["--model", "wav2lip", "--speech", "whisper"], "--speech local"),
        (["--model", "warp", "--speech", "local", "--face_size", "128"], "--speech whisper --face_size 128"),
        (["--model", "warp", "--speech", "whisper"], "--speech whisper --face_size 128"),
        (["--references", "0"], "references 0.*at least 1"),
        (["--batch_size", "0"], "batch_size 0.*at least 1"),
        (["--batch_size", "1", "--windows", "1", "--window", "1"], "two faces in a step"),
        (["--window", "-1"], "window -1.*at least 1"),
        (["--save_every", "0"], "save_every 0.*at least 1"),
        (["--beta1", "1"], "beta1 1.0.*at most 0.9999999"),
        (["--beta2", "1"], "beta2 1.0.*at most 0.9999999"),
        (["--seed", str(2**31)], "seed 2147483648.*at most 2147483647"),
        (["--l1_weight", "0", "--adv_from", "9"], "no loss is left for step 0"),
        (["--preset", "base_wo_lip_gan", "--l1_weight", "0"], "no loss is left for step 0"),
        (["--audio_dim", "100", "--audio_heads", "4"], "audio_dim 100.*multiple of 16"),
    ],
)
def test_a_bad_value_is_the_users_fault_and_says_what_was_expected(argv, words):
    with pytest.raises(InputError, match=words) as fault:
        override(HParams(), given(*argv))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"beta2": 1.0}, "beta2 1.0.*at most 0.9999999"),
        ({"seed": 2**31}, "seed 2147483648.*at most 2147483647"),
        ({"dim": 100, "heads": 4}, "dim 100.*multiple of 16"),
        ({"dim": 45, "heads": 3, "decoder_heads": 3, "model": "conformer"}, "dim 45 must be even"),
    ],
)
def test_a_lip_readers_bad_value_is_the_users_fault_too(knobs, words):
    with pytest.raises(InputError, match=words):
        ExpertHParams(**knobs)
    ExpertHParams(beta2=0.9999, seed=2**31 - 1, dim=48)
    ExpertHParams(model="words", dim=45, heads=3, decoder_heads=3)


def test_a_word_that_is_no_choice_is_refused_also_from_a_checkpoint(capsys):
    with pytest.raises(SystemExit):
        given("--speech", "telepathy")
    assert "global" in capsys.readouterr().err
    with pytest.raises(InputError, match="--speech telepathy: choose one of global, local"):
        HParams(speech="telepathy")
    with pytest.raises(InputError, match="--preset huge: choose one of talklip_l, .*talklip_g_c"):
        preset("huge")


def test_nothing_changes_a_knob():
    with pytest.raises(FrozenInstanceError):
        HParams().lr = 1.0


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name):
    hp = preset(name)
    with torch.device("meta"):
        generator, discriminator = build_generator(hp), Discriminator(hp)
    heard = {"global": (104,), "local": (1, 80, 16), "whisper": (768,), "utterance": (320,)}[hp.speech]
    parts = {"audio": torch.zeros(1, 4, *heard), "frames": torch.zeros(1, 2, dtype=torch.long)}
    shown = hp.references if hp.model == "warp" else 1
    parts["face"] = torch.zeros(1, 2, 3 * (1 + shown), hp.face_size, hp.face_size)
    if hp.model == "warp":
        shapes = {"points": (1 + shown, len(POINTS), 2), "resting": (len(LIP_POINTS), 2), "turns": (2, 2)}
        parts |= {part: torch.zeros(1, 2, *shape) for part, shape in shapes.items()}
    parts = {part: each.to("meta") for part, each in parts.items()}
    speech = pick(generator.encode_audio(parts.pop("audio")), parts.pop("frames"))
    drawn = generator.generate(**parts, speech=speech)
    assert drawn.shape == (1, 2, 3, hp.face_size, hp.face_size) and discriminator(drawn).shape == (2, 1)


def test_every_weight_is_that_of_a_loss_and_counts_from_its_knob_on():
    """Adding a loss is adding its knob: see `loss_weights`."""
    hp = HParams(contrastive_weight=0.2, mouth_weight=0.3, lips_weight=0.4, adv_from=5, lip_from=7)
    names = [knob.name for knob in fields(HParams) if knob.name.endswith("_weight")]
    assert [f"{name}_weight" for name in loss_weights(hp, 0)] == names
    since = {knob.name: knob.metadata["since"] for knob in fields(HParams) if knob.metadata["since"]}
    assert (
        since.items() >= {"adv_weight": "adv_from", "lip_weight": "lip_from", "contrastive_weight": "lip_from"}.items()
    )
    for name in names:
        first = getattr(hp, since[name]) if name in since else 0
        told = [loss_weights(hp, step)[name.removesuffix("_weight")] for step in range(9)]
        assert told == [0.0] * first + [getattr(hp, name)] * (9 - first)


def test_every_method_has_a_preset_under_an_expert_and_the_lip_expert_comes_with_it():
    for name in METHODS.values():
        assert preset(name).guided != preset(name).synced and name.removeprefix("compact_") in PRESETS
    assert WEIGHTS["generator"].is_file() and WEIGHTS["expert"].is_file()


def test_the_stage_under_the_expert_has_batches_of_its_own():
    hp = HParams(batch_size=8, window=5, lip_from=10, lip_batch_size=2, lip_window=16)
    assert hp.paced(9) is hp and hp.paced(10) == replace(hp, batch_size=2, window=16)
    same = replace(hp, lip_batch_size=0, lip_window=0)
    assert same.paced(10) == same


def test_the_default_is_the_published_talklip():
    assert preset("talklip_g") == HParams()
    assert abs(HParams().l1_weight + HParams().adv_weight + 1e-5 - 1) < 1e-9
