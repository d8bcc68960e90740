"""CALS' training: lip-motion units of real faces, Audio-to-Lip's stage, then Lip-to-Face, each resumed exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_experts import CALS, sync_expert, write_sync_expert
from small_runs import CPU, command, flags_of, flat, go, metrics

import audio
import checkpoint
import train
from data import Clips, collate
from errors import InputError
from experts import audio_to_lip
from experts.audio_to_lip import a2l_scores, a2l_step, lip_units, shortened, unit_clips, units_of
from experts.data import SyncWindows
from experts.faces import FaceWindows
from experts.sync import load_sync, mismatches
from faces.crop import UPPER_SHARE
from losses import a2l_loss, cals_sync_loss
from media.clip import Clip

torch.set_num_threads(1)
SHORT = replace(CALS, max_steps=6, sync_from=3, adv_from=4)


@pytest.fixture(scope="module")
def teacher():
    """A narrow F_v and F_a that nobody has trained."""
    return sync_expert(model="compact_cals_sync")


@pytest.fixture(scope="module")
def splits(spoken_root, teacher, tmp_path_factory):
    """The clips of stage 1: of training and of validation."""
    return unit_clips(spoken_root, CALS, teacher, tmp_path_factory.mktemp("units") / "units.safetensors")


@pytest.fixture(scope="module")
def whole(spoken_root, teacher, tmp_path_factory):
    """A run that never stopped, and where it is kept."""
    folder = tmp_path_factory.mktemp("whole")
    return go(spoken_root, folder, 6, SHORT, sync_expert=teacher), folder


@pytest.fixture(scope="module")
def batch(spoken_root):
    """Two clips, with two windows each, of stage 2."""
    clips = Clips(spoken_root, "train", CALS)
    return collate([clips[0], clips[1]], CALS.window)


def weights_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed_parts(net, before):
    """The parts of a network of which a weight is not what it was."""
    return {name.split(".")[0] for name, value in weights_of(net).items() if not torch.equal(value, before[name])}


# Lip-motion units


@torch.no_grad()
def test_a_unit_is_the_embedding_of_the_five_real_faces_around_its_frame(spoken_root, teacher, splits):
    shown = FaceWindows(spoken_root, "train", replace(teacher.hp, frames=0))
    for i, name in enumerate(splits[0].names):
        faces, units = shown[i, None]["roi"], splits[0].units[name]
        inner = teacher.net.embed_video(faces[None])[0]
        assert units.shape == (len(Clip(shown.paths[i])), 128) and units.dtype == np.float16
        np.testing.assert_allclose(units[2 : 2 + len(inner)], inner, atol=1e-3)
        first = teacher.net.embed_video(faces[[0, 0, 0, 1, 2]][None])[0, 0]
        np.testing.assert_allclose(units[0], first, atol=1e-3)


def test_units_of_a_long_clip_are_made_in_parts(splits, teacher, monkeypatch):
    clip = Clip(splits[0].paths[0])
    monkeypatch.setattr(audio_to_lip, "AT_ONCE", 7)
    np.testing.assert_allclose(units_of(clip, splits[0].about, teacher), splits[0].units[splits[0].names[0]], atol=1e-3)


def test_units_are_kept_for_the_same_expert_and_made_anew_for_another(splits, teacher, tmp_path, monkeypatch):
    path, made = tmp_path / "units.safetensors", []
    monkeypatch.setattr(audio_to_lip, "units_of", lambda clip, about, expert: made.append(clip) or np.float16([[1, 2]]))
    assert lip_units(splits, teacher, path).keys() == {*splits[0].names, *splits[1].names} and len(made) == 6
    kept = lip_units(splits, teacher, path)
    assert len(made) == 6 and kept[splits[0].names[3]].tolist() == [[1, 2]]
    monkeypatch.setattr(teacher, "sha256", "another")
    lip_units(splits, teacher, path)
    assert len(made) == 12
    path.write_bytes(b"broken")
    lip_units(splits, teacher, path)
    assert len(made) == 18


def test_a_sample_of_stage_1_is_a_whole_utterance_and_its_units(splits):
    clips = splits[0]
    drawn, again = clips[5], clips[5]
    assert all(torch.equal(drawn[name], again[name]) for name in drawn) and drawn.keys() == {"audio", "units"}
    clip, sample = Clip(clips.paths[1]), clips.utterance(1)
    mel = audio.fast_mel_spectrogram(clip.wav, audio.MELS["cals"])
    assert sample["audio"].shape == (len(clip), 320) and len(sample["units"]) == len(clip)
    np.testing.assert_array_equal(sample["audio"][3].view(4, 80), mel[:, 12:16].T)
    np.testing.assert_array_equal(sample["units"], clips.units[clips.names[1]].astype(np.float32))


# Stage 1


def stage_1(hp, splits, draws=(0, 1)):
    """The state of a run at step 0, a list that fills with what it predicts, and a batch of its stage."""
    state, predicted = train.build(hp, CPU), []
    state.nets["generator"].speech.register_forward_hook(lambda _, __, out: predicted.append(out.detach()))
    return state, predicted, collate([splits[0][draw] for draw in draws])


def test_masked_sound_does_not_reach_the_loss_nor_a_target_the_prediction(splits, monkeypatch):
    hp, found = replace(CALS, audio_dropout=0.0), {}
    for change in ("nothing", "masked sound", "heard sound", "targets"):
        state, predicted, batch = stage_1(hp, splits)
        masked = torch.zeros(2, batch["audio"].shape[1], dtype=torch.bool)
        masked[:, 3:10] = True
        monkeypatch.setattr(audio_to_lip, "mask_spans", lambda *_, masked=masked: masked.repeat_interleave(4, 1))
        if "sound" in change:
            spoilt = masked if change == "masked sound" else ~masked
            batch["audio"] = torch.where(spoilt[..., None], 4.0, batch["audio"])
        elif change == "targets":
            batch["units"] = -batch["units"]
        found[change] = a2l_step(state, [batch])["a2l"], predicted[0]
    loss, predicted = found["nothing"]
    assert loss == found["masked sound"][0] > 0 and torch.equal(predicted, found["masked sound"][1])
    assert loss != found["heard sound"][0]
    assert loss != found["targets"][0] and torch.equal(predicted, found["targets"][1])


@pytest.mark.parametrize("summed, heard", [(False, False), (True, False), (False, True)])
def test_the_loss_of_stage_1_is_of_masked_units_alone_however_batches_are_cut(splits, summed, heard):
    hp = replace(CALS, audio_dropout=0.0, a2l_sum=summed, a2l_heard=heard, mask_share=0.9)
    state, _, both = stage_1(hp, splits)
    torch.manual_seed(0)
    mask = torch.rand(2, both["audio"].shape[1]) < 0.5
    steps, parts = mask.repeat_interleave(4, 1), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio_to_lip, "mask_spans", lambda *_: steps)
        whole = a2l_step(state, [both])["a2l"]
        patch.setattr(audio_to_lip, "mask_spans", lambda *_: parts.pop(0))
        parts += [steps[:1], steps[1:]]
        state, _, _ = stage_1(hp, splits)
        cut = a2l_step(state, [{name: part[i : i + 1] for name, part in both.items()} for i in range(2)])["a2l"]
    generator = train.build(hp, CPU).nets["generator"]
    predicted = generator.speech(both["audio"], both["audio_padding"], steps)
    wanted = a2l_loss(predicted, both["units"], ~both["audio_padding"] if heard else mask, summed)
    assert whole.item() == pytest.approx(wanted.item(), rel=1e-5) == pytest.approx(cut.item(), rel=1e-5)


def test_validation_of_stage_1_is_the_same_every_time_and_leaves_the_random_numbers_alone(splits):
    net = train.build(CALS, CPU).nets["generator"].eval().speech
    torch.manual_seed(1)
    before = torch.get_rng_state()
    scores = [a2l_scores(net, splits[1], replace(CALS, mask_share=0.9), CPU) for _ in range(2)]
    assert scores[0] == scores[1] and torch.equal(torch.get_rng_state(), before)
    assert scores[0].keys() == {"a2l", "unit_cosine"} and abs(scores[0]["unit_cosine"]) <= 1 and scores[0]["a2l"] > 0


# Stage 2


def test_faces_come_with_their_frames_and_0_2_s_of_mel_of_100_steps_a_second(spoken_root, batch):
    assert batch["sync_mel"].shape == (len(batch["clip"]), 5, 1, 80, 20) and batch["audio"].shape[2] == 320
    sample = Clips(spoken_root, "train", CALS).whole(0)
    clip = Clip(Clips(spoken_root, "train", CALS).paths[0])
    mel = audio.fast_mel_spectrogram(clip.wav, audio.MELS["cals"])
    frames = sample["frames"][0]
    assert torch.equal(frames, torch.arange(len(clip))) and torch.equal(sample["index"][0], frames)
    np.testing.assert_array_equal(sample["sync_mel"][0, 7, 0], mel[:, 28:48])
    assert sample["sync_mel"][0, -1].isnan().all()
    windows = SyncWindows(spoken_root, "train", replace(sync_expert(model="compact_cals_sync").hp, frames=0))
    assert windows[0, None]["mel"].shape == (len(clip) - 4, 1, 80, 20)


def test_both_sync_losses_reach_lower_faces_and_never_the_expert(teacher, batch):
    before, real = flat(teacher.net.state_dict()), batch["target"]
    for own in (teacher.embed_sound(batch), teacher.embed_lips(real, batch)):
        fake = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        lips = teacher.embed_lips(fake, batch)
        assert lips.shape == own.shape and not own.requires_grad
        teacher.contrast(lips, own, batch, 0.1).backward()
        reached = fake.grad.abs().sum((0, 2, 4))  # (T, H)
        half = int(UPPER_SHARE * 96)
        assert (reached[:, half:] > 0).any(1).all() and not reached[:, :half].any()
    assert flat(teacher.net.state_dict()) == before
    assert all(weight.grad is None for weight in teacher.net.parameters())


def test_windows_of_other_clips_are_negatives_and_those_that_share_a_frame_are_not(teacher, batch):
    lips, own = teacher.embed_lips(batch["target"], batch), teacher.embed_sound(batch)
    known = ~batch["sync_mel"][:, 0, 0, 0, 0].isnan()
    places = batch["clip"][known], batch["frames"][:, 0][known]
    found = teacher.contrast(lips, own, batch, 0.1)
    assert len(lips) == known.sum() and found.item() == cals_sync_loss(lips, own, *places, 0.1, 5).item()


def test_smaller_faces_are_shown_at_the_experts_own_size():
    large = sync_expert(model="cals_sync")
    faces = torch.nn.functional.interpolate(torch.rand(2 * 6, 3, 8, 8), size=(96, 96), mode="bilinear")
    larger = torch.nn.functional.interpolate(faces, size=(128, 128), mode="bilinear").unflatten(0, (2, 6))
    known = {"sync_mel": torch.zeros(2, 6, 1, 80, 20)}
    seen, wanted = (large.embed_lips(each, known) for each in (faces.unflatten(0, (2, 6)), larger))
    assert seen.shape == (4, 512) and (seen * wanted).sum(-1).min() > 0.999


@pytest.mark.parametrize("trains", [False, True])
def test_each_stage_trains_its_own_part(spoken_root, teacher, splits, batch, trains):
    state = train.build(replace(CALS, a2l_trains=trains, lr=1e-2), CPU)
    generator, before = state.nets["generator"], weights_of(state.nets["generator"])
    train.train_step(state, [collate([splits[0][0], splits[0][1]])], None, teacher)
    assert changed_parts(generator, before) == {"speech"}
    state.step, before = 2, weights_of(generator)
    losses = train.train_step(state, [batch], None, teacher)
    assert changed_parts(generator, before) == {"encoder", "decoder", "to_rgb", "audio_map"} | (
        {"speech"} if trains else set()
    )
    assert "a2l" not in losses and losses["l1"] > 0
    if trains:
        assert torch.equal(generator.speech.mask, before["speech.mask"]), "the sound is not corrupted"


def test_a_row_without_sync_losses_takes_its_units_from_the_expert_and_nothing_else(spoken_root, teacher, tmp_path):
    hp = replace(SHORT, av_weight=0.0, vv_weight=0.0, adv_weight=0.0, max_steps=3, valid_every=3)
    go(spoken_root, tmp_path, 3, hp, sync_expert=teacher)
    lines = metrics(tmp_path)
    assert [set(line) & {"a2l", "l1", "av", "vv"} for line in lines[:3]] == [{"a2l"}, {"a2l"}, {"l1"}]
    assert "sync" not in lines[-1]["valid"] and "sync_mel" not in Clips(spoken_root, "train", hp)[0]


# A run


def test_a_run_goes_through_its_stages(whole):
    state, folder = whole
    lines = metrics(folder)
    steps = {name: [line["step"] for line in lines if name in line] for name in ("a2l", "l1", "av", "vv", "adv")}
    assert steps == {"a2l": [1, 2], "l1": [3, 4, 5, 6], "av": [4, 5, 6], "vv": [4, 5, 6], "adv": [5, 6]}
    valid = [line["valid"] for line in lines if "valid" in line]
    assert [set(each) for each in valid] == [{"a2l", "unit_cosine"}, {"l1", "mouth", "sync"}, {"l1", "mouth", "sync"}]
    best = checkpoint.load(folder / "best.pt")
    assert best["step"] > 2 and best["best"] < 1, "a validation of faces beats any of stage 1"
    assert {path.name for path in folder.iterdir()} >= {"last.pt", "best.pt", "units.safetensors", "samples"}


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_run_is_resumed_exactly_in_every_stage(spoken_root, teacher, whole, tmp_path, stop):
    go(spoken_root, tmp_path, stop, SHORT, sync_expert=teacher)
    go(spoken_root, tmp_path, 6, SHORT, path=tmp_path / "last.pt", sync_expert=teacher)
    wanted, found = (flat(checkpoint.load(folder / "last.pt")) for folder in (whole[1], tmp_path))
    assert wanted == found and metrics(whole[1]) == metrics(tmp_path)


def test_random_lengths_are_resumed_exactly_too(spoken_root, teacher, tmp_path):
    hp = replace(SHORT, shortest_rows=5, windows=1, max_steps=4, adv_weight=0.0, valid_every=4)
    go(spoken_root, tmp_path / "whole", 4, hp, sync_expert=teacher)
    go(spoken_root, tmp_path / "parts", 1, hp, sync_expert=teacher)
    go(spoken_root, tmp_path / "parts", 4, hp, path=tmp_path / "parts" / "last.pt", sync_expert=teacher)
    whole, parts = (flat(checkpoint.load(tmp_path / name / "last.pt")) for name in ("whole", "parts"))
    assert whole == parts


def test_sound_is_cut_to_random_lengths_around_the_generated_frames(spoken_root, splits):
    clips = Clips(spoken_root, "train", replace(CALS, windows=1))
    batch = collate([clips[0], clips[2]], 5)
    sizes = set()
    for seed in range(60):
        torch.manual_seed(seed)
        cut = shortened(batch, 5)
        lengths = (~cut["audio_padding"]).sum(1)
        sizes |= set(lengths.tolist())
        assert cut["audio"].shape[1] == lengths.max() and (cut["index"] >= 0).all()
        for w in range(2):
            assert torch.equal(cut["audio"][w, cut["index"][w]], batch["audio"][w, batch["index"][w]])
            assert torch.equal(cut["lips"][w, cut["index"][w]], batch["lips"][w, batch["index"][w]])
    whole = (~batch["audio_padding"]).sum(1)
    assert min(sizes) == 5 and max(sizes) == whole.max()
    batch = collate([splits[0][0], splits[0][1]])
    cut = shortened(batch, 5)
    first = next(k for k in range(batch["audio"].shape[1]) if torch.equal(batch["audio"][0, k], cut["audio"][0, 0]))
    assert (
        torch.equal(cut["units"][0, 0], batch["units"][0, first]) and cut["units"].shape[:2] == cut["audio"].shape[:2]
    )


# The command


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_the_method_trains_under_its_sync_model_and_exports_what_inference_reads(spoken_root, tmp_path, capsys):
    teacher, weights = (
        write_sync_expert(tmp_path / "t.safetensors", model="compact_cals_sync"),
        tmp_path / "w.safetensors",
    )
    small = flags_of(replace(SHORT, av_weight=0.003, vv_weight=0.003))[1:]
    flags = ["--method=cals", *small, "--sync_expert", teacher, "--valid_clips=1", "--max_steps=3", "--adv_weight=0"]
    assert command(spoken_root, tmp_path, *flags, "--export", weights) == 0
    said = capsys.readouterr().err
    assert "compact_cals_a2l_av_vv" in said and "--preset cals_a2l_av_vv --sync_expert FILE" in said
    assert "from step 0: Audio-to-Lip alone" in said
    state = checkpoint.load(tmp_path / "tiny" / "last.pt")
    assert state["sync_expert"] == checkpoint.sha256(teacher) and state["step"] == 3
    generator, hp, _ = checkpoint.load_generator(weights)
    assert hp.model == "cals" and type(generator).__name__ == "Cals"


def test_a_sync_expert_of_another_kind_or_size_is_refused_in_one_line(spoken_root, tmp_path, capsys):
    own = write_sync_expert(tmp_path / "own.safetensors", model="compact_cals_sync")
    others = write_sync_expert(tmp_path / "others.safetensors")
    row = "--preset=compact_cals_a2l"
    cases = (
        ([row], "train_expert.py sync --preset compact_cals_sync"),
        ([row, "--width=1"], "train_expert.py sync --preset cals_sync"),
        ([row, "--sync_expert", others], "is a compact_wav2lip_sync: --model cals learns under a cals_sync"),
        ([row, "--sync_expert", own, "--sync_dim=64"], "lip-motion units of 128 numbers: say --sync_dim 128"),
        (["--preset=compact_wav2lip", "--sync_expert", own], "is a compact_cals_sync: --model wav2lip learns under"),
    )
    for flags, words in cases:
        assert command(spoken_root, tmp_path, *flags) == 1
        assert words in last_line(capsys), flags
    with pytest.raises(InputError, match="sync expert of CALS: it teaches"):
        load_sync(own)


def test_the_sync_model_is_validated_as_others_are(spoken_root, teacher):
    clips = FaceWindows(spoken_root, "val", replace(teacher.hp, frames=0))
    assert 0 <= mismatches(teacher.net, clips, 1, "cpu")["errors"] <= 1
