"""A result says what it is: in a comment, in XMP, and, where that is asked for, in the picture; limits are held."""

import sys

import numpy as np
import pytest
from conftest import make_video, numbered
from portraits import changed_region, command, run, written_frames

import inference
from media.disclosure import LABEL_SHARE, SOURCE, XMP, is_earlier_video, labelled
from media.frame import from_rgb
from media.video import read_frames
from media.writer import XMP_UUID, Writer


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_xmp_is_a_box_of_its_own_and_the_video_plays(tmp_path, suffix):
    like, path = inference_like(tmp_path), tmp_path / f"a{suffix}"
    with Writer(path, like, xmp=XMP) as out:
        for rgb in numbered(5):
            out.write(from_rgb(rgb))
    data = path.read_bytes()
    assert len(list(read_frames(path))) == 5
    assert (XMP_UUID + XMP.encode() == data[-len(XMP.encode()) - 16 :]) == (suffix != ".mkv")
    if suffix != ".mkv":
        size = int.from_bytes(data[-len(XMP.encode()) - 24 :][:4])
        assert size == len(XMP.encode()) + 24 and SOURCE.encode() in data


def inference_like(folder):
    from media.video import probe

    return probe(make_video(folder / "like.mp4", numbered(3)))


def test_the_label_lies_in_a_corner_of_every_size():
    for height, width in ((90, 160), (720, 1280), (300, 40), (16, 16)):
        frame = from_rgb(np.full((height, width, 3), 128, np.uint8))
        x1, y1, x2, y2 = changed_region(frame, labelled(frame))
        assert x1 == 0 and y2 == height and x2 <= width
        if height == 720:
            assert LABEL_SHARE * height < y2 - y1 < 3 * LABEL_SHARE * height and x2 < width / 2


def test_a_run_is_labelled_when_asked_and_known_as_ours(swaying_clip, voice, tmp_path, narrow_weights, monkeypatch):
    shown, out = written_frames(monkeypatch), tmp_path / "a.mp4"
    run(swaying_clip, voice, out, narrow_weights, "--label")
    assert all(changed_region(a, b)[3] == 160 for a, b in zip(shown, read_frames(swaying_clip), strict=False))
    assert is_earlier_video(out) and not is_earlier_video(swaying_clip) and SOURCE.encode() in out.read_bytes()


def test_what_signs_is_given_the_complete_video(tmp_path):
    seen, path = [], tmp_path / "a.mp4"
    with Writer(path, inference_like(tmp_path), xmp=XMP, sign=lambda path: seen.append(path.read_bytes())) as out:
        for rgb in numbered(5):
            out.write(from_rgb(rgb))
    assert seen == [path.read_bytes()]


def test_without_the_package_signing_is_refused_before_any_work(swaying_clip, voice, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    words = command(swaying_clip, voice, tmp_path / "a.mp4", tmp_path / "no weights", "--c2pa", "a.pem", "b.pem")
    assert inference.main(words) == 1
    told = "inference.py: --c2pa: the package c2pa-python is missing: pip install c2pa-python, as in"
    assert capsys.readouterr().err == f"{told} requirements-extra.txt\n" and not list(tmp_path.iterdir())


def test_limits_are_one_line(swaying_clip, voice, tmp_path, narrow_weights, capsys):
    for flags, words in (
        (("--max_pixels", 25_599), "160x160 px are more than 25599, the most allowed here"),
        (("--max_seconds", 0.5), "its sound is longer than 0.5 s"),
    ):
        assert inference.main(command(swaying_clip, voice, tmp_path / "a.mp4", narrow_weights, *flags)) == 1
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1 and not list(tmp_path.iterdir())
    run(swaying_clip, voice, tmp_path / "a.mp4", narrow_weights, "--max_pixels", 25_600, "--max_seconds", 0.6)
