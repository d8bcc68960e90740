"""Altered sound stays at its time, is the same for the same draw, and has the features that the libraries tell."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import buzz
from small_experts import GUIDED, reader

import audio
import data
from data import Clips, GuidedClips
from faces.shape import HeadShape
from hparams import HParams
from media.augment import MARGIN_S, ROOM_DB, RUNNING_S, SPEED, Retiming, SoundAugmentation, silences
from media.clip import Clip
from models.whisper import embed

HP = HParams(window=2, windows=2, augment=0.5, sound_augment=0.6)
NO_WORDS = np.zeros((0, 2), np.float32)


def only(seed=0, **chosen):
    """An augmentation of which only what is named is chosen."""
    made = SoundAugmentation(0.0, np.random.default_rng(seed))
    for name, value in chosen.items():
        setattr(made, name, value)
    made.alters = True
    return made


def level_db(wav):
    return 10 * np.log10(np.mean(wav.astype(float) ** 2))


# Features in numpy alone


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 1000, 16_000, 48_128])
def test_fast_features_are_those_of_the_libraries(samples):
    rng = np.random.default_rng(samples)
    quiet = np.where(np.arange(48_128) % 9000 < 3000, 0, rng.integers(-3, 4, 48_128)).astype(np.int16)
    loud = rng.integers(-32768, 32767, 48_128).astype(np.int16)
    for wav in (buzz(3.008), quiet, loud, np.zeros(48_128, np.int16)):
        for fast, by_library, *setting in (
            (audio.fast_log_filter_banks, audio.log_filter_banks),
            *((audio.fast_mel_spectrogram, audio.mel_spectrogram, setting) for setting in audio.MELS.values()),
        ):
            found, wanted = fast(wav[:samples], *setting), by_library(wav[:samples], *setting)
            assert found.dtype == wanted.dtype == np.float32
            np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("speech", ["global", "local", "utterance"])
def test_training_on_altered_sound_imports_no_library_of_sound(data_root, speech):
    more = {"model": "cals", "sync_dim": 8, "a2l_trains": True, "av_weight": 1.0} if speech == "utterance" else {}
    more |= {"window": 5}
    spy = (
        "import sys\nfrom data import Clips\nfrom hparams import HParams\n"
        f"hp = HParams(windows=2, sound_augment=1.0, speech={speech!r}, **{more!r})\n"
        f"Clips({str(data_root)!r}, 'train', hp)[0]\n"
        "print([name for name in ('av', 'librosa', 'python_speech_features', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", spy], cwd=Path(data.__file__).parent, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# What is altered


def test_sound_without_augmentation_is_the_very_same():
    wav = buzz(1)
    assert SoundAugmentation(0.0, None).apply(wav, NO_WORDS) is wav


def test_every_alteration_is_chosen_now_and_then():
    made = [SoundAugmentation(0.5, np.random.default_rng(seed)) for seed in range(200)]
    for name in ("room", "noise", "curve_db", "band"):
        assert 70 < sum(getattr(each, name) is not None for each in made) < 130, name
    assert 70 < sum(each.gain != 1 for each in made) < 130 and 70 < sum(each.zeroes for each in made) < 130
    always = SoundAugmentation(1.0, np.random.default_rng(0))
    assert always.zeroes and None not in (always.room, always.noise, always.band)


@pytest.mark.parametrize("seed", range(8))
def test_altered_sound_stays_at_its_time(seed):
    """A click is loudest where it was, and begins no more than 5 ms before."""
    wav = np.zeros(16_000, np.int16)
    wav[8000] = 30_000
    made = SoundAugmentation(1.0, np.random.default_rng(seed))
    made.noise = None
    heard = made.apply(wav, NO_WORDS).astype(float)
    assert len(heard) == len(wav) and abs(np.abs(heard).argmax() - 8000) <= 2
    assert np.sum(heard[:7920] ** 2) < 0.001 * np.sum(heard**2)


@pytest.mark.parametrize("snr_db", [5, 20, 40])
@pytest.mark.parametrize("fall", [0.0, 2.0])
def test_noise_is_as_loud_as_chosen(snr_db, fall):
    wav = buzz(2)
    noise = only(noise=(10 ** (-snr_db / 20), fall)).apply(wav, NO_WORDS).astype(float) - wav
    assert level_db(wav) - level_db(noise) == pytest.approx(snr_db, abs=1.0)


def test_the_telephone_takes_off_both_ends():
    rng = np.random.default_rng(0)
    wav = rng.normal(0, 3000, 32_000).astype(np.int16)
    spectra = [np.abs(np.fft.rfft(each)) for each in (wav, only(band=(300, 3400)).apply(wav, NO_WORDS))]
    hz = np.fft.rfftfreq(len(wav), 1 / 16_000)
    for low, high, least, most in ((0, 120, 0, 0.05), (600, 2000, 0.8, 1.05), (6500, 8000, 0, 0.1)):
        before, after = (np.sqrt((each[(hz >= low) & (hz < high)] ** 2).mean()) for each in spectra)
        assert least <= after / before <= most, (low, high)


def test_level_and_equalisation_do_what_they_say():
    wav = buzz(1)
    assert level_db(only(gain=0.1).apply(wav, NO_WORDS)) == pytest.approx(level_db(wav) - 20, abs=0.1)
    assert np.abs(only(gain=100.0).apply(wav, NO_WORDS).astype(int)).max() >= 32_767, "clipped, not wrapped"
    flat = only(curve_db=np.full(7, -6.0)).apply(wav, NO_WORDS)
    assert level_db(flat) == pytest.approx(level_db(wav) - 6, abs=0.1)


def test_a_room_rings_on():
    wav = np.zeros(16_000, np.int16)
    wav[:4000] = buzz(0.25)
    heard = only(room=(0.4, 0.7)).apply(wav, NO_WORDS).astype(float)
    ringing = [np.abs(heard[first : first + 1600]).mean() for first in (4000, 6400, 9600)]
    assert ringing[0] > 3 * ringing[1] > 9 * ringing[2] > 0


# Zeroed silences


def test_sound_is_zeroed_outside_words_only():
    wav, times = np.full(48_000, 1000, np.int16), np.array([[2.0, 2.2], [0.8, 1.1], [1.2, 1.3]])
    expected = [(0, 9600), (24_000, 28_800), (38_400, 48_000)]  # 0.2 s from any word
    assert silences(len(wav), times) == expected
    zeroed = np.zeros(len(wav), bool)
    for seed in range(12):
        zeroed |= only(seed, zeroes=True).apply(wav, times) == 0
    wanted = np.zeros(len(wav), bool)
    for first, last in expected:
        wanted[first:last] = True
    assert np.array_equal(zeroed, wanted)
    assert not (only(zeroes=True).apply(wav, NO_WORDS) == 0).any(), "where words are nobody knows"
    assert MARGIN_S == 0.2


def test_words_over_the_whole_clip_leave_no_silence():
    assert silences(16_000, np.array([[0.1, 1.2]])) == [] and silences(16_000, NO_WORDS) == []


# Samples


def test_the_same_draw_has_the_same_sound_and_other_draws_another(spoken_root):
    first, again = Clips(spoken_root, "train", HP), Clips(spoken_root, "train", HP)
    for draw in (5, 0, 41):
        one, other = first[draw], again[draw]
        assert all(torch.equal(one[name], other[name]) for name in one), draw
    heard = [Clips(spoken_root, "silent", replace(HP, sound_augment=1.0, seed=seed))[0]["audio"] for seed in (0, 1)]
    assert not torch.equal(*heard)


@pytest.mark.parametrize("speech", ["global", "local", "whisper"])
def test_pictures_are_the_same_whatever_is_heard(data_root, speech):
    hp = replace(HP, speech=speech, sound_augment=0.0)
    plain, altered = Clips(data_root, "train", hp), Clips(data_root, "train", replace(hp, sound_augment=1.0))
    for draw in range(4):
        before, after = plain[draw], altered[draw]
        for name in ("face", "target", "mouth"):
            assert torch.equal(before[name], after[name]), name
        assert not torch.equal(before["audio"][:5], after["audio"][:5])


def test_a_sound_that_nothing_alters_keeps_its_stored_features(data_root):
    clip = Clip(data_root / "clips" / "ann" / "one.safetensors")
    for speech in ("global", "local", "whisper"):
        stored = data.audio_features(clip, np.arange(5), speech)
        found = data.audio_features(clip, np.arange(5), speech, SoundAugmentation(0.0, None))
        assert all(map(np.array_equal, stored, found))


def test_altered_features_are_those_of_the_altered_sound(data_root):
    clip = Clip(data_root / "clips" / "ann" / "one.safetensors")
    made = [only(noise=(0.1, 1.0), gain=0.5) for _ in range(4)]
    wav = made[0].apply(clip.wav, clip.times)
    rows, *_ = data.audio_features(clip, np.arange(5), "global", made[1])
    np.testing.assert_allclose(rows, audio.global_features(wav), atol=1e-3)
    windows, *_ = data.audio_features(clip, np.arange(5), "local", made[2])
    np.testing.assert_allclose(windows, audio.mel_windows(audio.mel_spectrogram(wav), np.arange(5) / 25), atol=1e-3)
    rows, *_ = data.audio_features(clip, np.arange(5), "whisper", made[3])
    np.testing.assert_allclose(rows, audio.pairs(embed(data.whisper_encoder(), wav).numpy()), atol=1e-5)


def test_with_and_without_the_expert_the_sound_is_the_same_and_validation_hears_it_as_it_is(spoken_root):
    hp, tokenizer = replace(GUIDED, sound_augment=0.8), reader(spoken_root).tokenizer
    plain = Clips(spoken_root, "train", hp)
    guided = GuidedClips(spoken_root, "train", hp, tokenizer, "aligned", 100)
    for draw in range(4):
        assert torch.equal(plain[draw]["audio"], guided[draw]["audio"])
    usual = GuidedClips(spoken_root, "train", GUIDED, tokenizer, "aligned", 100)
    assert torch.equal(guided.whole(0)["audio"], usual.whole(0)["audio"])
    assert torch.equal(guided.validation(0)["audio"], usual.validation(0)["audio"])


# What moves sound in time


def ramp(seconds=3.0):
    """A sound whose samples tell their time: 8,000 more a second."""
    return (np.arange(int(seconds * audio.RATE)) / 2 - 12_000).astype(np.int16)


def time_of(samples):
    return (samples.astype(float) + 12_000) / 8_000


@pytest.mark.parametrize("seed", range(12))
def test_a_retimed_sound_is_heard_where_it_is_said_to_be(seed):
    """What is shown at a time of the clip is heard at `heard_at`; what is heard at a time is shown at `shown_at`."""
    shown_s, words = np.array([1.2, 1.24, 1.6]), np.array([[0.6, 1.1], [1.4, 2.3]])
    made = Retiming(1.0, np.random.default_rng(seed), 3.0, shown_s, words)
    wav = made.apply(ramp())
    at_s = np.arange(len(wav)) / audio.RATE
    heard_s = made.heard_at(shown_s)
    assert (heard_s > 0).all() and (heard_s < len(wav) / audio.RATE).all()
    np.testing.assert_allclose(time_of(np.interp(heard_s, at_s, wav)), shown_s, atol=1e-3)
    shown = made.shown_at(at_s)
    inside = (np.diff(shown, append=shown[-1]) > 0) & (shown < made.stop - 0.01)  # not at a seam
    np.testing.assert_allclose(time_of(wav)[inside], shown[inside], atol=1e-3)
    assert SPEED[0] <= made.rate <= SPEED[1] and made.alters


def test_what_a_sample_shows_is_never_cut_off_and_silences_are_where_words_are_known():
    words = np.array([[0.6, 1.1], [1.4, 2.3]])
    for seed in range(50):
        made = Retiming(1.0, np.random.default_rng(seed), 3.0, [0.1, 0.5], words)
        assert made.start == 0 and (3 if made.rests else 2.3 + MARGIN_S) >= made.stop >= 0.5 + MARGIN_S
        made = Retiming(1.0, np.random.default_rng(seed), 3.0, [1.5, 1.6], words)
        assert 0 <= made.start <= 1.5 - MARGIN_S and 1.6 + MARGIN_S <= made.stop <= 3
        assert made.rests or (made.start >= 0.6 - MARGIN_S and made.stop <= 2.3 + MARGIN_S)
        assert 0 <= made.before <= RUNNING_S and 0 <= made.after <= RUNNING_S


def test_in_the_silence_around_a_sound_the_lips_are_at_rest(data_root):
    clip, levels = Clip(data_root / "clips" / "ann" / "one.safetensors"), []
    head = HeadShape(clip.meshes, clip.boxes, 0.0)
    for seed in range(40):
        made = Retiming(1.0, np.random.default_rng(seed), 3.0, [1.5, 1.6], NO_WORDS)
        wav = made.apply(np.full(3 * audio.RATE, 20_000, np.int16))
        shown = made.shown_at(np.arange(len(wav)) / audio.RATE)
        silent = np.isnan(shown)
        assert silent.any() == made.rests and (wav[~silent] == 20_000).all()
        if made.rests:
            assert made.before <= np.flatnonzero(~silent)[0] * made.rate / audio.RATE + 1e-3
            assert np.abs(wav[silent]).max() < 32768 * 10 ** (ROOM_DB[1] / 20) * 6
            levels.append(np.abs(wav[silent]).max())
            assert (head.shapes_at(25 * shown[silent][:5]) == 0).all()
    assert 10 < len(levels) < 30 and 0 < np.mean(np.array(levels) == 0) < 1  # digital silence, and rooms


def test_a_chance_of_zero_moves_nothing():
    made, wav = Retiming(0.0, None, 3.0, [0.0, 1.0], NO_WORDS), ramp()
    assert not made.alters and np.array_equal(made.apply(wav), wav)
    np.testing.assert_array_equal(made.shown_at([0.0, 1.0]), [0.0, 1.0])


@pytest.mark.parametrize("speech", ["global", "local", "whisper"])
def test_the_shape_of_the_lips_goes_along_with_a_retimed_sound(data_root, speech):
    """Each frame's row says the shape that the frame shows, within the frame that a row may be off."""
    hp = replace(HP, speech=speech, augment=0.0, sound_augment=1.0)
    clip = Clip(data_root / "clips" / "ann" / "one.safetensors")
    head = HeadShape(clip.meshes, clip.boxes, 0.0)
    moves = np.abs(np.diff(head.shapes, axis=0)).max()
    frames = np.array([8, 9, 20])
    for seed in range(6):
        alteration = SoundAugmentation(1.0, np.random.default_rng(seed))
        _, index, places = data.audio_features(clip, frames, hp.speech, alteration)
        assert np.abs(places[index] - frames).max() <= 0.5 * SPEED[1]
        assert np.abs(head.shapes_at(places)[index] - head.shapes[frames]).max() <= moves + 1e-5
