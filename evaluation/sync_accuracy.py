"""Accuracy of the sync model: the offsets it finds in real clips, as they are and shifted by known frames.

python -m evaluation.sync_accuracy --data_root data/grid --splits test test_unseen
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from distributed import device_of
from errors import InputError, exit_code
from evaluation.rows import TRUTH
from experts.data import SyncWindows
from experts.sync import SAMPLES, Compact, load_sync, score
from hparams import WEIGHTS, ExpertHParams, preset
from media.files import write_text

SHIFTS = [n for n in range(-10, 11) if n]
ROWS = TRUTH, "other clip's sound"


def shifted(roi, wav, n):
    """A clip whose picture is late by n frames, early if n is negative: frames or sound are cut off at its start."""
    return roi[max(-n, 0) :], wav[max(n, 0) * SAMPLES :]


def measure(sync, clips):
    """The scores of every clip with its own and another's sound, and the offsets found when it is shifted.

    clips: `SyncWindows`. Returns {row: [Score]} and {shift: [offset found]}; the other sound is of half the list away.
    Raises InputError for a split of one clip, which has no other sound.
    """
    if len(clips) < 2:
        raise InputError("a split of one clip has no other clip's sound: give one with two clips or more")
    scores, found = {row: [] for row in ROWS}, {n: [] for n in SHIFTS}
    sounds = [clips.load(i)[0].wav for i in range(len(clips))]
    for i in range(len(clips)):
        roi = clips[i, None]["roi"]
        for row, at in zip(ROWS, (i, (i + len(clips) // 2) % len(clips)), strict=True):
            scores[row].append(score(sync.distances(roi, sounds[at])))
        for n in SHIFTS:
            found[n].append(score(sync.distances(*shifted(roi, sounds[i], n))).offset)
    return scores, found


def summary(scores, found):
    """The means of what `measure` returns: {row: {measure: value}} and {shift: {measure: share}}, and over all shifts.

    exact, within_1: of clips whose offset is found to be the shift.  moved: of those in which it differs by just the
    shift from the offset of the unshifted clip, whatever that is: recordings may be out of sync by themselves.
    """
    rows, shifts = {}, {}
    for row, each in scores.items():
        offsets, c, d = (np.array(part) for part in zip(*each, strict=True))
        near = {"zero": np.mean(offsets == 0), "within_1": np.mean(abs(offsets) <= 1)}
        low, high = np.percentile(c, [5, 95])
        rows[row] = near | {"c": c.mean(), "d": d.mean(), "c_low": low, "c_high": high}
    for n, offsets in found.items():
        error = abs(np.array(offsets) - n)
        moved = np.array(offsets) - [each.offset for each in scores[ROWS[0]]] == n
        shifts[n] = {"exact": np.mean(error == 0), "within_1": np.mean(error <= 1), "moved": np.mean(moved)}
    whole = {name: np.mean([each[name] for each in shifts.values()]) for name in ("exact", "within_1", "moved")}
    return {"rows": plain(rows), "shifts": plain(shifts), "all_shifts": plain({"": whole})[""]}


def plain(rows):
    """Rows of numpy's numbers as Python's, which JSON can hold."""
    return {row: {name: float(value) for name, value in values.items()} for row, values in rows.items()}


def table(split, clips, result, columns):
    """The numbers of a split as a Markdown table and a line."""
    lines = [f"| {split}, {clips} clips | offset 0 | within 1 frame | {columns['c']} | of 90 % | {columns['d']} |"]
    lines.append("|---|---|---|---|---|---|")
    for row, v in result["rows"].items():
        spread = f"{v['c_low']:.3f} to {v['c_high']:.3f}"
        lines.append(f"| {row} | {v['zero']:.1%} | {v['within_1']:.1%} | {v['c']:.3f} | {spread} | {v['d']:.3f} |")
    every, worst = result["all_shifts"], min(result["shifts"], key=lambda n: result["shifts"][n]["exact"])
    bad = result["shifts"][worst]
    lines += ["", f"shifted by -10 to 10 frames: found exactly {every['exact']:.1%}, within 1 {every['within_1']:.1%},"]
    lines.append(f"moved by exactly the shift {every['moved']:.1%}; worst at {worst}, exactly {bad['exact']:.1%}")
    return "\n".join([*lines, ""])


def evaluate(args):
    """Measures every split and prints its table."""
    sync = load_sync(args.sync, device_of(args.device))
    if not isinstance(sync, Compact):
        raise InputError(f"{args.sync} is {sync.name}, which sees whole videos: this is for the compact model")
    report = {"sync": {"name": sync.name, **sync.about}, "splits": {}}
    for split in args.splits:
        clips = SyncWindows(args.data_root, split, preset("compact_sync", ExpertHParams))
        scores, found = measure(sync, clips)
        report["splits"][split] = result = summary(scores, found)
        result["clips"] = [{"clip": n, **s._asdict()} for n, s in zip(clips.names, scores[ROWS[0]], strict=True)]
        print(table(split, len(clips), result, sync.columns))
    print(f"{sync.name}: sha256 {sync.about['sha256']}")
    if args.json:
        write_text(args.json, json.dumps(report, indent=1) + "\n")


def main(argv=None):
    """Parses the flags and prints a table per split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--splits", nargs="+", default=["test", "test_unseen"], help="(default: %(default)s)")
    parser.add_argument(
        "--sync", default=WEIGHTS["sync"], type=Path, help="compact sync model (default: the one in weights/)"
    )
    parser.add_argument("--json", type=Path, help="write all numbers and the offset of every clip here")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    args = parser.parse_args(argv)
    return exit_code(parser.prog, lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
