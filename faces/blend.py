"""Puts a face back into its frame, a generated one or one made of references' pixels: only the lower face."""

from typing import NamedTuple

import cv2
import numpy as np

from faces.crop import SURROUNDINGS, UPPER_SHARE, bounds, crop, crop_matrix
from faces.landmarks import JAW, mouth_region
from faces.shape import BOTTOM, LEFT, RIGHT, SIDE, TOP

RIM = 5  # crop px over which the generated face fades out
REACH = 3  # crop px by which the generated face reaches over the jaw line
# Multi-band blending (Burt & Adelson 1983): a mean of references that do not fit to a fraction of a pixel is blurred.
SMOOTH = 1.0  # px of a crop of `SIDE`, standard deviation: what is coarser is a mean of the references
DETAIL = 16.0  # power of their weights by which they share what is finer: of nearly one. Both chosen on val, val_unseen
MOST = 0.12  # largest colour correction, of full scale


def masks(mesh, px):
    """The mask of what is redrawn of a face, and that of the mouth, where generated pixels replace the frame's.

    mesh: (468, 2), the face box as [0, 1] x [0, 1], or None for an average face. px: side of the crop.
    Returns two (px, px) float32 in [0, 1]: the lower face up to the jaw line, 0 on the crop's own border and in its
    upper half; and the region of the mouth.
    """
    if mesh is None:
        jaw = 0.5 + np.stack([0.46 * np.cos(np.linspace(np.pi, 0, 21)), 0.47 * np.sin(np.linspace(np.pi, 0, 21))], 1)
        x1, y1, x2, y2 = 0.22, 0.6, 0.78, 0.97
    else:
        jaw, (x1, y1, x2, y2) = mesh[JAW], mouth_region(mesh)
    face, mouth = np.zeros((px, px), np.float32), np.zeros((px, px), np.float32)
    cv2.fillPoly(face, [np.round(jaw * px).astype(np.int32)], 1)
    face = cv2.dilate(face, np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8))
    face[: round(UPPER_SHARE * px) + RIM] = 0
    face[:, :RIM] = face[:, -RIM:] = face[-RIM:] = 0
    middle, axes = ((x1 + x2) / 2 * px, (y1 + y2) / 2 * px), ((x2 - x1) / 2 * px, (y2 - y1) / 2 * px)
    cv2.ellipse(mouth, tuple(map(round, middle)), tuple(map(round, axes)), 0, 0, 360, 1, -1)
    return _soften(face, 1), _soften(mouth, 2)


def _soften(mask, times):
    """Fades a mask over about `RIM` px on each side; it reaches 0 at most RIM * times px out."""
    for _ in range(times):
        mask = cv2.blur(mask, (2 * RIM - 1, 2 * RIM - 1), borderType=cv2.BORDER_REPLICATE)
    return mask


