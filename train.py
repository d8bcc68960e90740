"""Trains a generator: pixel losses and a discriminator, then, in stages, a lip-reading expert that reads what it draws.

python train.py --data_root data/grid --preset compact_talklip_g_c --name g_c
python train.py --data_root data/lrs2 --method talklip --preset talklip_g_c --name lrs2_g_c --expert lip_expert.pt
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader

import checkpoint
import distributed
from data import Clips, GuidedClips, collate_windows, one_thread
from diary import Diary
from distributed import device_of
from errors import InputError, exit_code
from experts.guidance import LipExpert
from experts.lip_reader import load_reader
from hparams import HParams, add_flags, override
from run import Run
from schedule import learning_rate, loss_weights, set_stage, stage_plan
from update import train_step

EXPERT = Path(__file__).parent / "weights" / "expert_compact.safetensors"


@torch.no_grad()
def average(mean, generator, decay):
    """Moves the averaged generator a little towards the current one; its batch norm statistics too."""
    for old, new in zip(mean.state_dict().values(), generator.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)


def learn(run, batches):
    """One step of a run. All that is random follows from (seed, step). Returns the losses, detached."""
    hp, step, (rank, world) = run.now, run.step, distributed.rank()
    torch.manual_seed(hp.seed * 1_000_003 + step * world + rank)  # dropout and layer drop too
    set_stage(run.nets["generator"], hp, step)
    for group in (group for optim in run.optims.values() for group in optim.param_groups):
        group["lr"] = run.progress.brake * learning_rate(hp, step)
    batches = [{name: part.to(run.device, non_blocking=True) for name, part in batch.items()} for batch in batches]
    losses = train_step(run.nets, run.optims, batches, loss_weights(hp, step), hp, run.expert)
    if run.mean:
        average(run.mean, run.nets["generator"], min(hp.ema, (1 + step) / (10 + step)))
    run.progress.note(losses)
    run.step = step + 1
    return losses


def stretch(run, clips, later, workers, stop):
    """The batches of the steps until the next stage's take their place, or until `stop`: lists of `accumulate` each."""
    hp, (rank, world) = run.now.paced(run.step), distributed.rank()
    guided = later and run.step >= hp.lip_from
    chosen, end = later if guided else clips, stop if guided or not later else min(stop, hp.lip_from)
    batches = range(run.step * hp.accumulate, end * hp.accumulate)
    draws = [(batch * world + rank) * hp.batch_size + i for batch in batches for i in range(hp.batch_size)]
    how = {"num_workers": workers, "worker_init_fn": one_thread, "pin_memory": run.device.type == "cuda"}
    loader = DataLoader(
        chosen, hp.batch_size, sampler=draws, collate_fn=partial(collate_windows, window=hp.window), **how
    )
    return zip(*[iter(loader)] * hp.accumulate, strict=True)


def train(run, clips, valid, folder, workers, stop=None, later=None):
    """Runs from `run.step` to `max_steps` (or `stop`); from `lip_from` on `later`, if any, stands in for `clips`."""
    stop = run.hp.max_steps if stop is None else min(stop, run.hp.max_steps)
    with Diary(run, valid, folder, stop) as diary:
        while run.step < stop and not run.progress.over:
            for batches in stretch(run, clips, later, workers, stop):
                diary.waited(sum(batch["index"].numel() for batch in batches))
                if diary.note(learn(run, batches)):  # a stage has begun, or the run has gone back
                    break
        if run.step >= run.hp.max_steps and (never := run.progress.waiting):
            stages = ", ".join(name.removesuffix("_from") for name in never)
            diary.say(f"no plateau came in {run.step} steps, so stages never began: {stages}. Raise --max_steps")


def teacher(args, hp, device):
    """The lip expert that a run will need and its `Reader`, or (None, None)."""
    if not hp.guided or (hp.lip_from >= hp.max_steps and not hp.patience):
        return None, None
    reader = load_reader(args.expert, roi=None if hp.roi == "own" else hp.roi)
    return LipExpert(reader, device, hp.faithful, hp.recompute), reader


