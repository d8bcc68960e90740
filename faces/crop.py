"""Face boxes, steady over time, and the crops that are cut out by them.

A box is (x1, y1, x2, y2) px. That of a head that lies on its side has a fifth number, the degrees by which it is turned
about its middle, clockwise.
"""

import cv2
import numpy as np

from faces.landmarks import CHIN, MID_FOREHEAD, NOSE_BASE, lying, roll_of

UPPER_SHARE = 0.5  # of a face box from its top: the pose prior shows it; what is below is generated
SURROUNDINGS = 4 / 3  # side of a stored crop over that of the face box
EDGES_S, JAW_S = 0.08, 1.0  # s over which a box's edges, and the jaw's share of it, are averaged


def face_boxes(meshes, smooth=True, fps=25, turned=False):
    """The face boxes of a track: mid-forehead to chin, ear to ear.

    meshes: {frame number: (468, 2) px} of one track, `fps` a second.
    turned: where a head lies on its side, see `landmarks.lying`, its box lies as it does.
    Returns {frame number: box, float}. Runs of frames without a gap are smoothed over time.
    Differs: the lower edge does not follow the jaw. It lies where the chin is on average over the seconds around,
    estimated from forehead and nose: a box that opens with the mouth would give away what the sound has to tell.
    """
    boxes, run = {}, []
    for frame in sorted(meshes):
        if run and frame != run[-1] + 1:
            boxes |= _run_boxes(run, meshes, smooth, float(fps), turned)
            run = []
        run.append(frame)
    return boxes | _run_boxes(run, meshes, smooth, float(fps), turned) if run else {}


def _run_boxes(run, meshes, smooth, fps, turned):
    """Boxes of consecutive frames. The jaw's share is always averaged, or the box would follow the mouth."""
    middles, rolls = _poses(run, meshes, EDGES_S * fps if smooth else 0) if turned else (None, np.zeros(len(run)))
    rows = []
    for i, mesh in enumerate(map(meshes.get, run)):  # one by one: the meshes of a long video are too many to copy
        if rolls[i]:
            mesh = _about(mesh, middles[i], -rolls[i])
        brow, nose, chin = mesh[[MID_FOREHEAD, NOSE_BASE, CHIN], 1]
        rows.append((mesh[:, 0].min(), brow, mesh[:, 0].max(), nose - brow, (chin - brow) / max(nose - brow, 1)))
    edges, share = np.split(np.array(rows, np.float64), [4], axis=1)
    edges, share = _blur(edges, EDGES_S * fps) if smooth else edges, _blur(share, JAW_S * fps)
    x1, y1, x2, upper = edges.T
    boxes = dict(zip(run, np.stack([x1, y1, x2, y1 + 1.04 * share[:, 0] * upper], axis=1), strict=True))
    for i in np.flatnonzero(rolls):
        box = boxes[run[i]]
        middle = (box[:2] + box[2:]) / 2
        shift = _about(middle, middles[i], rolls[i]) - middle  # it was turned about another point than its own middle
        boxes[run[i]] = np.append(box + np.tile(shift, 2), rolls[i])
    return boxes


def _poses(run, meshes, sigma):
    """The middles, px, of the faces of consecutive frames, and by how many degrees they lie: (L, 2), (L,)."""
    middles = np.stack([meshes[i].mean(0) for i in run]).astype(np.float64)
    rolls = np.unwrap([roll_of(meshes[i]) for i in run], period=360)
    steady = _blur(np.column_stack([middles, rolls]), sigma) if sigma else np.column_stack([middles, rolls])
    return steady[:, :2], lying(steady[:, 2])


