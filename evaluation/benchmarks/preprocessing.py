"""Cost of preprocessing: one process beside two, Ray beside processes, and from that LRS2 and LRS3 whole.

python -m evaluation.benchmarks.preprocessing --data_root grid --clips 150
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from corpora.layouts import read_corpus
from errors import InputError, exit_code
from evaluation.benchmarks.timing import in_turns
from media.files import make_folder
from media.frame import from_rgb
from media.video import probe, read_frames
from media.writer import Writer

ROOT = Path(__file__).parents[2]
SIDE = 200  # px of the middle of the corpus's frame that stands for a frame of LRS2 or LRS3
PLANS = {"LRS2, main": (160, 29), "LRS2, main and pretrain": (160, 224), "LRS3": (224, 433)}  # px of a frame, hours


def small_copies(sources, folder, px):
    """Writes the middle of clips as videos of px x px, with their sound, as a folder of videos."""
    for source in sources:
        path = folder / f"{source.name}.mp4"
        make_folder(path.parent)
        about = replace(probe(source.video), width=px, height=px)
        with Writer(path, about, audio=source.video, crf=23) as out:
            for frame in read_frames(source.video):
                rgb = frame.rgb()
                top, left = ((side - SIDE) // 2 for side in rgb.shape[:2])
                part = rgb[top : top + SIDE, left : left + SIDE]
                out.write(from_rgb(cv2.resize(part, (px, px), interpolation=cv2.INTER_AREA)))


def linked(sources, folder):
    """A folder of links to clips."""
    for source in sources:
        path = folder / f"{source.name}{source.video.suffix}"
        make_folder(path.parent)
        path.symlink_to(source.video.resolve())


def measured(corpus, *flags):
    """The numbers that `preprocess.py` prints for a corpus, in a process of its own, start-up included."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(ROOT / "preprocess.py"), "--data_root", str(corpus), "--out", out]
        command += ["--max_skipped", "1", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"preprocess.py {' '.join(flags)} failed: {done.stderr[-200:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(corpus, rounds, ray):
    """Times one process, two, and two workers of Ray, in turns; prints the medians, start-up included."""
    ways = {"1 process": ("--workers", "1"), "2 processes": ("--workers", "2")}
    if ray:
        ways["2 workers of a local Ray cluster"] = ("--workers", "2", "--ray", "local")
    rates = in_turns(ways.values(), rounds, lambda flags: measured(corpus, *flags)["times_real_time"], warm=False)
    print("| on 2 cores | times real time | against 1 process |\n|---|---|---|")
    for way, own in zip(ways, rates.T, strict=True):
        print(f"| {way} | {np.median(own):.1f} | {np.median(own / rates[:, 0]):.2f} |")


def plan(sizes):
    """Prints the cost of whole corpora. sizes: {px: what `measured` said of clips of that size, two processes}."""
    print("\n| corpus | hours | times real time, 2 cores | core-hours | disk | written over a network |")
    print("|---|---|---|---|---|---|")
    for name, (px, hours) in PLANS.items():
        speed, a_second = sizes[px]["times_real_time"], sizes[px]["bytes_a_second"]
        gigabytes, core_hours = a_second * hours * 3600 / 1e9, 2 * hours / speed
        rate = speed / 2 * a_second * 8 / 1e6  # Mbit/s of one core
        print(f"| {name} | {hours} | {speed:.1f} | {core_hours:.1f} | {gigabytes:.0f} GB | {rate:.1f} Mbit/s a core |")


def main(argv=None):
    """Parses the flags and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="a corpus, as preprocess.py takes it")
    parser.add_argument("--clips", default=150, type=int, help="of it, spread evenly (default: %(default)s)")
    parser.add_argument("--rounds", default=1, type=int, help="the median of this many (default: %(default)s)")
    parser.add_argument("--ray", action=argparse.BooleanOptionalAction, default=True, help="compare with Ray too")
    args = parser.parse_args(argv)

    def work():
        for flag in ("clips", "rounds"):
            if getattr(args, flag) < 1:
                raise InputError(f"--{flag} {getattr(args, flag)} must be at least 1")
        corpus = read_corpus(args.data_root)
        names = sorted(corpus.clips)
        places = np.linspace(0, len(names) - 1, min(args.clips, len(names))).astype(int)
        sources = [corpus.clips[names[i]] for i in places]
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole"
            linked(sources, whole)
            compare(whole, args.rounds, args.ray)
            sizes = {}
            for px in sorted({px for px, _ in PLANS.values()}):
                small_copies(sources, Path(folder) / str(px), px)
                sizes[px] = measured(Path(folder) / str(px), "--workers", "2")
            plan(sizes)

    return exit_code(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
