"""The mouth ROI that lip readers see: its place in a face crop, and cutting it out of faces, real or generated."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from errors import InputError
from faces import crop
from faces.landmarks import LIP_POINTS

ROI_PX, WINDOW_PX = 88, 96  # what a lip reader sees; the window around the mouth that it is cut from
LRS2_PX = 160  # height and width of LRS2's frames
GREY = (0.299, 0.587, 0.114)  # of R, G, B
SMOOTH = 12  # frames over which the place of the face is averaged, as AV-HuBERT's preparation does
STABLE = [33, 133, 362, 263, 2]  # corners of the eyes and base of the nose: they stay where they are in speech
EYES_PX = 88  # outer eye corners of the mean face: lips at rest are then as wide as half the window
# The mean place of the STABLE points in GRID's train.txt, in units of the distance of the outer eye corners.
MEAN_FACE = EYES_PX * np.array([[-0.51, -0.105], [-0.193, -0.096], [0.189, -0.106], [0.489, -0.131], [0.024, 0.438]])


def aligned(meshes, boxes):
    """AV-HuBERT's convention: the face turned and scaled to a mean face, 96x96 around the lips.

    meshes: (L, 468, 2), face box as [0, 1] x [0, 1].  boxes: (L, 4): x1, y1, x2, y2 in px of the frame.
    Returns (L, 2, 3) float32: from the window, [0, 1] x [0, 1], to the face box.
    Differs: the published preparation takes 68 points of dlib, and a mean face whose file is not at hand.
    """
    sizes = boxes[:, None, 2:] - boxes[:, None, :2]  # (L, 1, 2)
    points = np.asarray(meshes, np.float64) * sizes + boxes[:, None, :2]
    stable, lips = smoothed(points[:, STABLE]), smoothed(points[:, LIP_POINTS].mean(1))
    turn, _ = similarity(MEAN_FACE, stable)  # (L, 2, 2), px of the mean face to px of the frame
    linear = turn * WINDOW_PX
    corner = lips - linear.sum(-1) / 2
    to_frame = np.concatenate([linear, corner[..., None]], axis=-1)  # (L, 2, 3)
    return to_box(to_frame, boxes)


def lrs2(boxes, size):
    """TalkLip's convention: the middle 96x96 of LRS2's frame, whatever the face; its inner 88x88 are what is read.

    boxes: (L, 4): x1, y1, x2, y2 in px of the frame.  size: (height, width) of the frame.
    Returns (L, 2, 3) float32: from the window, [0, 1] x [0, 1], to the face box.
    Raises InputError for a frame that is not 160x160.
    """
    if tuple(size) != (LRS2_PX, LRS2_PX):
        raise InputError(f"frames of {size[1]}x{size[0]} px: --roi lrs2 is for LRS2's 160x160, say --roi aligned")
    corner = (LRS2_PX - WINDOW_PX) / 2
    to_frame = np.array([[WINDOW_PX, 0, corner], [0, WINDOW_PX, corner]])
    return to_box(np.tile(to_frame, (len(boxes), 1, 1)), boxes)


def to_box(to_frame, boxes):
    """Matrices (L, 2, 3) that end in px of the frame, made to end in the face box as [0, 1] x [0, 1]."""
    corner, sizes = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    matrices = to_frame.copy()
    matrices[..., 2] -= corner
    return (matrices / sizes[..., None]).astype(np.float32)


def cut_window(grey, matrix, box):
    """The mouth window of one frame, cut out of the frame itself: (96, 96) uint8.

    grey: (H, W) uint8.  matrix: (2, 3) from the window, [0, 1] x [0, 1], to the face box.  box: x1, y1, x2, y2 in px.
    """
    size = box[2:] - box[:2]
    linear = matrix[:, :2] * size[:, None] / WINDOW_PX  # px of the window to px of the frame
    corner = matrix[:, 2] * size + box[:2]
    to_frame = np.column_stack([linear, corner + linear.sum(1) / 2 - 0.5])  # pixel centres are whole numbers
    return crop.view(grey, cv2.invertAffineTransform(to_frame.astype(np.float64)), WINDOW_PX)


def smoothed(values):
    """Mean of each value over `SMOOTH` frames around it, fewer at the ends. values: (L, ...)."""
    total = np.concatenate([np.zeros_like(values[:1]), values.cumsum(0)])
    at = np.arange(len(values))
    first, last = np.maximum(at - SMOOTH // 2, 0), np.minimum(at + SMOOTH // 2, len(values))
    return (total[last] - total[first]) / (last - first).reshape(-1, *[1] * (values.ndim - 1))


def similarity(source, target):
    """The turn, scale and shift that bring `source` nearest to `target`, least squares (Umeyama 1991).

    source: (N, 2).  target: (L, N, 2).  Returns (L, 2, 2) and (L, 2): target = linear @ source + shift.
    """
    middle, middles = source.mean(0), target.mean(1)
    a, b = source - middle, target - middles[:, None]
    cos = (a * b).sum((1, 2))
    sin = (a[:, 0] * b[..., 1] - a[:, 1] * b[..., 0]).sum(1)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], axis=1) / (a**2).sum()
    return linear, middles - linear @ middle


def inner(matrices, rng=None):
    """The 88x88 px of the window that are read: its middle, or, given `rng`, any place, flipped half the time.

    matrices: (L, 2, 3) from the window. rng: a numpy generator; it also turns and scales a little.
    Returns (L, 2, 3) float32: from the ROI, [0, 1] x [0, 1], to the face box.
    """
    share, slack = ROI_PX / WINDOW_PX, (WINDOW_PX - ROI_PX) / WINDOW_PX
    linear, shift = np.eye(2) * share, np.full(2, slack / 2)
    if rng is not None:
        turn, zoom = rng.uniform(-0.1, 0.1), np.exp(rng.uniform(-0.1, 0.1))
        linear = share * zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        if rng.random() < 0.5:
            linear = linear * [-1, 1]
        shift = 0.5 + rng.uniform(-slack, slack, 2) / 2 - linear.sum(1) / 2
    return np.concatenate([matrices[..., :2] @ linear, matrices @ np.append(shift, 1)[:, None]], -1).astype(np.float32)


def cut(pictures, matrices, margin=0.0, px=ROI_PX):
    """Cuts mouth ROIs out of face crops, real or generated; the gradient flows from the ROI to the crop.

    pictures: (..., 3, H, W) in [0, 1], RGB, or (..., 1, H, W), grey: the face box and, on each side, `margin` box
              sizes of its surroundings.
    matrices: (..., 2, 3) from the ROI to the face box, see `inner`.
    Returns (..., 1, px, px) grey in [0, 1]. Bilinear; what lies beyond the crop repeats its border.
    """
    points = places(matrices, px)
    grid = (points + margin) / (1 + 2 * margin) * 2 - 1
    grey = greyed(pictures)
    flat, grid = grey.reshape(-1, *grey.shape[-3:]), grid.reshape(-1, px, px, 2).to(grey.dtype)
    roi = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return roi.reshape(*grey.shape[:-2], px, px)


def greyed(pictures):
    """(..., 3, H, W) RGB as (..., 1, H, W) grey; what is grey stays as it is."""
    if pictures.shape[-3] != 3:
        return pictures
    return (pictures * pictures.new_tensor(GREY)[:, None, None]).sum(-3, keepdim=True)


def places(matrices, px=ROI_PX):
    """The places of a ROI's pixels in the picture as [0, 1] x [0, 1]: (..., 2, 3) -> (..., px, px, 2), x before y."""
    at = (torch.arange(px, device=matrices.device, dtype=matrices.dtype) + 0.5) / px
    y, x = torch.meshgrid(at, at, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)  # (3, px * px)
    return (matrices @ points).unflatten(-1, (px, px)).movedim(-3, -1)


def splice(real, generated, matrices, at):
    """The mouth ROIs of a clip with generated faces pasted into some of its frames; the gradient flows to the faces.

    This is the published pasting and cutting in one: with the matrices of `lrs2` and boxes of whole px it reads the
    very pixels that a face resized to its box (bilinear, no antialias) and pasted into its frame shows.

    real:      (N, 1, px, px) grey in [0, 1]: the ROI of every frame, ground truth.
    generated: (W, T, 3, H, W) in [0, 1], RGB: the faces generated for some of the frames.
    matrices:  (W, T, 2, 3) from the ROI to the generated face, [0, 1] x [0, 1].
    at:        (W, T) int64: which of the N frames each face was generated for; none twice.
    Returns (N, 1, px, px) in the type of `real`. What of a ROI lies beyond the generated face stays ground truth.
    """
    px, at = real.shape[-1], at.flatten()
    roi = cut(generated, matrices, px=px).flatten(0, 1).to(real.dtype)  # (W*T, 1, px, px)
    points = places(matrices, px).flatten(0, 1)  # (W*T, px, px, 2)
    inside = ((points > 0) & (points < 1)).all(-1)[:, None]  # (W*T, 1, px, px)
    return real.index_copy(0, at, torch.where(inside, roi, real[at]))
