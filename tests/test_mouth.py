"""The mouth ROI lies where the face has it, is cut as it lies there, alone or in a batch, and passes gradients on."""

import numpy as np
import pytest
import torch
from drawn_faces import head_mesh

from errors import InputError
from faces import mouth
from faces.crop import crop
from faces.landmarks import LIP_POINTS
from faces.mouth import (
    GREY,
    MEAN_FACE,
    ROI_PX,
    STABLE,
    WINDOW_PX,
    aligned,
    cut,
    inner,
    lrs2,
    similarity,
    smoothed,
)

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
BOX = np.array([[32.0, 32.0, 128.0, 128.0]])  # the middle 96x96 of a frame of 160x160: LRS2's window itself


def turned(angle, scale=1.0):
    """The 2x2 matrix that turns and scales."""
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def boxes_of(frames, box=(0, 0, 100, 100)):
    return np.tile(np.float32(box), (frames, 1))


def in_frame(matrices, boxes):
    """Matrices that end in the face box, made to end in px of the frame."""
    moved = matrices * (boxes[:, 2:] - boxes[:, :2])[..., None]
    moved[..., 2] += boxes[:, :2]
    return moved


def grey(picture):
    """(3, H, W) -> (H, W), summed by hand."""
    return sum(weight * channel for weight, channel in zip(GREY, picture, strict=True))


def identity(*lead):
    """The matrix from the whole ROI to the whole face box."""
    return torch.eye(2, 3).expand(*lead, 2, 3)


# Where it lies


def test_similarity_finds_the_turn_the_scale_and_the_shift():
    source, shifts = RNG.normal(size=(5, 2)), np.array([[4.0, -9.0], [0.0, 100.0]])
    turns = np.stack([turned(0.3, 1.7), turned(-2.0, 0.05)])
    linear, shift = similarity(source, source @ turns.transpose(0, 2, 1) + shifts[:, None])
    np.testing.assert_allclose(linear, turns, atol=1e-12)
    np.testing.assert_allclose(shift, shifts, atol=1e-12)


def test_similarity_is_the_least_squares_one():
    source, target = RNG.normal(size=(5, 2)), RNG.normal(size=(5, 2))
    (x, y), one, none = source.T, np.ones(5), np.zeros(5)
    equations = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
    (cos, sin, *shift), *_ = np.linalg.lstsq(equations, target.T.ravel(), rcond=None)
    linear, found = similarity(source, target[None])
    np.testing.assert_allclose(linear[0], [[cos, -sin], [sin, cos]])
    np.testing.assert_allclose(found[0], shift)


def test_values_are_averaged_over_12_frames_and_over_fewer_at_the_ends():
    ramp = smoothed(np.arange(20.0))
    assert ramp[[0, 1, 10, 19]].tolist() == [2.5, 3.0, 9.5, 16.0]  # of 0-5, 0-6, 4-15 and 13-19
    several = smoothed(np.stack([np.full((4, 2), 7.0), np.zeros((4, 2))], 1))
    assert np.array_equal(several[:, 0], np.full((4, 2), 7.0)) and not several[:, 1].any()


def test_a_mean_face_has_its_window_upright_around_the_lips():
    mesh, lips = np.zeros((3, 468, 2)), np.array([0.55, 0.7])
    mesh[:, STABLE] = MEAN_FACE / 200 + [0.5, 0.4]
    mesh[:, LIP_POINTS] = lips
    found = in_frame(aligned(mesh, boxes_of(3, (10, 20, 210, 220))), boxes_of(3, (10, 20, 210, 220)))
    x, y = 200 * lips + [10, 20]
    np.testing.assert_allclose(found, np.tile([[96, 0, x - 48], [0, 96, y - 48]], (3, 1, 1)), atol=1e-3)


def test_the_window_does_not_depend_on_the_face_box():
    frame = head_mesh(0.1).astype(np.float64) * 90 + [40, 25]
    windows = []
    for box in (boxes_of(4, (40, 25, 130, 115)), boxes_of(4, (0, 7, 160, 100)), boxes_of(4) + np.arange(4)[:, None]):
        meshes = np.stack([(frame - each[:2]) / (each[2:] - each[:2]) for each in box])
        windows.append(in_frame(aligned(meshes, box), box))
        assert windows[-1].shape == (4, 2, 3) and aligned(meshes, box).dtype == np.float32
    for other in windows[1:]:
        np.testing.assert_allclose(other, windows[0], atol=1e-3)


