"""Follows faces through a video and cuts them out: boxes, the 468-point mesh, crops and measures of a face."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from detectors import MESH_SCORE, ROI_SCALE, roi_matrix

# Points of the mesh, by their place in MediaPipe's canonical face.
FOREHEAD, MID_FOREHEAD, NOSE_TIP, NOSE_BASE, CHIN = 10, 151, 1, 2, 152
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners; right and left of the person
RIGHT_EAR, LEFT_EAR = 234, 454
MOUTH_CORNERS, MIDDLE_LIPS = (61, 291), (13, 14)
# fmt: off
OUTER_LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
INNER_LIPS = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]
# fmt: on

CUT = 0.12  # mean change of a thumbnail, of full scale, that is a scene cut
DETECT_EVERY = 12  # frames between two searches for new faces
EDGES_S, JAW_S = 0.08, 1.0  # s over which a box's edges, and the jaw's share of it, are averaged


def roi_of_mesh(mesh):
    """Where a mesh is looked for that lies about where this one, (468, 2) px, does: a roi, see `BlazeFace.rois`."""
    (x1, y1), (x2, y2) = mesh.min(0), mesh.max(0)
    eyes = mesh[LEFT_EYE] - mesh[RIGHT_EYE]
    return (x1 + x2) / 2, (y1 + y2) / 2, ROI_SCALE * max(x2 - x1, y2 - y1), np.arctan2(eyes[1], eyes[0])


def _sharpness(rgb, mesh):
    """Variance of the Laplacian of a face at 64 px: falls with blur, whatever the face's size."""
    patch = cv2.warpAffine(rgb, roi_matrix(roi_of_mesh(mesh), 64), (64, 64), borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.Laplacian(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def _overlap(a, b):
    """Intersection over union of the bounding boxes of two meshes."""
    low, high = np.maximum(a.min(0), b.min(0)), np.minimum(a.max(0), b.max(0))
    inner = np.prod(np.maximum(high - low, 0))
    return inner / (np.prod(np.ptp(a, axis=0)) + np.prod(np.ptp(b, axis=0)) - inner + 1e-6)


@dataclass
class Track:
    """One face followed through one shot: its mesh in each frame where it was seen."""

    meshes: dict = field(default_factory=dict)  # frame number -> (468, 2) px
    sharpness: dict = field(default_factory=dict)  # frame number -> variance of the face's Laplacian
    last: np.ndarray | None = None  # the mesh of the newest frame, None once lost

    @property
    def size(self):
        """Area of the face summed over its frames, px²: large and long-lasting faces count most."""
        return sum(float(np.prod(np.ptp(mesh, axis=0))) for mesh in self.meshes.values())


class Tracker:
    """Follows faces frame by frame: a mesh is looked for where the last one was, new faces by the detector."""

    def __init__(self, detector):
        self.detector, self.shots, self.frames, self.thumbnail = detector, [[]], 0, None

    def add(self, rgb):
        """Takes the next frame of the video. rgb: (H, W, 3) uint8."""
        if self._is_cut(rgb):
            self.shots.append([])
        tracks, lost = self.shots[-1], False
        for track in tracks:
            if track.last is not None:
                mesh, score = self.detector.mesh(rgb, roi_of_mesh(track.last))
                track.last = mesh if score > MESH_SCORE and _overlap(mesh, track.last) > 0.2 else None
                lost |= track.last is None
        alive = [track for track in tracks if track.last is not None]
        if lost or not alive or self.frames % DETECT_EVERY == 0:
            for _, roi in self.detector.rois(rgb):
                mesh, score = self.detector.mesh(rgb, roi)
                if score > MESH_SCORE and all(_overlap(mesh, track.last) < 0.3 for track in alive):
                    alive.append(self._returning(mesh))
        for track in alive:
            track.meshes[self.frames] = track.last
            track.sharpness[self.frames] = _sharpness(rgb, track.last)
        self.frames += 1

    def _is_cut(self, rgb):
        thumbnail = cv2.resize(rgb, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        before, self.thumbnail = self.thumbnail, thumbnail
        return before is not None and np.abs(thumbnail - before).mean() > CUT

    def _returning(self, mesh):
        """The track of this shot that was lost about here, or a new one."""
        for track in self.shots[-1]:
            if track.last is None and _overlap(track.meshes[max(track.meshes)], mesh) > 0.3:
                track.last = mesh
                return track
        self.shots[-1].append(Track(last=mesh))
        return self.shots[-1][-1]

    def largest(self):
        """The largest face of each shot: a list of tracks, shots without a face left out."""
        return [max(tracks, key=lambda track: track.size) for tracks in self.shots if tracks]


def interpolated(meshes, frames):
    """The mesh of a track in any frames: between two in time, and beyond the ends the first or last one.

    meshes: {frame number: (468, 2) px}.  frames: (L,) frame numbers. Returns (L, 468, 2) float64.
    """
    seen = np.array(sorted(meshes))
    known = np.stack([meshes[i] for i in seen])
    at = np.interp(frames, seen, np.arange(len(seen)))
    low, share = np.floor(at).astype(int), (at % 1)[:, None, None]
    return (1 - share) * known[low] + share * known[np.minimum(low + 1, len(seen) - 1)]


def face_boxes(meshes, smooth=True, fps=25):
    """The boxes that the generators were trained on: mid-forehead to chin, ear to ear.

    meshes: {frame number: (468, 2) px} of one track, `fps` a second.
    Returns {frame number: (x1, y1, x2, y2) float px}. Runs of frames without a gap are smoothed over time.
    Differs: the lower edge does not follow the jaw. It lies where the chin is on average over the seconds around,
    seen from forehead and nose: a box that opens with the mouth would tell the generator what the sound should.
    """
    boxes, run = {}, []
    for frame in sorted(meshes):
        if run and frame != run[-1] + 1:
            boxes |= _run_boxes(run, meshes, smooth, float(fps))
            run = []
        run.append(frame)
    return boxes | _run_boxes(run, meshes, smooth, float(fps)) if run else {}


def _run_boxes(run, meshes, smooth, fps):
    """Boxes of consecutive frames. The jaw's share is always averaged, or the mouth would show in the box."""
    rows = []
    for mesh in map(meshes.get, run):  # one by one: the meshes of a long video are too many to copy
        brow, nose, chin = mesh[[MID_FOREHEAD, NOSE_BASE, CHIN], 1]
        rows.append((mesh[:, 0].min(), brow, mesh[:, 0].max(), nose - brow, (chin - brow) / max(nose - brow, 1)))
    edges, share = np.split(np.array(rows, np.float64), [4], axis=1)
    edges, share = _blur(edges, EDGES_S * fps) if smooth else edges, _blur(share, JAW_S * fps)
    x1, y1, x2, upper = edges.T
    return dict(zip(run, np.stack([x1, y1, x2, y1 + 1.04 * share[:, 0] * upper], axis=1), strict=True))


def _blur(values, sigma):
    """Gaussian mean over time of (L, D) values; the ends are mirrored."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, sigma, axis=0, mode="reflect", truncate=2.5)


def crop_matrix(box, px, margin=1.0):
    """The 2x3 matrix from picture to crop coordinates, as cv2.resize would sample the box.

    box: (x1, y1, x2, y2) px. px: side of the crop. margin: how much larger than the box the crop's view is.
    """
    x1, y1, x2, y2 = box
    sx, sy = px / margin / (x2 - x1), px / margin / (y2 - y1)
    cx, cy = (x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5  # pixel centres are whole numbers
    return np.array([[sx, 0, px / 2 - 0.5 - sx * cx], [0, sy, px / 2 - 0.5 - sy * cy]])


def crop(rgb, box, px, margin=1.0):
    """Cuts a face out. rgb: (H, W, 3) uint8; returns (px, px, 3) uint8. What lies outside the picture is its edge."""
    return view(rgb, crop_matrix(box, px, margin), px)


def view(picture, matrix, px):
    """A square view of a picture: (H, W, ...) uint8 -> (px, px, ...) uint8. What lies outside the picture is its edge.

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
    box = np.asarray(box)
    return ((mesh - box[:2]) / (box[2:] - box[:2])).astype(np.float32)


def mouth_region(mesh, grow=1.6):
    """The box around the lips, `grow` times as large: (..., 468, 2) -> (..., 4) x1, y1, x2, y2, same units."""
    lips = mesh[..., OUTER_LIPS, :]
    low, high = lips.min(-2), lips.max(-2)
    half = grow * (high - low) / 2
    half[..., 1] = np.maximum(half[..., 1], 0.6 * half[..., 0])  # a closed mouth keeps room for an open one
    middle = (low + high) / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def mouth_opening(mesh):
    """Gap between the inner lips over the mouth's width, (..., 468, 2) -> (...,): about 0 when closed."""
    gap = np.linalg.norm(mesh[..., MIDDLE_LIPS[0], :] - mesh[..., MIDDLE_LIPS[1], :], axis=-1)
    wide = np.linalg.norm(mesh[..., MOUTH_CORNERS[0], :] - mesh[..., MOUTH_CORNERS[1], :], axis=-1)
    return gap / np.maximum(wide, 1e-6)


def turn_away(mesh):
    """How far the head is turned to a side, (..., 468, 2) -> (...,): 0 frontal, 0.5 profile."""
    left, right, nose = (mesh[..., i, 0] for i in (RIGHT_EAR, LEFT_EAR, NOSE_TIP))
    return np.abs((nose - left) / np.where(np.abs(right - left) < 1e-6, 1e-6, right - left) - 0.5)
