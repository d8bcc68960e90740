"""A generated face goes back into its frame: the mouth fully, the lower face softly, and nothing else changes."""

import cv2
import numpy as np
import pytest
from drawn_faces import head_mesh

from faces.blend import MOST, REACH, RIM, masks, match_colour, put_back
from faces.crop import UPPER_SHARE, crop
from faces.landmarks import mouth_region
from media.frame import from_rgb, planes

PX = 96
MESH = head_mesh(0.06)
BOX = (100.0, 40.0, 196.0, 136.0)  # as large as a crop


def scene(height=200, width=300):
    """A frame of soft colours, neither flat nor noisy."""
    y, x = np.mgrid[:height, :width]
    rgb = [128 + 60 * np.sin(x / 31 + y / 47), 110 + 50 * np.cos(x / 53 - y / 29), 100 + 40 * np.sin(x / 41 + 1)]
    return from_rgb(np.stack(rgb, axis=-1).astype(np.uint8))


def real_of(frame, box):
    return crop(frame.rgb(), box, PX).astype(np.float32) / 255


def samples(frame):
    return [plane.astype(int) for plane in planes(frame.picture)]


def constant(colour):
    return np.full((PX, PX, 3), colour, np.float32) / 255


def difference(a, b):
    """The largest difference of each pixel of two frames: (H, W)."""
    return np.abs(a.rgb().astype(int) - b.rgb()).max(2)


# Masks


@pytest.mark.parametrize("mesh", [MESH, head_mesh(0.25), head_mesh(0.0, middle=0.7), None])
def test_masks_are_0_on_the_border_and_in_the_upper_half(mesh):
    face, mouth = masks(mesh, PX)
    assert face.shape == mouth.shape == (PX, PX) and face.dtype == mouth.dtype == np.float32
    assert not face[: round(UPPER_SHARE * PX)].any()
    for edge in (face[0], face[-1], face[:, 0], face[:, -1]):
        assert not edge.any()
    assert 0 <= min(face.min(), mouth.min()) and max(face.max(), mouth.max()) <= 1 + 1e-6
    steps = max(np.abs(np.diff(face, axis=0)).max(), np.abs(np.diff(face, axis=1)).max())
    assert steps < 1.5 / RIM, "the rim is soft"


