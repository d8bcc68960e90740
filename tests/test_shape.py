"""The shape of lips is free of the head's place, turn and size, and references show what they should."""

import numpy as np
import pytest
from drawn_faces import head_mesh

from faces.landmarks import INNER_LIPS, LIP_POINTS, NOSE_TIP, OUTER_LIPS, mouth_opening
from faces.shape import (
    AMPLITUDES,
    CLOSED,
    LEAST_OF_GROUP,
    POINTS,
    SHAPE_SCALE,
    TURN_STEP,
    UNKNOWN,
    HeadShape,
    amplitude,
    closed,
    distant_references,
    from_closed_to_open,
    gaps,
    head_axes,
    lip_shapes,
    lips_at_rest,
    references_of,
    turned_alike,
)

BOX = np.array([40, 30, 136, 126], np.float32)
MARGIN = 1 / 6
OPENINGS = np.linspace(0, 0.12, 13)


def heads(openings=OPENINGS):
    """Meshes of a clip whose mouth opens so far: (L, 468, 2), the face box as [0, 1] x [0, 1]."""
    return np.stack([head_mesh(opening) for opening in openings])


def boxes(meshes):
    return np.tile(BOX, (len(meshes), 1))


def lips_of(meshes, sizes):
    return lip_shapes(meshes, *head_axes(meshes, sizes))


# Axes of the head