def start(args):
    """Builds or resumes the run that the flags describe."""
    folder = args.runs / args.name
    last = folder / "last.pt"
    state = checkpoint.load(last) if last.is_file() else None
    if state and "reader" in state:
        raise InputError(f"{last} is a run of train_expert.py: give another --name")
    hp = override(checkpoint.knobs(last, state.get("hparams", {})) if state else HParams(), args)
    device = distributed.join(torch.device(device_of(args.device)))
    expert, reader = teacher(args, hp, device)
    run = Run(hp, device, expert)
    if state:
        run.resume(last, state)
    elif args.init:
        run.begin_with(args.init)
    elif hp.speech == "global" and expert:
        run.transfer(args.expert, reader)
    elif hp.speech == "global" and hp.audio_from and hp.audio_train_layers:
        raise InputError(
            "these knobs train only the top of the audio encoder, and late: give --init a generator whose encoder is "
            "trained, such as TalkLip's own, or train all of it: --audio_from 0 --audio_train_layers 0"
        )
    if args.init_discriminator and not state:
        run.judge_with(args.init_discriminator)
    if (steps := distributed.gathered(torch.tensor([run.step], device=device))).unique().numel() > 1:
        raise InputError(f"{folder}: processes find steps {steps.tolist()} there: all machines must see one --runs")
    folder.mkdir(parents=True, exist_ok=True)
    for line in (
        [f"{folder}: step {run.step} of {hp.max_steps}", *stage_plan(run.now)] if not distributed.rank()[0] else ()
    ):
        print(line, file=sys.stderr)
    return run, folder


def work(args):
    """Trains the run that the flags describe, and exports it where that is asked for."""
    for flag in ("workers", "stop"):
        if (value := getattr(args, flag)) is not None and value < 0:
            raise InputError(f"--{flag} {value} must be at least 0")
    for path in filter(None, (args.export, args.export_discriminator)):
        path.parent.mkdir(parents=True, exist_ok=True)
    run, folder = start(args)
    hp, expert = run.hp, run.expert
    clips, late = Clips(args.data_root, "train", hp), hp.paced(hp.lip_from)
    if expert:
        shown = expert.tokenizer, expert.hp.roi, expert.hp.longest
        later, valid = (GuidedClips(args.data_root, split, late, *shown) for split in ("train", "val"))
    else:
        later, valid = (Clips(args.data_root, split, late) for split in ("train", "val"))
    later.check()
    if hp.window > late.window:
        clips.check()
    valid.check(drawn=False)
    train(run, clips, valid, folder, args.workers, args.stop, later)
    if args.export and not distributed.rank()[0]:
        checkpoint.export(args.export, run.shown, hp, step=run.step)
    if args.export_discriminator and not distributed.rank()[0]:
        judge = run.nets["discriminator"]
        checkpoint.export(args.export_discriminator, judge, hp, step=run.step, network="discriminator")
    distributed.leave()


def main(argv=None):
    """Parses the flags and trains, or resumes, a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--name", required=True, help="of the run; the same name resumes it")
    parser.add_argument("--runs", default=Path("runs"), type=Path, help="folder of all runs (default: %(default)s)")
    parser.add_argument("--workers", default=1, type=int, help="processes that read clips (default: %(default)s)")
    parser.add_argument("--stop", type=int, help="stop after this step, without changing the schedule")
    parser.add_argument("--export", type=Path, help="write the generator here at the end, as safetensors")
    parser.add_argument("--export_discriminator", type=Path, help="and the discriminator here, to go on training with")
    parser.add_argument("--init", type=Path, help="begin with this generator's weights: ours or a published one")
    parser.add_argument("--init_discriminator", type=Path, help="and with this discriminator's")
    parser.add_argument(
        "--expert", default=EXPERT, type=Path, help="lip-reading expert: ours, or AV-HuBERT's fine-tuned"
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    add_flags(parser)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    return exit_code(parser.prog, lambda: work(args), if_stopped="stopped; the same command goes on from last.pt")


if __name__ == "__main__":
    sys.exit(main())
