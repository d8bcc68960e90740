"""The shape of the lips in the head's own axes, and the points by which a face is warped."""

import numpy as np

from faces.landmarks import JAW, LIP_POINTS, OUTER_LIPS, mouth_opening, turn_to_side
from faces.mouth import EYES_PX, MEAN_FACE, STABLE, similarity

NOSE = [98, 2, 327]  # its base, from wing to wing
PINS = [*JAW, *NOSE, 33, 133, 362, 263, 50, 280]  # hold the face around the lips: jaw, nose, eyes, cheeks
POINTS = [*LIP_POINTS, *PINS]  # of a mesh, in this order, are what a warp takes
LEFT, TOP, RIGHT, BOTTOM = 8 / 128, 48 / 128, 120 / 128, 1.0  # the part of a crop that the network sees and redraws
SIDE = 128  # px of a crop, face box 96, at the scale of the network
SHAPE_SCALE = 10.0  # lips move by about a tenth of the distance between the eyes
RESTING = 20  # percentile of a clip's openings up to which its lips count as closed
CLOSED = 0.03  # opening over width: lips that are further apart are not at rest
LEAST = 5  # percentile of the openings of who talks and whose lips never seem closed
TURN_STEP = 0.08  # of the head to the side, see `turn_to_side`, within which frames are references of each other
KEEP = 0.8  # of such steps, from the middle of its group, by which a head may turn and stay in it
LEAST_OF_GROUP = 12  # frames that are turned alike: fewer take references from those turned almost so
ALIKE = 0.04  # share of the frames, in the order of their openings, whose mouths are alike
REFERENCES_APART = 5  # frames at least between a window and its references
ONE_PICTURE = 0.3  # share of draws whose references are all one picture
LOWER = 0.7  # of the gap that the lower lip closes, the upper lip the rest
TYPICAL, STILL = 0.02, 0.006  # standard deviation of the gap between the lips, in eye distances: of a speaker, of none
AMPLITUDES = 0.5, 2.5  # least and most
UNKNOWN = 1.5  # amplitude of who does not move: that of people who talk freely, whose lips move more than GRID's


def head_axes(meshes, sizes):
    """The axes of the head in each frame: from the mean face, in distances of the outer eye corners, to the face box.

    meshes: (L, 468, 2), face box as [0, 1] x [0, 1].  sizes: (L, 2), width and height of the box in px.
    Returns turns (L, 2, 2) and middles (L, 2): place in the box = turn @ place in the head + middle.
    """
    stable = np.asarray(meshes, np.float64)[:, STABLE] * sizes[:, None]
    turns, middles = similarity(MEAN_FACE / EYES_PX, stable)  # to px
    return turns / sizes[..., None], middles / sizes


def lip_shapes(meshes, turns, middles):
    """The lips in the head's axes, (L, 40, 2) in eye distances: free of its place, turn and size."""
    lips = np.asarray(meshes, np.float64)[:, LIP_POINTS] - middles[:, None]
    return lips @ np.linalg.inv(turns).transpose(0, 2, 1)


def lips_at_rest(shapes):
    """The closed lips of a clip: the mean of its least open shapes.

    Where even these are parted, it is the few least open of who moves: who talks closes the lips now and then, and
    their mesh may not show it. Those of who does not, as of a picture that smiles, are brought together.
    shapes: (L, 40, 2), see `lip_shapes`. Returns (40, 2).
    """
    opening = gaps(shapes).mean(-1) / np.ptp(shapes[..., 0], axis=-1).clip(1e-6)
    rest, least = (shapes[opening <= np.percentile(opening, share)].mean(0) for share in (RESTING, LEAST))
    if np.median(gaps(rest[None])) <= CLOSED * np.ptp(rest[:, 0]):
        return rest
    return closed(rest) if deviation(shapes) < STILL else least


def amplitude(shapes):
    """How far a person's lips move, over a typical speaker's: in `AMPLITUDES`; `UNKNOWN` where they do not move.

    shapes: (L, 40, 2), see `lip_shapes`. GRID's people differ by a factor of five in it.
    """
    moves = deviation(shapes)
    return UNKNOWN if moves < STILL else float(np.clip(moves / TYPICAL, *AMPLITUDES))


def deviation(shapes):
    """The standard deviation of the gap between the lips over a clip, in eye distances. shapes: see `lip_shapes`."""
    return gaps(shapes).mean(-1).std()


# In both outlines, the lower lip's point i lies below the upper lip's point 20 - i.
_LOWER, _UPPER = np.arange(1, 10), 20 - np.arange(1, 10)
_OUTER, _INNER = 0, len(OUTER_LIPS)  # where each outline begins


def gaps(shapes):
    """The gaps between the inner lips at nine places from corner to corner: (L, 40, 2) -> (L, 9), in eye distances."""
    return shapes[:, _INNER + _LOWER, 1] - shapes[:, _INNER + _UPPER, 1]


def closed(shape):
    """Lips brought together: (40, 2) -> (40, 2). The outer outline goes along with the inner one."""
    shape, gap = shape.copy(), gaps(shape[None])[0]
    for outline in (_OUTER, _INNER):
        shape[outline + _LOWER, 1] -= LOWER * gap
        shape[outline + _UPPER, 1] += (1 - LOWER) * gap
    return shape


