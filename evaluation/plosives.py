"""Measures the sync of a corpus itself, without a trained model: B and P sound when the lips part.

python -m evaluation.plosives --data_root data/grid --splits train val
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import audio
from data import Clips
from errors import InputError, exit_code
from faces.landmarks import mouth_opening
from hparams import HParams
from media.clip import FPS, Clip
from media.files import write_text

FIRST = "bp"  # letters whose sound begins with closed lips
BEFORE_S, AFTER_S = 0.12, 0.15  # of a word's start: the range in which its burst may be
CLOSED_S, OPEN_S = 0.16, 0.2  # before the burst the lips must close, and after that they open
JUMP = 1.5  # nepers of energy above 1 kHz within 5 ms: a burst
CLOSED, LEAST = 0.15, 0.03  # openings, of the mouth's width: closed at most so far, and opening at least so far


def burst(wav, start_s):
    """The moment of the plosive of a word, in s: the steepest rise above 1 kHz about its start; None without one."""
    from scipy.signal import butter, sosfiltfilt

    first = max(round((start_s - BEFORE_S - 0.05) * audio.RATE), 0)
    part = wav[first : round((start_s + AFTER_S + 0.05) * audio.RATE)]
    if len(part) < 0.2 * audio.RATE:
        return None
    high = sosfiltfilt(butter(4, 1000, "high", fs=audio.RATE, output="sos"), part / 32768)
    step = audio.RATE // 200  # 5 ms
    level = np.log(np.convolve(high**2, np.ones(step) / step, "same") + 1e-8)
    rise = level[step:] - level[:-step]
    at = int(rise.argmax())
    return (first + at + step / 2) / audio.RATE if rise[at] > JUMP else None


def parting(openings, burst_s):
    """The moment at which the lips that close before a burst are half open, in s; None where they do not close or open.

    openings: (L,) of each frame, see `faces.landmarks.mouth_opening`.  burst_s: its time.
    """
    times_s = np.arange(len(openings)) / FPS
    near = np.flatnonzero((times_s > burst_s - CLOSED_S) & (times_s < burst_s + 1.5 / FPS))
    if not len(near):
        return None
    shut = near[::-1][openings[near[::-1]].argmin()]  # the last of the frames that are shut
    after = openings[shut : int((burst_s + OPEN_S) * FPS) + 1]
    wide = after.max()
    if after[0] > CLOSED or wide - after[0] < LEAST:
        return None
    half = (after[0] + wide) / 2
    over = int((after >= half).argmax())
    return (shut + over - 1 + (half - after[over - 1]) / (after[over] - after[over - 1])) / FPS


def lags(clip):
    """The time from the burst to half-open lips, for each word of a clip that begins with B or P: list of s."""
    openings, found = mouth_opening(clip.meshes.astype(np.float64)), []
    for word, (start_s, _) in zip(clip.words, clip.times, strict=False):
        if word[:1].lower() in FIRST and (burst_s := burst(clip.wav, start_s)) is not None:
            if (parted_s := parting(openings, burst_s)) is not None:
                found.append(parted_s - burst_s)
    return found


def evaluate(args):
    """Measures the words of every split and prints a table by speaker."""
    found = {}
    for split in args.splits:
        clips = Clips(args.data_root, split, HParams())
        for name, path in zip(clips.names, clips.paths, strict=True):
            found.setdefault(name.rpartition("/")[0], []).extend(lags(Clip(path)))
    rows = {speaker: 1000 * np.array(each) for speaker, each in sorted(found.items()) if len(each) >= args.least}
    if not rows:
        raise InputError(f"{args.data_root}: no speaker has {args.least} words with B or P first whose lips are seen")
    print("| speaker | words | lips half open after the burst, ms | middle half of them |\n|---|---|---|---|")
    for speaker, each in rows.items():
        low, middle, high = np.percentile(each, [25, 50, 75])
        print(f"| {speaker} | {len(each)} | {middle:+.0f} | {low:+.0f} to {high:+.0f} |")
    if args.json:
        write_text(args.json, json.dumps({speaker: each.round(1).tolist() for speaker, each in rows.items()}) + "\n")


def main(argv=None):
    """Parses the flags and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py, with word times")
    parser.add_argument("--splits", nargs="+", default=["train"], help="(default: %(default)s)")
    parser.add_argument("--least", default=5, type=int, help="words that a speaker must have (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the lag of every word here, ms")
    args = parser.parse_args(argv)
    return exit_code(parser.prog, lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
