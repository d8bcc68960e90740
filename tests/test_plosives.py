"""Lips that part before, with and after a burst are found to do so, and what shows nothing is left out."""

import numpy as np
import pytest
from drawn_faces import head_mesh

from evaluation import plosives
from evaluation.plosives import burst, lags, parting


class Said:
    """Stands for a `clip.Clip` that says one word."""

    def __init__(self, word, heard_s, parted_s):
        rng = np.random.default_rng(0)
        loud = np.where(np.arange(32_000) / 16_000 < heard_s, 3, 2000)
        self.wav = (rng.standard_normal(32_000) * loud).astype(np.int16)
        openings = 0.1 * np.clip((np.arange(50) / 25 - parted_s) / 0.08 + 0.5, 0, 1)  # 80 ms from shut to wide
        self.meshes = np.stack([head_mesh(opening) for opening in openings])
        self.words, self.times = [word], np.array([[heard_s - 0.03, heard_s + 0.4]])


def test_a_burst_is_heard_to_within_two_milliseconds():
    for heard_s in (0.8, 1.013, 1.2):
        assert burst(Said("bin", heard_s, 1).wav, heard_s - 0.04) == pytest.approx(heard_s, abs=0.002)
    assert burst(np.zeros(32_000, np.int16), 1.0) is None and burst(np.zeros(100, np.int16), 0.0) is None


@pytest.mark.parametrize("lag_s", [-0.08, -0.04, 0.0, 0.02, 0.06])
@pytest.mark.parametrize("heard_s", [1.0, 1.017])
def test_the_lag_of_the_lips_is_found_to_within_a_quarter_of_a_frame(lag_s, heard_s):
    assert lags(Said("PLACE", heard_s, heard_s + lag_s)) == [pytest.approx(lag_s, abs=0.01)]


def test_what_shows_nothing_is_left_out():
    assert lags(Said("set", 1.0, 1.0)) == [], "no plosive of the lips"
    assert lags(Said("bin", 1.0, 9.0)) == [], "lips that stay shut"
    assert lags(Said("bin", 1.0, 0.5)) == [], "lips that are open all the time"
    assert parting(np.zeros(5), 3.0) is None, "a burst after the last frame"


def test_the_command_prints_a_row_a_speaker_or_says_what_is_missing(data_root, tmp_path, monkeypatch, capsys):
    argv = ["--data_root", str(data_root), "--splits", "train", "--json", str(tmp_path / "lags.json")]
    monkeypatch.setattr(plosives, "lags", lambda clip: [0.01, 0.03])
    assert plosives.main(argv) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["| ann | 6 | +20 | +10 to +30 |"], "bob has one clip"
    monkeypatch.setattr(plosives, "lags", lambda clip: [])
    assert plosives.main(argv) == 1
    assert "no speaker has 5 words with B or P first" in capsys.readouterr().err
