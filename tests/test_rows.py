"""The rows of the table: the copied frame, another clip's lips, and a generator under four sounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from portraits import WEIGHTS, export_narrow

from audio import RATE
from evaluation import rows
from evaluation.rows import (
    COPIED,
    OTHER_LIPS,
    TRUTH,
    Corpus,
    GeneratedRows,
    baseline_rows,
    distant,
    room_silence,
    with_lips_of,
)
from evaluation.wer import mouths
from media.clip import FPS


@pytest.fixture(scope="module")
def pair(data_root):
    corpus = Corpus(data_root, "val")
    return [corpus.real(name) for name in corpus.names]


def test_the_identity_is_the_frame_most_distant_in_time():
    assert distant(6).tolist() == [5, 5, 5, 0, 0, 0]


def test_the_copied_row_shows_no_frame_at_its_own_time(pair):
    real, other = pair
    rows = baseline_rows(real, other)
    assert list(rows) == [TRUTH, COPIED, OTHER_LIPS]
    assert (rows[COPIED][0] == real.crops[-1]).all() and (rows[COPIED][-1] == real.crops[0]).all()
    assert all(len(crops) == len(real.crops) for crops in rows.values())


def test_a_clip_with_its_own_lips_is_itself(pair):
    real, _ = pair
    change = np.abs(with_lips_of(real, real).astype(int) - real.crops)
    assert change.mean() < 0.5 and change.max() < 40


def test_what_is_read_is_the_other_clip_and_the_rest_stays(pair):
    real, other = pair
    mixed = with_lips_of(real, other)
    seen, theirs, own = (
        mouths(crops, clip, real.margin, "aligned")
        for crops, clip in ((mixed, real.clip), (other.crops, other.clip), (real.crops, real.clip))
    )
    middle = (slice(None, 28), 0, slice(20, 68), slice(20, 68))
    assert (seen[middle] - theirs[middle]).abs().mean() < 0.03
    assert (seen[middle] - own[middle]).abs().mean() > 0.06
    assert (mixed[:, :40] == real.crops[:, :40]).all()  # forehead and eyes


def test_the_lips_of_a_shorter_clip_play_forth_and_back(pair):
    long, short = pair if len(pair[0].crops) > len(pair[1].crops) else pair[::-1]
    assert len(long.crops) > len(short.crops)
    assert len(with_lips_of(long, short)) == len(long.crops)


@pytest.mark.parametrize("kind", ["talklip_g", "wav2lip"])
def test_a_generator_makes_faces_for_five_sounds_within_the_face_box(pair, tmp_path, kind):
    torch.manual_seed(0)
    generated = GeneratedRows(export_narrow(tmp_path / "mine.safetensors", **WEIGHTS[kind]))
    real, other = pair
    rows = generated.rows(real, other, ([real.name], real.clip.wav, 0.0))
    sounds = "", ", other clip's sound", ", silence", ", room silence", ", minute of sound"
    assert list(rows) == [f"mine{sound}" for sound in sounds]
    assert (rows["mine, minute of sound"] == rows["mine"]).all()  # of a minute that is this clip alone
    for crops in rows.values():
        changed = (crops != real.crops).any((0, 3))
        assert changed[16:-16, 16:-16].any() and not changed[:16].any() and not changed[:, -16:].any()
    assert (rows["mine"] != rows["mine, silence"]).any()
    assert (generated.generate(real, generated.track(real.clip.wav)) == rows["mine"]).all()  # the same every time


def test_in_a_minute_of_sound_a_clip_is_where_it_begins(pair, data_root, tmp_path):
    """Its faces are those of its own sound, of which a local encoder knows 0.2 s."""
    generated, (real, other) = GeneratedRows(export_narrow(tmp_path / "m.safetensors", **WEIGHTS["wav2lip"])), pair
    names, wav, start_s = Corpus(data_root, "val").minute(real.name)
    assert (start_s * RATE) % (RATE // FPS) == 0, "frames lie on the same mel steps"
    rows, last = generated.rows(real, other, (names, wav, start_s)), -4
    assert (rows["m, minute of sound"][3:last] == rows["m"][3:last]).mean() > 0.99
    assert (rows["m, minute of sound"] != rows["m, other clip's sound"]).any()
    speech = generated.minute[1]
    generated.rows(other, real, Corpus(data_root, "val").minute(other.name))
    assert generated.minute[1] is speech, "it is embedded once"


def test_clips_are_joined_to_minutes_and_the_last_is_filled_up(data_root, monkeypatch):
    corpus = Corpus(data_root, "val")
    (part,) = corpus.minutes
    assert part[:4] == [*corpus.names, *corpus.names]
    lengths = [len(corpus.clip(name).wav) for name in part]
    names, wav, start_s = corpus.minute(corpus.names[1])
    assert names == part and len(wav) == sum(lengths) and 60 <= len(wav) / RATE < 62
    assert start_s == lengths[0] / RATE
    monkeypatch.setattr(rows, "MINUTE_S", 0.1)
    assert Corpus(data_root, "val").minutes == [[name] for name in corpus.names]


def test_the_silence_of_a_room_is_the_quietest_part_of_its_sound():
    rng = np.random.default_rng(0)
    wav = rng.normal(0, 1000, RATE).astype(np.int16)
    wav[8000:12000] = rng.normal(0, 10, 4000)
    wav[:800] = 0  # coding's
    quiet = room_silence(wav)
    assert len(quiet) == len(wav) and quiet.dtype == wav.dtype and 5 < quiet.std() < 15
    assert (quiet[:3200] == quiet[3200:6400][::-1]).all()
    assert len(room_silence(wav[:100])) == 100  # a sound shorter than that


@pytest.mark.parametrize("kind", ["talklip_g", "wav2lip"])
def test_more_articulation_moves_lips_more_and_names_the_row(pair, tmp_path, kind):
    path, (real, _) = export_narrow(tmp_path / "mine.safetensors", **WEIGHTS[kind]), pair
    real = replace(real, crops=np.repeat(real.crops[:1], len(real.crops), axis=0))  # what moves is made by the sound
    made = {each: GeneratedRows(path, articulation=each) for each in (0.5, 1.0, 2.0)}
    assert [each.name for each in made.values()] == ["mine, articulation 0.5", "mine", "mine, articulation 2"]
    assert made[2.0].about["articulation"] == 2
    moved = [each.generate(real, each.track(real.clip.wav)).astype(float).std(0).mean() for each in made.values()]
    assert moved[0] < 0.8 * moved[1] and moved[1] < 0.8 * moved[2]
    same = GeneratedRows(path)
    wav = real.clip.wav
    assert (same.generate(real, same.track(wav)) == made[1.0].generate(real, made[1.0].track(wav))).all()