@pytest.mark.parametrize("angle, scale, shift", [(0.0, 1.0, (31, -12)), (0.0, 2.5, (0, 0)), (0.4, 0.7, (20, 60))])
def test_the_window_goes_with_the_place_size_and_roll_of_the_face(angle, scale, shift):
    head, box, turn = head_mesh(0.1).astype(np.float64) * 100, boxes_of(5), turned(angle, scale)
    there = in_frame(aligned(np.stack([head / 100] * 5), box), box)
    moved = in_frame(aligned(np.stack([(head @ turn.T + shift) / 100] * 5), box), box)
    np.testing.assert_allclose(moved[..., :2], turn @ there[..., :2], atol=1e-3)
    np.testing.assert_allclose(moved[..., 2], there[..., 2] @ turn.T + shift, atol=1e-3)


def test_the_window_does_not_tremble_with_the_mesh():
    head, box = head_mesh(0.1).astype(np.float64), boxes_of(30)
    still = in_frame(aligned(np.stack([head] * 30), box), box)
    trembling = np.stack([head * (1 + 0.02 * (-1) ** k) + 0.03 * (-1) ** k for k in range(30)])  # 3 px to and fro
    np.testing.assert_allclose(in_frame(aligned(trembling, box), box)[6:24], still[6:24], atol=1e-3)


def test_lrs2_is_the_middle_of_the_frame_whatever_the_face():
    boxes = np.float32([[32, 32, 128, 128], [50, 20, 140, 115], [100, 0, 190, 60]])
    found = in_frame(lrs2(boxes, (160, 160)), boxes)
    np.testing.assert_allclose(found, np.tile([[96, 0, 32], [0, 96, 32]], (3, 1, 1)), atol=1e-4)


@pytest.mark.parametrize("size", [(288, 360), (160, 161)])
def test_lrs2_refuses_frames_of_another_size(size):
    with pytest.raises(InputError, match=f"{size[1]}x{size[0]} px: --roi lrs2 .* say --roi aligned") as fault:
        lrs2(BOX, size)
    assert "\n" not in str(fault.value)


