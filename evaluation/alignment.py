"""Recall of lips by their sound in the space of an expert: how often a frame's own lips are the nearest of its clip.

python -m evaluation.alignment --data_root data/grid --splits val
python -m evaluation.alignment --data_root data/grid --splits val --experts expert.safetensors avsyncnet.safetensors

SyncTalklip's eq. 2 asks for it, of cosines (eq. 1); its AV-SyncNet is to have it in L1.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from corpora.corpus import speaker
from distributed import device_of
from errors import InputError, exit_code
from evaluation.bootstrap import difference, estimate
from experts.data import Utterances
from experts.lip_reader import load_reader
from hparams import WEIGHTS
from media.files import write_text

RANKS = 1, 5
NEAR = {"": 0, ", within 1 frame": 1}  # frames that a find may be off
MEASURES = {f"rank {rank}{how}": (rank, near) for how, near in NEAR.items() for rank in RANKS}
FRAMES = "all frames", "frames in words"
SPACES = tuple((metric, centred) for centred in (False, True) for metric in ("cosine", "L1"))


@torch.inference_mode()
def features_of(reader, clips):
    """The features of every clip by its sound alone and by its lips alone: a list of pairs of (L, D), float32.

    They are those that AV-SyncNet draws together: conv, behind its convolution.
    """
    found = []
    for i in range(len(clips)):
        sample = clips[i, None]
        roi, sound = (sample[name][None].to(reader.device) for name in ("roi", "audio"))
        pair = reader.net.encode(None, audio=sound), reader.net.encode(roi)
        found.append(tuple(reader.net.align(each)[0].float().cpu() for each in pair))
    return found


def centred(pairs):
    """Features without the constant offset between sound and lips: each less the mean over all frames of the split."""
    means = [torch.cat(part).mean(0) for part in zip(*pairs, strict=True)]
    return [tuple(each - mean for each, mean in zip(pair, means, strict=True)) for pair in pairs]


def distances(sound, lips, metric):
    """How far the lips of every frame are from the sound of each: (L, D) twice -> (L, L), a row for each sound."""
    if metric == "L1":
        return torch.cdist(sound, lips, p=1)
    return -F.normalize(sound, dim=-1) @ F.normalize(lips, dim=-1).T


def recall(apart, frames):
    """Finds of each sound's own lips, and what chance would find: {measure: (found, by chance)}, sums over sounds.

    apart: (N, N), see `distances`.  frames: (N,) int64, their places in the clip.
    Lips of other frames that are as near as the own ones count as nearer: features that are all alike find nothing.
    """
    found, off = {}, (frames[:, None] - frames).abs()
    for measure, (rank, near) in MEASURES.items():
        right = off <= near
        best = apart.masked_fill(~right, math.inf).amin(1, keepdim=True)
        before = ((apart <= best) & ~right).sum(1)  # wrong ones that are taken first
        wrong, places = (~right).sum(1).double(), torch.arange(min(rank, len(frames)))
        missed = ((wrong[:, None] - places).clamp(min=0) / (len(frames) - places)).prod(1)
        found[measure] = ((before < rank).sum().item(), (1 - missed).sum().item())
    return found


def measure(reader, clips):
    """The finds of an expert on a split: {frames: {(metric, centred): {measure: [(found, by chance, sounds, who)]}}}.

    The lists have an entry for each clip; of frames in words, both sounds and lips are in words.
    """
    pairs = features_of(reader, clips)
    spaces, scores = {False: pairs, True: centred(pairs)}, {which: {space: {} for space in SPACES} for which in FRAMES}
    for i in range(len(clips)):
        spoken = torch.from_numpy(np.flatnonzero(clips.load(i)[0].in_words))
        for which, frames in zip(FRAMES, (torch.arange(len(pairs[i][0])), spoken), strict=True):
            for metric, is_centred in SPACES:
                apart = distances(*spaces[is_centred][i], metric)[frames][:, frames]
                for name, (hits, chance) in (recall(apart, frames) if len(frames) else {}).items():
                    found = hits, chance, len(frames), speaker(clips.names[i])
                    scores[which][metric, is_centred].setdefault(name, []).append(found)
    return scores


def rates(found, chance=False):
    """(hits, sounds) of each clip, for `estimate` and `difference`. chance: the hits are those that it would make."""
    return [(each[chance], each[2]) for each in found]


def people_of(found):
    """Who is seen in each clip."""
    return [each[3] for each in found]


def cell(found, chance=False):
    """A share with half its interval, as the table shows it; of chance, or of the finds."""
    rate = estimate(rates(found, chance), people_of(found))
    spread = "" if rate["low"] is None else f" ±{50 * (rate['high'] - rate['low']):.1f}"
    return f"{100 * rate['value']:.1f}{spread}"


def named(space):
    """A space in words."""
    return f"{space[0]}{', centred' if space[1] else ''}"


def table(split, which, scores):
    """The recall of all experts in one kind of frames as a Markdown table, then what the others are above the first.

    scores: {expert: what `measure` returns}.
    """
    first, *others = scores
    clips = scores[first][which][SPACES[0]]
    lines = [f"| {split}, {which} | distance | {' | '.join(f'{name}, %' for name in MEASURES)} |"]
    lines.append("|---" * (2 + len(MEASURES)) + "|")
    lines.append(f"| chance | | {' | '.join(cell(clips[name], chance=True) for name in MEASURES)} |")
    for expert, found in scores.items():
        for space in SPACES:
            cells = " | ".join(cell(found[which][space][name]) for name in MEASURES)
            lines.append(f"| {expert} | {named(space)} | {cells} |")
    lines.append("")
    for other in others:
        for space in SPACES:
            own, base = (rates(scores[each][which][space]["rank 1"]) for each in (other, first))
            people = people_of(scores[first][which][space]["rank 1"])
            apart, ratio = difference(own, base, people), sum(n for n, _ in own) / max(sum(n for n, _ in base), 1)
            ends = "" if apart["low"] is None else f" [{100 * apart['low']:+.1f}, {100 * apart['high']:+.1f}]"
            lines.append(
                f"{other} - {first}, {named(space)}, rank 1: {100 * apart['value']:+.1f}{ends}, {ratio:.2f} times\n"
            )
    return "\n".join(lines)


def experts_of(args):
    """The experts that the flags name, {name: `TrainedLipReader`}. Raises InputError for one that takes no sound."""
    found = {}
    for path in args.experts:
        reader, name = load_reader(path, whole=False), path.stem if path.stem not in found else str(path)
        if reader.hp.model != "avhubert":
            raise InputError(f"--experts {path} is a {reader.hp.model}, which takes no sound: give an avhubert")
        reader.net.to(device_of(args.device))
        found[name] = reader
    return found


def evaluate(args):
    """Measures every expert on every split; prints two tables for each split, and what they were made with."""
    experts = experts_of(args)
    report = {"experts": {name: reader.about for name, reader in experts.items()}, "splits": {}}
    for split in args.splits:
        scores, clips = {}, None
        for name, reader in experts.items():
            clips = Utterances(args.data_root, split, reader.hp)
            scores[name] = measure(reader, clips)
        for which in FRAMES:
            if all(scores[name][which][SPACES[0]] for name in experts):
                print(table(f"{split}, {len(clips)} clips", which, scores))
        report["splits"][split] = {
            name: {which: {named(space): each for space, each in of.items()} for which, of in found.items()}
            for name, found in scores.items()
        }
    for name, reader in experts.items():
        print(f"{name}: sha256 {reader.about['sha256']}")
    if args.json:
        write_text(args.json, json.dumps(report, indent=1) + "\n")


def main(argv=None):
    """Parses the flags and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--splits", nargs="+", default=["val"], help="(default: %(default)s)")
    parser.add_argument(
        "--experts", nargs="+", default=[WEIGHTS["expert"]], type=Path, help="the first is what others are held against"
    )
    parser.add_argument("--json", type=Path, help="write the finds of every clip here")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    args = parser.parse_args(argv)
    return exit_code(parser.prog, lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
