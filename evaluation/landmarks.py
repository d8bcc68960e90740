"""Measures of a generated mouth by the 468-point mesh: its place (LMD), articulation, frames without a face."""

import math

import cv2
import numpy as np

from faces import landmarks, mouth, track
from faces.detect import MESH_SCORE, BlazeFace

LEAST_MOTION = 1e-6  # eye distances: a mouth that moves less stands still
TURN = 0.01  # eye distances: who turns back by less trembles; on GRID the mesh repeats itself to 0.001 to 0.004
CLOSED = 5  # percentile of a clip's openings that is its closed mouth
CLOSURE = 0.25  # of the way from there to the widest: a real mouth that turns below is closed
STEADY = 3  # frames over which the real series is averaged before its turns are looked for
APART, SOFTNESS = 5, 0.1  # of soft-DTW: frames that a mouth may be early or late; gamma, % of eye distance
LINES = "r", "slope", "deviation"  # of an opening or a width against the real one
OPENINGS = tuple(f"opening_{name}" for name in (*LINES, "peaks", "closures", "mean", "closed"))
WIDTHS = tuple(f"width_{name}" for name in (*LINES, "reach"))
MEASURES = "lmd", "lmd_dtw", "lip_travel", "follows", *OPENINGS, *WIDTHS  # of frames with a face


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
    return 100 * np.linalg.norm(lip_shapes(fake) - lip_shapes(real), axis=-1).mean(1)


def lip_shapes(meshes):
    """The lip points around their own middle, in eye distances: (T, 468, 2) -> (T, 40, 2)."""
    lips = meshes[:, landmarks.LIP_POINTS] / eye_distance(meshes)[:, None, None]
    return lips - lips.mean(1, keepdims=True)


def lmd_dtw(fake, real):
    """LMD of a clip whose lips may be early or late: a soft-DTW divergence of lip shapes, % of eye distance a frame.

    fake, real: (T, 468, 2). Returns a float: 0 for the real clip itself, and nearly so where it is late by a frame.
    Each sequence's soft-DTW with itself is taken off by halves (Blondel et al., AISTATS 2021), as a soft minimum over
    many paths is below the least of them.
    Differs: frames more than `APART` from each other are never matched; a mouth that is late by more is wrong.
    """
    shapes = lip_shapes(fake), lip_shapes(real)
    costs = {(a, b): soft_dtw(near_costs(shapes[a], shapes[b])) for a, b in ((0, 1), (0, 0), (1, 1))}
    return (costs[0, 1] - (costs[0, 0] + costs[1, 1]) / 2) / len(fake)


def near_costs(shapes, others):
    """The distance of each frame's lips to those of the frames around it: (T, 2 * APART + 1), % of eye distance.

    shapes, others: (T, 40, 2). Column k is of the frame k - APART later; inf beyond the clip.
    """
    count = len(shapes)
    costs = np.full((count, 2 * APART + 1), np.inf)
    for k, off in enumerate(range(-APART, APART + 1)):
        first, last = max(-off, 0), min(count - off, count)
        if first < last:
            apart = shapes[first:last] - others[first + off : last + off]
            costs[first:last, k] = 100 * np.linalg.norm(apart, axis=-1).mean(1)
    return costs