def match_colour(generated, real, mask):
    """Takes the low-frequency colour differences to `real` along the rim of the mask away from `generated`.

    generated, real: (px, px, 3) float32 in [0, 1], RGB, the same crop.  mask: (px, px), where `generated` is shown.
    Returns (px, px, 3) float32. Towards the chin the rim counts less and less: the generated jaw need not be where the
    real one is.
    """
    rim = ((mask > 0.02) & (mask < 0.98)).astype(np.float32)
    rim *= np.clip((0.8 - np.arange(len(rim)) / len(rim)) / 0.3, 0, 1)[:, None]
    both = np.dstack([(real - generated) * rim[..., None], rim]).astype(np.float32)
    slow = cv2.resize(both, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    slow = cv2.GaussianBlur(slow, (0, 0), len(slow) / 6, borderType=cv2.BORDER_REFLECT)
    slow = slow[..., :3] / (slow[..., 3:] + 0.05 * slow[..., 3].max() + 1e-6)
    return generated + np.clip(cv2.resize(slow, generated.shape[1::-1]), -MOST, MOST)


def put_back(frame, box, mesh, generated, real):
    """The frame with the lower half of one face redrawn; every pixel outside the mask keeps its samples.

    frame: a `media.frame.Frame`.  box: see `faces.crop`.  mesh: see `masks`.
    generated, real: (px, px, 3) float32 in [0, 1], RGB: the generator's face and the frame's own crop.
    Around the mouth generated pixels replace the frame's. On cheeks and chin only their difference to the crop is
    added, so that skin finer than the crop's pixels stays.
    """
    px = len(generated)
    face, mouth = masks(mesh, px)
    generated = match_colour(generated, real, face)
    replaced = face * mouth
    added = face[..., None] * (generated - (1 - mouth[..., None]) * real)  # frame * (1 - replaced) + added
    width, height = frame.size
    x0, y0, x1, y1 = bounds(box)
    y0 = box[1] + UPPER_SHARE * (box[3] - box[1]) if len(box) == 4 else y0  # of upright boxes the lower half will do
    x0, y0, x1, y1 = max(int(x0), 0), max(int(y0), 0), min(int(x1) + 1, width), min(int(y1) + 1, height)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return frame
    to_crop = crop_matrix(box, px)
    to_crop[:, 2] += to_crop[:, :2] @ [x0, y0]
    layers = np.dstack([added, replaced]).astype(np.float32)
    layers = cv2.warpAffine(layers, to_crop, (x1 - x0, y1 - y0), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    patch = frame.rgb(x0, y0, x1, y1)
    mixed = patch * (1 - layers[..., 3:]) + 255 * layers[..., :3]
    return frame.paste(np.clip(np.rint(mixed), 0, 255).astype(np.uint8), x0, y0)


class View(NamedTuple):
    """A face as a generator that warps takes it: its picture, and where the crop lies in there.

    rgb: (H, W, 3) uint8, at the video's own size.  to_crop: (2, 3) from its px to the crop as [0, 1] x [0, 1].
    crop: (128, 128, 3) uint8.
    """

    rgb: np.ndarray
    to_crop: np.ndarray
    crop: np.ndarray

    @classmethod
    def of(cls, rgb, box):
        """The view of a face, its box px, in a picture."""
        to_crop = crop_matrix(box, 1, SURROUNDINGS)
        to_crop[:, 2] += 0.5
        return cls(rgb, to_crop, crop(rgb, box, SIDE, SURROUNDINGS))


def composed(view, layers, references, fade=1.0):
    """A lower face redrawn at its own size, out of the references' own pixels; see `models.warp.Layers`.

    view: the `View` of the frame.  layers: of one face.  references: its K `View`s.  fade: of what is drawn, in [0, 1].
    Returns a patch (H, W, 3) uint8 and the place (x, y) of its corner in the view's picture; None where nothing shows.
    """
    places, weights, shade, mask = layers
    h, w = mask.shape[1:]
    rows, columns = np.flatnonzero(mask[0].any(1)), np.flatnonzero(mask[0].any(0))
    if not len(rows) or not fade:
        return None
    left, top, right, bottom = columns[0] - 0.5, rows[0] - 0.5, columns[-1] + 1.5, rows[-1] + 1.5
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]]) / [w, h]
    corners = corners * [RIGHT - LEFT, BOTTOM - TOP] + [LEFT, TOP]  # of what is drawn, in the crop
    back, (height, width) = cv2.invertAffineTransform(view.to_crop), view.rgb.shape[:2]
    places_px = corners @ back[:, :2].T + back[:, 2]
    (x0, y0), (x1, y1) = places_px.min(0), places_px.max(0)
    x0, y0, x1, y1 = max(int(x0), 0), max(int(y0), 0), min(int(x1) + 2, width), min(int(y1) + 2, height)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    to_crop = view.to_crop.copy()
    to_crop[:, 2] += to_crop[:, :2] @ [x0, y0]

    def spread(grid):
        """A map (h, w, C) over the redrawn part of the crop, at the patch's own pixels."""
        scale = np.array([grid.shape[1] / (RIGHT - LEFT), grid.shape[0] / (BOTTOM - TOP)])
        matrix = scale[:, None] * to_crop
        matrix[:, 2] -= scale * [LEFT, TOP] + 0.5
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(grid, matrix, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)

    mask, weights = fade * spread(mask[0])[..., None], spread(weights.transpose(1, 2, 0))
    chosen = (weights / weights.max(-1, keepdims=True).clip(1e-6)) ** DETAIL
    chosen /= chosen.sum(-1, keepdims=True)
    drawn = np.zeros((y1 - y0, x1 - x0, 3), np.float32)
    sigma = SMOOTH * np.sqrt(abs(np.linalg.det(back[:, :2]))) / SIDE
    for k, reference in enumerate(references):
        there = cv2.invertAffineTransform(reference.to_crop)
        at = np.float32(spread(places[k]) @ there[:, :2].T + there[:, 2])
        moved = np.float32(cv2.remap(reference.rgb, at, None, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE))
        smooth = cv2.GaussianBlur(moved, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        drawn += weights[..., k : k + 1] * smooth + chosen[..., k : k + 1] * (moved - smooth)
    drawn *= spread(shade[0])[..., None]
    own = view.rgb[y0:y1, x0:x1]
    return np.clip(np.rint(own + mask * (drawn - own)), 0, 255).astype(np.uint8), (x0, y0)
