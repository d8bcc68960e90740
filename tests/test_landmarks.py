"""The mouth's landmarks on made-up meshes whose distances are known, and on the portrait moved and scaled."""

import numpy as np
import pytest
from drawn_faces import head_mesh
from portraits import head

from evaluation.landmarks import (
    MEASURES,
    OPENINGS,
    Mesher,
    articulation,
    compare,
    extremes,
    eye_distance,
    follows,
    lip_travel,
    lmd,
    lmd_dtw,
    near_costs,
    openings,
    soft_dtw,
    spreading,
    turns,
    widths,
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


def test_lip_travel_is_measured_in_eye_distances():
    assert openings(heads([0.0, 0.112])) == pytest.approx([0, 0.2], abs=1e-3)
    assert lip_travel(openings(heads([0.0, 0.112, 0.112]))) == pytest.approx(0.1, abs=1e-3)
    assert lip_travel(openings(heads([0.05] * 4))) < 1e-6
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


def test_jitter_adds_neither_to_lip_travel_nor_to_the_slope():
    real = 0.1 + 0.05 * np.sin(np.arange(80) / 8)
    shaky = 0.1 + 0.5 * (real - 0.1) + 0.003 * (-1.0) ** np.arange(80)
    assert lip_travel(shaky) / lip_travel(real) == pytest.approx(0.5, abs=0.08)
    assert np.abs(np.diff(shaky)).sum() > 1.4 * np.abs(np.diff(real)).sum()  # what a sum of all changes would tell
    still = 0.1 + 0.003 * (-1.0) ** np.arange(80)
    assert lip_travel(still) == 0 and lip_travel(still[:1]) == 0
    covariance, variance = articulation(shaky, real)["opening_slope"]
    assert covariance / variance == pytest.approx(0.5, abs=0.01)


def test_a_series_turns_where_it_goes_back_far_enough():
    assert turns(np.array([0.1, 0.104, 0.05, 0.052, 0.05, 0.2, 0.195, 0.2, 0.1])) == [1, 2, 5, 8]
    assert turns(np.array([0.1, 0.105, 0.1])) == [0]
    assert turns(np.array([0.2, 0.15, 0.1])) == [0, 2]


def wave(lowest=0.0, highest=0.2, period=16, count=81):
    middle = (lowest + highest) / 2
    return middle - (middle - lowest) * np.cos(2 * np.pi * np.arange(count) / period)


def test_peaks_and_closures_are_those_of_the_real_mouth():
    real = wave()
    assert extremes(real) == ([8, 24, 40, 56, 72], [16, 32, 48, 64])
    found = articulation(0.02 + 0.5 * real, real)
    assert found["opening_peaks"] == pytest.approx((5 * 0.12, 5 * 0.2))
    assert found["opening_closures"] == (pytest.approx(4 * 0.02), 4)
    half = real.copy()
    half[24:40] = 0.1 + real[24:40] / 2  # a low at 32 that is no closure: the mouth stays half open
    assert articulation(real, half)["opening_closures"][1] == 3
    assert articulation(real, np.full(81, 0.1))["opening_peaks"] == (0, 0)  # without turns nothing counts


def test_width_is_told_as_opening_is():
    assert widths(heads([0.1]))[0] == pytest.approx(widths(3 * heads([0.1]) + 5)[0])
    real = wave(0.5, 0.6)
    found = spreading(0.3 + 0.5 * real, real)
    assert found["width_r"] == (pytest.approx(1), 1)
    assert found["width_reach"] == (pytest.approx(0.05), pytest.approx(0.1))
    assert found["width_deviation"][0] == pytest.approx(0.5 * found["width_deviation"][1])
    assert spreading(real, np.full(81, 0.5))["width_reach"] == (0, 0)


def test_soft_dtw_is_the_least_path_where_it_is_hard_and_below_it_where_soft():
    sizes = (0.02, 0.1, 0.2, 0.05, 0.0, 0.12)
    a, b = heads(sizes), heads((0.02, 0.02, 0.1, 0.2, 0.05, 0.0))  # late by a frame
    shapes = [each[:, landmarks.LIP_POINTS] / eye_distance(each)[:, None, None] for each in (a, b)]
    costs = near_costs(*shapes)
    full = 100 * np.linalg.norm(shapes[0][:, None] - shapes[1][None], axis=-1).mean(-1)
    best = np.full((7, 7), np.inf)
    best[0, 0] = 0
    for i in range(6):
        for j in range(6):
            best[i + 1, j + 1] = full[i, j] + min(best[i, j], best[i, j + 1], best[i + 1, j])
    assert soft_dtw(costs, softness=1e-6) == pytest.approx(best[6, 6], abs=1e-3)
    assert soft_dtw(costs, softness=1.0) < best[6, 6]


def test_a_mouth_that_is_a_frame_late_is_forgiven_and_a_still_one_is_not():
    real = heads(wave(0.0, 0.1, count=40))
    late, still = np.concatenate([real[:1], real[:-1]]), np.repeat(real[:1], 40, axis=0)
    assert lmd_dtw(real, real) == pytest.approx(0, abs=1e-9)
    assert lmd_dtw(late, real) < 0.2 * lmd(late, real).mean()
    assert lmd_dtw(still, real) > 0.5 * lmd(still, real).mean()


def test_frames_without_a_face_are_counted_and_left_out_of_the_distance():
    real, fake = heads([0.1] * 4), heads([0.1] * 4)
    fake[3] = 0
    all_seen, some = np.ones(4, bool), np.array([True, True, True, False])
    found = compare((fake, some), (real, all_seen))
    assert found["no_face"] == (1, 4) and found["lmd"] == (0, 1)
    nothing = compare((fake, ~all_seen), (real, all_seen))
    assert {nothing[name] for name in MEASURES} == {(0, 0)}


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
