"""The commands that measure speed, and how they take time."""

import numpy as np
import pytest

from evaluation.benchmarks import inference
from evaluation.benchmarks.timing import in_turns, medians, seconds
from hparams import HParams

NARROW = HParams(width=1 / 16, audio_layers=1, audio_dim=32, audio_ffn=64, audio_heads=4)


def test_ways_are_called_in_turns_after_each_was_called_once():
    called = []
    ways = [lambda: called.append("slow"), lambda: called.append("quick")]
    assert in_turns(ways, 3).shape == (3, 2)
    assert called == ["slow", "quick"] * 4
    assert in_turns([lambda: 4.0], 2, lambda work: work(), warm=False).tolist() == [[4.0], [4.0]]


def test_the_time_is_the_mean_over_the_calls_that_fill_it(monkeypatch):
    now, called = [0.0], []

    def work():
        called.append(None)
        now[0] += 0.5

    monkeypatch.setattr("evaluation.benchmarks.timing.time.perf_counter", lambda: now[0])
    assert seconds(work) == 0.5 and len(called) == 1
    assert seconds(work, least_s=1.6) == 0.5 and len(called) == 1 + 4


def test_ways_are_compared_by_medians_of_each_and_of_their_ratio():
    assert medians(np.array([[4.0, 1.0], [8.0, 4.0], [6.0, 9.0]])) == (6.0, 4.0, 2.0)


def test_folded_half_precision_network_is_timed_beside_the_plain_one(monkeypatch, capsys):
    monkeypatch.setattr(inference, "preset", lambda name: NARROW)
    monkeypatch.setattr(inference, "LEAST_S", 0.01)
    assert inference.main(["--preset", "compact", "--rounds", "1"]) == 0
    assert "frames/s" in capsys.readouterr().out


def test_the_made_clip_is_as_long_as_asked(tmp_path):
    from media.sound import read_audio
    from media.video import probe

    face, sound = inference.make_clip(tmp_path, 1)
    found = probe(face)
    assert (found.width, found.height, found.frames) == (1280, 720, 25)
    assert len(read_audio(sound)) == pytest.approx(16_000, abs=2)
