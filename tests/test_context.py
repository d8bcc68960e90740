"""CALS' experiments: what is masked is not heard, windows end where they say, and rows have the same spans."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import buzz
from filling import filled
from portraits import WEIGHTS, export_narrow

from evaluation import context
from evaluation.context import MASKED, NOISE, SILENCE, WHOLE, corrupted, main, spans_of, speech_of, stops_at, windowed
from hparams import HParams
from models import build_generator
from renderer import SpeechTrack

torch.set_num_threads(1)
SPAN = 6, 13


def method_of(name):
    hp = HParams(**WEIGHTS[name])
    return SimpleNamespace(generator=filled(build_generator(hp)).eval(), hp=hp)


def clip_of(wav):
    return SimpleNamespace(wav=wav)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Weights of a narrow generator without Audio-to-Lip and of one with it: the words of --rows."""
    folder = tmp_path_factory.mktemp("weights")
    return [
        "--rows",
        *(f"{name}={export_narrow(folder / f'{name}.pt', **WEIGHTS[name])}" for name in ("wav2lip", "cals")),
    ]


def test_a_span_of_sound_is_noise_as_loud_as_all_of_it_or_silence():
    wav, inside = buzz(1), slice(640 * SPAN[0], 640 * SPAN[1])
    for how in (NOISE, SILENCE):
        found = corrupted(wav, SPAN, how, np.random.default_rng(0))
        assert found.dtype == np.int16 and len(found) == len(wav)
        assert np.array_equal(np.delete(found, np.r_[inside]), np.delete(wav, np.r_[inside]))
        loud = np.sqrt(np.mean(found[inside].astype(float) ** 2))
        assert loud == (0 if how == SILENCE else pytest.approx(np.sqrt(np.mean(wav.astype(float) ** 2)), rel=0.05))


def test_what_is_masked_is_not_heard():
    method, wav, frames = method_of("cals"), buzz(1), np.arange(25)
    other = corrupted(
        wav, (SPAN[0] + 1, SPAN[1] - 1), NOISE, np.random.default_rng(0)
    )  # a mel step sees 12.5 ms around
    masked, again = (speech_of(method, clip_of(each), frames, SPAN, MASKED, None) for each in (wav, other))
    assert masked.shape == (25, 16) and torch.equal(masked, again)
    whole = speech_of(method, clip_of(wav), frames, SPAN, WHOLE, None)
    assert not torch.allclose(whole, masked, atol=1e-4)
    torch.testing.assert_close(whole, SpeechTrack(method.generator, method.hp, wav)(frames / 25))


def test_a_generator_that_knows_no_mask_gets_silence():
    method, frames = method_of("wav2lip"), np.arange(8, 12)
    masked, silent = (speech_of(method, clip_of(buzz(1)), frames, SPAN, how, None) for how in (MASKED, SILENCE))
    assert torch.equal(masked, silent) and masked.shape == (4, method.generator.speech_size)


@pytest.mark.parametrize("frames", [5, 6])
def test_of_a_window_nothing_beyond_it_is_heard(frames):
    method, wav, centres = method_of("cals"), buzz(1), np.array([10, 12])
    found = windowed(method, clip_of(wav), centres, frames)
    far = wav.copy()
    far[: 640 * 6], far[640 * 17 :] = 0, 0
    torch.testing.assert_close(windowed(method, clip_of(far), centres, frames), found, rtol=1e-4, atol=1e-5)
    near = corrupted(wav, (10, 11), SILENCE, np.random.default_rng(0))
    assert not torch.allclose(windowed(method, clip_of(near), centres, frames)[0], found[0], atol=1e-4)
    local = method_of("wav2lip")
    assert torch.equal(*(windowed(local, clip_of(wav), centres, each) for each in (5, 25)))


def test_spans_lie_within_words_and_are_told_when_a_clip_is_too_short():
    class Timed(SimpleNamespace):
        def __len__(self):
            return 75

    clip = Timed(times=np.array([[0.4, 0.8], [0.8, 2.0]]), path="clip")
    found = np.array(spans_of(clip, 200, 15, np.random.default_rng(0)))
    assert (np.diff(found) == 15).all() and found.min() == 10 and found.max() == 50
    assert np.array(spans_of(clip, 50, 60, np.random.default_rng(0))).max() > 60, "longer than what is said"
    with pytest.raises(context.InputError, match="75 frames, fewer than the span's 76: lower --span_s"):
        spans_of(clip, 1, 76, np.random.default_rng(0))