def soft_dtw(costs, softness=SOFTNESS):
    """The soft least sum of costs along a path from the first frames of two clips to their last (Cuturi and Blondel,
    ICML 2017, eq. 1 and 2).

    costs: see `near_costs`.  softness: gamma. Returns a float.
    """
    before = [math.inf] * (costs.shape[1] + 1)
    for t, row in enumerate(costs.tolist()):
        here = [math.inf] * (len(row) + 1)
        for k, cost in enumerate(row):
            if cost == math.inf:
                continue
            ways = before[k], before[k + 1], here[k - 1] if k else math.inf  # both go on; the one; the other
            least = min(ways)
            if least == math.inf:
                here[k] = cost if not t else math.inf
                continue
            here[k] = cost + least - softness * math.log(sum(math.exp((least - way) / softness) for way in ways))
        before = here
    return before[costs.shape[1] // 2]


def openings(meshes):
    """The distance between the lips, (T, 468, 2) -> (T,), in eye distances."""
    upper, lower = (meshes[:, point] for point in landmarks.MIDDLE_LIPS)
    return np.linalg.norm(upper - lower, axis=-1) / eye_distance(meshes)


def widths(meshes):
    """The distance between the corners of the mouth, (T, 468, 2) -> (T,), in eye distances."""
    right, left = (meshes[:, point] for point in landmarks.MOUTH_CORNERS)
    return np.linalg.norm(right - left, axis=-1) / eye_distance(meshes)


def turns(values, least=TURN):
    """The frames in which a series has turned by `least` or more, its ends among them, low and high in turns.

    values: (T,). Returns a list of int; one frame alone where nothing moves so far.
    """
    found, best, rising = [0], 0, None
    for t, value in enumerate(values):
        if rising is None:  # until it is known in which direction it begins
            low, high = np.argmin(values[: t + 1]), np.argmax(values[: t + 1])
            if values[high] - values[low] >= least:
                rising, best = bool(high == t), t
                found = [int(low if rising else high)]
        elif (value > values[best]) == rising and value != values[best]:
            best = t
        elif abs(values[best] - value) >= least:
            found.append(best)
            rising, best = not rising, t
    return found if rising is None else [*found, best]


def lip_travel(openings):
    """The way that lips go, opening and closing, by frame: the sum between the turns of a clip. (T,) -> float.

    The mesh trembles by less than a turn, so that its jitter is no motion.
    """
    return float(np.abs(np.diff(openings[turns(openings)])).sum() / max(len(openings) - 1, 1))


def extremes(real):
    """The frames at which a real series turns down, and up: two lists. real: (T,); its ends are no turns."""
    around = np.pad(real, STEADY // 2, mode="edge")
    steady = np.convolve(around, np.ones(STEADY) / STEADY, "valid")
    found, peaks, lows = turns(steady), [], []
    for before, t in zip(found[:-2], found[1:-1], strict=True):
        (peaks if steady[t] > steady[before] else lows).append(t)
    return peaks, lows


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
    The closed mouth is a low percentile, as one frame with a slip of the mesh would decide the minimum. Peaks and
    closures are those of the real mouth: at its peaks the opening is a share of the real one, at its closures, where
    that is nearly nothing, an opening.
    """
    peaks, lows = extremes(real)
    closed, wide = np.percentile(real, [CLOSED, 100 - CLOSED])
    closures = [t for t in lows if real[t] <= closed + CLOSURE * (wide - closed)]
    return {
        **line("opening", openings, real),
        "opening_peaks": (float(openings[peaks].sum()), float(real[peaks].sum())),
        "opening_closures": (float(openings[closures].sum()), len(closures)),
        "opening_mean": (float(openings.mean()), 1),
        "opening_closed": (float(np.percentile(openings, CLOSED)), 1),
    }


def line(what, values, real):
    """A series against the real one: {measure: (sum, weight)}, see `bootstrap.estimate`. values, real: (T,) of a clip.

    The correlation counts once a clip. Slope (covariance by the real variance: that of the line that tells the one from
    the other) and deviation (ratio of standard deviations) are ratios of sums over clips.
    """
    apart, real_apart = values - values.mean(), real - real.mean()
    return {
        f"{what}_r": (correlation(values, real), 1),
        f"{what}_slope": (float((apart * real_apart).mean()), float((real_apart**2).mean())),
        f"{what}_deviation": (float(values.std()), float(real.std())),
    }


def spreading(widths, real):
    """Width of a mouth against the real one's, as `articulation`: how far it goes from narrow to wide where that does.

    widths, real: (T,) of a clip, in eye distances.
    """
    wide, narrow = extremes(real)
    both = [float(each[wide].mean() - each[narrow].mean()) for each in (widths, real)] if wide and narrow else (0.0, 0)
    return {**line("width", widths, real), "width_reach": tuple(both)}


def compare(fake, real):
    """The landmark measures of a clip: {measure: (sum, weight)}, see `bootstrap.estimate`.

    fake, real: a mesh (T, 468, 2) and whether there is a face (T,), as `Mesher` gives them. Frames in which either
    has none are left out of all measures but `no_face`, which counts those of the fake.
    """
    (mesh, seen), (real_mesh, real_seen) = fake, real
    both = seen & real_seen
    counted = {"no_face": (int((~seen).sum()), len(seen))}
    if not both.any():
        return counted | dict.fromkeys(MEASURES, (0.0, 0))
    open_fake, open_real = openings(mesh[both]), openings(real_mesh[both])
    return counted | {
        "lmd": (float(lmd(mesh[both], real_mesh[both]).mean()), 1),
        "lmd_dtw": (lmd_dtw(mesh[both], real_mesh[both]), 1),
        "lip_travel": (lip_travel(open_fake), lip_travel(open_real)),
        "follows": (follows(open_fake, open_real), 1),
        **articulation(open_fake, open_real),
        **spreading(widths(mesh[both]), widths(real_mesh[both])),
    }
