"""Follows faces through a video, shot by shot, by their meshes."""

from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

from faces.detect import MESH_SCORE, ROI_SCALE, roi_matrix
from faces.landmarks import LEFT_EYE, RIGHT_EYE
from faces.meshes import Meshes, mesh_file

CUT = 0.12  # mean change of a thumbnail, of full scale, that is a scene cut
DETECT_EVERY = 12  # frames between two searches for new faces, and for heads on their side where there is no face
EARLIER = 2 * DETECT_EVERY  # frames, at most, through which a face is followed back to where it came in
EARLIER_BYTES = 128 << 20  # at most, of pictures that are kept for it


def roi_of_mesh(mesh):
    """The roi, see `BlazeFace.rois`, in which to look for a mesh that lies about where this one, (468, 2) px, does."""
    (x1, y1), (x2, y2) = mesh.min(0), mesh.max(0)
    eyes = mesh[LEFT_EYE] - mesh[RIGHT_EYE]
    return (x1 + x2) / 2, (y1 + y2) / 2, ROI_SCALE * max(x2 - x1, y2 - y1), np.arctan2(eyes[1], eyes[0])


def sharpness_of(rgb, mesh):
    """Variance of the Laplacian of a face, (468, 2) px, at 64 px: falls with blur, whatever the face's size."""
    patch = cv2.warpAffine(rgb, roi_matrix(roi_of_mesh(mesh), 64), (64, 64), borderMode=cv2.BORDER_REPLICATE)
    return float(cv2.Laplacian(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())


def overlap(a, b):
    """Intersection over union of the bounding boxes of two meshes."""
    low, high = np.maximum(a.min(0), b.min(0)), np.minimum(a.max(0), b.max(0))
    inner = np.prod(np.maximum(high - low, 0))
    return inner / (np.prod(np.ptp(a, axis=0)) + np.prod(np.ptp(b, axis=0)) - inner + 1e-6)


def meshes_of(rgb, rois, detector, others=()):
    """The meshes, (468, 2) px each, of the faces at some `rois` of a picture but those of `others`, other meshes."""
    meshes = []
    for _, roi in rois:
        mesh, score = detector.mesh(rgb, roi)
        if score > MESH_SCORE and all(overlap(mesh, other) < 0.3 for other in [*others, *meshes]):
            meshes.append(mesh)
    return meshes


@dataclass
class Track:
    """One face followed through one shot: its mesh in each frame where it was found."""

    meshes: dict = field(default_factory=dict)  # frame number -> (468, 2) px
    sharpness: dict = field(default_factory=dict)  # frame number -> variance of the face's Laplacian
    last: np.ndarray | None = None  # the mesh of the newest frame, None once lost

    @property
    def size(self):
        """Area of the face summed over its frames, px²: large and long-lasting faces count most."""
        return sum(float(np.prod(np.ptp(mesh, axis=0))) for mesh in self.meshes.values())


class Tracker:
    """Follows faces frame by frame: a mesh is looked for where the last one was, new faces by the detector.

    A face that comes in is seen before it is detected: it is followed backwards too.
    """

    def __init__(self, detector):
        self.detector, self.thumbnail = detector, None
        self.earlier = deque()  # the last frames of this shot before this one, (H, W, 3) uint8
        self.file = mesh_file() if detector else None  # of all its tracks
        self.shots, self.frames = [[]], 0  # tracks of each shot; frames taken so far

    def add(self, rgb):
        """Takes the next frame of the video. rgb: (H, W, 3) uint8."""
        if self.is_cut(rgb):
            self.shots.append([])
            self.earlier.clear()
        tracks, lost = self.shots[-1], False
        for track in tracks:
            if track.last is not None:
                track.last = self._next(rgb, track.last)
                lost |= track.last is None
        alive = [track for track in tracks if track.last is not None]
        if lost or not alive or self.frames % DETECT_EVERY == 0:
            for mesh in self._new(rgb, alive):
                alive.append(self._returning(mesh))
                self._follow_back(alive[-1])
        for track in alive:
            track.meshes[self.frames] = track.last
            track.sharpness[self.frames] = sharpness_of(rgb, track.last)
        self.frames += 1
        self.earlier.append(rgb)
        while len(self.earlier) > min(EARLIER, EARLIER_BYTES // rgb.nbytes):
            self.earlier.popleft()

    def _next(self, rgb, last):
        """The mesh of a face in a frame right after, or before, one with the mesh `last`; None where it is lost."""
        mesh, score = self.detector.mesh(rgb, roi_of_mesh(last))
        return mesh if score > MESH_SCORE and overlap(mesh, last) > 0.2 else None

    def _new(self, rgb, alive):
        """The meshes of faces in a frame that are not among the tracks `alive`; of heads on their side too."""
        others = [track.last for track in alive]
        found = meshes_of(rgb, self.detector.rois(rgb), self.detector, others)
        if found or not alive and self.frames % DETECT_EVERY == 0:
            found = meshes_of(rgb, self.detector.rois_lying(rgb), self.detector, others)
        return found

    def _follow_back(self, track):
        """Follows a face that is found now back through the frames before, to where it came in or was lost."""
        last, stop = track.last, max(track.meshes, default=-1)
        for index, rgb in zip(range(self.frames - 1, stop, -1), reversed(self.earlier), strict=False):
            last = self._next(rgb, last)
            others = [other.meshes[index] for other in self.shots[-1] if index in other.meshes]
            if last is None or any(overlap(last, other) >= 0.3 for other in others):
                break
            track.meshes[index], track.sharpness[index] = last, sharpness_of(rgb, last)
        track.meshes = track.meshes.of(sorted(track.meshes))
        track.sharpness = dict(sorted(track.sharpness.items()))

    def is_cut(self, rgb):
        """Whether the next frame of the video begins another shot. rgb: (H, W, 3) uint8."""
        step = max(min(rgb.shape[:2]) // 180, 1)  # the mean of every pixel of a large frame would say the same
        thumbnail = cv2.resize(rgb[::step, ::step], (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        previous, self.thumbnail = self.thumbnail, thumbnail
        return previous is not None and np.abs(thumbnail - previous).mean() > CUT

    def _returning(self, mesh):
        """The track of this shot that was lost about here, or a new one."""
        for track in self.shots[-1]:
            if track.last is None and overlap(track.meshes[max(track.meshes)], mesh) > 0.3:
                track.last = mesh
                return track
        self.shots[-1].append(Track(Meshes(self.file), last=mesh))
        return self.shots[-1][-1]


def interpolated(meshes, frames):
    """The mesh of a track in any frames: between two in time, and beyond the ends the first or last one.

    meshes: {frame number: (468, 2) px}.  frames: (L,) frame numbers. Returns (L, 468, 2) float64.
    """
    found = np.array(sorted(meshes))
    known = np.stack([meshes[i] for i in found])
    at = np.interp(frames, found, np.arange(len(found)))
    low, share = np.floor(at).astype(int), (at % 1)[:, None, None]
    return (1 - share) * known[low] + share * known[np.minimum(low + 1, len(found) - 1)]
