"""Clips that are out of sync are found out, by how much and to which side; too little to judge is refused."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from drawn_faces import draw_head, head_mesh
from mirror import FRAME, Mirror, flicker
from published_files import refused

import checkpoint
from errors import InputError
from experts import sync
from experts.lip_reader import load_reader
from experts.sync import Compact, Published, levelled, load_sync, score
from hparams import ExpertHParams, preset
from models import build_reader

torch.set_num_threads(1)
HP = replace(preset("compact_sync", ExpertHParams), width=1 / 16, dim=16)
MIRRORS = {"compact": Compact(Mirror(), {}), "published": Published(Mirror(), {})}


def pictures_of(kind, light):
    """A clip of so bright pictures, as the model of that kind takes it."""
    if kind == "compact":
        return torch.from_numpy(light)[:, None, None, None].expand(-1, 1, 88, 88)
    return np.round(255 * light)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3).astype(np.uint8)


# Scores


def test_scores_of_a_known_curve_are_the_known_numbers():
    curve = torch.full((4, 31), 7.0)
    curve[:, 12], curve[0, 12], curve[:, 13] = 2.0, 4.0, 5.0
    assert score(curve) == (3, pytest.approx(4.5), pytest.approx(2.5))


def test_an_offset_that_few_windows_know_is_left_out():
    curve = torch.full((8, 31), 7.0)
    curve[:, 15], curve[:, 30], curve[3:, 30] = 3.0, 1.0, torch.nan
    assert score(curve) == (0, pytest.approx(4.0), pytest.approx(3.0)), "of 3 windows in 8"
    curve[3, 30] = 1.0
    assert score(curve) == (-15, pytest.approx(6.0), pytest.approx(1.0)), "4 in 8 are enough"


@pytest.mark.parametrize("kind", MIRRORS)
@pytest.mark.parametrize("late", range(-10, 11))
def test_a_shifted_clip_is_found_with_its_offset_and_the_right_sign(kind, late):
    """late: frames by which the picture comes after its sound."""
    light, wav = flicker(60)
    light, wav = light[max(-late, 0) :], wav[max(late, 0) * FRAME :]
    offset, c, d = score(MIRRORS[kind].distances(pictures_of(kind, light), wav))
    assert offset == late and d < 0.6 and c > 0.4


@pytest.mark.parametrize("kind", MIRRORS)
def test_a_sound_that_fits_nowhere_has_no_confidence(kind):
    light, _ = flicker(75, seed=1)
    _, wav = flicker(75, seed=2)
    _, c, d = score(MIRRORS[kind].distances(pictures_of(kind, light), wav))
    assert c < 0.3 and d > 1


@pytest.mark.parametrize("kind, windows", [("compact", 36), ("published", 35)])
@pytest.mark.parametrize("frames, heard", [(40, 60), (60, 40)])
def test_what_ends_first_ends_the_judging(kind, windows, frames, heard):
    light, wav = flicker(60)
    found = MIRRORS[kind].distances(pictures_of(kind, light[:frames]), wav[: heard * FRAME], vshift=4)
    assert found.shape == (windows, 9) and score(found).offset == 0
    if kind == "published":
        assert not found.isnan().any(), "silence around is all zeros, as published"
    else:
        assert found[0, :4].isnan().all() and not found[0, 4:].isnan().any(), "there is no sound before the first"


@pytest.mark.parametrize("kind", MIRRORS)
def test_a_long_clip_is_judged_in_parts_with_the_same_result(kind, monkeypatch):
    light, wav = flicker(50)
    whole = MIRRORS[kind].distances(pictures_of(kind, light), wav)
    monkeypatch.setattr(sync, "LONGEST", 7)
    monkeypatch.setattr(sync, "BATCH", 7)
    assert torch.allclose(MIRRORS[kind].distances(pictures_of(kind, light), wav), whole, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("kind", MIRRORS)
def test_six_frames_of_both_are_enough_and_five_are_not(kind):
    light, wav = flicker(12)
    assert score(MIRRORS[kind].distances(pictures_of(kind, light[:6]), wav[: 6 * FRAME])).offset == 0
    for frames, samples in ((5, 6 * FRAME), (6, 5 * FRAME), (0, 0), (12, 0)):
        with pytest.raises(InputError, match=f"{frames} frames at 25 fps and .* less than 6 frames of both"):
            MIRRORS[kind].distances(pictures_of(kind, light[:frames]), wav[:samples])


@pytest.mark.parametrize("gain", [0.05, 0.4, 3])
def test_the_compact_model_does_not_mind_how_loud_a_recording_is(gain):
    _, wav = flicker(30)
    wav = (wav / np.abs(wav).max() * 10_000).astype(np.int16)
    heard = []
    net = Mirror()
    net.embed_audio = lambda mels: heard.append(mels) or Mirror().embed_audio(mels)
    for loud in (wav, (gain * wav).astype(np.int16)):
        Compact(net, {}).distances(torch.rand(30, 1, 88, 88), loud)
    assert (heard[0] - heard[1]).abs().mean() < 0.02
    assert np.percentile(np.abs(levelled(wav)), 99) == pytest.approx(19_000)


def test_silence_stays_silence():
    assert not levelled(np.zeros(640, np.int16)).any() and len(levelled(np.zeros(0, np.int16))) == 1
    assert np.abs(levelled(np.ones(640, np.int16))).max() == 100, "noise of a quiet microphone is no speech"


# Mouths


def test_mouths_are_those_of_the_stored_crops():
    mesh = head_mesh(0.1)
    crop = draw_head(mesh)
    frame = np.full((200, 240, 3), 90, np.uint8)
    frame[30:158, 50:178] = crop
    box = np.array([66, 46, 162, 142], np.float32)  # the inner 96 px of the crop
    seen = sync.mouths(frame[None].repeat(3, 0), np.tile(box, (3, 1)), mesh[None].repeat(3, 0))
    assert seen.shape == (3, 1, 88, 88) and 0 <= seen.min() and seen.max() <= 1
    dark = (seen[1, 0] < 0.4).nonzero().float().mean(0)  # the lips
    assert (dark - 43.5).abs().max() < 3, "they are in the middle"


def test_windows_give_their_middle():
    windows = np.random.default_rng(0).integers(0, 256, (2, 96, 96)).astype(np.uint8)
    assert torch.equal(sync.inner(windows), torch.from_numpy(windows[:, None, 4:92, 4:92]) / 255)


# Files


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The checkpoint of a run that trains a narrow compact model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    parts = {"task": "sync", "hparams": asdict(HP), "step": 3, "sync": build_reader(HP, None).state_dict()}
    checkpoint.save(path, best=0.5, optimizer={}, **parts)
    return path


def test_weights_of_a_run_are_exported_in_16_bits_and_read(run, tmp_path):
    sync.export(tmp_path / "sync.safetensors", run)
    light, wav = flicker(20)
    found = []
    for path in (run, tmp_path / "sync.safetensors"):
        model = load_sync(path)
        assert isinstance(model, Compact) and model.about["step"] == 3 and len(model.about["sha256"]) == 64
        found.append(model.distances(pictures_of("compact", light), wav))
    assert torch.allclose(*found, atol=0.01, equal_nan=True) and not torch.equal(*found)


def test_a_sync_model_is_no_lip_reader_and_no_generator(run, tmp_path):
    refused(run, "holds no lip reader but a sync model", read=load_reader)
    refused(run, "holds no encoder but a sync model", read=lambda path: load_reader(path, whole=False))
    refused(run, "holds no generator but a sync model", read=checkpoint.load_generator)


def test_the_two_models_numbers_have_no_name_in_common():
    assert not set(Compact.columns.values()) & set(Published.columns.values()) and Compact.name != Published.name
    assert all("compact" in name for name in Compact.columns.values())
