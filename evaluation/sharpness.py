"""Measures the mouth in videos of no corpus against the real one, at their own size: its sharpness and movement.

python -m evaluation.sharpness --real x.mp4 --fake y.mp4
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from errors import InputError, exit_code
from evaluation import landmarks, visual
from evaluation.bootstrap import estimate
from evaluation.table import COLUMNS, Column, table
from faces import target
from faces.detect import MESH_SCORE, BlazeFace
from faces.mouth import smoothed
from faces.people import picked
from faces.track import interpolated, roi_of_mesh
from media.face_video import FaceVideo
from media.files import write_text
from media.video import frames_at
from workers import progress_bar

FACTS = {"frames": Column("frames", 0), "face_px": Column("face, px wide", 0)}


def followed(video, count):
    """The place of the largest face of each shot, steady over time: {frame number: (468, 2) px}.

    video: a `FaceVideo`, searched in its first `count` frames. Raises InputError where no face is found.
    """
    tracker, places = target.followed(video, count, BlazeFace()), {}
    for track in picked(tracker.shots):
        frames = np.arange(min(track.meshes), max(track.meshes) + 1)
        places |= dict(zip(frames.tolist(), smoothed(interpolated(track.meshes, frames)), strict=True))
    if not places:
        raise InputError(f"{video.path}: no face in any of {tracker.frames} frames")
    return places


def both_videos(video, fake, count):
    """Yields (index in the real video, generated picture, real picture) of `count` frames, (H, W, 3) uint8 each.

    The real video is played forth and back where it is shorter, as inference.py plays it.
    Raises InputError for a generated video of another size; a side that is odd may have been made even.
    """
    for (_, drawn), (index, true) in zip(frames_at(fake, video.fps), video.played(count), strict=False):
        width, height = true.size
        if not (0 <= drawn.size[0] - width <= width % 2 and 0 <= drawn.size[1] - height <= height % 2):
            raise InputError(f"{fake}: frames of {drawn.size}, the real video has {true.size}: width and height in px")
        yield index, drawn.rgb()[:height, :width], true.rgb()


def measure(real, fake):
    """The measures of a generated video's mouth: {measure: (sum, weight)}, see `bootstrap.estimate`.

    real, fake: paths; frames are compared at the rate of the real one, those in which both have a face.
    Both faces are looked for in the same place, that of the real one, so that neither is favoured.
    """
    video, network = FaceVideo(real), BlazeFace()
    count = sum(1 for _ in frames_at(fake, video.fps))
    places, found, energies = followed(video, count), ([], []), []
    with progress_bar(count, "frame", desc=fake.name) as bar:
        for index, drawn, true in both_videos(video, fake, count):
            bar.update()
            if index not in places:
                continue
            roi = roi_of_mesh(places[index])
            pair = network.mesh(drawn, roi), network.mesh(true, roi)
            for each, mesh_and_score in zip(found, pair, strict=True):
                each.append(mesh_and_score)
            if pair[1][1] > MESH_SCORE:
                energies.append(visual.energies(drawn, true, pair[1][0]))
    if not energies:
        raise InputError(f"{real}: no face in any of the {count} frames that are compared")
    fake_face, real_face = (
        (np.stack([mesh for mesh, _ in each]), np.array([score for _, score in each]) > MESH_SCORE) for each in found
    )
    widths = np.ptp(real_face[0][real_face[1], :, 0], axis=1)
    facts = {"frames": (len(energies), 1), "face_px": (float(np.median(widths)), 1)}
    return facts | visual.sharpness(energies) | landmarks.compare(fake_face, real_face)


def evaluate(args):
    """Prints a table with a line for each pair of videos."""
    rows = {}
    for real, fake in zip(args.real, args.fake, strict=True):
        rows[str(fake)] = {name: estimate([pair]) for name, pair in measure(real, fake).items()}
    columns = FACTS | {name: column for name, column in COLUMNS.items() if name in next(iter(rows.values()))}
    print(table("video", rows, columns))
    if args.json:
        values = {row: {name: each["value"] for name, each in found.items()} for row, found in rows.items()}
        write_text(args.json, json.dumps(values, indent=1) + "\n")


def main(argv=None):
    """Parses the flags and prints a table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="evaluation.sharpness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True, nargs="+", type=Path, help="the videos whose faces were redrawn")
    parser.add_argument("--fake", required=True, nargs="+", type=Path, help="what was made of each, in the same order")
    parser.add_argument("--json", type=Path, help="write the numbers here, not rounded")
    args = parser.parse_args(argv)
    if len(args.real) != len(args.fake):
        parser.error(f"--real names {len(args.real)} videos, --fake {len(args.fake)}: they are compared in pairs")
    if len(set(args.fake)) < len(args.fake):
        parser.error("--fake names a video twice")
    return exit_code(parser.prog, lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
