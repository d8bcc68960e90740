"""Augmentation of faces and mouths: geometry and colour in common for a whole sample, sharpness of inputs alone."""

import cv2
import numpy as np
import torch

from faces.landmarks import LIP_POINTS, OUTER_LIPS
from faces.shape import closed

LIP_WIDTHS = 0.88, 1.12  # of their own width, that lips are given
MOST_CLOSED = 0.9  # of its gap, that a mouth loses: splines cannot press all of it into nothing
BEND = 0.04  # of the side of a face: by how much a smooth displacement moves its control points at most


class Augmentation:
    """One random choice of flip, small affine, colour and gamma, blur and compression, each with probability `chance`.

    Geometry and colour are those of the target and of the inputs, which then go together; blur and compression spoil
    the inputs alone, so that what the losses and the discriminator call real is as sharp as the video.
    rng: a numpy generator; it may be None where the chance is 0.  bends: a smooth displacement too, which makes other
    faces out of those at hand.  lips: references get lips of other shapes too, see `reshape`.
    """

    def __init__(self, chance, rng, bends=False, lips=False):
        def chosen():
            return chance > 0 and rng.random() < chance

        self.rng, self.flip = rng, chosen()
        self.affine, self.curves, self.sigma, self.quality = None, None, 0.0, 0
        if chosen():
            self.affine = rng.uniform(-1, 1, 6)
        if chosen():
            self.curves = self._curves()
        if chosen():
            self.sigma = rng.uniform(0.3, 1.2)
        if chosen():
            self.quality = int(rng.integers(30, 90))
        self.active, self.field = chance > 0, None
        if bends and chosen():
            self.field = np.float32(rng.uniform(-BEND, BEND, (5, 5, 2)))
        self.reshapes = lips and chosen()

    def matrix(self, px, scale, border, jitter=False):
        """The 2x3 matrix from a stored crop to a face of `px`.

        scale: px of the face over px of the stored face box.  border: px of the crop around that box.
        jitter: adds a little of its own, for the identity.
        """
        sx = sy = scale
        turn = shear = dx = dy = 0.0
        if self.affine is not None:
            turn, shear, a, b, c, d = self.affine * [0.17, 0.08, 0.12, 0.12, 0.05, 0.05]
            sx, sy, dx, dy = scale * np.exp(a), scale * np.exp(b), c * px, d * px
        if jitter and self.active:
            a, dx2, dy2 = self.rng.uniform(-1, 1, 3) * [0.03, 0.02, 0.02]
            sx, sy, dx, dy = sx * np.exp(a), sy * np.exp(a), dx + dx2 * px, dy + dy2 * px
        cos, sin = np.cos(turn), np.sin(turn)
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[sx, shear * sx], [0, sy]])
        middle_in, middle_out = (px / scale) / 2 + border - 0.5, px / 2 - 0.5
        return np.column_stack([linear, [middle_out + dx, middle_out + dy] - linear @ [middle_in, middle_in]])

    def _curves(self):
        """A 3x256 table of output values, whose gain and gamma the channels share in part, and a saturation."""
        rng = self.rng
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15, 3)
        gamma = np.exp(rng.uniform(-0.5, 0.5) + rng.uniform(-0.1, 0.1, 3))
        values = np.linspace(0, 1, 256)[None]
        table = gain[:, None] * values ** gamma[:, None] + rng.uniform(-0.1, 0.1)
        return (np.clip(table, 0, 1) * 255).astype(np.uint8), rng.uniform(0.2, 1.4)

    def warp(self, picture, matrix, px, border=cv2.BORDER_CONSTANT):
        """The face of `px` in a stored crop, by a `matrix`; turned or scaled, bicubic, which stays sharper than linear.

        picture: (H, W, 3) uint8.  border: of cv2, what lies beyond the stored crop, by default black.
        Returns (px, px, 3) uint8; what overshoots is clipped.
        """
        flags = cv2.INTER_CUBIC if self.active else cv2.INTER_LINEAR
        if self.field is None:
            return cv2.warpAffine(picture, matrix, (px, px), flags=flags, borderMode=border)
        places = np.stack(np.meshgrid(np.arange(px), np.arange(px)), -1) + self._shift(px)  # of the affine picture
        back = cv2.invertAffineTransform(matrix)
        places = np.float32(places @ back[:, :2].T + back[:, 2])
        return cv2.remap(picture, places, None, flags, borderMode=cv2.BORDER_REPLICATE)

    def _shift(self, px):
        """Where the bent picture takes each pixel from, relative to its place: (px, px, 2) px."""
        return px * cv2.resize(self.field, (px, px), interpolation=cv2.INTER_CUBIC)

    def bend(self, points, px):
        """Where points (..., 2) px of the affine picture lie in the bent one."""
        if self.field is None:
            return points
        shift, moved = self._shift(px), points
        for _ in range(4):  # q with q + shift(q) = point; the shift is smooth and small
            at = np.float32(moved.reshape(-1, 1, 2))
            found = cv2.remap(shift, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            moved = points - found.reshape(points.shape)
        return moved

    def reshape(self, pictures, points):
        """References (N, H, W, 3) uint8 and their points (N, P, 2) px, if so chosen with lips of other shapes."""
        if not self.reshapes:
            return pictures, points
        pairs = [reshaped_lips(*each, self.rng) for each in zip(pictures, points, strict=True)]
        return tuple(map(np.stack, zip(*pairs, strict=True)))

    def recolour(self, rgb):
        """An (H, W, 3) uint8 picture, target or input, in the colours that were chosen."""
        if self.curves is None:
            return rgb
        table, saturation = self.curves
        rgb = cv2.LUT(rgb, np.ascontiguousarray(table.T[:, None]).reshape(1, 256, 3))
        gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        return cv2.addWeighted(rgb, saturation, gray, 1 - saturation, 0)

    def degrade(self, rgb):
        """An (H, W, 3) uint8 picture that is an input, blurred and compressed as was chosen."""
        if self.sigma:
            rgb = cv2.GaussianBlur(rgb, (5, 5), self.sigma)
        if self.quality:
            rgb = cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1], cv2.IMREAD_COLOR)
        return rgb


