"""The commands that measure speed."""

import pytest

from evaluation.benchmarks import inference
from hparams import HParams

NARROW = HParams(width=1 / 16, audio_layers=1, audio_dim=32, audio_ffn=64, audio_heads=4)


def test_folded_half_precision_network_is_timed_beside_the_plain_one(monkeypatch, capsys):
    monkeypatch.setattr(inference, "preset", lambda name: NARROW)
    monkeypatch.setattr(inference.frames_a_second, "__defaults__", (0.01,))
    assert inference.main(["--preset", "compact", "--rounds", "1"]) == 0
    assert "frames/s" in capsys.readouterr().out


def test_the_made_clip_is_as_long_as_asked(tmp_path):
    from media.sound import read_audio
    from media.video import probe

    face, sound = inference.make_clip(tmp_path, 1)
    found = probe(face)
    assert (found.width, found.height, found.frames) == (1280, 720, 25)
    assert len(read_audio(sound)) == pytest.approx(16_000, abs=2)
