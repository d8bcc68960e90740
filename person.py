"""Who is redrawn: one face's place in every frame, and the frames that show what it looks like."""

import numpy as np

import faces
from hparams import InputError

APART = 12  # frames between the two that may show the looks
NEAR = 6  # frames around the one in which its mouth resembles the one to be redrawn


class Person:
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

        pads: px added at top, bottom, left, right. identity: see `identities`.
        Raises InputError if there is no face in any frame.
        """
        person, tracker = cls(), faces.Tracker(detector)
        for _, frame in source.once(count):
            tracker.add(frame.rgb())
            if progress:
                progress.update()
        person.seen = tracker.frames
        top, bottom, left, right = pads
        for track in tracker.largest():
            for i, (x1, y1, x2, y2) in faces.face_boxes(track.meshes, smooth).items():
                person.boxes[i] = x1 - left, y1 - top, x2 + right, y2 + bottom
            person.meshes |= track.meshes
            person.identities |= identities(track, identity)
        if not person.boxes:
            raise InputError(
                f"{source.path}: no face in any of {person.seen} frames. Try a video where the face is larger and seen "
                "from the front, or give its place: --box TOP BOTTOM LEFT RIGHT"
            )
        return person

    @classmethod
    def placed(cls, source, count, box):
        """A face that is in the same place, (x1, y1, x2, y2) px, in each of the first `count` frames."""
        person = cls()
        for index, _ in source.once(count):
            person.boxes[index], person.identities[index] = box, 0
            person.seen += 1
        return person


def identities(track, choice):
    """The frame that shows each frame's looks: {frame index: index of its identity}.

    choice "best": the sharpest, most frontal one with a closed mouth; near it the second best stands in, so that a
    mouth to be redrawn is never shown. "self": the frame itself, as TalkLip's authors do.
    """
    frames = np.array(sorted(track.meshes))
    if choice == "self":
        return {int(i): int(i) for i in frames}
    meshes = np.stack([track.meshes[i] for i in frames])
    sharp = np.array([track.sharpness[i] for i in frames])
    opening = np.maximum(faces.mouth_opening(meshes), 0.02)  # below that it is closed
    score = sharp / max(sharp.max(), 1e-6) - 2 * faces.turn_away(meshes) - 4 * opening
    best = int(frames[score.argmax()])
    far = np.abs(frames - best) >= APART
    second = int(frames[np.where(far, score, -np.inf).argmax()]) if far.any() else best
    return {int(i): second if abs(i - best) < NEAR else best for i in frames}