def reshaped_lips(picture, points, rng):
    """A picture whose lips are wider or narrower, and closed by a random share of how far they are open, by splines.

    picture: (H, W, 3) uint8.  points: (P, 2) px of it, the lips first, see `faces.shape.POINTS`; the others stay.
    Returns both, altered.
    """
    from scipy.interpolate import RBFInterpolator  # slow

    lips = points[: len(LIP_POINTS)]
    right, middle = lips[0] - lips[len(OUTER_LIPS) // 2], lips.mean(0)
    right = right / max(np.linalg.norm(right), 1e-6) * np.sign(right[0] or 1)
    axes = np.stack([right, [-right[1], right[0]]])  # along the mouth, and down
    shape = (lips - middle) @ axes.T * [rng.uniform(*LIP_WIDTHS), 1]
    shape += rng.uniform(0, MOST_CLOSED) * (closed(shape) - shape)
    moved = np.concatenate([shape @ axes + middle, points[len(LIP_POINTS) :]])
    side, px = 32, picture.shape[0]
    places = np.stack(np.meshgrid(*[(np.arange(side) + 0.5) * px / side - 0.5] * 2), -1).reshape(-1, 2)
    found = RBFInterpolator(moved, points, kernel="thin_plate_spline", smoothing=1.0)(places)
    found = cv2.resize(np.float32(found.reshape(side, side, 2)), (px, px), interpolation=cv2.INTER_CUBIC)
    return cv2.remap(picture, found, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), moved


def match_lighting(windows, clip, frames, augmentation):
    """Mouth windows in the lighting of an augmentation, so that they go with faces generated in that lighting.

    windows: (L, H, W) uint8, grey.  clip: the `Clip` they are of.  frames: the frames whose faces are generated.
    The lighting is estimated from the crops of a few of `frames`, as a curve of grey levels; sharpness stays, as it
    does in the target. Returns the same shape.
    """
    if augmentation.curves is None:
        return windows
    crops = [clip.picture(i) for i in frames[:: max(len(frames) // 3, 1)]]
    before, after = (
        np.concatenate([cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY).ravel()[::5] for crop in each])
        for each in (crops, [augmentation.recolour(crop) for crop in crops])
    )
    curve = np.polyval(np.polyfit(before / 255.0, after, 2), np.arange(256) / 255.0)
    return cv2.LUT(windows.reshape(-1, 1), curve.clip(0, 255).round().astype(np.uint8)).reshape(windows.shape)


def augment_roi(roi, rng):
    """Mouth ROIs in other lighting and sharpness, in half of the cases with a span of frames blank.

    roi: (T, 1, H, W) grey in [0, 1].  rng: a numpy generator. Returns the same shape.
    """
    gain, lift, gamma = rng.uniform(0.7, 1.3), rng.uniform(-0.1, 0.1), np.exp(rng.uniform(-0.3, 0.3))
    roi = (roi.clamp(min=0) ** gamma * gain + lift).clamp(0, 1)
    if rng.random() < 0.3:
        sigma = rng.uniform(0.4, 1.2)
        blurred = [cv2.GaussianBlur(picture, (5, 5), sigma) for picture in roi[:, 0].numpy()]
        roi = torch.from_numpy(np.stack(blurred))[:, None]
    if rng.random() < 0.5 and len(roi) >= 25:
        span = int(rng.integers(1, 6))
        start = int(rng.integers(0, max(len(roi) - span, 1)))
        roi[start : start + span] = roi.mean()
    return roi
