"""Sound: reading, features against the authors' numbers, positions by time."""

from pathlib import Path

import numpy as np
import pytest
from conftest import buzz, make_video, make_wav, numbered

import audio
from errors import InputError
from media import sound

FIXTURES = Path(__file__).parents[1].parent / "shared" / "reference" / "fixtures"
GOLDEN = Path(__file__).parent / "golden" / "audio.npz"


def golden_features():
    """What golden/audio.npz holds: the features of 0.53 s of `buzz`, by code that meets the authors' fixture."""
    wav = buzz(0.53)
    return {"rows": audio.global_features(wav), "mel": audio.mel_spectrogram(wav)}


def test_features_equal_the_golden_ones():
    with np.load(GOLDEN) as golden:
        for name, value in golden_features().items():
            np.testing.assert_allclose(value, golden[name], atol=2e-3, err_msg=name)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the authors' fixtures are not on this machine")
def test_features_of_a_grid_clip_equal_the_authors():
    wav, mel = np.load(FIXTURES / "bbaf2n_wav.npy"), None
    with np.load(FIXTURES / "preprocess_grid.npz") as grid:
        mel = audio.mel_spectrogram(wav)
        windows = audio.mel_windows(mel, np.arange(71) / 25)[:, 0]
        found = {
            "logfbank26": audio.log_filter_banks(wav),
            "stacked104_layernorm": audio.global_features(wav),
            "mel80": mel,
            "mel_chunk_20": windows[20],
        }
        for name, value in found.items():
            np.testing.assert_allclose(value, grid[name], atol=1e-4, err_msg=name)
        assert len(windows) == grid["n_mel_chunks"]
        np.testing.assert_array_equal(windows[-1], mel[:, -16:])


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the authors' fixtures are not on this machine")
def test_a_grid_clip_sounds_as_ffmpeg_extracts_it():
    wav, read = np.load(FIXTURES / "bbaf2n_wav.npy").astype(int), sound.read_audio(FIXTURES / "bbaf2n.mpg")
    assert len(read) == len(wav) and np.abs(read - wav).max() <= 8


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 1000, 16_000])
def test_any_sound_has_at_least_one_row_and_one_window(samples):
    wav = buzz(1)[:samples]
    rows = audio.global_features(wav)
    assert rows.shape == (max(1, len(rows)), 104) and np.isfinite(rows).all()
    assert audio.mel_windows(audio.mel_spectrogram(wav), [0.0, 9.0]).shape == (2, 1, 80, 16)


def test_a_short_mel_is_filled_with_silence():
    windows = audio.mel_windows(np.ones((80, 5), np.float32), [0.0])
    assert (windows[..., :5] == 1).all() and (windows[..., 5:] == -4).all()


@pytest.mark.parametrize("fps", [15, 24000 / 1001, 25, 30, 50, 60])
def test_windows_and_rows_follow_the_time_at_any_rate(fps):
    times = np.arange(40) / fps
    mel = np.tile(np.arange(1000, dtype=np.float32), (80, 1))
    starts = audio.mel_windows(mel, times)[:, 0, 0, 0]
    assert np.abs(starts / 80 - times).max() <= 1 / 80
    assert np.abs(audio.rows_at(times, 1000) / 25 - times).max() <= 1 / 25


def test_at_25_fps_rows_are_frames_and_the_last_row_stays():
    assert audio.rows_at(np.arange(500) / 25, 400).tolist() == [*range(400), *[399] * 100]
    starts = audio.mel_windows(np.tile(np.arange(2000.0), (80, 1)), np.arange(500) / 25)[:, 0, 0, 0]
    assert starts.tolist() == [i * 80 // 25 for i in range(500)]


def test_stereo_at_another_rate_becomes_mono_at_16_khz(tmp_path):
    left = buzz(1, 44_100)
    wav = sound.read_audio(make_wav(tmp_path / "s.wav", np.stack([left, left]), 44_100))
    assert wav.dtype == np.int16 and wav.ndim == 1 and abs(len(wav) - 16_000) <= 2
    assert np.corrcoef(wav[:15_990], buzz(1)[:15_990])[0, 1] > 0.999


@pytest.mark.parametrize("late_s", [0.5, -0.3])
def test_sound_is_read_on_the_clock_of_the_picture(tmp_path, late_s):
    import av

    source, path = make_video(tmp_path / "a.mkv", numbered(25), audio=buzz(1)), tmp_path / "b.mkv"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.pts is None:
                continue
            shift_s = max(late_s, 0) if packet.stream.type == "audio" else max(-late_s, 0)
            packet.pts += round(shift_s / packet.time_base)
            packet.dts += round(shift_s / packet.time_base)
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    before, after = sound.read_audio(source), sound.read_audio(path)
    assert len(after) - len(before) == pytest.approx(late_s * 16_000, abs=32)
    quiet = round(late_s * 16_000) - 1100 if late_s > 0 else 0
    assert not after[:quiet].any()


@pytest.mark.parametrize("name", ["a b.wav", "-i.wav", 'it\'s; "q".wav', "two\nlines.wav", "Zoë 声.wav", "x:y%d.wav"])
def test_strange_names_are_just_names(tmp_path, monkeypatch, name):
    make_wav(tmp_path / "plain.wav", buzz(0.2)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(sound.read_audio(name)) == 3200


def test_faults_of_the_file_are_one_line_that_names_it(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("this is a shopping list, not a song\n" * 50)
    make_video(tmp_path / "silent.mp4", numbered(3))
    make_wav(tmp_path / "short.wav", buzz(1)[:20], 48_000)
    (tmp_path / "cut.wav").write_bytes(make_wav(tmp_path / "w.wav", buzz(1)).read_bytes()[:30])
    faults = {
        "missing.wav": "no such file",
        ".": "folder",
        "empty.wav": "is empty",
        "text.mp3": "media file",
        "silent.mp4": "no sound track",
        "cut.wav": "media file|sample",
        "short.wav": "a few samples",
    }
    for name, words in faults.items():
        with pytest.raises(InputError, match=words) as fault:
            sound.read_audio(tmp_path / name)
        assert str(tmp_path / name) in str(fault.value) and "\n" not in str(fault.value)


def test_a_play_list_cannot_open_other_files(tmp_path):
    secret = make_wav(tmp_path / "secret.wav", buzz(0.5))
    lists = {
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile secret.wav\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError):
            sound.read_audio(tmp_path / name)


@pytest.mark.parametrize("samples", [16_000 * 3 + 1, 16_000 * 2, 16_000 * 2 + 240, 16_000 * 2 + 241, 401, 400, 3])
def test_sound_analysed_in_blocks_is_the_same_as_at_once(monkeypatch, samples):
    wav = np.random.default_rng(0).integers(-8000, 8000, samples).astype(np.int16)
    banks, mel = audio.log_filter_banks(wav), audio.mel_spectrogram(wav)
    other = audio.mel_spectrogram(wav, audio.MELS["cals"])
    assert mel.shape[1] == 1 + max(samples, 800) // 200 and other.shape[1] == 1 + max(samples, 400) // 160
    monkeypatch.setattr(audio, "BLOCK_S", 1)
    np.testing.assert_allclose(audio.log_filter_banks(wav), banks, atol=1e-5)
    np.testing.assert_allclose(audio.mel_spectrogram(wav), mel, atol=1e-5)
    np.testing.assert_allclose(audio.mel_spectrogram(wav, audio.MELS["cals"]), other, atol=1e-5)
