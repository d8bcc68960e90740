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


def test_whole_runs_of_two_checkouts_are_timed_in_turns_with_their_memory(tmp_path, capsys):
    for name, work in (("old", "b = b'1' * (300 << 20); time.sleep(0.4)"), ("new", "pass")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inference.py").write_text(f"import sys, time\nassert 'w.pt' in sys.argv[-1]\n{work}\n")
    flags = ["--seconds", "1", "--height", "144", "--rounds", "2", "--checkpoints", "w.pt"]
    assert inference.main([*flags, "--checkouts", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    said, old, new = (line.split(" | ") for line in capsys.readouterr().out.splitlines() if "---" not in line)
    assert said[0] == "| 1 s of 256x144, 25 fps" and old[0].endswith("old, w.pt") and old[2] == "1.00"
    assert float(old[1]) > float(new[1]) and float(new[2]) < 1
    assert said[3:5] == ["processors' s", "system's s"] and sum(map(float, old[3:5])) > sum(map(float, new[3:5]))
    assert int(old[5].rstrip(" |")) > 300 > int(new[5].rstrip(" |")) > 1

    assert inference.main([*flags[:-1], "other.pt", "--checkouts", str(tmp_path / "new")]) == 1
    assert "ended with 1" in capsys.readouterr().err.splitlines()[-1]
