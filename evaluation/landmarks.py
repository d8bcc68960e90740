"""Measures of a generated mouth by the 468-point mesh: its place (LMD), motion, articulation, frames without a face."""

import cv2
import numpy as np

from faces import landmarks, mouth, track
from faces.detect import MESH_SCORE, BlazeFace

LEAST_MOTION = 1e-6  # eye distances: a mouth that moves less stands still
CLOSED = 5  # percentile of a clip's openings that is its closed mouth
OPENINGS = "opening_r", "opening_slope", "opening_deviation", "opening_mean", "opening_closed"


class Mesher:
    """Finds the mesh in the crops of a clip, where the real clip's mesh says that the face is; no detector runs.

    Raises InputError if the package that holds the network is not installed.
    """

    def __init__(self):
        cv2.setNumThreads(1)  # the network is too small for more
        self.network = BlazeFace()

    def __call__(self, pictures, meshes, boxes, margin):
        """Meshes of the faces in crops, px of the frame, and whether the network believes in them.

        pictures: (T, P, P, 3) uint8, RGB: face boxes and `margin` box sizes around them.
        meshes: (T, 468, 2), where the real face is, face box as [0, 1] x [0, 1].  boxes: (T, 4) px of the frame.
        Returns (T, 468, 2) float32 and (T,) bool.
        """
        px = pictures.shape[1]
        inside = (mouth.smoothed(meshes) + margin) / (1 + 2 * margin) * px - 0.5  # px of the crop; a steady place
        found = [self.network.mesh(rgb, track.roi_of_mesh(mesh)) for rgb, mesh in zip(pictures, inside, strict=True)]
        points, belief = np.stack([mesh for mesh, _ in found]), np.array([score for _, score in found])
        sizes = boxes[:, None, 2:] - boxes[:, None, :2]
        in_box = (points + 0.5) / px * (1 + 2 * margin) - margin
        return (in_box * sizes + boxes[:, None, :2]).astype(np.float32), belief > MESH_SCORE


def eye_distance(meshes):
    """Distance of the outer eye corners, (T, 468, 2) -> (T,), in the mesh's units."""
    return np.linalg.norm(meshes[:, landmarks.LEFT_EYE] - meshes[:, landmarks.RIGHT_EYE], axis=-1).clip(min=1e-6)


def lmd(fake, real):
    """Mouth landmark distance of each frame (Chen et al., ECCV 2018): the mean over 40 lip points, % of eye distance.

    fake, real: (T, 468, 2), any units. Returns (T,).
    Each mouth is taken around its own middle and in units of its own face's eye distance, so that the number does not
    change where a face or the whole frame is moved or scaled.
    Differs: the paper takes dlib's 68 points, and px of a face crop.
    """
    shapes = []
    for meshes in (fake, real):
        lips = meshes[:, landmarks.LIP_POINTS] / eye_distance(meshes)[:, None, None]
        shapes.append(lips - lips.mean(1, keepdims=True))
    return 100 * np.linalg.norm(shapes[0] - shapes[1], axis=-1).mean(1)


def openings(meshes):
    """The distance between the lips, (T, 468, 2) -> (T,), in eye distances."""
    upper, lower = (meshes[:, point] for point in landmarks.MIDDLE_LIPS)
    return np.linalg.norm(upper - lower, axis=-1) / eye_distance(meshes)


def lip_motion(openings):
    """The lip motion of a clip: the mean change of its opening from frame to frame. openings: (T,). Returns a float.

    The jitter of the mesh from frame to frame counts as motion too: `articulation` is what tells amplitude.
    """
    return float(np.abs(np.diff(openings)).mean()) if len(openings) > 1 else 0.0


def follows(openings, real):
    """The correlation of a mouth's opening and closing with the real one's: of their changes from frame to frame.

    openings, real: (T,). Returns 0 where one of them stands still.
    """
    return correlation(np.diff(openings), np.diff(real))


def correlation(values, real):
    """Pearson's correlation of two series, (T,) each; 0 where one of them stands still or is too short."""
    if len(values) < 2 or min(np.std(values), np.std(real)) < LEAST_MOTION:
        return 0.0
    return float(np.corrcoef(values, real)[0, 1])


def articulation(openings, real):
    """Opening of a mouth against the real one's: {measure: (sum, weight)}, see `bootstrap.estimate`.

    openings, real: (T,) of a clip, in eye distances.
    The correlation counts once a clip. Slope (covariance by the real variance: that of the line that tells the opening
    from the real one) and deviation (ratio of standard deviations) are ratios of sums over clips. The closed mouth is a
    low percentile, as one frame with a slip of the mesh would decide the minimum.
    """
    apart, real_apart = openings - openings.mean(), real - real.mean()
    return {
        "opening_r": (correlation(openings, real), 1),
        "opening_slope": (float((apart * real_apart).mean()), float((real_apart**2).mean())),
        "opening_deviation": (float(openings.std()), float(real.std())),
        "opening_mean": (float(openings.mean()), 1),
        "opening_closed": (float(np.percentile(openings, CLOSED)), 1),
    }


def compare(fake, real):
    """The landmark measures of a clip: {measure: (sum, weight)}, see `bootstrap.estimate`.

    fake, real: a mesh (T, 468, 2) and whether there is a face (T,), as `Mesher` gives them. Frames in which either
    has none are left out of all measures but `no_face`, which counts those of the fake.
    """
    (mesh, seen), (real_mesh, real_seen) = fake, real
    both = seen & real_seen
    counted = {"no_face": (int((~seen).sum()), len(seen))}
    if not both.any():
        return counted | dict.fromkeys(("lmd", "lip_motion", "follows", *OPENINGS), (0.0, 0))
    open_fake, open_real = openings(mesh[both]), openings(real_mesh[both])
    return counted | {
        "lmd": (float(lmd(mesh[both], real_mesh[both]).mean()), 1),
        "lip_motion": (lip_motion(open_fake), lip_motion(open_real)),
        "follows": (follows(open_fake, open_real), 1),
        **articulation(open_fake, open_real),
    }
