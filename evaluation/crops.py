"""Scores a generator on the face crops of a data root, beside the rows that keep its numbers honest.

python -m evaluation.crops --data_root data/grid --splits test test_unseen
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import checkpoint
from clip import Clip
from data import Clips, Look, collate, sample, write_picture
from evaluation.visual import psnr, squared_error
from hparams import InputError, exit_code

WEIGHTS = Path(__file__).parents[1] / "weights" / "talklip_compact.safetensors"
STRIP_CLIPS, STRIP_FRAMES = 6, 8


@torch.inference_mode()
def score_clip(generator, clips, i, other, step):
    """Errors of one clip, its frames `step` apart, the identity the frame most distant in time.

    other: the clip whose sound is heard in the row "other clip's sound".
    Returns {row: {measure: mean over frames}} and the pictures identity, right sound, other sound, real.
    """
    clip, wrong = Clip(clips.paths[i]), Clip(clips.paths[other])
    frames = np.arange(0, len(clip), step)
    identity = np.where(frames < len(clip) // 2, len(clip) - 1, 0)
    batch = collate([sample(clip, frames, identity, clips.hp, clips.about, Look(0.0, None))])
    face, real, mouth = batch["face"], batch["target"][0], batch["mouth"][0]
    heard, index = wrong.hear(frames, clips.hp.speech)
    drawn = {
        "identity frame copied": face[0, :, 3:],
        "drawn, right sound": generator(face, batch["audio"], batch["index"])[0],
        "drawn, other clip's sound": generator(face, torch.from_numpy(heard)[None], torch.from_numpy(index)[None])[0],
    }
    scores = {}
    for row, fake in drawn.items():
        fake = (fake * 255).round() / 255  # what a picture file can hold
        l1 = ((fake - real).abs() * mouth).sum((1, 2, 3)) / (3 * mouth.sum((1, 2, 3)))
        scores[row] = {
            "psnr_mouth": psnr(squared_error(fake, real, mouth)).mean().item(),
            "psnr_face": psnr(squared_error(fake, real)).mean().item(),
            "l1_mouth": l1.mean().item(),
        }
    return scores, [*drawn.values(), real]


def score(generator, clips, step, strip=None, other=None):
    """Mean scores over the clips of a split, each clip counting once; writes picture strips to `strip`.

    other: how many clips further down the list the other sound is taken from; by default half the list, as neighbours
    in a sorted list say nearly the same.

    Rows of the strip, for each clip: identity, drawn with the right sound, with another clip's sound, real.
    """
    if len(clips) < 2:
        raise InputError("a split of one clip has no other clip's sound: give one with two clips or more")
    other = len(clips) // 2 if other is None else other
    if other % len(clips) == 0:
        raise InputError(f"--other {other}: in a split of {len(clips)} clips this is each clip's own sound")
    results, pictures = [], []
    for i in range(len(clips)):
        scores, rows = score_clip(generator, clips, i, (i + other) % len(clips), step)
        results.append(scores)
        if len(pictures) < STRIP_CLIPS:
            at = np.linspace(0, len(rows[-1]) - 1, STRIP_FRAMES).astype(int)
            pictures.append(torch.cat([torch.cat(list(row[at]), dim=2) for row in rows], dim=1))
    if strip is not None:
        write_picture(strip, torch.cat(pictures, dim=1))
    return {
        row: {name: float(np.mean([each[row][name] for each in results])) for name in results[0][row]}
        for row in results[0]
    }


def table(split, clips, scores):
    """The scores as a Markdown table, and the two differences that matter."""
    lines = [f"| {split}, {clips} clips | PSNR mouth, dB | PSNR face, dB | L1 mouth |", "|---|---|---|---|"]
    for row, values in scores.items():
        lines.append(f"| {row} | {values['psnr_mouth']:.2f} | {values['psnr_face']:.2f} | {values['l1_mouth']:.4f} |")
    copied, right, other = scores.values()
    gain = right["psnr_mouth"] - copied["psnr_mouth"]
    share = 1 - right["l1_mouth"] / other["l1_mouth"]
    return "\n".join([*lines, "", f"{gain:+.2f} dB over the copy; right sound lowers L1 by {share:.1%}", ""])


def main(argv=None):
    """Parses the flags and prints a table per split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--checkpoint_path", default=WEIGHTS, type=Path, help="(default: the one in weights/)")
    parser.add_argument("--splits", nargs="+", default=["test", "test_unseen"], help="(default: %(default)s)")
    parser.add_argument("--step", default=3, type=int, help="every how many frames (default: %(default)s)")
    parser.add_argument("--other", type=int, help="clips down the list to the other sound (default: half the list)")
    parser.add_argument("--strips", type=Path, help="folder for picture strips, one file a split")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    args = parser.parse_args(argv)

    def work():
        generator, hp, about = checkpoint.load_generator(args.checkpoint_path)
        results = {"model": about}
        for split in args.splits:
            clips = Clips(args.data_root, split, hp)
            strip = args.strips and args.strips / f"{split}.png"
            results[split] = score(generator, clips, args.step, strip, args.other)
            print(table(split, len(clips), results[split]))
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")

    return exit_code(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
