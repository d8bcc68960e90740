"""Named points of the 468-point face mesh, and what is measured on them: mouth region, mouth opening, head turn."""

import numpy as np

# Points of the mesh, by their place in MediaPipe's canonical face.
FOREHEAD, MID_FOREHEAD, NOSE_TIP, NOSE_BASE, CHIN = 10, 151, 1, 2, 152
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners; right and left of the person
RIGHT_EAR, LEFT_EAR = 234, 454
MOUTH_CORNERS, MIDDLE_LIPS = (61, 291), (13, 14)
# fmt: off
OUTER_LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
INNER_LIPS = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191]
JAW = [234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454]
# fmt: on
LEANS, LIES = 15, 30  # degrees of roll, see `lying`
LIP_POINTS = OUTER_LIPS + INNER_LIPS
LIP_NUMBERS = 2 * len(LIP_POINTS)  # x and y of each


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


def turn_to_side(mesh):
    """The turn of the head, (..., 468, 2) -> (...,): 0 frontal, -0.5 and 0.5 the profiles; whether it lies or not."""
    roll = np.radians(lying(roll_of(mesh)))
    across, down = np.cos(roll), np.sin(roll)
    left, right, nose = (across * mesh[..., i, 0] + down * mesh[..., i, 1] for i in (RIGHT_EAR, LEFT_EAR, NOSE_TIP))
    return (nose - left) / np.where(np.abs(right - left) < 1e-6, 1e-6, right - left) - 0.5


def roll_of(mesh):
    """The roll of the head in the picture, (..., 468, 2) px -> (...,) degrees, 0 upright, clockwise up to 180."""
    eyes = mesh[..., LEFT_EYE, :] - mesh[..., RIGHT_EYE, :]
    return np.degrees(np.arctan2(eyes[..., 1], eyes[..., 0]))


def lying(roll):
    """By how much of its roll a head counts as lying on its side, degrees: (...,) -> (...,) from -180 to 180.

    All of it from `LIES` on; up to `LEANS` none, as people lean their heads when they talk.
    """
    roll = (np.asarray(roll) + 180) % 360 - 180
    between = LIES * np.maximum(np.abs(roll) - LEANS, 0) / (LIES - LEANS)
    return np.sign(roll) * np.where(np.abs(roll) < LIES, between, np.abs(roll))


def turn_away(mesh):
    """The turn of the head to either side, (..., 468, 2) -> (...,): 0 frontal, 0.5 profile."""
    return np.abs(turn_to_side(mesh))
