"""The face that is redrawn, and which frames show its identity."""

import numpy as np
import pytest
from conftest import make_video
from portraits import head, moving_head, target_of

from errors import InputError
from faces import detect, landmarks
from faces.target import APART, NEAR, TargetFace, clearness, identities
from faces.track import Tracker
from media.face_video import FaceVideo


@pytest.fixture(scope="module")
def detector():
    return detect.BlazeFace()


def flat(count):
    return np.zeros(count)


@pytest.mark.parametrize("count", [*range(2, 40), 100])
@pytest.mark.parametrize("at", [0.0, 0.3, 0.5, 1.0])
def test_no_frame_shows_its_own_mouth_if_there_is_another(count, at):
    frames, scores = list(range(7, 7 + count)), flat(count)
    scores[round(at * (count - 1))] = 1
    found = identities(frames, scores, "best")
    assert sorted(found) == frames and len(set(found.values())) <= 2
    for i, shown in found.items():
        assert shown in frames and shown != i
        farthest = max(i - frames[0], frames[-1] - i)
        assert abs(i - shown) >= min(NEAR, farthest / 3), "as far as a short clip allows"


def test_the_best_frame_is_shown_and_near_it_the_second_best():
    scores = flat(60)
    scores[[20, 20 + APART - 1, 50]] = 3, 2, 1
    found = identities(list(range(60)), scores, "best")
    assert found == {i: 50 if abs(i - 20) < NEAR else 20 for i in range(60)}


def test_gaps_in_a_track_are_no_trouble():
    frames = [3, 4, 90, 91, 300]
    found = identities(frames, np.array([0, 5, 1, 2, 3]), "best")
    assert found == {3: 300, 4: 300, 90: 4, 91: 4, 300: 4}


def test_a_single_frame_shows_itself_and_self_always_does():
    assert identities([5], flat(1), "best") == {5: 5}
    assert identities([5, 9], flat(2), "self") == {5: 5, 9: 9}


def test_a_sharp_frontal_face_with_a_closed_mouth_is_the_clearest(detector):
    tracker = Tracker(detector)
    for _ in range(2):
        tracker.add(head(240))
    mesh, track = tracker.shots[0][0].meshes[0], tracker.shots[0][0]
    opened, turned = mesh.copy(), mesh.copy()
    opened[landmarks.MIDDLE_LIPS[1]] += (0, 20)
    turned[landmarks.NOSE_TIP] += (25, 0)
    track.meshes.update({2: opened, 3: turned, 4: mesh})
    track.sharpness |= {2: track.sharpness[0], 3: track.sharpness[0], 4: track.sharpness[0] / 4}
    scores = clearness(track, [0, 1, 2, 3, 4])
    assert scores[:2].min() > scores[2:].max()


def test_a_face_is_followed_through_the_video(tmp_path, detector, swaying_clip):
    target = target_of(FaceVideo(swaying_clip), 20, detector)
    assert sorted(target.boxes) == sorted(target.meshes) == sorted(target.identities) == list(range(20))
    assert target.searched == 20
    for i, (x1, y1, x2, y2) in target.boxes.items():
        mesh = target.meshes[i]
        assert x1 < mesh[landmarks.OUTER_LIPS, 0].min() and mesh[landmarks.OUTER_LIPS, 0].max() < x2
        assert (y1 + y2) / 2 < mesh[landmarks.OUTER_LIPS, 1].min() and mesh[landmarks.OUTER_LIPS, 1].max() < y2


@pytest.mark.parametrize("order", [1, -1])
def test_the_largest_face_of_each_shot_is_the_target(tmp_path, detector, monkeypatch, order):
    rois = detector.rois
    monkeypatch.setattr(detector, "rois", lambda rgb: rois(rgb)[::order])  # whichever the detector sees first
    frames = np.full((16, 200, 330, 3), 120, np.uint8)
    frames[:8, 40:150, 10:120], frames[:8, 20:200, 140:320] = moving_head(8, 110), moving_head(8, 180)
    frames[8:], frames[8:, 20:200, 5:185] = 30, moving_head(8, 180)  # another shot: on the left
    target = target_of(FaceVideo(make_video(tmp_path / "a.mp4", frames)), 16, detector)
    assert sorted(target.boxes) == list(range(16))
    assert all((target.boxes[i][0] > 140) == (i < 8) for i in range(16))
    assert all((shown < 8) == (i < 8) for i, shown in target.identities.items()), "identities come from the same shot"


def test_pads_are_added_and_may_not_eat_the_face(detector, swaying_clip):
    video = FaceVideo(swaying_clip)
    plain, padded = (target_of(video, 2, detector, pads).boxes[1] for pads in ((0, 0, 0, 0), (1, 2, 3, 4)))
    np.testing.assert_allclose(np.subtract(padded, plain), (-3, -1, 4, 2), atol=1e-6)
    for pads in ((0, -80, 0, 0), (0, 0, -40, -40)):
        with pytest.raises(InputError, match=f"--pads {' '.join(map(str, pads))} leave nothing of the face"):
            target_of(video, 2, detector, pads)


def test_without_a_face_the_error_says_what_to_do(tmp_path, detector):
    path = make_video(tmp_path / "a.mp4", np.full((3, 48, 64, 3), 128, np.uint8))
    with pytest.raises(InputError, match="no face in any frame, of 3 searched.*--box TOP BOTTOM LEFT RIGHT"):
        target_of(FaceVideo(path), 9, detector)


def test_a_placed_face_is_in_every_frame_and_has_no_mesh(swaying_clip):
    target = TargetFace.placed(FaceVideo(swaying_clip), 99, (1, 2, 30, 40))
    assert target.boxes == dict.fromkeys(range(30), (1, 2, 30, 40)) and target.searched == 30 and not target.meshes
    assert target.identities == {i: 0 if i >= NEAR else APART for i in range(30)}
    assert TargetFace.placed(FaceVideo(swaying_clip), 3, (1, 2, 30, 40), "self").identities == {0: 0, 1: 1, 2: 2}
