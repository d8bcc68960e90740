"""A method's videos: matched with clips by name, their frames, and the face crops cut out of them."""

import json
from collections import Counter
from difflib import get_close_matches
from pathlib import Path

import cv2
import numpy as np

from errors import InputError
from faces.crop import crop, crop_matrix
from media import video, writer
from media.clip import FPS
from models.published.archive import listing

SUFFIXES = {*writer.SUFFIXES, ".avi", ".webm", ".mpg"}
GREY = 110  # what is around a face whose surroundings are not known


def matched(folder, names):
    """Matches the videos of a folder with clips: ({name: path}, {name: why there is none}, [videos that are no clip]).

    folder: holds <speaker>/<clip>.mp4, main/<speaker>/<clip>.mp4 as a corpus does, or <clip>.mp4 where no two
    speakers have a clip of that name.  names: clip ids.
    Raises InputError if there is no such folder, no video in it, or none that is named as a clip.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of videos")
    inside = next((folder / part for part in ("main", "mvlrs_v1/main") if (folder / part).is_dir()), folder)
    found = {}
    for path in sorted(inside.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.relative_to(inside).with_suffix("").as_posix(), []).append(path)
    if not found:
        raise InputError(f"{folder}: no videos ({', '.join(sorted(SUFFIXES))}) in this folder")
    stems = Counter(name.rpartition("/")[2] for name in names)
    paths, faults, used = {}, {}, set()
    for name in names:
        stem = name.rpartition("/")[2]
        keys = {name} | ({stem} if stems[stem] == 1 else set())
        files = [path for key in sorted(keys) for path in found.get(key, [])]
        used |= keys
        if len(files) == 1:
            paths[name] = files[0]
        elif files:
            faults[name] = f"{len(files)} videos are called so: {listing(files)}"
        else:
            unknown = [key for key in found if key not in names]
            near = [key for key in unknown if stem in key][:1] or get_close_matches(name, unknown, n=1)
            faults[name] = f"no video {folder / name}.mp4" + (f" (there is {found[near[0]][0].name})" if near else "")
    if not paths:
        first = next(iter(found.values()))[0]
        raise InputError(
            f"{folder}: none of its {len(found)} videos is named as a clip of the list, the first is "
            f"{first.relative_to(folder)}: name them {names[0]}.mp4 and so on"
        )
    extra = [path.relative_to(folder).as_posix() for key in found.keys() - used for path in found[key]]
    return paths, faults, sorted(extra)


def teachers_of(paths):
    """The SHA-256 of the experts of whatever made some videos, by the reports that inference.py writes beside them.

    A sorted list; None where a report is missing or does not say.
    """
    found = set()
    for path in paths:
        report = path.with_suffix(".json")
        try:
            model = json.loads(report.read_text(encoding="utf-8"))["model"]
            found |= set(model["taught_by"])
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not by inference.py
            return None
    return sorted(found)


def unlike(path, clip, slack):
    """The reason why a video cannot be compared with a clip, by its header; None if it can, or if that does not say.

    slack: how many frames longer or shorter it may be.
    """
    try:
        about = video.probe(path)
    except InputError as error:
        return str(error)
    if (why := other_size((about.height, about.width), clip)) is not None:
        return f"{path}: {why}"
    if about.fps == FPS and about.frames and abs(about.frames - len(clip)) > slack:
        return f"{path}: {about.frames} frames, the real clip has {len(clip)}: it is of another length"
    return None


def other_size(size, clip):
    """The reason why frames of a (height, width) are not those of a clip, or None; an odd size may be made even."""
    if all(side <= given <= side + side % 2 for given, side in zip(size, clip.size, strict=True)):
        return None
    return f"frames of {size[1]}x{size[0]} px, the real clip has {clip.size[1]}x{clip.size[0]}: it is of another size"


def frames_of(path, clip, slack):
    """All frames of a video, 25 a second: (L, H, W, 3) uint8, RGB, at most as many as the clip has.

    Raises InputError for a video that cannot be read, of another size, or longer or shorter by more than `slack`.
    """
    frames = []
    for k, frame in video.frames_at(path, FPS):
        if k == 0 and (why := other_size(frame.size[::-1], clip)) is not None:
            raise InputError(f"{path}: {why}")
        if k > len(clip) + slack:
            raise InputError(
                f"{path}: more than {k - 1} frames, the real clip has {len(clip)}: it is of another length"
            )
        frames.append(frame.rgb())
    if abs(len(frames) - len(clip)) > slack:
        raise InputError(f"{path}: {len(frames)} frames, the real clip has {len(clip)}: it is of another length")
    return np.stack(frames[: len(clip)])


def crops_of(frames, boxes, px, margin):
    """Face crops with their surroundings, as a data root stores them: (T, px, px, 3) uint8.

    frames: (T, H, W, 3) uint8.  boxes: (T, 4): x1, y1, x2, y2 in px.  margin: surroundings on each side, in box sizes.
    """
    return np.stack([crop(rgb, box, px, 1 + 2 * margin) for rgb, box in zip(frames, boxes, strict=True)])


def framed(crops, boxes, margin, base=None, size=None):
    """Face crops put back to their places: (T, H, W, 3) uint8.

    crops: (T, px, px, 3).  base: (T, H, W, 3), the frames they are put into; without, a grey of (H, W) = `size`.
    """
    px, out = crops.shape[1], []
    for t, (face, box) in enumerate(zip(crops, boxes, strict=True)):
        matrix = crop_matrix(box, px, 1 + 2 * margin)
        height, width = base.shape[1:3] if base is not None else size
        frame = base[t].copy() if base is not None else np.full((height, width, 3), GREY, np.uint8)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out.append(cv2.warpAffine(face, matrix, (width, height), frame, flags, cv2.BORDER_TRANSPARENT))
    return np.stack(out)
