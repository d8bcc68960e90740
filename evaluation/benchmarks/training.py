"""How long one training step takes, with the lip expert on, beside the same mathematics run plainly, in turns.

python -m evaluation.benchmarks.training                              2 clips of 75 frames, 55 drawn, on the processor
python -m evaluation.benchmarks.training --device cuda --clips 8 --only train  steps and memory of train.py on a GPU
"""

import argparse
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from distributed import device_of
from errors import InputError, exit_code
from experts.guidance import LipExpert
from experts.lip_reader import TrainedLipReader
from hparams import ExpertHParams, HParams, preset
from models import build_reader
from models.talklip import TalkLip
from run import Run
from schedule import loss_weights, set_stage
from update import train_step

WINDOW, TOKENS, WORDS = 5, 1000, 20  # frames of a window; of the vocabulary; of a sentence
WAYS = {"plain": "float32, expert on every frame", "train": "train.py with --amp"}


class PlainExpert(LipExpert):
    """The expert as the published code applies it: every frame through its video front end, with gradients."""

    def features(self, fake, batch):
        """As `LipExpert.features`."""
        video, _ = self.rois(fake, batch)
        return self.net.encoder(video=video, padding=batch["roi_padding"])


def made_up(clips, length, faces, hp):
    """A batch of clips of `length` frames with so many faces to be drawn in windows of five; of no meaning."""
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
        "lips": torch.zeros(clips, length, 80),
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
    hp = replace(hp, amp=not plain)
    run = Run(hp, torch.device(device), expert)
    if plain:
        for net in (*run.nets.values(), expert.net):
            net.to(memory_format=torch.contiguous_format)
    assert isinstance(run.nets["generator"], TalkLip)

    def work(batch):
        set_stage(run.nets["generator"], hp, hp.max_steps)
        return train_step(run.nets, run.optims, [batch], loss_weights(hp, hp.max_steps), hp, expert)

    return work


def seconds(work, batch, steps):
    """The mean time of a step, once it is warm."""
    cuda = batch["face"].is_cuda
    work(batch)
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        losses = work(batch)
    losses["total"].item()  # waits for a GPU
    return (time.perf_counter() - start) / steps


def peak(device):
    """GiB of a GPU that were in use at most since this was last asked; None on a processor."""
    if not device.startswith("cuda"):
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
    reading = preset("compact" if args.preset.startswith("compact") else "base", ExpertHParams)
    faces = (55 * args.clips // 2 if args.faces is None else args.faces) // WINDOW * WINDOW
    most = args.frames // (WINDOW + 1) * WINDOW * args.clips
    if not WINDOW <= faces <= most:
        raise InputError(f"--faces {args.faces}: from {WINDOW} to {most} can be drawn in {args.clips} clips")
    batch = {name: part.to(device) for name, part in made_up(args.clips, args.frames, faces, hp).items()}
    asked = {name: title for name, title in WAYS.items() if args.only in (None, name)}
    ways = {name: stepper(hp, reading, device, name == "plain") for name in asked}
    times, peaks = {name: [] for name in ways}, {}
    for _ in range(args.rounds):
        for name, work in ways.items():
            peak(device)
            times[name].append(seconds(work, batch, args.steps))
            peaks[name] = peak(device)
    what = f"{args.preset}, {args.clips} clips of {args.frames} frames, {faces} drawn, {device}"
    print(f"| {what} | s a step | faces a second | peak memory, GiB |\n|---|---|---|---|")
    for name, title in asked.items():
        took = np.median(times[name])
        print(f"| {title} | {took:.2f} | {faces / took:.1f} | {'' if peaks[name] is None else f'{peaks[name]:.1f}'} |")
    if len(ways) == 2:
        print(f"\n{np.median(np.divide(times['plain'], times['train'])):.2f} times as fast")


def main(argv=None):
    """Parses the flags and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [name for name, row in HParams.presets.items() if row.get("lip_weight", 1) and "wav2lip" not in name]
    parser.add_argument("--preset", choices=rows, default="talklip_g_c", help="(default: %(default)s)")
    parser.add_argument("--clips", default=2, type=int, help="in a step (default: %(default)s)")
    parser.add_argument("--frames", default=75, type=int, help="of a clip (default: %(default)s)")
    parser.add_argument("--faces", type=int, help="drawn in a step, in windows of 5 (default: 55 for two clips)")
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
