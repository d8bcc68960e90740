"""Faces that were followed through a video, kept in a folder for other runs on the same video."""

import hashlib
import json
import zipfile

import numpy as np

from errors import InputError
from faces.target import followed
from faces.track import Track, Tracker
from media.files import make_folder, replacing

FORMAT = 2


def followed_once(video, count, detector, progress, folder, content):
    """As `followed`, but with the faces of an earlier run on a video of the same `content`, where `folder` has them.

    content: what the meshes follow from, any JSON: the file's hash, how it is cut and turned, the detector.
    """
    name = hashlib.sha256(json.dumps([FORMAT, content]).encode()).hexdigest()
    path = folder / f"{name}.npz"
    tracker = read_tracks(path, count)
    if tracker is None:
        tracker = followed(video, count, detector, progress)
        make_folder(folder)
        try:
            write_tracks(path, tracker, count)
        except OSError as error:
            raise InputError(f"--cache {folder} cannot be written: {error.strerror}") from error
    elif progress:
        progress.update(tracker.frames)
    return tracker


def write_tracks(path, tracker, count):
    """Writes what a `Tracker` has found in `count` frames, or in fewer if the video has no more."""
    tracks = [(shot, track) for shot, tracks in enumerate(tracker.shots) for track in tracks]
    frames = [i for _, track in tracks for i in track.meshes]
    meshes = [mesh for _, track in tracks for mesh in track.meshes.values()]
    with replacing(path) as partial:
        np.savez(
            partial,
            searched=[tracker.frames, tracker.frames < count, len(tracker.shots)],
            shots=np.array([shot for shot, _ in tracks], int),
            lengths=np.array([len(track.meshes) for _, track in tracks], int),
            frames=np.array(frames, int),
            meshes=np.array(meshes, np.float32).reshape(-1, 468, 2),
            sharpness=np.array([track.sharpness[i] for _, track in tracks for i in track.meshes], float),
        )


def read_tracks(path, count):
    """The `Tracker` of the first `count` frames; None where a file is not there, broken, or has fewer."""
    try:
        with np.load(path) as found:
            parts = {name: found[name] for name in found.files}
        searched, ended, shots = (int(number) for number in parts["searched"])
        ends = np.cumsum(parts["lengths"])
        frames, meshes, sharpness = (parts[name] for name in ("frames", "meshes", "sharpness"))
        if searched < count and not ended or len(meshes) != len(frames) or ends.size and ends[-1] != len(frames):
            return None
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile):
        return None
    tracker = Tracker(None)
    tracker.frames, tracker.shots = min(searched, count), [[] for _ in range(shots)]
    for shot, start, end in zip(parts["shots"], ends - parts["lengths"], ends, strict=True):
        at = [i for i in range(start, end) if frames[i] < count]
        if at:
            track = Track({int(frames[i]): meshes[i] for i in at}, {int(frames[i]): float(sharpness[i]) for i in at})
            tracker.shots[shot].append(track)
    return tracker
