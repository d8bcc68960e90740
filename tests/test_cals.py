"""CALS' networks: tables, sizes, lip-motion units; a masked sound tells Audio-to-Lip nothing of what it hides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_experts import CALS, sync_hparams
from test_models import sizes_in, sizes_of
from torch import nn

import audio
import checkpoint
from errors import InputError
from hparams import ExpertHParams, HParams, preset, stage_plan
from models import build_generator, build_reader, cals
from models.layers import narrow
from models.talklip import set_stage

torch.set_num_threads(1)
SHOWN = {"cals_sync": (15, 64, 128), "compact_cals_sync": (15, 48, 96)}
ROWS = ("baseline", "a2l", "a2l_av", "a2l_av_vv")


def count(net):
    return sum(weight.numel() for weight in net.parameters())


def heard(utterances=2, rows=30, seed=0):
    """Made-up sound of utterances: (B, L, 320)."""
    return 8 * torch.rand(utterances, rows, 320, generator=torch.Generator().manual_seed(seed)) - 4


def encoder(seed=0):
    torch.manual_seed(seed)
    return build_generator(CALS).speech.eval()


# Sizes


@pytest.mark.parametrize("family", cals.TABLES)
def test_every_row_of_the_sync_model_has_the_size_its_table_says(family):
    for name, table, shape in zip(("faces", "sound"), cals.TABLES[family], (SHOWN[family], (1, 80, 20)), strict=True):
        blocks = getattr(cals.CalsSync(1 / 16, *cals.TABLES[family]), name)
        assert sizes_of(blocks, nn.Sequential(*blocks), torch.zeros(2, *shape)) == sizes_in(narrow(table, 1 / 16))
    assert {table[-1].out for table in cals.TABLES[family]} == {512 if family == "cals_sync" else 128}


def test_the_number_of_parameters_is_what_the_page_says():
    with torch.device("meta"):
        experts = [build_reader(preset(name, ExpertHParams), None) for name in cals.TABLES]
        generators = [build_generator(preset(name)) for name in ("cals_a2l", "compact_cals_a2l")]
    assert [count(net) for net in experts] == [18_661_248, 3_104_288]
    assert [count(net) for net in generators] == [60_693_251, 12_211_819]
    assert [count(net.speech) for net in generators] == [21_440_208, 3_799_376]


@pytest.mark.parametrize("px", [96, 128])
@torch.no_grad()
def test_faces_of_both_sizes_are_generated_from_the_sound_of_the_whole_utterance(px):
    generator = build_generator(replace(CALS, face_size=px)).eval()
    frames, sound = torch.tensor([[0, 3], [9, 2]]), heard(2, 10)
    faces = generator(torch.rand(2, 2, 6, px, px), sound, frames)
    assert faces.shape == (2, 2, 3, px, px) and generator.encode_audio(sound).shape == (2, 10, 128)
    before = generator.encode_audio(sound)
    sound[0, 9] += 1
    changed = (generator.encode_audio(sound) != before).any(-1)
    assert changed[0].all() and not changed[1].any(), "every unit attends to all of its utterance"


@torch.no_grad()
def test_the_sync_model_sees_lower_halves_and_its_embeddings_have_either_sign():
    net, faces = build_reader(sync_hparams(model="cals_sync"), None).eval(), torch.rand(1, 7, 3, 128, 128)
    seen, sound = net.embed_video(faces), net.embed_audio(heard(1, 3).view(1, 12, 1, 80, 1).repeat(1, 1, 1, 1, 20))
    for found in (seen, sound):
        assert torch.allclose(found.norm(dim=-1), torch.ones(found.shape[:2])) and found.shape[-1] == 512
        assert (found < 0).any() and (found > 0).any()
    faces[:, :, :, :64] = 0
    assert torch.equal(net.embed_video(faces), seen) and seen.shape == (1, 3, 512)


# Masks


def test_a_unit_is_masked_only_if_all_four_of_its_mel_steps_are():
    masked = torch.zeros(1, 40, dtype=torch.bool)
    masked[0, 6:31] = True  # half of row 1, rows 2 to 6, three steps of row 7
    assert cals.masked_units(masked)[0].tolist() == [False, False, *[True] * 5, False, False, False]


def test_masked_spans_are_longer_than_a_units_window_and_lie_within_the_utterance():
    padding = torch.arange(100) >= torch.tensor([[100], [60]])
    torch.manual_seed(3)
    masked = cals.mask_spans(padding, 0.5, 50)
    assert masked.shape == (2, 400) and not masked[1, 240:].any()
    edges = masked.int().diff(dim=1, prepend=torch.zeros(2, 1), append=torch.zeros(2, 1))
    for row in edges:
        lengths = (row == -1).nonzero() - (row == 1).nonzero()
        assert len(lengths) and lengths.min() >= 50 > audio.MELS["cals"].steps == 20
    with pytest.raises(InputError, match="--mask_span 20 must be at least 21"):
        replace(CALS, mask_span=20)


def test_what_is_masked_leaks_neither_forward_nor_by_a_gradient():
    net, sound = encoder(), heard().requires_grad_()
    padding = torch.arange(30) >= torch.tensor([[30], [22]])
    masked = cals.mask_spans(padding, 0.5, 25)
    hidden = masked.unflatten(1, (-1, 4)).repeat_interleave(80, dim=-1).flatten(2)  # (B, 4 L) -> (B, L, 320)
    found = net(sound, padding, masked)
    found.square().sum().backward()
    assert hidden.any() and not hidden.all()
    assert not sound.grad[hidden].any() and sound.grad[~hidden & ~padding[..., None]].any() and net.mask.grad.any()
    others = torch.where(hidden, heard(seed=1), sound.detach())
    with torch.no_grad():
        assert torch.equal(net(others, padding, masked), found), "bit for bit"
        assert not torch.equal(net(others, padding), net(sound, padding))
        assert torch.equal(net(sound, padding, torch.zeros_like(masked)), net(sound, padding))


@torch.no_grad()
def test_padding_changes_nothing_of_an_utterance():
    net, sound = encoder(), heard(2, 30)
    padding = torch.arange(30) >= torch.tensor([[30], [18]])
    torch.testing.assert_close(net(sound, padding)[1, :18], net(sound[1:, :18])[0], rtol=1e-4, atol=1e-5)


# The mel


def test_a_row_is_the_four_mel_steps_of_its_frame():
    mel = np.arange(80 * 301, dtype=np.float32).reshape(80, 301)
    rows = audio.mel_rows(mel)
    assert rows.shape == (75, 320)
    np.testing.assert_array_equal(rows[7], mel[:, 28:32].T.ravel())
    for steps, count in ((1, 1), (2, 1), (5, 1), (6, 2), (300, 75)):
        found = audio.mel_rows(mel[:, :steps])
        assert len(found) == count and (found.reshape(-1, 80)[steps:] == audio.SILENCE).all()


# Stages and rows


def test_faces_begin_with_those_of_a_generator_that_hears_otherwise():
    talklip = build_generator(HParams(speech="local", width=CALS.width)).state_dict()
    generator = build_generator(CALS)
    heard, drawn = ({k: v.clone() for k, v in part.state_dict().items()} for part in (generator.speech, generator))
    checkpoint.begin_with_faces([generator], talklip, "--init_faces x")
    begun = generator.state_dict()
    assert all(torch.equal(begun[f"speech.{name}"], value) for name, value in heard.items())
    name = "decoder.0.0.conv.weight"
    assert torch.equal(begun[name], talklip[name]) and not torch.equal(begun[name], drawn[name])
    wide = build_generator(HParams(speech="local", width=2 * CALS.width)).state_dict()
    with pytest.raises(InputError, match=r"--init_faces x \(encoder.*give the --preset that fits"):
        checkpoint.begin_with_faces([generator], wide, "--init_faces x")


@pytest.mark.parametrize("trains", [False, True])
def test_audio_to_lip_is_frozen_after_its_stage_unless_it_goes_on_training(trains):
    hp = replace(CALS, a2l_trains=trains)
    generator = build_generator(hp)
    for step, learns in ((0, True), (1, True), (2, trains), (7, trains), (0, True)):
        set_stage(generator, hp, step)
        assert {weight.requires_grad for weight in generator.speech.parameters()} == {learns}
        assert generator.speech.training == learns and generator.decoder.training
        assert all(weight.requires_grad for weight in generator.decoder.parameters())


def test_the_plan_says_what_trains_when():
    plan = stage_plan(preset("compact_cals_a2l_av_vv"))
    assert plan[0] == "from step 0: Audio-to-Lip alone, by the mean of squared errors of masked lip-motion units"
    assert plan[1] == "from step 1500: l1 loss x 1, mouth loss x 1, Audio-to-Lip is frozen"
    assert plan[2:] == ["from step 2500: av loss x 0.003, vv loss x 0.003", "from step 4000: adv loss x 0.01"]
    plan = stage_plan(replace(preset("cals_a2l"), a2l_trains=True))
    assert "by the sum" in plan[0] and plan[1].endswith("adv loss x 0.07, Audio-to-Lip goes on training")


@pytest.mark.parametrize("size", ["", "compact_"])
def test_the_rows_differ_in_what_table_1_says(size):
    base, a2l, av, vv = (preset(f"{size}cals_{row}") for row in ROWS)
    assert [(hp.model, hp.sync_weight > 0, hp.av_weight > 0, hp.vv_weight > 0) for hp in (base, a2l, av, vv)] == [
        ("wav2lip", True, False, False),
        ("cals", False, False, False),
        ("cals", False, True, False),
        ("cals", False, True, True),
    ]
    for hp in (a2l, av, vv):
        for knob in ("batch_size", "windows", "window", "face_size", "width", "adv_weight", "lr", "seed", "augment"):
            assert getattr(hp, knob) == getattr(base, knob), knob
        assert hp.max_steps - hp.a2l_steps == base.max_steps, "faces train for equal steps"
        weights = hp.l1_weight + hp.adv_weight + max(hp.av_weight, hp.vv_weight)
        assert size or weights == pytest.approx(1), "L1 takes what the others leave; both sync losses are one term"
        assert {other: a2l_value for other, a2l_value in vars(a2l).items() if vars(hp)[other] != a2l_value}.keys() <= {
            "l1_weight",
            "av_weight",
            "vv_weight",
        }


@pytest.mark.parametrize(
    "knobs, words",
    [
        ({"speech": "local"}, "--speech utterance"),
        ({"model": "talklip"}, "--model cals, --speech utterance"),
        ({"sync_dim": 0}, "--sync_dim, the size of its units"),
        ({"a2l_steps": 0}, "Audio-to-Lip would never be trained"),
        ({"shortest_rows": 5, "windows": 2}, "say --windows 1"),
        ({"patience": 2, "lip_from": 5, "lip_window": 5}, "neither --patience nor --sound_augment"),
        ({"contrastive_weight": 0.1}, "--model cals has no space"),
        ({"window": 4}, "the sync expert sees 5 frames"),
    ],
)
def test_knobs_that_do_not_go_together_are_refused(knobs, words):
    with pytest.raises(InputError, match=words):
        replace(CALS, **knobs)


def test_what_is_of_cals_is_refused_elsewhere():
    for knob in ({"av_weight": 0.1}, {"vv_weight": 0.1}, {"a2l_steps": 5}, {"shortest_rows": 5}):
        with pytest.raises(InputError, match="are of --model cals"):
            HParams(**knob)
    with pytest.raises(InputError, match="--sync_loss pairs: cosines of --model cals_sync may be below 0"):
        replace(preset("cals_sync", ExpertHParams), sync_loss="pairs")
