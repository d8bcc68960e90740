"""Sharpness and movement of a mouth in two videos of no corpus: equal ones, blurred ones, and what does not fit."""

import json
import re

import cv2
import numpy as np
import pytest
from conftest import make_video
from portraits import moving_head

from evaluation.sharpness import followed, main, measure
from media.face_video import FaceVideo


def rate(pair):
    return pair[0] / pair[1]


@pytest.fixture(scope="module")
def frames():
    return moving_head(16, px=300)


@pytest.fixture(scope="module")
def real(frames, tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("clips") / "real.mp4", frames)


def soft_mouths(frames):
    """The frames with everything below the nose blurred."""
    out = frames.copy()
    for frame in out:
        frame[170:] = cv2.GaussianBlur(frame, (0, 0), 2.5)[170:]
    return out


def test_a_video_is_as_sharp_as_itself_and_moves_as_much(real):
    found = measure(real, real)
    assert {rate(found[name]) for name in ("sharpness", "sharpness_in_face", "opening_deviation", "lip_travel")} == {1}
    assert found["lmd"] == (0, 1) and found["no_face"] == (0, 16) and found["frames"] == (16, 1)
    assert 100 < found["face_px"][0] < 200  # its own size


def test_a_blurred_mouth_is_less_sharp_also_against_its_face(real, frames, tmp_path):
    found = measure(real, make_video(tmp_path / "soft.mp4", soft_mouths(frames)))
    assert rate(found["sharpness"]) < 0.7 and rate(found["sharpness_in_face"]) < 0.7


def test_a_longer_video_is_compared_with_the_real_one_played_back_and_a_shorter_one_as_far_as_it_goes(
    real, frames, tmp_path
):
    longer = make_video(tmp_path / "longer.mp4", np.concatenate([frames, frames[-2:-6:-1]]))
    found = measure(real, longer)
    assert found["frames"] == (20, 1) and rate(found["sharpness"]) == pytest.approx(1, abs=0.1)
    shorter = measure(real, make_video(tmp_path / "shorter.mp4", frames[:9]))
    assert shorter["frames"] == (9, 1) and rate(shorter["sharpness"]) == pytest.approx(1, abs=0.1)


def test_a_face_is_followed_through_all_frames(real):
    places = followed(FaceVideo(real), 16)
    assert list(places) == list(range(16)) and places[0].shape == (468, 2)


def test_the_command_prints_a_line_for_each_pair_and_writes_the_numbers(real, frames, tmp_path, capsys):
    soft = make_video(tmp_path / "soft.mp4", soft_mouths(frames))
    words = ["--real", real, real, "--fake", real, soft, "--json", tmp_path / "found.json"]
    assert main([str(word) for word in words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "sharpness mouth, % of real" in lines[0] and "opening, slope" in lines[0]
    assert re.match(rf"\| {re.escape(str(real))} \| 16 \| 1\d\d \| 100 \| 100 \|", lines[2])
    numbers = json.loads((tmp_path / "found.json").read_text())
    assert numbers[str(real)]["sharpness"] == 1 > numbers[str(soft)]["sharpness"]


def test_what_does_not_fit_is_one_line(real, frames, tmp_path, capsys):
    small = make_video(tmp_path / "small.mp4", frames[:4, :200, :200])
    assert main(["--real", str(real), "--fake", str(small)]) == 1
    assert "small.mp4: frames of (200, 200), the real video has (300, 300)" in capsys.readouterr().err
    blank = make_video(tmp_path / "blank.mp4", np.full((4, 300, 300, 3), 90, np.uint8))
    assert main(["--real", str(blank), "--fake", str(blank)]) == 1
    assert "no face in any of 4 frames" in capsys.readouterr().err
    for reals in ([real], [real, real]):
        with pytest.raises(SystemExit) as stopped:
            main(["--real", *map(str, reals), "--fake", str(real), str(real)])
        assert stopped.value.code == 2
