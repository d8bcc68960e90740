"""Several trainings of the same rows: their spread over seeds apart from that over clips, and what papers say of rows.

python -m evaluation.seeds results/experiments/talklip/seed*/table/evaluation.json --against talklip_l

Each report is of one seed and has the same rows, as `evaluation.experiments` makes them.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from corpora.corpus import speaker
from errors import InputError, exit_code
from evaluation.bootstrap import difference, estimate
from evaluation.rows import BASELINES
from evaluation.table import COLUMNS, methods_of, rows_of
from media.files import write_text

# What the papers' tables, or their text, say of their rows: paper, the better row, the worse one, the measure. WER is
# that of their first reader; sync C stands for LSE-C, so that only the order can be the same.
# fmt: off
CLAIMS = (
    ("TalkLip, supplement",  "base_wo_lip",        "base_wo_lip_gan",            "wer_1"),
    ("TalkLip, supplement",  "talklip_l",          "base_wo_lip",                "wer_1"),
    ("TalkLip, supplement",  "talklip_l_c",        "talklip_l",                  "wer_1"),
    ("TalkLip, supplement",  "talklip_g",          "talklip_l",                  "wer_1"),
    ("TalkLip, supplement",  "talklip_g_c",        "talklip_g",                  "wer_1"),
    ("TalkLip, supplement",  "base_wo_lip",        "base_wo_lip_gan",            "sync_c"),
    ("TalkLip, supplement",  "talklip_l",          "base_wo_lip",                "sync_c"),
    ("TalkLip, supplement",  "talklip_l_c",        "talklip_l",                  "sync_c"),
    ("TalkLip, supplement",  "talklip_g",          "talklip_l",                  "sync_c"),
    ("TalkLip, supplement",  "talklip_g_c",        "talklip_g",                  "sync_c"),
    ("CALS, table 1",        "cals_a2l",           "cals_baseline",              "psnr"),
    ("CALS, table 1",        "cals_a2l_av",        "cals_a2l",                   "psnr"),
    ("CALS, table 1",        "cals_a2l_av_vv",     "cals_a2l_av",                "psnr"),
    ("CALS, table 1",        "cals_a2l",           "cals_baseline",              "lmd"),
    ("CALS, table 1",        "cals_a2l_av",        "cals_a2l",                   "lmd"),
    ("CALS, table 1",        "cals_a2l_av_vv",     "cals_a2l_av",                "lmd"),
    ("CALS, table 1",        "cals_a2l",           "cals_baseline",              "sync_c"),
    ("CALS, table 1",        "cals_a2l_av",        "cals_a2l",                   "sync_c"),
    ("CALS, table 1",        "cals_a2l_av",        "cals_a2l_av_vv",             "sync_c"),
    ("SyncTalklip, sec 4.5", "synctalklip",        "synctalklip_wo_contrastive", "sync_c"),
    ("SyncTalklip, sec 4.5", "synctalklip",        "synctalklip_wo_contrastive", "wer_1"),
    ("SyncTalklip, sec 4.5", "synctalklip",        "synctalklip_wo_novel",       "sync_c"),
    ("SyncTalklip, sec 4.5", "synctalklip",        "synctalklip_wo_novel",       "wer_1"),
    ("SyncTalklip, sec 4.5", "synctalklip",        "synctalklip_wo_lip",         "wer_1"),
    ("SyncTalklip, sec 4.5", "synctalklip",        "synctalklip_wo_avsyncnet",   "sync_c"),
    ("SyncTalklip, sec 4.5", "synctalklip",        "synctalklip_wo_avsyncnet",   "wer_1"),
    ("SyncTalklip, sec 4.6", "synctalklip_conv",   "synctalklip",                "wer_1"),
    ("SyncTalklip, sec 4.6", "synctalklip",        "synctalklip_conv",           "sync_c"),
    ("SyncTalklip, sec 4.6", "synctalklip_freeze", "synctalklip",                "wer_1"),
    ("SyncTalklip, sec 4.6", "synctalklip",        "synctalklip_freeze",         "sync_c"),
)
# fmt: on
SHOWN = ["psnr_mouth", "sharpness", "lmd", "opening_slope", "opening_peaks", "sync_c", "wer_1", "wer_3", "words"]


def read_reports(paths):
    """The clips of several reports of evaluation.evaluate, each of a seed: {split: [{row: {measure: [pairs]}}]}, and
    who is seen in each clip, {split: [speaker]}.

    Raises InputError for a file that is no report, and for reports of other splits, clips or rows.
    """
    found, people, of = {}, {}, {}
    for path in paths:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            splits = {name: each["clips"] for name, each in report["splits"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no report of evaluation.evaluate ({error}): see evaluation.json") from error
        for split, clips in splits.items():
            rows = rows_of(clips)
            found.setdefault(split, []).append(rows)
            people.setdefault(split, [speaker(name) for name in clips])
            if of.setdefault(split, (list(clips), list(rows))) != (list(clips), list(rows)):
                raise InputError(f"{path}: its {split} has other clips or rows than the first report's")
    if any(len(each) < len(paths) for each in found.values()):
        raise InputError("not all of these reports have the same splits")
    return found, people


def over_seeds(runs, row, measure):
    """The scores of a row summed over its seeds, clip by clip, see `bootstrap.estimate`."""
    return [tuple(np.sum(each, axis=0)) for each in zip(*(rows[row][measure] for rows in runs), strict=True)]


def of_each_seed(runs, row, measure, other=None):
    """The rate of a row in each seed, or what it is above that of another row: a list of floats."""
    rates = {one: [estimate(rows[one][measure])["value"] for rows in runs] for one in (row, other) if one}
    return rates[row] if other is None else [a - b for a, b in zip(rates[row], rates[other], strict=True)]


def compared(runs, people, row, other, measure):
    """A row less another in one measure: {"clips": see `bootstrap.estimate`, "seeds": the same, over trainings}.

    "clips" takes these trainings as they are, and asks of other clips or people; "seeds" takes these clips as they are,
    and asks of other trainings.
    """
    clips = difference(over_seeds(runs, row, measure), over_seeds(runs, other, measure), people)
    return {"clips": clips, "seeds": estimate([(each, 1) for each in of_each_seed(runs, row, measure, other)])}


def verdict(found, better):
    """Whether a row is better than another, as far as both intervals can tell: "yes", "no" or why it cannot be told.

    found: see `compared`.  better: "high" or "low".
    """
    sides, sign = {}, 1 if better == "high" else -1
    for over, each in found.items():
        if each["low"] is None:
            return f"cannot be told: too few {over}"
        low, high = sorted((sign * each["low"], sign * each["high"]))
        sides[over] = 1 if low > 0 else -1 if high < 0 else 0
    if unsure := [over for over, side in sides.items() if not side]:
        return f"cannot be told: within the spread over {' and '.join(unsure)}"
    if len(set(sides.values())) > 1:
        return "cannot be told: seeds and clips disagree"
    return "yes" if sides["clips"] > 0 else "no"


def shown(value, column, signed=False):
    """A number in the unit of its column."""
    return "" if value is None else f"{value * column.scale:{'+' if signed else ''}.{column.digits}f}"


def with_spread(value, interval, rates, column, signed=False):
    """A mean over seeds, half its interval over clips, and the standard deviation over seeds, as text."""
    half = "" if interval["low"] is None else f" ±{shown((interval['high'] - interval['low']) / 2, column)}"
    spread = f" (seeds {shown(float(np.std(rates, ddof=1)), column)})" if len(rates) > 1 else ""
    return f"{shown(value, column, signed)}{half}{spread}"


def tables(split, runs, people, against, measures):
    """The tables of a split in Markdown: rows, differences to `against`, and the papers' orders."""
    rows, clips = runs[0], len(people)
    columns = {name: COLUMNS[name] for name in measures if all(name in of for of in rows.values())}
    head = " | ".join(column.title for column in columns.values())
    lines = [f"| {split}, {clips} clips, {len(runs)} seeds | {head} |", "|---" * (1 + len(columns)) + "|"]
    for row in rows:
        cells = []
        for name, column in columns.items():
            rates, found = of_each_seed(runs, row, name), estimate(over_seeds(runs, row, name), people)
            cells.append(with_spread(found["value"], found, [] if row in BASELINES else rates, column))
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += [
        "",
        "± is the 95 % interval over clips, or people, of these trainings; seeds: standard deviation of a training",
        "",
    ]
    if against:
        lines += [f"| less {against}, paired | {head} |", "|---" * (1 + len(columns)) + "|"]
        for row in methods_of(rows):
            cells = []
            for name, column in columns.items() if row != against else ():
                found = compared(runs, people, row, against, name)
                rates = of_each_seed(runs, row, name, against)
                cells.append(with_spread(found["clips"]["value"], found["clips"], rates, column, signed=True))
            lines += [f"| {row} | {' | '.join(cells)} |"] if cells else []
        lines.append("")
    return "\n".join([*lines, *ordered(split, runs, people)])


