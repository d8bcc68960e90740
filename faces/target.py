"""Who is redrawn: one face's place in every frame, and the frames that show what it looks like."""

import numpy as np

from errors import InputError
from faces import crop, landmarks
from faces.track import Tracker
from workers import ahead

NEAR = 6  # frames around one in which the mouth resembles its own
APART = 2 * NEAR  # frames between the two that may show the looks: one of them is never near
SMALLEST = 2  # px: a face box is at least so wide and high


class TargetFace:
    """The largest face of each shot.

    boxes:      {frame index: (x1, y1, x2, y2) px}, only frames in which the face was seen.
    meshes:     {frame index: (468, 2) px}, empty if its place was given.
    identities: {frame index: index of the frame that shows its looks}.
    seen:       how many frames were looked at.
    """

    def __init__(self):
        self.boxes, self.meshes, self.identities, self.seen = {}, {}, {}, 0

    @classmethod
    def found(cls, source, count, detector, pads=(0, 0, 0, 0), smooth=True, identity="best", progress=None):
        """Follows faces through the first `count` frames of a source.

        pads: px added at top, bottom, left, right. identity: the choice of `identities`.
        Raises InputError if there is no face in any frame, or the pads leave nothing of one.
        """
        person, tracker = cls(), Tracker(detector)
        for rgb in ahead(frame.rgb() for _, frame in source.once(count)):
            tracker.add(rgb)
            if progress:
                progress.update()
        person.seen = tracker.frames
        top, bottom, left, right = pads
        for track in tracker.largest():
            for i, (x1, y1, x2, y2) in crop.face_boxes(track.meshes, smooth, source.fps).items():
                x1, y1, x2, y2 = person.boxes[i] = x1 - left, y1 - top, x2 + right, y2 + bottom
                if min(x2 - x1, y2 - y1) < SMALLEST:
                    raise InputError(f"--pads {top} {bottom} {left} {right} leave nothing of the face in frame {i}")
            person.meshes |= track.meshes
            frames = sorted(track.meshes)
            person.identities |= identities(frames, clearness(track, frames), identity)
        if not person.boxes:
            raise InputError(
                f"{source.path}: no face in any frame, of {person.seen} searched. Try a video where the face is larger "
                "and seen from the front, or give its place: --box TOP BOTTOM LEFT RIGHT"
            )
        return person

    @classmethod
    def placed(cls, source, count, box, identity="best", progress=None):
        """A face that is in the same place, (x1, y1, x2, y2) px, in each of the first `count` frames of a source."""
        person = cls()
        for index, _ in source.once(count):
            person.boxes[index] = box
            if progress:
                progress.update()
        person.seen = len(person.boxes)
        person.identities = identities(range(person.seen), np.zeros(person.seen), identity)
        return person


def clearness(track, frames):
    """How clearly each of a track's `frames` shows the looks: sharp, frontal, the mouth closed. Returns (L,)."""
    sharp = np.array([track.sharpness[i] for i in frames])
    turned = np.array([landmarks.turn_away(track.meshes[i]) for i in frames])
    opening = np.array([landmarks.mouth_opening(track.meshes[i]) for i in frames])
    return sharp / max(sharp.max(), 1e-6) - 2 * turned - 4 * np.maximum(opening, 0.02)  # below that it is closed


def identities(frames, scores, choice):
    """The frame that shows each frame's looks: {frame index: index of its identity}.

    frames: their indices, ascending. scores: how well each would serve.
    choice "best": the best; near it another one stands in, so that a mouth to be redrawn is never shown: the best of
    those far enough from it, in a short clip the farthest. "self": the frame itself, as TalkLip's authors do.
    """
    if choice == "self":
        return {i: i for i in frames}
    best = frames[int(np.argmax(scores))]
    away = np.abs(np.array(frames) - best)
    near = away < min(APART, away.max())
    second = frames[int(np.where(near, -np.inf, scores).argmax())]
    return {i: best if abs(i - best) >= min(NEAR, abs(i - second)) else second for i in frames}