def test_a_window_stops_improving_where_no_longer_one_is_surely_better():
    noise = np.random.default_rng(0).normal(0, 0.1, 40)
    worse = {0.2: 2.0, 0.4: 1.0, 0.6: 0.0, 0.8: 0.0, 1.0: 0.0}
    pairs = {each: [(5 + more + n * (k % 2), 1) for k, n in enumerate(noise)] for each, more in worse.items()}
    assert stops_at(pairs) == 0.6
    assert stops_at({0.2: pairs[0.2], 1.0: pairs[1.0]}) == 1.0 and stops_at({0.6: pairs[0.6], 1.0: pairs[1.0]}) == 0.6


# The commands


class FakeLmd:
    """Stands for the measure: the mean grey of the generated faces, and which frames were asked for."""

    asked = []

    def __init__(self, real):
        self.name = real.name

    def __call__(self, crops, frames):
        FakeLmd.asked.append((self.name, tuple(frames)))
        return crops.reshape(len(crops), -1).mean(1)


def test_every_row_and_corruption_has_the_same_spans(spoken_root, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(context, "Lmd", FakeLmd)
    monkeypatch.setattr(FakeLmd, "asked", [])
    argv = ["spans", "--data_root", spoken_root, "--spans", 5, "--span_s", 0.2, "--json", tmp_path / "n.json", *rows]
    assert main(list(map(str, argv))) == 0
    table = capsys.readouterr().out
    assert "within 6 spans of 0.2 s in 2 clips" in table and "| cals - wav2lip |" in table
    places = {name: [] for name, _ in FakeLmd.asked}
    for name, frames in FakeLmd.asked:
        places[name].append(frames)
    assert all(len(each) == 2 * 4 * 3 and len(set(each)) <= 3 for each in places.values())
    report = json.loads((tmp_path / "n.json").read_text())
    found = report["rows"]["cals"][SILENCE]
    assert found["difference"]["value"] == pytest.approx(
        found["lmd"]["value"] - report["rows"]["wav2lip"][SILENCE]["lmd"]["value"]
    )
    assert report["rows"]["wav2lip"][MASKED]["lmd"] == report["rows"]["wav2lip"][SILENCE]["lmd"]
    assert report["rows"]["cals"][MASKED] != report["rows"]["cals"][SILENCE] and set(report["weights"]) == {
        "wav2lip",
        "cals",
    }


def test_a_window_of_sound_is_plotted_against_lmd(spoken_root, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(context, "Lmd", FakeLmd)
    out, wanted = tmp_path / "w.png", ["--windows_s", "0.04", "0.2", "0.4", "--centres", "2", "--json", "w.json"]
    wanted[-1] = str(tmp_path / "w.json")
    assert main(["window", "--data_root", str(spoken_root), "--out", str(out), *wanted, *rows]) == 0
    assert (
        cv2.imread(str(out)).std() > 5
        and "| row | 0.04 s | 0.2 s | 0.4 s | stops improving at |" in capsys.readouterr().out
    )
    found = json.loads((tmp_path / "w.json").read_text())["rows"]
    values = {name: [each["value"] for each in row["lmd"].values()] for name, row in found.items()}
    assert len(set(values["wav2lip"])) == 1 and len(set(values["cals"])) == 3
    assert found["wav2lip"]["stops_s"] == 0.4  # two clips have no interval by which a shorter one would do


def test_a_strip_shows_the_masked_frames_by_each_generator(spoken_root, rows, tmp_path, capsys):
    out = tmp_path / "strip.png"
    flags = ["--split", "train", "--clip", "bob/one", "--start_s", "0.4", "--span_s", "0.24", "--around", "2"]
    assert main(["strip", "--data_root", str(spoken_root), "--out", str(out), *flags, *rows]) == 0
    assert (
        "wav2lip, masked; cals, masked; wav2lip, whole sound; cals, whole sound; ground truth"
        in capsys.readouterr().out
    )
    picture = cv2.imread(str(out))[..., ::-1].astype(int)
    assert picture.shape == (4 + 5 * 48, 5 * 96, 3)  # frames 8, 10, 12, 14, 16
    red = picture[0, :, 0] - picture[0, :, 1] > 100
    assert red.reshape(5, 96).all(1).tolist() == [False, True, True, True, False] and red.sum() == 3 * 96


@pytest.mark.parametrize(
    "argv, words",
    [
        (["strip", "--clip", "nobody"], "not in val.txt"),
        (["strip", "--start_s", "9"], "frames, not"),
        (["window", "--windows_s", "0.4", "0.2"], "from the shortest to the longest"),
        (["window"], "--windows_s asks for"),
        (["spans", "--span_s", "3"], "lower --span_s"),
        (["spans", "--rows", "nothing"], "NAME=PATH"),
    ],
)
def test_faults_of_the_user_are_one_line(spoken_root, rows, capsys, argv, words):
    argv = [argv[0], "--data_root", str(spoken_root), *argv[1:]]
    assert main(argv if "--rows" in argv else [*argv, *rows]) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]