def ordered(split, runs, people):
    """Which orders of the papers appear: lines of a Markdown table, none where a report has no such rows."""
    lines = []
    for paper, better, worse, measure in CLAIMS:
        if not all(measure in runs[0].get(row, {}) for row in (better, worse)):
            continue
        column = COLUMNS[measure]
        found = compared(runs, people, better, worse, measure)
        ends = [
            "none"
            if each["low"] is None
            else f"{shown(each['low'], column, True)} to {shown(each['high'], column, True)}"
            for each in found.values()
        ]
        said = f"{better} better than {worse}, {column.title}"
        value = shown(found["clips"]["value"], column, True)
        lines.append(f"| {paper}: {said} | {value} | {' | '.join(ends)} | {verdict(found, column.better)} |")
    head = [f"| {split}: order | difference | interval over clips | over seeds | appears |", "|---" * 5 + "|"]
    return [*head, *lines, ""] if lines else []


def evaluate(args):
    """Prints the tables of every split, and writes them where --out asks for it."""
    found, people = read_reports(args.reports)
    texts = []
    for split, runs in found.items():
        if args.against and args.against not in methods_of(runs[0]):
            raise InputError(f"--against {args.against}: {split} has the rows {', '.join(methods_of(runs[0]))}")
        texts.append(tables(split, runs, people[split], args.against, args.measures))
        print(texts[-1], flush=True)
    if args.out:
        write_text(args.out, "\n".join(texts) + "\n")


def main(argv=None):
    """Parses the flags and prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, help="evaluation.json of each seed")
    parser.add_argument("--against", metavar="ROW", help="the row that all others are compared with")
    parser.add_argument("--measures", nargs="+", default=SHOWN, choices=COLUMNS, metavar="NAME", help="(default: some)")
    parser.add_argument("--out", type=Path, help="write the tables here, as Markdown")
    args = parser.parse_args(argv)
    return exit_code("evaluation.seeds", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
