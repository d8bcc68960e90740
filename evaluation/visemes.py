"""Viseme confusions of lip readers: which lip shapes they take for which, in what `evaluation.evaluate` has read off.

python -m evaluation.visemes results/evaluation/evaluation.json --out results/visemes.png

A reader that takes B for P has seen all that lips show; by words that is an error, by visemes it is none.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from corpora.corpus import speaker
from errors import InputError, exit_code
from evaluation.bootstrap import difference, estimate
from evaluation.figures import plot
from evaluation.rows import TRUTH
from evaluation.table import Column, methods_of, table
from media.files import write_text

READERS = "reader1", "reader2"
LEAST_SAID = 5  # times that a viseme is said, for its most common confusion to be named
ADDED, MISSED, UNKNOWN = "added", "missed", "?"  # said nothing, read nothing, a word that is not of GRID
COLUMNS = {
    "viseme_errors": Column("viseme errors, %", 1, 100, "low"),
    "visemes_right": Column("visemes right, %", 1, 100, "high"),
    "word_errors": Column("WER, %", 1, 100, "low"),
}
# fmt: off
# GRID's 51 words in ARPAbet, as its British speakers say them (no R before a consonant or at an end, Z is zed).
PRONUNCIATIONS = {
    "bin": "B IH N", "lay": "L EY", "place": "P L EY S", "set": "S EH T",
    "blue": "B L UW", "green": "G R IY N", "red": "R EH D", "white": "W AY T",
    "at": "AE T", "by": "B AY", "in": "IH N", "with": "W IH DH",
    "a": "EY", "b": "B IY", "c": "S IY", "d": "D IY", "e": "IY", "f": "EH F", "g": "JH IY", "h": "EY CH", "i": "AY",
    "j": "JH EY", "k": "K EY", "l": "EH L", "m": "EH M", "n": "EH N", "o": "OW", "p": "P IY", "q": "K Y UW",
    "r": "AA", "s": "EH S", "t": "T IY", "u": "Y UW", "v": "V IY", "x": "EH K S", "y": "W AY", "z": "Z EH D",
    "zero": "Z IH R OW", "one": "W AH N", "two": "T UW", "three": "TH R IY", "four": "F AO", "five": "F AY V",
    "six": "S IH K S", "seven": "S EH V AX N", "eight": "EY T", "nine": "N AY N",
    "again": "AX G EH N", "now": "N AW", "please": "P L IY Z", "soon": "S UW N",
}
# The 12 speech classes of Neti's map (G. Potamianos, C. Neti, G. Gravier, A. Garg, A. W. Senior, Recent advances in the
# automatic recognition of audiovisual speech, Proc. IEEE 91(9), 2003), named by what lips and tongue do.
VISEMES = {
    "bilabial": "P B M", "labiodental": "F V", "dental": "TH DH", "alveolar": "T D N", "fricative": "S Z",
    "palatal": "SH ZH CH JH", "semivowel": "L R Y", "velar": "NG G K W",
    "open": "AO AH AA ER OY AW HH", "round": "UW UH OW", "middle": "AE EH EY AY", "spread": "IH IY AX",
}
# fmt: on
OF_PHONE = {phone: viseme for viseme, phones in VISEMES.items() for phone in phones.split()}


def visemes_of(sentence, known=True):
    """The visemes of a sentence: a list of names. known: refuse a word that is not of GRID; else it is `UNKNOWN`.

    Raises InputError for such a word.
    """
    found = []
    for word in sentence.lower().split():
        if word not in PRONUNCIATIONS and known:
            raise InputError(f"{word!r} is none of GRID's 51 words: how it is pronounced is not known here")
        phones = PRONUNCIATIONS.get(word)
        found += [OF_PHONE[phone] for phone in phones.split()] if phones else [UNKNOWN]
    return found


def confusions(said, read):
    """What each viseme of a sentence was read as, by the alignment with the fewest errors: [(said, read)].

    said, read: sentences. A viseme that was not read has `MISSED` beside it, one that was not said `ADDED`.
    """
    import jiwer

    said, read = visemes_of(said), visemes_of(read, known=False)
    pairs = []
    for part in jiwer.process_words(" ".join(said), " ".join(read)).alignments[0]:
        true = said[part.ref_start_idx : part.ref_end_idx] or [ADDED] * (part.hyp_end_idx - part.hyp_start_idx)
        pairs += zip(true, read[part.hyp_start_idx : part.hyp_end_idx] or [MISSED] * len(true), strict=True)
    return pairs


def counted(pairs):
    """Confusions as a table: (said, read) counts, in the order of `VISEMES`; the last row is added, the last column is
    missed or unknown: (13, 13) int.
    """
    order = {name: number for number, name in enumerate(VISEMES)}
    counts = np.zeros((len(order) + 1, len(order) + 1), int)
    for true, found in pairs:
        counts[order.get(true, -1), order.get(found, -1)] += 1
    return counts


def scores_of(said, read):
    """The measures of a clip: {measure: (sum, weight)}, see `bootstrap.estimate`. said, read: sentences."""
    from evaluation.wer import count_errors

    pairs = confusions(said, read)
    count, right = sum(true != ADDED for true, _ in pairs), sum(true == found for true, found in pairs)
    wrong, words, _, _ = count_errors(said, read)
    errors = (len(pairs) - right, count)
    return {"viseme_errors": errors, "visemes_right": (right, count), "word_errors": (wrong, words)}


def matrix(name, counts):
    """A row's confusions as a Markdown table: said down, read across, % of each viseme said."""
    names = list(VISEMES)
    lines = [f"| {name}: said, times | {' | '.join([*names, MISSED])} |", "|---" * (len(names) + 2) + "|"]
    for viseme, row in zip([*names, ADDED], counts, strict=True):
        shown = [f"{100 * each / row.sum():.0f}" if each else "" for each in row] if viseme != ADDED else list(row)
        lines.append(f"| {viseme}, {row.sum()} | {' | '.join(str(each or '') for each in shown)} |")
    return "\n".join(lines)


