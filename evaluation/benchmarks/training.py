"""Time and memory of a training step under the lip expert, beside the same mathematics run plainly, in turns.

python -m evaluation.benchmarks.training    2 clips of 75 frames, 55 generated, on the processor
python -m evaluation.benchmarks.training --device cuda --clips 8 --only train    steps and memory of train.py on a GPU
"""

import argparse
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from distributed import device_of
from errors import InputError, exit_code
from evaluation.benchmarks.timing import in_turns, medians
from experts.guidance import LipExpert
from experts.lip_reader import TrainedLipReader
from faces.landmarks import LIP_NUMBERS
from hparams import ExpertHParams, HParams, preset
from models import build_reader
from train import build, train_step

WINDOW, TOKENS, WORDS = 5, 1000, 20  # frames of a window; of the vocabulary; of a sentence
EXPERTS = {"compact": "compact", "synctalklip": "large"}  # of presets whose names begin so; of others "base"
WAYS = {"plain": "float32, expert on every frame", "train": "train.py with --amp"}


class PlainExpert(LipExpert):
    """The expert as the published code applies it: every frame through its video front end, with gradients."""

    def features(self, fake, batch):
        """As `LipExpert.features`."""
        video, _ = self.rois(fake, batch)
        return self.net.encoder(video=video, padding=batch["roi_padding"])


def made_up(clips, length, faces, hp):
    """A batch of clips of `length` frames with so many faces to generate in windows of five; of no meaning."""
    torch.manual_seed(0)
    windows, px, speech = faces // WINDOW, hp.face_size, (104,) if hp.speech == "global" else (1, 80, 16)
    clip = torch.arange(windows) % clips
    starts = torch.arange(windows) // clips * (WINDOW + 1)
    frames = starts[:, None] + torch.arange(WINDOW)  # (W, T)
    to_face = torch.tensor([[0.6, 0.0, 0.2], [0.0, 0.6, 0.4]]).expand(windows, WINDOW, 2, 3)
    tokens = torch.randint(4, TOKENS, (clips, WORDS))
    return {
        "face": torch.rand(windows, WINDOW, 6, px, px),
        "target": torch.rand(windows, WINDOW, 3, px, px),
        "mouth": torch.ones(windows, WINDOW, 1, px, px),
        "index": frames,
        "frames": frames,
        "clip": clip,
        "to_face": to_face,
        "audio": torch.randn(clips, length, *speech),
        "lips": torch.zeros(clips, length, LIP_NUMBERS),
        "audio_padding": torch.zeros(clips, length, dtype=torch.bool),
        "roi_padding": torch.zeros(clips, length, dtype=torch.bool),
        "roi": torch.rand(clips, length, 1, 88, 88),
        "tokens": tokens,
        "previous": tokens.roll(1, 1),
    }


def stepper(hp, reading, device, plain):
    """A function that takes one training step on a batch: `plain`, or as train.py takes it with --amp."""
    torch.manual_seed(0)
    reader = TrainedLipReader(build_reader(reading, TOKENS), reading, tokenizer=(), about={"sha256": ""})
    expert = (PlainExpert if plain else LipExpert)(reader, device, faithful=hp.faithful)
    state = build(replace(hp, amp=not plain), torch.device(device))
    if plain:
        for net in filter(None, (*state.nets.values(), state.mean, expert.net)):
            net.to(memory_format=torch.contiguous_format)

    def work(batch):
        state.step = hp.max_steps  # every loss is on
        return train_step(state, [batch], expert)

    return work


def take_steps(work, batch, steps, peaks, name):
    """Takes some steps on a batch; `peaks[name]` becomes the most memory that they needed, see `peak`."""
    peak(batch["face"].device)
    for _ in range(steps):
        losses = work(batch)
    losses["total"].item()  # waits for a GPU
    peaks[name] = peak(batch["face"].device)


def peak(device):
    """GiB of a GPU that were in use at most since the last call; None on a processor."""
    if device.type != "cuda":
        return None
    most = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return most


def measure(args):
    """Times the ways in turns and prints a table."""
    for flag in ("clips", "frames", "rounds", "steps"):
        if getattr(args, flag) < 1:
            raise InputError(f"--{flag} {getattr(args, flag)} must be at least 1")
    device = device_of(args.device)
    hp = replace(preset(args.preset), lip_from=0, audio_from=0)
    reading = preset(EXPERTS.get(args.preset.partition("_")[0], "base"), ExpertHParams)
    faces = (55 * args.clips // 2 if args.faces is None else args.faces) // WINDOW * WINDOW
    most = args.frames // (WINDOW + 1) * WINDOW * args.clips
    if not WINDOW <= faces <= most:
        raise InputError(f"--faces {args.faces}: from {WINDOW} to {most} fit into {args.clips} clips")
    batch = {name: part.to(device) for name, part in made_up(args.clips, args.frames, faces, hp).items()}
    titles = {name: title for name, title in WAYS.items() if args.only in (None, name)}
    peaks, steppers = {}, {name: stepper(hp, reading, device, name == "plain") for name in titles}
    ways = [partial(take_steps, work, batch, args.steps, peaks, name) for name, work in steppers.items()]
    times = in_turns(ways, args.rounds) / args.steps
    what = f"{args.preset}, {args.clips} clips of {args.frames} frames, {faces} generated, {device}"
    print(f"| {what} | s a step | faces a second | peak memory, GiB |\n|---|---|---|---|")
    for (name, title), took in zip(titles.items(), np.median(times, axis=0), strict=True):
        print(f"| {title} | {took:.2f} | {faces / took:.1f} | {'' if peaks[name] is None else f'{peaks[name]:.1f}'} |")
    if len(ways) == 2:
        print(f"\n{medians(times)[2]:.2f} times as fast")


def main(argv=None):
    """Parses the flags and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [name for name, row in HParams.presets.items() if row.get("lip_weight", 1) and "wav2lip" not in name]
    parser.add_argument("--preset", choices=rows, default="talklip_g_c", help="(default: %(default)s)")
    parser.add_argument("--clips", default=2, type=int, help="in a step (default: %(default)s)")
    parser.add_argument("--frames", default=75, type=int, help="of a clip (default: %(default)s)")
    parser.add_argument("--faces", type=int, help="generated in a step, in windows of 5 (default: 55 for two clips)")
    parser.add_argument("--steps", default=1, type=int, help="timed in a round (default: %(default)s)")
    parser.add_argument("--rounds", default=3, type=int, help="the median of this many (default: %(default)s)")
    parser.add_argument(
        "--only", choices=WAYS, help="time this alone: memory is then its own, not beside the other's networks"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    args = parser.parse_args(argv)
    return exit_code(parser.prog, lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
