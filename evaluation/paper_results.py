"""The papers' numbers, each with what keeps it from being compared with ours.

python -m evaluation.paper_results
"""

import csv
from pathlib import Path
from string import ascii_lowercase

from errors import InputError

FILE = Path(__file__).with_name("paper_results.csv")
METRICS = ("PSNR", "SSIM", "LMD", "LSE-C", "LSE-D", "FID", "ACC", "WER1", "WER2")  # the order of columns; then opinions
PEOPLE = "other people rated other clips, and what they were asked is stated in part only"
# fmt: off
COMPARABLE = {  # protocol: what ours must be measured with, on the same set, to stand beside it
    "crops-96": "SSIM with a Gaussian window on face crops of 96 px, boxes as published, mean over frames",
    "lse-lrs": "SyncNet v2 on whole frames, protocol `lrs`, by which others measured this ground truth, too",
    "reader1-beam50": "AV-HuBERT large fine-tuned on LRS2, reading freely with beam 50; all errors by all words",
}
NOT_COMPARABLE = {  # protocol: why not
    "talklip-psnr": "most likely by TalkLip's script, where differences of 8-bit numbers wrap around and raise PSNR: "
                    "hold it against our wrapped column only",
    "teacher-forced": "a Conformer is given every true word before each, and sentences are averaged: this is no WER of "
                      "free reading",
    "lrw-mvm": "named by another project's classifier for LRW, Multi-head Visual-audio Memory, which is not read here",
    "lse-d-talklip": "the ground truth of LRS2 has 6.45 in this table and 6.259 in CALS, while its LSE-C is the same "
                     "in both: another protocol, or an error in print",
    "lse-unstated": "which of the two LSE protocols, whole frame or face track, is not stated for this set",
    "cals-crops": "face crops of 128 px; neither the script nor how LMD is normalised is known",
    "mos-cals": PEOPLE,
    "mos-synctalklip": f"{PEOPLE}; what ± is, is not stated",
    "taken-over": "the table takes it over from another paper, whose script and hours of training differ",
    "cross-audio": "from a web page's list, the paper was not at hand; each face was driven by another video's sound",
}
# fmt: on


def rows(set=None, metrics=None):
    """The published numbers, in the order of their tables, as a list of dicts.

    set: "LRS2", "LRW", "HDTF" or "not stated", or None for all. metrics: names such as "PSNR" and "WER1", or None.
    Keys: method, set, metric, value (in the unit of the table: dB, % or none), plus_minus (float or None), printed (as
    text), source (paper and table), protocol, measured_by (the source's authors, or others), comparable (bool), why:
    what keeps the number from being compared with ours or, if comparable, what ours must be measured with.
    Raises InputError for a set or metric that is in no table.
    """
    with FILE.open(encoding="utf-8", newline="") as file:
        found = [_row(each) for each in csv.DictReader(file)]
    for name, wanted in (("set", [set] if set else []), ("metric", metrics or [])):
        known = dict.fromkeys(row[name] for row in found)
        if unknown := [each for each in wanted if each not in known]:
            raise InputError(f"no published number has the {name} {unknown[0]!r}: choose among {', '.join(known)}")
    return [row for row in found if set in (None, row["set"]) and (not metrics or row["metric"] in metrics)]


def _row(line):
    protocol, spread = line["protocol"], line["plus_minus"]
    return line | {
        "value": float(line["value"]),
        "printed": f"{line['value']} ± {spread}" if spread else line["value"],
        "plus_minus": float(spread) if spread else None,
        "comparable": protocol in COMPARABLE,
        "why": COMPARABLE.get(protocol) or NOT_COMPARABLE[protocol],
    }


def table(set=None, metrics=None):
    """The same as Markdown tables, one for each set of a source; a letter at a number refers to the notes below."""
    found, notes, lines = rows(set, metrics), {}, []
    for row in found:
        notes.setdefault((row["comparable"], row["why"]), ascii_lowercase[len(notes)])
    for source, which in dict.fromkeys((row["source"], row["set"]) for row in found):
        own = [row for row in found if (row["source"], row["set"]) == (source, which)]
        named = dict.fromkeys(row["metric"] for row in own)
        columns = [metric for metric in METRICS if metric in named] + [each for each in named if each not in METRICS]
        cells = {
            (row["method"], row["metric"]): f"{row['printed']} ({notes[row['comparable'], row['why']]})" for row in own
        }
        lines += [f"{source}; set: {which}", "", " | ".join(["| Method", *columns]) + " |"]
        lines.append("|---" * (1 + len(columns)) + "|")
        for method in dict.fromkeys(row["method"] for row in own):
            lines.append(f"| {method} | {' | '.join(cells.get((method, column), '') for column in columns)} |")
        lines.append("")
    for (comparable, why), letter in notes.items():
        lines.append(f"- ({letter}) {'comparable on the same set, with' if comparable else 'not comparable'}: {why}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