def worst(counts, most=3):
    """The most common confusions of visemes that were said often enough, in words."""
    names, found = [*VISEMES, MISSED], []
    for said, row in zip(VISEMES, counts, strict=False):
        other = row.copy()
        other[names.index(said)] = 0
        if row.sum() >= LEAST_SAID and other.any():
            share = other.max() / row.sum()
            found.append((share, f"{said} as {names[int(other.argmax())]} {share:.0%}"))
    return "; ".join(words for _, words in sorted(found, reverse=True)[:most])


def draw(out, shown):
    """Writes a plot of confusions, a panel a row. shown: {name: counts}."""
    axes, write = plot(out, len(shown), width=4.6, height=4.9)
    for axis, (name, counts) in zip(axes, shown.items(), strict=True):
        said = counts[:-1]
        axis.imshow(said / said.sum(1, keepdims=True).clip(min=1), vmin=0, vmax=1, cmap="Blues")
        axis.set_xticks(range(len(VISEMES) + 1), [*VISEMES, MISSED], rotation=90, fontsize=7)
        axis.set_yticks(range(len(VISEMES)), VISEMES, fontsize=7)
        axis.set(title=name, xlabel="read", ylabel="said")
    write()


def report_of(path, split):
    """A split of a report of evaluation.evaluate. Raises InputError for another file, or one in which nobody read."""
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
        found = splits[split or next(iter(splits))]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(f"{path} holds no split {split or ''} of evaluation.evaluate's evaluation.json") from error
    if not found["read"]:
        raise InputError(f"{path}: nobody has read: evaluate with --measures reading")
    return found


def evaluate(args):
    """Prints the rows' errors, paired differences to the first method, and the confusions; draws these."""
    result = report_of(args.report, args.split)
    names, people = list(result["read"]), [speaker(name) for name in result["read"]]
    rows, shown, differences = {}, {}, {}
    for row in result["rows"]:
        read = [result["read"][name][row].get(args.reader) for name in names]
        if None in read:
            raise InputError(f"{args.report}: --reader {args.reader} has not read {row}")
        both = [(result["said"][name], text) for name, text in zip(names, read, strict=True)]
        each = [scores_of(*pair) for pair in both]
        rows[row] = {measure: [one[measure] for one in each] for measure in COLUMNS}
        shown[row] = counted([pair for said, text in both for pair in confusions(said, text)])
    first, *others = methods_of(rows) or [None]
    for other in others:
        apart = {name: difference(rows[other][name], rows[first][name], people) for name in COLUMNS}
        differences[f"{other} - {first}"] = apart
    estimates = {row: {name: estimate(pairs, people) for name, pairs in of.items()} for row, of in rows.items()}
    title = f"{args.reader}, free, {len(names)} clips"
    print(table(title, estimates, COLUMNS) + "\n")
    if differences:
        print(table("paired difference [95 % interval]", differences, COLUMNS, signed=True) + "\n")
    for row in [TRUTH, *methods_of(rows)]:
        print(f"{row}: {worst(shown[row])}\n\n{matrix(row, shown[row])}\n")
    draw(args.out, {row: shown[row] for row in [TRUTH, *methods_of(rows)]})
    if args.json:
        counts = {row: each.tolist() for row, each in shown.items()}
        write_text(
            args.json, json.dumps({"visemes": VISEMES, "rows": estimates, "confusions": counts}, indent=1) + "\n"
        )


def main(argv=None):
    """Parses the flags and prints the tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="evaluation.json of evaluation.evaluate, on GRID")
    parser.add_argument("--split", help="(default: the report's first)")
    parser.add_argument("--reader", default="reader1", choices=READERS, help="(default: %(default)s)")
    parser.add_argument("--out", default=Path("results/visemes.png"), type=Path, help="plot (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all counts here")
    args = parser.parse_args(argv)
    return exit_code("evaluation.visemes", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
