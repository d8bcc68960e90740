"""Faces that were followed once are the same for another run, of as many frames or fewer, and never wrong ones."""

import numpy as np
import pytest
from portraits import run, searches

from faces import detect
from faces.kept import followed_once, read_tracks
from faces.people import picked
from faces.target import TargetFace, followed
from media.face_video import FaceVideo


def same(one, other):
    """Whether two trackers have found the same."""
    for a, b in zip(one.shots, other.shots, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.meshes.keys() == y.meshes.keys() and x.sharpness == y.sharpness
            assert all(np.array_equal(x.meshes[i], y.meshes[i]) for i in x.meshes)
    return one.frames == other.frames


def test_what_is_kept_is_what_was_found(swaying_clip, tmp_path):
    video, detector, folder = FaceVideo(swaying_clip), detect.BlazeFace(), tmp_path / "new" / "cache"
    first = followed_once(video, 20, detector, None, folder, ["a"])
    (path,) = folder.iterdir()
    for count in (20, 9):
        again = followed_once(video, count, None, None, folder, ["a"])
        assert same(again, followed(video, count, detector))
        assert TargetFace.of(picked(again.shots), count, video).boxes.keys() == set(range(count))
    assert same(first, read_tracks(path, 20)) and read_tracks(path, 21) is None
    more = followed_once(video, 99, detector, None, folder, ["a"])  # all there are
    assert more.frames == 30 and same(read_tracks(path, 5000), more)
    with pytest.raises(AttributeError):
        followed_once(video, 9, None, None, folder, ["b"])
    path.write_bytes(path.read_bytes()[:-900])
    assert read_tracks(path, 9) is None


def test_a_second_dub_searches_no_face(swaying_clip, voice, narrow_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = swaying_clip, voice, tmp_path / "a.mp4", narrow_weights, "--cache", "kept"
    first, made = run(*words), searches(monkeypatch)
    monkeypatch.setattr(detect.BlazeFace, "mesh", None)
    again = run(*words)
    assert again["boxes"] == first["boxes"] and len(made) == 1