class HeadShape:
    """What a generator that warps has to know of the heads in a clip, in its crops as [0, 1] x [0, 1].

    meshes: (L, 468, 2), face box as [0, 1] x [0, 1].  boxes: (L, 4): x1, y1, x2, y2 px.
    margin: box sizes of surroundings on each side of the box in a crop.
    person: (rest, amplitude), see `lips_at_rest` and `amplitude`; by default those of the clip.

    points: (L, P, 2): its `POINTS`.  resting: (L, 40, 2): the first of them, the lips, at rest.
    turns: (L, 2, 2), from distances in the head's axes, times the person's amplitude, to those in the crop.
    lips: (L, 40, 2), see `lip_shapes`.
    shapes: (L, 80): they relative to rest, over the amplitude, times `SHAPE_SCALE`: about -3 to 3.
    opening: (L,), see `mouth_opening`.
    """

    def __init__(self, meshes, boxes, margin, person=None):
        turns, middles = head_axes(meshes, boxes[:, 2:] - boxes[:, :2])
        self.lips, scale = lip_shapes(meshes, turns, middles), 1 / (1 + 2 * margin)
        self.person = (lips_at_rest(self.lips), amplitude(self.lips)) if person is None else person
        (rest, moves), self.opening = self.person, mouth_opening(meshes)
        self.shapes = (SHAPE_SCALE / moves * (self.lips - rest)).reshape(len(meshes), -1).astype(np.float32)
        self.points = scale * (np.asarray(meshes, np.float64)[:, POINTS] + margin)
        self.resting = scale * (rest @ turns.transpose(0, 2, 1) + middles[:, None] + margin)
        self.turns = scale * moves * turns

    def shapes_at(self, places):
        """The `shapes` at fractional places, in frames: (N,) -> (N, 80) float32; beyond the ends the first or last.

        At a place that is NaN the lips are at rest.
        """
        resting = np.isnan(places)
        places = np.where(resting, 0, places).clip(0, len(self.shapes) - 1)
        low, share = np.floor(places).astype(int), np.float32(places % 1)[:, None]
        found = (1 - share) * self.shapes[low] + share * self.shapes[np.ceil(places).astype(int)]
        return np.where(resting[:, None], np.float32(0), found)


def references_of(meshes, sharpness, count, usable=()):
    """The references of each frame of a shot, out of frames in which the head is turned alike: {frame: (count,) tuple}.

    meshes: {frame: (468, 2) px}, in ascending order.  sharpness: {frame: number}.
    usable: the frames that are taken where there are such.
    They show the mouth from closed to open; of frames that show it alike, the sharpest is taken.
    """
    frames = np.array(list(meshes))
    opening = np.array([mouth_opening(mesh) for mesh in meshes.values()])
    sharp = np.array([sharpness.get(frame, 0.0) for frame in meshes])
    groups, found = turned_alike([turn_to_side(mesh) for mesh in meshes.values()]), {}
    for group in np.unique(groups):
        among = np.flatnonzero(groups == group)
        inside = among[np.isin(frames[among], list(usable))]
        chosen = from_closed_to_open(opening, inside if len(inside) else among, count, sharp)
        found |= dict.fromkeys(frames[among].tolist(), tuple(frames[chosen].tolist()))
    return found


def turned_alike(turns):
    """The group of each frame of a shot, by how its head is turned: (L,) int.

    turns: (L,), see `turn_to_side`. A head that stays at the border of two groups stays in one; a group of a few frames
    joins the nearest.
    """
    groups, group = np.zeros(len(turns), int), None
    for i, turn in enumerate(np.array(turns) / TURN_STEP):
        group = round(turn) if group is None or abs(turn - group) > KEEP else group
        groups[i] = group
    for group in sorted(set(groups.tolist()), key=lambda g: (groups == g).sum()):
        others = groups[groups != group]
        if len(others) and (groups == group).sum() < LEAST_OF_GROUP:
            groups[groups == group] = others[np.abs(others - group).argmin()]
    return groups


def from_closed_to_open(opening, among, count, sharp=None):
    """So many of the frames `among`, from closed lips to open ones: (count,). opening, sharp: (L,), of all frames.

    sharp: the sharpest is taken of frames whose mouths are alike.
    """
    ranked = np.asarray(among)[np.argsort(np.asarray(opening)[among], kind="stable")]
    near, chosen = round(ALIKE * len(ranked)) if sharp is not None else 0, []
    for place in np.round(np.linspace(0.04, 0.96, count) * (len(ranked) - 1)).astype(int):
        around = ranked[max(place - near, 0) : place + near + 1]
        chosen.append(around[0 if sharp is None else sharp[around].argmax()])
    return np.array(chosen)


def random_references(length, start, window, count, rng):
    """References of the window at `start`, some frames away from it, to train with: (count,).

    length: of the clip, in frames. In `ONE_PICTURE` of the draws they are one frame, as if there were but a picture.
    """
    places = np.arange(length)
    away = np.maximum(start - places, places - (start + window - 1))
    places = places[away >= min(REFERENCES_APART, away.max())]
    if rng.random() < ONE_PICTURE:
        return np.repeat(rng.choice(places), count)
    return rng.choice(places, count, replace=len(places) < count)


def distant_references(opening, frames, count):
    """References of frames out of the half of the clip that they are not in: (T, count), from closed to open.

    opening: (L,).  frames: (T,). A frame's own mouth is not among them.
    """
    half = max(len(opening) // 2, 1)
    late = from_closed_to_open(opening, np.arange(min(half, len(opening) - 1), len(opening)), count)
    return np.where((np.asarray(frames) < half)[:, None], late, from_closed_to_open(opening, np.arange(half), count))
