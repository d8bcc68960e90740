"""The face that is redrawn: its place in every frame of a video, and the frames that show its identity."""

import numpy as np

from errors import InputError
from faces import crop, landmarks
from faces.detect import MESH_SCORE, ROI_SCALE
from faces.meshes import Meshes
from faces.track import Tracker, sharpness_of
from workers import ahead

NEAR = 6  # frames around one in which the mouth resembles its own
APART = 2 * NEAR  # frames between the two identity frames: no frame is near both
SMALLEST = 2  # px: least width and height of a face box


class TargetFace:
    """The largest face of each shot.

    boxes:      {frame index: box, see `faces.crop`}, only frames in which the face was found.
    meshes:     {frame index: (468, 2) px}, empty if its place was given and no mesh was asked for.
    identities: {frame index: index of its identity frame}.
    shots:      [[frame index, ...], ...]: the frames of the face in each shot, ascending.
    sharpness:  {frame index: variance of the face's Laplacian}, of the same frames.
    searched:   the number of frames that were searched.
    """

    def __init__(self):
        self.boxes, self.meshes, self.identities, self.searched = {}, Meshes(), {}, 0
        self.shots, self.sharpness = [], {}

    @classmethod
    def of(cls, tracks, searched, video, pads=(0, 0, 0, 0), smooth=True, identity="best"):
        """The face that was followed as `tracks`, one of a shot at most, through so many frames of a `FaceVideo`.

        pads: px added at top, bottom, left, right.  identity: the choice of `identities`.
        Raises InputError if there is no face in any frame, or the pads leave nothing of one.
        """
        target = cls()
        target.searched = searched
        for track in tracks:
            for i, box in crop.face_boxes(track.meshes, smooth, video.fps, turned=True).items():
                x1, y1, x2, y2, *_ = target.boxes[i] = crop.padded(box, *pads)
                if min(x2 - x1, y2 - y1) < SMALLEST:
                    given = " ".join(map(str, pads))
                    raise InputError(f"--pads {given} leave nothing of the face in frame {i}")
            frames = sorted(track.meshes)
            target.meshes.update(track.meshes)
            target.sharpness |= {i: track.sharpness[i] for i in frames}
            target.shots.append(frames)
            target.identities |= identities(frames, clearness(track, frames), identity)
        if not target.boxes:
            raise InputError(
                f"{video.path}: no face in any frame, of {target.searched} searched. Try a video where the face is "
                "larger and seen from the front, or give its place: --box TOP BOTTOM LEFT RIGHT"
            )
        return target

    @classmethod
    def placed(cls, video, count, box, identity="best", progress=None, detector=None, smooth=True):
        """A face that is in the same place, (x1, y1, x2, y2) px, in each of the first `count` frames of a video.

        detector: finds the mesh there, for a generator that needs one; frames without are then left out, and the video
        is cut into shots. Raises InputError where all are.
        """
        target, (x1, y1, x2, y2), tracker = cls(), box, Tracker(detector)
        roi = (x1 + x2) / 2, (y1 + y2) / 2, ROI_SCALE * max(x2 - x1, y2 - y1), 0.0
        for index, frame in video.once(count):
            target.searched += 1
            if detector:
                rgb = frame.rgb()
                if tracker.is_cut(rgb) or not target.shots:
                    target.shots.append([])
                    roi = *roi[:3], roll_at(roi, rgb, detector)
                mesh, score = detector.mesh(rgb, roi)
                if score > MESH_SCORE:
                    target.meshes[index], target.sharpness[index] = mesh, sharpness_of(rgb, mesh)
                    target.shots[-1].append(index)
            else:
                target.boxes[index] = box
            if progress:
                progress.update()
        target.shots = [shot for shot in target.shots if shot] if detector else [list(target.boxes)]
        for shot in target.shots if detector else ():
            target.boxes |= crop.face_boxes(target.meshes.of(shot), smooth, video.fps, turned=True)
        if not target.boxes:
            raise InputError(
                f"{video.path}: --box: no face there in any of {target.searched} frames. Give the whole face, forehead "
                "to chin, or --checkpoint_path weights/talklip_compact.safetensors, which needs no mesh"
            )
        frames = sorted(target.boxes)
        target.identities = identities(frames, np.zeros(len(frames)), identity)
        return target


def followed(video, count, detector, progress=None):
    """Follows faces through the first `count` frames of a `FaceVideo`: a `Tracker`. progress: a bar, or None."""
    tracker = Tracker(detector)
    for rgb in ahead(frame.rgb() for _, frame in video.once(count)):
        tracker.add(rgb)
        if progress:
            progress.update()
    return tracker


def roll_at(roi, rgb, detector):
    """By how much the head in the middle of a roi lies on its side, radians, as far as one is detected there."""
    for _, (cx, cy, _, angle) in detector.rois_lying(rgb):
        if max(abs(cx - roi[0]), abs(cy - roi[1])) < roi[2] / 4:
            return float(np.radians(landmarks.lying(np.degrees(angle))))
    return 0.0


def clearness(track, frames):
    """Scores of a track's `frames` as identities, best where sharp, frontal and with the mouth closed: (L,)."""
    sharp = np.array([track.sharpness[i] for i in frames])
    turned = np.array([landmarks.turn_away(track.meshes[i]) for i in frames])
    opening = np.array([landmarks.mouth_opening(track.meshes[i]) for i in frames])
    return sharp / max(sharp.max(), 1e-6) - 2 * turned - 4 * np.maximum(opening, 0.02)  # below that it is closed


def identities(frames, scores, choice):
    """The identity frame of each frame: {frame index: index of its identity}.

    frames: their indices, ascending.  scores: (L,), how well each would serve.
    choice: "best" takes the frame of the best score. Near that frame the second takes its place, so that the generator
    never sees the mouth it has to redraw: the best of those far enough from it, in a short clip the farthest.
    "self" takes the frame itself, as TalkLip's authors do.
    """
    if choice == "self":
        return {i: i for i in frames}
    best = frames[int(np.argmax(scores))]
    away = np.abs(np.array(frames) - best)
    near = away < min(APART, away.max())
    second = frames[int(np.where(near, -np.inf, scores).argmax())]
    return {i: best if abs(i - best) >= min(NEAR, abs(i - second)) else second for i in frames}
