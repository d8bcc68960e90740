"""The mouth's landmarks on made-up meshes whose distances are known, and on the portrait moved and scaled."""

import numpy as np
import pytest
from drawn_faces import head_mesh
from portraits import head

from evaluation.landmarks import (
    OPENINGS,
    Mesher,
    articulation,
    compare,
    eye_distance,
    follows,
    lip_motion,
    lmd,
    openings,
)
from faces import crop, landmarks, track
from faces.detect import BlazeFace
from faces.people import picked

MARGIN = 1 / 6


def heads(openings):
    return np.stack([head_mesh(opening) for opening in openings])


def crops_of(frame, box, count=1):
    """A crop with its surroundings, as a data root stores them, `count` times."""
    return np.stack([crop.crop(frame, box, 128, 1 + 2 * MARGIN)] * count)


@pytest.fixture(scope="module")
def mesher():
    pytest.importorskip("cv2")
    return Mesher()


def found_in(frame):
    """The mesh and box of the largest face of a frame."""
    tracker = track.Tracker(BlazeFace())
    tracker.add(frame)
    meshes = picked(tracker.shots)[0].meshes
    box = crop.face_boxes(meshes)[0]
    return crop.to_crop(meshes[0], box), np.array(box, np.float32)


def test_lmd_of_a_known_shift_of_the_lips_is_that_shift():
    real = heads([0.1, 0.1])
    fake = real.copy()
    fake[:, landmarks.OUTER_LIPS] += [0.0, 0.028]  # half of the points go down by a twentieth of the eye distance, 0.56
    assert lmd(real, real).tolist() == [0.0, 0.0]
    assert lmd(fake, real).tolist() == pytest.approx([2.5, 2.5], abs=1e-4)  # around the middle: half of it, all points


def test_lmd_does_not_change_where_a_frame_is_moved_or_scaled():
    real, fake = heads([0.02, 0.1, 0.2]), heads([0.1, 0.05, 0.0])
    moved = 3.7 * fake + [120, -40]
    assert lmd(moved, real) == pytest.approx(lmd(fake, real), abs=1e-3)
    assert lmd(moved, 0.2 * real - 7) == pytest.approx(lmd(fake, real), abs=1e-3)
    assert lmd(fake, real).min() > 1


def test_lip_motion_is_measured_in_eye_distances():
    assert openings(heads([0.0, 0.112])) == pytest.approx([0, 0.2], abs=1e-3)
    assert lip_motion(openings(heads([0.0, 0.112, 0.112]))) == pytest.approx(0.1, abs=1e-3)
    assert lip_motion(openings(heads([0.05] * 4))) < 1e-6
    assert eye_distance(100 * heads([0.1])).tolist() == pytest.approx([56.0], abs=1e-3)


def test_a_mouth_follows_another_by_their_correlation():
    real = np.array([0.0, 0.1, 0.2, 0.1, 0.15])
    assert follows(0.5 * real + 0.3, real) == pytest.approx(1)
    assert follows(-real, real) == pytest.approx(-1)
    assert follows(np.full(5, 0.1), real) == 0


def test_articulation_of_a_mouth_that_opens_half_as_far_is_a_half():
    real = np.array([0.0, 0.1, 0.2, 0.1])  # variance 0.005
    found = articulation(0.5 * real + 0.05, real)
    assert set(found) == set(OPENINGS)
    assert found["opening_r"] == (pytest.approx(1), 1)
    assert found["opening_slope"] == pytest.approx((0.0025, 0.005))
    assert found["opening_deviation"] == pytest.approx((0.5 * np.sqrt(0.005), np.sqrt(0.005)))
    assert found["opening_mean"] == (pytest.approx(0.1), 1)
    assert found["opening_closed"] == (pytest.approx(0.0575), 1)  # 15 % of the way from 0.05 to the next, 0.1
    alike = articulation(real, real)
    assert alike["opening_slope"][0] == alike["opening_slope"][1]
    assert alike["opening_deviation"][0] == alike["opening_deviation"][1]
    shut = articulation(np.full(4, 0.02), real)
    assert shut["opening_r"] == (0, 1) and shut["opening_slope"][0] == pytest.approx(0) == shut["opening_deviation"][0]


def test_jitter_adds_to_lip_motion_and_not_to_the_slope():
    real = 0.1 + 0.05 * np.sin(np.arange(80) / 8)
    shaky = 0.1 + 0.5 * (real - 0.1) + 0.01 * (-1.0) ** np.arange(80)
    assert lip_motion(shaky) > 2 * lip_motion(real)
    covariance, variance = articulation(shaky, real)["opening_slope"]
    assert covariance / variance == pytest.approx(0.5, abs=0.01)


def test_frames_without_a_face_are_counted_and_left_out_of_the_distance():
    real, fake = heads([0.1] * 4), heads([0.1] * 4)
    fake[3] = 0
    all_seen, some = np.ones(4, bool), np.array([True, True, True, False])
    found = compare((fake, some), (real, all_seen))
    assert found["no_face"] == (1, 4) and found["lmd"] == (0, 1)
    nothing = compare((fake, ~all_seen), (real, all_seen))
    assert {nothing[name] for name in ("lmd", *OPENINGS)} == {(0, 0)}


def test_the_mesh_of_a_crop_lies_where_that_of_the_frame_does(mesher):
    frame = head(320)
    mesh, box = found_in(frame)
    points, seen = mesher(crops_of(frame, box, 2), np.stack([mesh] * 2), np.stack([box] * 2), MARGIN)
    width = box[2] - box[0]
    assert seen.all()
    assert np.abs(points[0] - (mesh * (box[2:] - box[:2]) + box[:2])).mean() < 0.03 * width


def test_lmd_hardly_changes_with_the_place_and_scale_of_the_picture(mesher):
    measured = []
    for px, x, y in ((320, 0, 0), (320, 23, -11), (500, 0, 0)):
        frame = head(px, x, y)
        mesh, box = found_in(frame)
        opened = crop.crop(frame, box, 128, 1 + 2 * MARGIN)
        closed = opened.copy()
        lips = np.round((mesh[landmarks.OUTER_LIPS] + MARGIN) / (1 + 2 * MARGIN) * 128).astype(int)
        (x1, y1), (x2, y2) = lips.min(0), lips.max(0)
        closed[y1:y2, x1:x2] = opened[y1 - (y2 - y1) : y1, x1:x2]  # skin over the lips
        both = [mesher(p[None], mesh[None], box[None], MARGIN) for p in (closed, opened)]
        measured.append(compare(*both)["lmd"][0])
    assert measured[0] > 0.5
    assert measured == pytest.approx([measured[0]] * 3, rel=0.35)


def test_a_picture_without_a_face_is_noticed(mesher):
    mesh, box = head_mesh(), np.array([40, 30, 136, 126], np.float32)
    blank = np.full((1, 128, 128, 3), 127, np.uint8)
    assert not mesher(blank, mesh[None], box[None], MARGIN)[1].any()