def rotation(degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


@pytest.mark.parametrize("degrees, scale, shift", [(0, 1, (0.2, -0.1)), (17, 1, (0, 0)), (-30, 0.6, (0.3, 0.1))])
def test_a_head_that_is_moved_turned_and_scaled_has_the_same_lips(degrees, scale, shift):
    meshes, square = heads(), np.full((len(OPENINGS), 2), 96.0)
    moved = scale * meshes @ rotation(degrees).T + shift
    np.testing.assert_allclose(lips_of(moved, square), lips_of(meshes, square), atol=1e-6)


def test_a_box_that_is_no_square_does_not_stretch_the_lips():
    meshes, square = heads(), np.full((len(OPENINGS), 2), 96.0)
    flat = meshes * [1, 96 / 120]  # the same pixels, in a box that is taller
    np.testing.assert_allclose(lips_of(flat, square + [0, 24]), lips_of(meshes, square), atol=1e-6)


def test_axes_bring_the_lips_back_to_the_box():
    meshes, sizes = heads(), np.tile([96.0, 110.0], (len(OPENINGS), 1))
    turns, middles = head_axes(meshes, sizes)
    back = lip_shapes(meshes, turns, middles) @ turns.transpose(0, 2, 1) + middles[:, None]
    np.testing.assert_allclose(back, meshes[:, LIP_POINTS], atol=1e-6)


# Rest


def test_the_rest_of_a_clip_with_closed_frames_is_their_mean_though_most_are_open():
    lips = lips_of(heads([0, 0, 0, 0, *[0.12] * 11]), np.full((15, 2), 96.0))
    np.testing.assert_allclose(lips_at_rest(lips), lips[0], atol=1e-6)


def test_lips_of_who_talks_and_never_seem_closed_are_at_rest_where_they_are_least_open():
    openings = [0.05, *[0.06] * 9, *[0.16] * 10]
    lips = lips_of(heads(openings), np.full((len(openings), 2), 96.0))
    np.testing.assert_allclose(lips_at_rest(lips), lips[0], atol=1e-6)
    assert gaps(lips[:1]).mean() > CLOSED * np.ptp(lips[0, :, 0])


def test_lips_that_never_move_and_are_parted_are_brought_together_at_rest():
    lips = lips_of(heads([0.08] * 5), np.full((5, 2), 96.0))
    rest = lips_at_rest(lips)
    assert gaps(lips).max() > 0.05 and np.abs(gaps(rest[None])).max() < 1e-9
    assert rest[:20, 1].max() - rest[:20, 1].min() < np.ptp(lips[0, :20, 1]), "the outer outline goes along"


def test_parted_lips_are_brought_together_and_keep_their_corners():
    shape = lips_of(heads([0.1]), np.full((1, 2), 96.0))[0]
    before, after = shape.copy(), closed(shape)
    assert np.array_equal(shape, before), "what is given stays as it is"
    np.testing.assert_allclose(gaps(after[None]), 0, atol=1e-12)
    for corner in (0, 10, 20, 30):
        assert np.array_equal(after[corner], shape[corner])
    assert np.array_equal(after[:, 0], shape[:, 0])
    assert (after[1:10, 1] < shape[1:10, 1]).all() and (after[11:20, 1] > shape[11:20, 1]).all()
    middle_of_lower, middle_of_upper = 25, 35
    down = shape[middle_of_lower, 1] - after[middle_of_lower, 1]
    assert down > after[middle_of_upper, 1] - shape[middle_of_upper, 1] > 0, "the lower lip moves more"


# What a generator that warps has to know


def test_points_lie_in_the_crop_where_the_mesh_is():
    meshes = heads()
    head = HeadShape(meshes, boxes(meshes), MARGIN)
    assert head.points.shape == (len(meshes), len(POINTS), 2) and POINTS[:40] == OUTER_LIPS + INNER_LIPS
    px = head.points * 128  # of a crop of 128 px, whose middle 96 are the box
    np.testing.assert_allclose(px, meshes[:, POINTS] * 96 + 16, atol=1e-4)


def test_lips_are_those_at_rest_and_their_shape_by_the_turn():
    meshes = heads()
    head = HeadShape(meshes @ rotation(12).T, boxes(meshes), MARGIN)
    assert head.shapes.shape == (len(meshes), 80) and head.shapes.dtype == np.float32
    moved = head.shapes.reshape(-1, 40, 2) / SHAPE_SCALE @ head.turns.transpose(0, 2, 1)
    np.testing.assert_allclose(head.resting + moved, head.points[:, :40], atol=1e-5)
    np.testing.assert_allclose(head.opening, mouth_opening(meshes @ rotation(12).T))
    assert 0.3 < np.abs(head.shapes).max() < 5, "shapes are of the size that a network likes"


def test_the_person_of_a_shot_can_be_given():
    meshes = heads()
    rest, moves = HeadShape(meshes, boxes(meshes), MARGIN).person
    head = HeadShape(meshes[-1:], boxes(meshes)[-1:], MARGIN, (rest + 0.01, 2 * moves))
    moved = SHAPE_SCALE / (2 * moves) * (head.lips[0] - rest - 0.01)
    np.testing.assert_allclose(head.shapes.reshape(40, 2), moved, atol=1e-5)


def test_people_who_say_the_same_have_the_same_shapes_however_far_their_lips_move():
    """An amplitude of its own for each: the sound tells what is left."""
    little, much = (HeadShape(heads(o), boxes(heads(o)), MARGIN) for o in (0.3 * OPENINGS, 0.6 * OPENINGS))
    assert little.person[1] == pytest.approx(0.5 * much.person[1], rel=0.02)
    np.testing.assert_allclose(little.shapes, much.shapes, atol=0.05)


def test_an_amplitude_is_that_of_a_talker_where_lips_do_not_move_and_has_bounds():
    def of(openings):
        return amplitude(lips_of(heads(openings), np.full((len(openings), 2), 96.0)))

    assert of([0.05]) == of([0.05] * 9) == of([0.05, 0.052] * 5) == UNKNOWN
    assert of([0.0, 0.6] * 5) == AMPLITUDES[1]
    middling = of([0.0, 0.06] * 5)
    assert AMPLITUDES[0] < middling < AMPLITUDES[1] and middling == pytest.approx(2 * of([0.0, 0.03] * 5), rel=0.05)


# References


def shot(openings, side=0.0):
    """{frame: mesh} of a head whose nose is `side` of the face's width away from the middle."""
    meshes = heads(openings)
    meshes[:, NOSE_TIP, 0] += side
    return {7 + i: 100 * mesh for i, mesh in enumerate(meshes)}


def test_a_single_frame_is_all_of_its_references():
    assert references_of(shot([0.05]), {7: 1.0}, 3) == {7: (7, 7, 7)}


def test_references_go_from_closed_to_open():
    openings = np.random.default_rng(0).permutation(np.linspace(0, 0.12, 60))
    found = references_of(shot(openings), {}, 4)
    assert sorted(found) == list(range(7, 67)) and len(set(found.values())) == 1
    shown = openings[np.array(found[7]) - 7]
    assert (np.diff(shown) > 0.02).all() and shown[0] < 0.02 and shown[-1] > 0.1


def test_the_sharpest_of_frames_whose_mouths_are_alike_is_taken():
    meshes = shot(np.linspace(0, 0.12, 60))
    plain = references_of(meshes, dict.fromkeys(meshes, 1.0), 3)[7]
    middle = plain[1] + 1
    assert middle not in plain and references_of(meshes, dict.fromkeys(meshes, 1.0) | {middle: 2.0}, 3)[7][1] == middle
    far = plain[1] + 12
    others = references_of(meshes, dict.fromkeys(meshes, 1.0) | {far: 2.0}, 3)[7]
    assert others == plain, "a mouth of another kind is not"


def test_a_head_at_the_border_of_two_groups_keeps_its_references():
    noise = np.random.default_rng(0).normal(size=80) * 0.1
    assert len(set(turned_alike(TURN_STEP * (0.5 + noise)))) == 1
    assert len(set(turned_alike(TURN_STEP * np.repeat([0.0, 2.0], 40)))) == 2


def test_references_are_whole_where_there_are_such():
    meshes = shot(np.linspace(0, 0.12, 60))
    assert set(references_of(meshes, {}, 3, usable=range(20, 30))[7]) <= set(range(20, 30))
    assert references_of(meshes, {}, 3, usable=[1000]) == references_of(meshes, {}, 3)


def test_a_head_that_turns_has_references_turned_alike():
    frontal, turned = shot(np.linspace(0, 0.1, 20)), shot(np.linspace(0, 0.1, 20), side=3 * TURN_STEP)
    meshes = frontal | {frame + 100: mesh for frame, mesh in turned.items()}
    found = references_of(meshes, {}, 3)
    assert all((shown > 100) == (frame > 100) for frame in meshes for shown in found[frame])


@pytest.mark.parametrize("few", [1, LEAST_OF_GROUP - 1])
def test_few_frames_take_the_references_of_those_turned_almost_so(few):
    far, near = shot(np.linspace(0, 0.1, 20), side=-0.3), shot(np.linspace(0, 0.1, 20))
    own = shot(np.linspace(0.3, 0.31, few), side=0.1)
    meshes = far | {frame + 100: mesh for frame, mesh in near.items()}
    found = references_of(meshes | {frame + 200: mesh for frame, mesh in own.items()}, {}, 3)
    assert all(found[frame + 200] == found[107] for frame in own) and min(found[107]) > 100
    assert max(found[7]) < 100


def test_places_in_the_order_of_openings_are_kept_within_those_asked_for():
    opening = np.array([9, 0, 5, 1, 7, 3, 8, 2.0])
    assert from_closed_to_open(opening, np.arange(8), 2).tolist() == [1, 0]
    assert from_closed_to_open(opening, [2, 4, 6], 3).tolist() == [2, 4, 6]
    assert from_closed_to_open(opening, [6], 3).tolist() == [6, 6, 6]


@pytest.mark.parametrize("length", [2, 3, 8, 31])
def test_distant_references_never_come_from_the_own_half(length):
    opening = np.random.default_rng(length).random(length)
    found = distant_references(opening, np.arange(length), 3)
    assert found.shape == (length, 3) and found.min() >= 0 and found.max() < length
    half = length // 2
    assert ((found >= half) == (np.arange(length) < half)[:, None]).all()
    assert (np.diff(opening[found]) >= 0).all(), "from closed to open"


def test_a_clip_of_one_frame_is_its_own_distant_reference():
    assert distant_references(np.array([0.2]), np.array([0, 0]), 2).tolist() == [[0, 0], [0, 0]]
