"""Speed of a lip reader that reads and trains, beside the same mathematics run plainly, in turns.

python -m evaluation.benchmarks.lip_reader --preset base
"""

import argparse
import sys
from dataclasses import replace
from functools import partial

import torch

from errors import InputError, exit_code
from evaluation.benchmarks.timing import in_turns, medians, seconds
from experts.lip_reader import TrainedLipReader, write
from hparams import ExpertHParams, preset
from losses import reading_loss
from models import build_reader

TOKENS, FRAMES = 1000, 75
BATCH, WORDS = 2, 20  # clips and tokens of a forward pass
LEAST_S = 2.0  # for which each way is timed


class Spelling:
    """Stands for a tokenizer where only the time counts: it writes ids."""

    def decode(self, ids):
        """ids: a list of int. Returns them as text."""
        return " ".join(map(str, ids))


def readers(hp):
    """The same untrained lip reader twice: plain float32, and bf16 with channels_last, as train_expert.py runs it."""
    torch.manual_seed(0)
    plain, fast = (
        TrainedLipReader(build_reader(hp, TOKENS), replace(hp, amp=amp), Spelling()) for amp in (False, True)
    )
    fast.net.load_state_dict(plain.net.state_dict())
    fast.net.to(memory_format=torch.channels_last)
    return plain, fast


def forward(reader, train):
    """A function that runs encoder and decoder on `BATCH` clips; `train`: with dropout, loss and gradients."""
    net = reader.net.train(train)
    roi, tokens = torch.rand(BATCH, FRAMES, 1, 88, 88), torch.randint(4, TOKENS, (BATCH, WORDS))

    def work():
        with torch.set_grad_enabled(train), torch.autocast("cpu", torch.bfloat16, enabled=reader.hp.amp):
            logits = net(roi, tokens)
        if train:
            reading_loss(logits.float(), tokens, 1).backward()

    return work


def search(reader, clips, together):
    """A function that writes what `clips` embedded clips say, `together` at once: beam search alone."""
    reader.net.eval()
    memory = torch.randn(clips, WORDS, reader.hp.dim)

    def work():
        for part in memory.split(together):
            write(reader, part)

    return work


def compare(what, slow, quick, rounds):
    """Times two functions in turns and prints the medians and their ratio as a row of the table."""
    a, b, ratio = medians(in_turns((slow, quick), rounds, partial(seconds, least_s=LEAST_S)))
    print(f"| {what} | {a:.3f} s | {b:.3f} s | {ratio:.2f} |", flush=True)


def main(argv=None):
    """Parses the flags and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    presets = [name for name in ExpertHParams.presets if preset(name, ExpertHParams).model != "words"]
    parser.add_argument("--preset", choices=presets, default="base", help="(default: %(default)s)")
    parser.add_argument("--clips", default=16, type=int, help="read by beam search (default: %(default)s)")
    parser.add_argument("--rounds", default=3, type=int, help="the median of this many (default: %(default)s)")
    args = parser.parse_args(argv)

    def work():
        for flag in ("clips", "rounds"):
            if getattr(args, flag) < 1:
                raise InputError(f"--{flag} {getattr(args, flag)} must be at least 1")
        plain, fast = readers(preset(args.preset, ExpertHParams))
        print(
            f"| {args.preset}, {torch.get_num_threads()} threads | plainly | as it is run | ratio |\n|---|---|---|---|"
        )
        what = f"encoder and decoder, {BATCH} clips of {FRAMES} frames"
        compare(f"{what}: float32, bf16", forward(plain, False), forward(fast, False), args.rounds)
        compare(f"{what}, with gradients", forward(plain, True), forward(fast, True), args.rounds)
        one, many = search(plain, args.clips, 1), search(plain, args.clips, args.clips)
        what = f"beam {plain.hp.beam}, {args.clips} clips, float32: one by one, together"
        compare(what, one, many, args.rounds)

    return exit_code(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
