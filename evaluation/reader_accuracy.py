"""Accuracy of lip readers on real clips: word and character error rates, word accuracy of a word classifier.

python -m evaluation.reader_accuracy --data_root data/grid --splits test test_unseen
"""

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from corpora.corpus import speaker
from data import Clips, collate
from distributed import device_of
from errors import InputError, exit_code
from evaluation.bootstrap import difference
from evaluation.rows import OTHER_LIPS, TRUTH
from evaluation.wer import EVALUATION_READERS, count_errors, teacher_forced
from experts.data import Utterances, Words
from experts.lip_reader import error_rates, load_reader, read
from hparams import WEIGHTS, HParams
from media.files import make_folder, write_text
from media.frame import write_pixels

READERS = [WEIGHTS["expert"], *EVALUATION_READERS.values()]
ROWS = TRUTH, OTHER_LIPS
TOGETHER = 8  # clips that are read at once
STRIP_CLIPS, STRIP_FRAMES = 6, 10


def read_split(reader, clips, other):
    """The sentences of a split: what is said in each clip, and what is read off its lips, freely and teacher forced.

    other: the lips are those of the clip so many places down the list; 0: its own.
    """
    said, free, forced = [], [], []
    for part in np.array_split(np.arange(len(clips)), -(-len(clips) // TOGETHER)):
        samples = [clips[int(i), None] for i in part]
        lips = samples if not other else [clips[int(i + other) % len(clips), None] for i in part]
        batch = collate([{**lip, "tokens": own["tokens"]} for lip, own in zip(lips, samples, strict=True)])
        batch = {name: each.to(reader.device) for name, each in batch.items()}
        said += [reader.tokenizer.decode(own["tokens"]) for own in samples]
        free += read(reader, batch["roi"], batch["roi_padding"])
        forced += teacher_forced(reader, batch)
    return said, free, forced


def score_reader(reader, root, split, strips=None):
    """The rates of a lip reader on a split: {row: {measure: share}}, and the sentences of the first row."""
    clips = Utterances(root, split, reader.hp, reader.tokenizer)
    rates, sentences = {}, []
    for row, other in zip(ROWS, (0, max(len(clips) // 2, 1)), strict=True):
        if other and len(clips) < 2:
            continue
        said, free, forced = read_split(reader, clips, other)
        each = [error_rates([a], [b])["wer"] for a, b in zip(said, forced, strict=True)]
        rates[row] = error_rates(said, free) | {"wer_teacher_forced": float(np.mean(each))}
        sentences = sentences or [{"said": a, "read": b} for a, b in zip(said, free, strict=True)]
    if strips:
        write_strips(strips / f"{split}_{reader.about['name']}.png", clips, sentences)
    return rates, sentences


@torch.inference_mode()
def write_strips(path, clips, sentences):
    """Writes a picture: the mouths of a few clips as a lip reader sees them, and below each what was said and read."""
    rows = []
    for i in np.linspace(0, len(sentences) - 1, min(STRIP_CLIPS, len(sentences))).astype(int):
        each, roi = sentences[i], clips[int(i), None]["roi"][:, 0]
        at = np.linspace(0, len(roi) - 1, STRIP_FRAMES + 2).astype(int)[1:-1]
        rows.append(np.concatenate(list((roi[at].numpy() * 255).astype(np.uint8)), axis=1))
        caption = np.full((20, rows[-1].shape[1]), 255, np.uint8)
        text = "said and read: " + each["said"]
        if each["read"] != each["said"]:
            text = f"said: {each['said']}   read: {each['read']}"
        cv2.putText(caption, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 0, 1, cv2.LINE_AA)
        rows.append(caption)
    write_pixels(path, np.concatenate(rows))


@torch.inference_mode()
def score_words(reader, root, split):
    """The share of a split's words that the classifier names right, each word counting once, and which it mistakes."""
    words = Words(root, split, reader.hp, reader.words)
    mistakes, right = {}, 0
    for part in np.array_split(np.arange(len(words)), -(-len(words) // (4 * TOGETHER))):
        batch = collate([words[int(i), None] for i in part])
        batch = {name: each.to(reader.device) for name, each in batch.items()}
        best = reader.net(batch["roi"], batch["roi_padding"], batch["inside"]).argmax(-1)
        for found, true in zip(best.tolist(), batch["word"].tolist(), strict=True):
            right += found == true
            if found != true:
                pair = f"{reader.words[true]} as {reader.words[found]}"
                mistakes[pair] = mistakes.get(pair, 0) + 1
    common = sorted(mistakes.items(), key=lambda item: -item[1])
    return {ROWS[0]: {"word_accuracy": right / len(words)}}, dict(common[:10])


def table(split, results):
    """The scores of a split as a Markdown table."""
    measures = {"wer": "WER", "cer": "CER", "wer_teacher_forced": "WER, teacher forced", "word_accuracy": "words right"}
    lines = [f"| {split} | lips | {' | '.join(measures.values())} |", "|---" * (2 + len(measures)) + "|"]
    for name, rows in results.items():
        for row, rates in rows.items():
            cells = (f"{rates[measure]:.1%}" if measure in rates else "" for measure in measures)
            lines.append(f"| {name} | {row} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def differences(results, people=None):
    """The WER of each reader of sentences less the first's, paired by clip with its 95 % interval: a list of lines.

    results: {reader: (rates, what was said and read in each clip)}, see `score_reader`.
    people: who is seen in each clip.
    """
    counts = {
        name: [count_errors(each["said"], each["read"])[:2] for each in sentences]
        for name, (rates, sentences) in results.items()
        if "wer" in rates[TRUTH]
    }
    first, *others = counts or [None]
    found = {f"{other} - {first}": difference(counts[other], counts[first], people) for other in others}
    return [
        f"{what}: WER {each['value']:+.1%}"
        + ("" if each["low"] is None else f" [{each['low']:+.1%}, {each['high']:+.1%}]")
        for what, each in found.items()
    ]


def readers_of(args):
    """The readers that the flags name, {name: `TrainedLipReader`}; files of one name also have their folder's."""
    given = {knob: getattr(args, knob) for knob in ("beam", "penalty") if getattr(args, knob) is not None}
    device = device_of(args.device)
    stems, readers = [path.stem for path in args.readers], {}
    for path in args.readers:
        name = path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}_{path.stem}"
        if name in readers:
            raise InputError(f"--readers {path}: another one is called {name} too, rename it or its folder")
        reader = readers[name] = load_reader(path, roi=args.roi)
        reader.net.to(device)
        reader.hp = replace(reader.hp, **given)
        reader.about["name"] = name
    return readers


def evaluate(args):
    """Reads every split with every reader; prints a table per split and what it was made with."""
    for folder in (args.json and args.json.parent, args.strips):
        if folder:
            make_folder(folder)  # now rather than when all is computed
    readers, report = readers_of(args), {"readers": {}, "splits": {}}
    for split in args.splits:
        found = {}
        for name, reader in readers.items():
            score = score_words if reader.words else partial(score_reader, strips=args.strips)
            found[name] = score(reader, args.data_root, split)
        people = [speaker(name) for name in Clips(args.data_root, split, HParams()).names]
        print(table(split, {name: rates for name, (rates, _) in found.items()}))
        print("".join(f"{line}\n\n" for line in differences(found, people)), end="")
        report["splits"][split] = {name: {"rates": r, "details": d} for name, (r, d) in found.items()}
    for name, reader in readers.items():
        decoding = {} if reader.words else {"beam": reader.hp.beam, "penalty": reader.hp.penalty}
        report["readers"][name] = reader.about | decoding
        how = f", beam {decoding['beam']}, length penalty {decoding['penalty']:g}" if decoding else ""
        print(f"{name}: sha256 {reader.about['sha256']}{how}")
    if args.json:
        write_text(args.json, json.dumps(report, indent=1) + "\n")


def main(argv=None):
    """Parses the flags and prints a table per split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--splits", nargs="+", default=["test", "test_unseen"], help="(default: %(default)s)")
    parser.add_argument("--readers", nargs="+", default=READERS, type=Path, help="(default: those in weights/)")
    parser.add_argument("--roi", choices=("aligned", "lrs2"), help="mouth ROI that they see (default: the file's own)")
    parser.add_argument("--beam", type=int, help="hypotheses of beam search (default: the reader's own)")
    parser.add_argument("--penalty", type=float, help="its length penalty (default: the reader's own)")
    parser.add_argument("--strips", type=Path, help="folder for pictures of the mouths and what is read off them")
    parser.add_argument("--json", type=Path, help="write all numbers and sentences here")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    args = parser.parse_args(argv)

    return exit_code(parser.prog, lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