def test_the_mask_ends_below_the_jaw_and_is_whole_at_the_mouth():
    face, mouth = masks(MESH, PX)
    x1, y1, x2, y2 = mouth_region(MESH) * PX
    at = slice(int(y1 + y2) // 2 - 4, int(y1 + y2) // 2 + 4), slice(int(x1 + x2) // 2 - 12, int(x1 + x2) // 2 + 12)
    assert face[at].min() > 0.99 and mouth[at].min() > 0.99
    jaw = head_mesh(0.0) * [0.7, 0.8] + [0.15, 0.0]  # a slim face: the corners of its box show what is behind
    face, _ = masks(jaw, PX)
    assert not face[:, : int(0.15 * PX) - REACH - RIM].any() and not face[int(0.77 * PX) + REACH + RIM + 1 :].any()


# Colours


def test_a_colour_cast_is_taken_away_and_no_more_than_allowed():
    face, _ = masks(MESH, PX)
    real = constant((150, 120, 100))
    for cast, left in ((0.05, 0.0), (-0.05, 0.0), (0.3, 0.3 - MOST)):
        matched = match_colour(real + cast, real, face)
        assert np.abs(matched - real - left)[60:80, 30:66].max() < 0.01


def test_the_matched_colour_does_not_depend_on_the_jaw():
    face, _ = masks(MESH, PX)
    real, other = constant((150, 120, 100)), constant((150, 120, 100))
    other[round(0.8 * PX) :] = 0.0
    assert np.array_equal(match_colour(real, real, face), match_colour(real, other, face))


# Putting back


@pytest.mark.parametrize("mesh", [MESH, None])
@pytest.mark.parametrize("box", [BOX, (90.3, 21.7, 231.9, 160.2), (120.0, 60.0, 168.0, 108.0)])
def test_a_generated_face_that_equals_the_real_one_changes_nothing(mesh, box):
    frame = scene()
    real = real_of(frame, box)
    after = put_back(frame, box, mesh, real, real)
    most = 0 if box == BOX else 2  # a crop of another size blurs the mouth a little
    assert max(np.abs(old - new).max() for old, new in zip(samples(frame), samples(after), strict=True)) <= most


@pytest.mark.parametrize("box", [BOX, (90.3, 21.7, 231.9, 160.2)])
def test_samples_outside_the_mask_are_bit_identical(box):
    frame = scene()
    before = samples(frame)
    after = samples(put_back(frame, box, MESH, constant((250, 20, 20)), real_of(frame, box)))
    x1, y1, x2, y2 = box
    centres = np.mgrid[:200, :300][::-1].transpose(1, 2, 0) + 0.5  # of the frame's pixels: (H, W, 2)
    inside = (centres - [x1, y1]) / [x2 - x1, y2 - y1] * PX - 0.5 + 3
    face = cv2.dilate(np.pad(masks(MESH, PX)[0], 3), np.ones((7, 7)))  # a cubic kernel reaches two crop px
    mask = cv2.remap(face, *inside.astype(np.float32).transpose(2, 0, 1), cv2.INTER_NEAREST) > 0
    for old, new, step in zip(before, after, (1, 2, 2), strict=True):
        touched = mask.reshape(200 // step, step, 300 // step, step).any((1, 3))
        assert np.array_equal(old[~touched], new[~touched])
        assert (old[touched] != new[touched]).mean() > 0.3, "the mask of this test is much too large"
    upper = int(y1 + UPPER_SHARE * (y2 - y1)) - 1
    assert np.array_equal(before[0][:upper], after[0][:upper])


def test_the_given_frame_is_not_written_to():
    frame = scene()
    before = samples(frame)
    put_back(frame, BOX, MESH, constant((0, 0, 0)), real_of(frame, BOX))
    assert all(np.array_equal(old, new) for old, new in zip(before, samples(frame), strict=True))


@pytest.mark.parametrize("mesh", [MESH, None])
@pytest.mark.parametrize("box", [BOX, (60.0, 10.0, 252.0, 190.0), (120.0, 60.0, 168.0, 108.0)])
def test_the_mouth_is_fully_redrawn(mesh, box):
    frame, colour = scene(), np.array([255, 0, 0])  # so far off that the colour match does all it may
    after = put_back(frame, box, mesh, constant(colour), real_of(frame, box)).rgb().astype(int)
    x, y = round(box[0] + 0.5 * (box[2] - box[0])), round(box[1] + 0.78 * (box[3] - box[1]))
    found = after[y - 2 : y + 3, x - 5 : x + 6]
    wanted = colour + 255 * MOST * np.array([-1, 1, 1])
    assert np.abs(found - wanted).max() <= 4, "something of the frame is seen through the mouth"


def test_fine_skin_is_kept_where_the_generated_cheek_agrees():
    """On cheeks, texture finer than the crop's pixels stays as it is in the frame."""
    big = scene(400, 600)
    grain = np.random.default_rng(0).integers(-12, 13, (400, 600, 1))
    frame = from_rgb((big.rgb().astype(int) + grain).clip(0, 255).astype(np.uint8), pix_fmt="yuv444p")
    box = (120.0, 20.0, 480.0, 380.0)
    real = real_of(frame, box)
    after = put_back(frame, box, MESH, real, real)
    x1, _, x2, _ = mouth_region(MESH)
    cheek = slice(215, 260), slice(int(120 + 360 * 0.08), int(120 + 360 * (x1 - 0.06)))
    assert difference(frame, after)[cheek].max() <= 3


@pytest.mark.parametrize(
    "box",
    [
        (-40.0, 30.0, 56.0, 126.0),
        (240.0, 30.0, 336.0, 126.0),
        (100.0, -60.0, 196.0, 36.0),
        (100.0, 150.0, 196.0, 246.0),
        (-50.0, -50.0, 350.0, 260.0),
    ],
)
def test_a_box_partly_outside_the_frame_works(box):
    frame = scene()
    after = put_back(frame, box, MESH, constant((250, 20, 20)), real_of(frame, box))
    assert after.size == frame.size and after.time_s == frame.time_s
    changed = difference(frame, after) > 3
    rows, columns = np.nonzero(changed)
    assert changed.any() and columns.min() >= box[0] and columns.max() <= box[2] and rows.max() <= box[3]


@pytest.mark.parametrize("box", [(400.0, 30.0, 496.0, 126.0), (-200.0, 0.0, -104.0, 96.0), (10.0, 180.0, 106.0, 276.0)])
def test_a_lower_face_outside_the_frame_changes_nothing(box):
    frame = scene()
    after = put_back(frame, box, MESH, constant((250, 20, 20)), real_of(frame, box))
    assert not difference(frame, after).any()
