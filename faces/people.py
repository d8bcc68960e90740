"""The people in a video: who of them is redrawn, and a contact sheet with the numbers by which they are chosen."""

from typing import NamedTuple

import cv2
import numpy as np

from audio import RATE
from errors import InputError
from faces.landmarks import mouth_opening
from faces.track import meshes_of, overlap
from media.sound import read_audio

SAMPLES = 12  # frames, over all of a video, in which people are looked for and numbered
SAME = 0.2  # overlap with the place where a person was last seen; they sway in their seats
GROWN = 1.3  # a point means a face if it lies in its box made so much larger
NEAR = 12  # frames: where a face is at a time is where it is seen within so many
FAINT = 0.05  # share of the largest face of a shot below which another is no person to choose
LAG, LEAST = 1, 25  # frames by which lips and sound may be apart; of a shot in which they are compared
TILE_PX, COLUMNS = 480, 4  # of a contact sheet
MARK = b"\nfaces found by inference.py\n"  # behind a sheet, where pictures end: it may be written anew


class Point(NamedTuple):
    """A place in the picture, px, that means the face there, at a frame or, without one, in every shot."""

    x: float
    y: float
    frame: int | None = None


def faces_in(rgb, detector):
    """The meshes of the faces in a picture, from left to right. rgb: (H, W, 3) uint8."""
    return sorted(meshes_of(rgb, detector.rois_lying(rgb), detector), key=lambda mesh: mesh[:, 0].min())


def people_of(video, detector):
    """The people that are seen in a `FaceVideo`, by their numbers, and the frames in which they were looked for.

    A person is a face that stays in its place: who sits elsewhere after a cut has another number there. The numbers
    are those of every run on the video.
    Returns [{frame index: mesh (468, 2) px}, ...], and {frame index: (H, W, 3) uint8}.
    """
    last = 0 if video.still else (video.like.frames or 1) - 1
    people, frames = [], {}
    for index in np.unique(np.linspace(0, last, SAMPLES).astype(int)).tolist():
        try:
            frames[index] = video.at(index).rgb()
        except StopIteration:  # the header tells of more frames than there are
            break
        free = list(people)
        for mesh in faces_in(frames[index], detector):
            same = max(free, key=lambda places: overlap(places[max(places)], mesh), default=None)
            if same and overlap(same[max(same)], mesh) > SAME:
                same[index] = mesh
                free = [places for places in free if places is not same]
            else:
                people.append({index: mesh})
    return people, frames


def points_of(person):
    """Where a person of `people_of` is seen, as `Point`s."""
    return [Point(*mesh.mean(0).tolist(), frame) for frame, mesh in person.items()]


def contact_sheet(people, frames):
    """The frames of `people_of` side by side, every face with its number, as a JPEG file."""
    tiles = []
    for index, rgb in frames.items():
        scale = TILE_PX / rgb.shape[1]
        tile = cv2.resize(rgb[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for number, places in enumerate(people):
            if index in places:
                (x1, y1), (x2, y2) = (
                    (scale * places[index].min(0)).astype(int),
                    (scale * places[index].max(0)).astype(int),
                )
                cv2.rectangle(tile, (x1, y1), (x2, y2), (0, 255, 255), 2)
                for colour, thickness in (((0, 0, 0), 6), ((0, 255, 255), 2)):
                    cv2.putText(
                        tile, str(number), (x1, max(y1 - 6, 22)), cv2.FONT_HERSHEY_SIMPLEX, 1, colour, thickness
                    )
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % min(COLUMNS, len(tiles)))
    rows = [np.hstack(tiles[start : start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)]
    return cv2.imencode(".jpg", np.vstack(rows))[1].tobytes() + MARK


def is_sheet(path):
    """Whether a file is a contact sheet of this code."""
    return path.read_bytes().endswith(MARK)


def picked(shots, how="largest", loudness=None):
    """One face of each shot: a list of tracks; shots without a face are left out.

    shots: of a `Tracker`.  how: largest; left or right, of the picture; speaking: see `speaks`.
    loudness: of the video's own sound, see `loudness_of`.
    """
    keys = {
        "largest": lambda track: track.size,
        "left": lambda track: -_middle(track),
        "right": lambda track: _middle(track),
        "speaking": lambda track: speaks(track, loudness),
    }
    found = []
    for tracks in filter(None, shots):
        least = FAINT * max(track.size for track in tracks)
        found.append(max((track for track in tracks if track.size >= least), key=keys[how]))
    return found


def loudness_of(video):
    """How loud a `FaceVideo`'s own sound is in each of its frames, (L,), in nepers; None where it has none."""
    try:
        wav = read_audio(video.path)
    except InputError:
        return None
    starts = (np.arange(len(wav) / RATE * video.fps) * RATE / float(video.fps)).astype(int)
    return np.log(np.add.reduceat(np.abs(wav, dtype=np.float32), starts) + RATE / float(video.fps))


def speaks(track, loudness=None):
    """How much a face is that of the one who speaks: how far its mouth opens and closes, and whether with the sound.

    loudness: of each frame of the video, (L,), or None; then whoever chews or laughs counts too.
    """
    frames = np.array(sorted(track.meshes))
    opening = np.array([mouth_opening(track.meshes[i]) for i in frames])
    moves = float(opening.std())
    frames = frames[:0] if loudness is None else frames[frames < len(loudness) - LAG]
    if len(frames) < LEAST or not moves:
        return moves
    heard = [loudness[np.maximum(frames + lag, 0)] for lag in range(-LAG, LAG + 1)]
    fits = [np.corrcoef(opening[: len(frames)], each)[0, 1] for each in heard if each.std()]
    return moves * max([0.0, *fits])


def _middle(track):
    return np.mean([mesh[:, 0].mean() for mesh in track.meshes.values()])


def at_points(shots, points, flag):
    """The face of each shot that any of some `Point`s means: a list of tracks; shots without one are left out.

    Raises InputError, which begins with `flag` and says where there are faces, where none is meant.
    """
    found = []
    for tracks in filter(None, shots):
        hits = [max(_share(track, point) for point in points) for track in tracks]
        if max(hits) > 0:
            found.append(tracks[int(np.argmax(hits))])
    if not found:
        seen = [(min(track.meshes), track) for tracks in shots for track in tracks if track.meshes]
        where = [f"{','.join(str(round(v)) for v in track.meshes[i].mean(0))} at frame {i}" for i, track in seen[:4]]
        raise InputError(f"{flag}: no face is there. Faces are at {'; '.join(where)}: see --preview")
    return found


def _share(track, point):
    """The share of a track's frames at which a point means its face."""
    frames = list(track.meshes)
    if point.frame is not None:
        nearest = min(frames, key=lambda i: abs(i - point.frame))
        frames = [nearest] if abs(nearest - point.frame) <= NEAR else []
    hits = 0
    for low, high in ((track.meshes[i].min(0), track.meshes[i].max(0)) for i in frames):
        hits += (np.abs(np.array(point[:2]) - (low + high) / 2) <= GROWN * (high - low) / 2).all()
    return hits / max(len(frames), 1)