def test_what_is_read_is_the_middle_of_the_window():
    found = inner(np.tile(np.eye(2, 3), (2, 1, 1)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.tile([[88 / 96, 0, 4 / 96], [0, 88 / 96, 4 / 96]], (2, 1, 1)), atol=1e-7)
    window = np.array([[[2.0, 0.0, 5.0], [0.0, 4.0, 6.0]]])
    np.testing.assert_allclose(inner(window)[0], [[2 * 88 / 96, 0, 5 + 2 / 24], [0, 4 * 88 / 96, 6 + 4 / 24]])


def test_by_chance_it_is_moved_turned_scaled_and_half_the_time_flipped():
    window = np.eye(2, 3)[None]
    found = np.stack([inner(window, np.random.default_rng(seed))[0] for seed in range(300)]).astype(np.float64)
    again = inner(np.repeat(window, 3, 0), np.random.default_rng(7))
    assert np.array_equal(again, np.repeat(found[7:8], 3, 0)), "all frames of a clip alike"
    areas = np.linalg.det(found[..., :2]) / (ROI_PX / WINDOW_PX) ** 2
    assert 120 < (areas < 0).sum() < 180
    assert 0.81 < abs(areas).min() < 0.9 and 1.1 < abs(areas).max() < 1.23  # exp(-0.2) to exp(0.2)
    centres = found @ [0.5, 0.5, 1]
    assert 3.5 < WINDOW_PX * abs(centres - 0.5).max() < 4  # px: half of 96 - 88
    angles = np.arctan2(found[:, 1, 0] * np.sign(areas), found[:, 1, 1])
    assert 0.09 < abs(angles).max() <= 0.1


# Cutting it


def test_a_window_that_is_the_face_is_read_pixel_by_pixel():
    picture = torch.rand(3, 96, 96)
    roi = cut(picture, torch.from_numpy(inner(np.eye(2, 3)[None]))[0])
    assert roi.shape == (1, 88, 88)
    torch.testing.assert_close(roi[0], grey(picture)[4:92, 4:92], atol=2e-5, rtol=0)


def test_half_a_pixel_aside_is_the_mean_of_two():
    picture, matrix = torch.rand(1, 88, 88), torch.tensor([[1.0, 0, 0.5 / 88], [0, 1.0, 0]])
    roi = cut(picture, matrix)
    torch.testing.assert_close(roi[..., :-1], (picture[..., :-1] + picture[..., 1:]) / 2, atol=2e-5, rtol=0)
    torch.testing.assert_close(roi[..., -1], picture[..., -1])  # its right neighbour is the border once more


def test_a_flipped_and_a_turned_window_read_a_flipped_and_a_turned_picture():
    picture = torch.rand(1, 88, 88)
    flipped = cut(picture, torch.tensor([[-1.0, 0, 1], [0, 1, 0]]))
    torch.testing.assert_close(flipped, picture.flip(-1), atol=2e-5, rtol=0)
    quarter = cut(picture, torch.tensor([[0.0, -1, 1], [1, 0, 0]]))  # right in the ROI is down in the picture
    torch.testing.assert_close(quarter, picture.rot90(1, (-2, -1)), atol=2e-5, rtol=0)


def test_grey_is_that_of_television():
    colours = torch.eye(3)[..., None, None].expand(3, 3, 8, 8)
    assert cut(colours, identity(3)).mean((1, 2, 3)).tolist() == pytest.approx([0.299, 0.587, 0.114])
    torch.testing.assert_close(cut(torch.full((1, 8, 8), 0.25), identity()), torch.full((1, 88, 88), 0.25))


def test_beyond_the_crop_its_border_is_repeated():
    picture = torch.rand(1, 16, 16)
    roi = cut(picture, torch.tensor([[1.0, 0, 1], [0, 1, 0]]), px=16)
    torch.testing.assert_close(roi, picture[..., -1:].expand_as(picture), atol=2e-5, rtol=0)


def test_a_crop_with_surroundings_shows_the_same_mouth_and_more():
    wide = torch.rand(3, 128, 128)
    face = wide[:, 16:112, 16:112]
    within = torch.from_numpy(np.float32([[0.6, 0.1, 0.1], [-0.1, 0.6, 0.2]]))
    roi = cut(wide, within, margin=1 / 6)
    torch.testing.assert_close(roi, cut(face, within), atol=1e-4, rtol=0)
    low = within + torch.tensor([[0.0, 0, 0], [0, 0, 0.3]])  # now some of it lies below the face
    with_more, without = cut(wide, low, margin=1 / 6), cut(face, low)
    at = (torch.arange(88) + 0.5) / 88
    y = low[1, 0] * at + low[1, 1] * at[:, None] + low[1, 2]
    inside, outside = y < 1 - 0.5 / 96, y > 1 + 0.5 / 96
    assert inside.any() and outside.any()
    torch.testing.assert_close(with_more[:, inside], without[:, inside], atol=1e-4, rtol=0)
    assert (with_more - without)[:, outside].abs().mean() > 0.05


@pytest.mark.parametrize("box", [(32, 32, 128, 128), (20, 30, 116, 126), (45, 40, 141, 136)])
def test_lrs2_reads_rows_and_columns_36_to_123_of_the_frame(box):
    frame = RNG.integers(0, 256, (160, 160, 3), np.uint8)
    crops = torch.from_numpy(crop(frame, box, 128, 128 / 96)).movedim(-1, 0) / 255
    roi = cut(crops, torch.from_numpy(inner(lrs2(np.float32([box]), (160, 160))))[0], margin=1 / 6)
    wanted = grey(torch.from_numpy(frame).movedim(-1, 0) / 255)[36:124, 36:124]
    torch.testing.assert_close(roi[0], wanted, atol=1e-4, rtol=0)


def test_a_batch_is_cut_as_each_picture_alone():
    pictures, matrices = torch.rand(2, 3, 3, 40, 40), identity(2, 3) + 0.2 * torch.randn(2, 3, 2, 3)
    together = cut(pictures, matrices, margin=0.1)
    assert together.shape == (2, 3, 1, ROI_PX, ROI_PX)
    for i, j in np.ndindex(2, 3):
        torch.testing.assert_close(together[i, j], cut(pictures[i, j], matrices[i, j], margin=0.1))


def test_the_gradient_reaches_a_generated_face_where_it_is_read():
    generated = torch.rand(1, 2, 3, 96, 96, requires_grad=True)
    matrices = torch.from_numpy(inner(np.tile(np.eye(2, 3), (2, 1, 1))))[None]
    cut(generated, matrices).sum().backward()
    read = torch.zeros(96, 96)
    read[4:92, 4:92] = 1
    wanted = torch.tensor(GREY)[:, None, None] * read
    torch.testing.assert_close(generated.grad, wanted.expand_as(generated), atol=1e-3, rtol=0)


def test_the_stable_points_are_the_corners_of_the_eyes_and_the_base_of_the_nose():
    (x, y), names = MEAN_FACE.T / mouth.EYES_PX, ["right outer", "right inner", "left inner", "left outer", "nose"]
    assert len(names) == len(STABLE) and list(x[:4]) == sorted(x[:4]) and y[4] > y[:4].max() + 0.4
    assert x[3] - x[0] == pytest.approx(1, abs=0.01)  # the unit is the distance of the outer corners