def _about(points, middle, degrees):
    """Points (..., 2) turned clockwise in the picture about a point."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (points - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle


def bounds(box, rim=0.0):
    """The upright (x1, y1, x2, y2) that holds a box and so many px around it."""
    x1, y1, x2, y2, *roll = np.add(box[:4], (-rim, -rim, rim, rim)).tolist() + list(box[4:])
    if not roll:
        return x1, y1, x2, y2
    corners = _about(np.array([(x1, y1), (x2, y1), (x1, y2), (x2, y2)]), ((x1 + x2) / 2, (y1 + y2) / 2), *roll)
    return *corners.min(0), *corners.max(0)


def shifted(box, x, y):
    """A box moved by (x, y) px."""
    return *np.add(box[:4], (x, y, x, y)), *box[4:]


def padded(box, top, bottom, left, right):
    """A box with px added on each side, in its own axes."""
    x1, y1, x2, y2, *roll = box
    grown = x1 - left, y1 - top, x2 + right, y2 + bottom
    if not roll:
        return grown
    across, down = _about(np.array([(right - left) / 2, (bottom - top) / 2]), 0, *roll)
    return *shifted(grown, across - (right - left) / 2, down - (bottom - top) / 2), *roll


def _blur(values, sigma):
    """Gaussian mean over time of (L, D) values; the ends are mirrored. (Importing scipy for it would take a second.)"""
    reach = int(2.5 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="symmetric")
    return np.stack([np.convolve(column, weights / weights.sum(), "valid") for column in padded.T], axis=1)


def crop_matrix(box, px, margin=1.0):
    """The 2x3 matrix from picture to crop coordinates, as cv2.resize would sample the box.

    px: side of the crop. margin: how much larger than the box the crop's view is.
    """
    x1, y1, x2, y2, *roll = box
    sx, sy = px / margin / (x2 - x1), px / margin / (y2 - y1)
    cx, cy = (x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5  # pixel centres are whole numbers
    matrix = np.array([[sx, 0, px / 2 - 0.5 - sx * cx], [0, sy, px / 2 - 0.5 - sy * cy]])
    if roll:
        back = _about(np.array([(1, 0), (0, 1), (0, 0)]), (cx, cy), -roll[0]).T  # of both axes, and of the corner
        upright = np.column_stack([back[:, :2] - back[:, 2:], back[:, 2]])
        matrix = np.column_stack([matrix[:, :2] @ upright[:, :2], matrix[:, :2] @ upright[:, 2] + matrix[:, 2]])
    return matrix


def crop(rgb, box, px, margin=1.0):
    """A face cut out: (H, W, 3) uint8 -> (px, px, 3) uint8, see `crop_matrix`; outside the picture its edge repeats."""
    return view(rgb, crop_matrix(box, px, margin), px)


def view(picture, matrix, px):
    """A square view of a picture: (H, W, ...) uint8 -> (px, px, ...) uint8. Outside the picture its edge repeats.

    matrix: (2, 3) from picture to view coordinates; pixel centres are whole numbers.
    """
    shrink = int(1 / np.linalg.norm(matrix[:, :2], ord=2))  # the axis that shrinks least decides
    if shrink >= 2:  # a large face: average before sampling, or the view flickers with aliasing
        corners = np.array([[-2, px + 2, -2, px + 2], [-2, -2, px + 2, px + 2], [1, 1, 1, 1]])
        places = cv2.invertAffineTransform(matrix) @ corners
        (x0, y0), (x1, y1) = places.min(1).astype(int), places.max(1).astype(int)
        x0, y0 = min(max(x0, 0), picture.shape[1] - 1), min(max(y0, 0), picture.shape[0] - 1)
        part = picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        picture = cv2.blur(part, (shrink, shrink), borderType=cv2.BORDER_REPLICATE)
        matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2] @ [x0, y0]])
    return cv2.warpAffine(picture, matrix, (px, px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def to_crop(mesh, box):
    """Mesh points relative to a box: (468, 2) px -> (468, 2) with the box as [0, 1] x [0, 1]."""
    box, roll = np.asarray(box[:4]), box[4:]
    if len(roll):
        mesh = _about(mesh, (box[:2] + box[2:]) / 2, -roll[0])
    return ((mesh - box[:2]) / (box[2:] - box[:2])).astype(np.float32)
