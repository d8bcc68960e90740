"""Splines meet their points and continue a map everywhere; masks lie where the lower face is."""

import cv2
import numpy as np
import pytest
import torch
from filling import uniform
from warp_inputs import faces

from faces.shape import SIDE
from models.warp import BASE, CHIN, INNER, LIPS, inside, lower_face, thin_plates

torch.set_num_threads(1)


# Splines


def points_and(others):
    """Points of a drawn face and, for each function of `others`, where it takes them."""
    points = faces()["points"][0, :1, 0]
    return points, torch.stack([other(points[0]) for other in others])[None]


PLACES = uniform(3, (200, 2))
MATRIX, SHIFT = torch.tensor([[0.9, -0.2], [0.3, 1.1]]), torch.tensor([0.05, -0.1])


def test_splines_between_equal_points_leave_every_place():
    points, others = points_and([lambda p: p])
    torch.testing.assert_close(thin_plates(points, others, PLACES), PLACES[None, None], atol=1e-5, rtol=0)


def test_splines_continue_an_affine_map_everywhere():
    points, others = points_and([lambda p: p @ MATRIX.T + SHIFT, lambda p: p - SHIFT])
    found = thin_plates(points, others, 2 * PLACES - 0.5)  # also far outside the face
    wanted = torch.stack([(2 * PLACES - 0.5) @ MATRIX.T + SHIFT, 2 * PLACES - 0.5 - SHIFT])[None]
    assert found.shape == (1, 2, 200, 2)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("wished, shown", [(0.06, 0.1), (0.06, 0.02), (0.1, 0.0)])
def test_splines_meet_the_points_of_another_face(wished, shown):
    points, there = faces((wished,), (shown,))["points"][0].unbind(1)  # (1, P, 2) each
    found = thin_plates(points, there[:, None], points[0])[0, 0]
    away, moved = ((each - there[0]).norm(dim=-1) * SIDE for each in (found, points[0]))
    assert away.max() < 0.55 * moved.max() and away.mean() < 0.25, "px of a crop"
    assert away[:LIPS].mean() < 0.25 * moved[:LIPS].mean()


def test_places_keep_their_bits_in_bfloat16():
    points, there = faces((0.06,), (0.1,))["points"][0].unbind(1)
    plain = thin_plates(points, there[:, None], PLACES)
    with torch.autocast("cpu", torch.bfloat16):
        short = thin_plates(points, there[:, None], PLACES)
    assert short.dtype == torch.float32 and (short - plain).abs().max() * SIDE < 0.01, "px"


def test_points_that_disagree_are_averaged_instead_of_torn_apart():
    points, there = faces((0.0,), (0.1,))["points"][0].unbind(1)  # closed lips, whose inner outlines lie on each other
    found = thin_plates(points, there[:, None], points[0])[0, 0, INNER]
    middle = (there[0, INNER][1:10] + there[0, INNER][11:].flip(0)) / 2
    torch.testing.assert_close(found[1:10], middle, atol=0.5 / SIDE, rtol=0)
    torch.testing.assert_close(found[11:].flip(0), middle, atol=0.5 / SIDE, rtol=0)


def test_every_face_of_a_batch_has_splines_of_its_own():
    shown = faces((0.0, 0.08))["points"][0]
    together = thin_plates(shown[:, 0], shown[:, 1:], PLACES)
    for i in range(2):
        alone = thin_plates(shown[i : i + 1, 0], shown[i : i + 1, 1:], PLACES)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


# Masks


def test_distances_inside_a_polygon_are_those_of_opencv():
    rng = np.random.default_rng(0)
    around = np.sort(rng.uniform(0, 2 * np.pi, (3, 12)))
    polygons = 0.5 + rng.uniform(0.1, 0.45, (3, 12, 1)) * np.stack([np.cos(around), np.sin(around)], -1)
    polygons[1] = polygons[1, ::-1]  # the other way round
    polygons = np.float32(polygons)
    found = inside(torch.from_numpy(polygons), PLACES)
    wanted = [[cv2.pointPolygonTest(each, place.tolist(), True) for place in PLACES.numpy()] for each in polygons]
    assert 0.1 < (found > 0).float().mean() < 0.9
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_the_mask_is_0_above_the_nose_and_outside_the_jaw_and_1_at_the_mouth():
    points = faces()["points"][0, :, 0]
    mask = lower_face(points, PLACES)
    base = points[:, BASE][:, 1, 1]
    for each, y, face in zip(mask, base, points, strict=True):
        jaw = face[CHIN].numpy()
        out = torch.tensor([cv2.pointPolygonTest(jaw, place.tolist(), False) < 0 for place in PLACES.numpy()])
        assert not each[out].any() and not each[PLACES[:, 1] < y].any()
        assert 0.02 < (each > 0).float().mean() < 0.5
    assert (lower_face(points[:1], points[0, :LIPS]) == 1).all()
