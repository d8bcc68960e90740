"""Follows faces through a video, shot by shot, by their meshes."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from faces.detect import MESH_SCORE, ROI_SCALE, roi_matrix
from faces.landmarks import LEFT_EYE, RIGHT_EYE

CUT = 0.12  # mean change of a thumbnail, of full scale, that is a scene cut
DETECT_EVERY = 12  # frames between two searches for new faces


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
    """Follows faces frame by frame: a mesh is looked for where the last one was, new faces by the detector."""

    def __init__(self, detector):
        self.detector, self.thumbnail = detector, None
        self.shots, self.frames = [[]], 0  # tracks of each shot; frames taken so far

    def add(self, rgb):
        """Takes the next frame of the video. rgb: (H, W, 3) uint8."""
        if self.is_cut(rgb):
            self.shots.append([])
        tracks, lost = self.shots[-1], False
        for track in tracks:
            if track.last is not None:
                mesh, score = self.detector.mesh(rgb, roi_of_mesh(track.last))
                track.last = mesh if score > MESH_SCORE and overlap(mesh, track.last) > 0.2 else None
                lost |= track.last is None
        alive = [track for track in tracks if track.last is not None]
        if lost or not alive or self.frames % DETECT_EVERY == 0:
            for _, roi in self.detector.rois(rgb):
                mesh, score = self.detector.mesh(rgb, roi)
                if score > MESH_SCORE and all(overlap(mesh, track.last) < 0.3 for track in alive):
                    alive.append(self._returning(mesh))
        for track in alive:
            track.meshes[self.frames] = track.last
            track.sharpness[self.frames] = sharpness_of(rgb, track.last)
        self.frames += 1

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
        self.shots[-1].append(Track(last=mesh))
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
