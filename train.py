"""Trains a generator: pixel and adversarial losses, in stages, resumed bit for bit by the same command.

python train.py --data_root data/grid --preset compact --name compact
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import checkpoint
from data import Clips, collate, write_picture
from hparams import HParams, InputError, add_flags, exit_code, override
from losses import adversarial_loss, lips_loss, mouth_loss, pixel_loss
from models import device_of
from models.talklip import pick
from run import Run, as_numbers, open_log


def loss_weights(hp, step):
    """The weight of each loss at `step`; one that is 0 is not computed."""
    return {
        "l1": hp.l1_weight,
        "mouth": hp.mouth_weight,
        "lips": hp.lips_weight,
        "adv": hp.adv_weight if step >= hp.adv_from else 0.0,
    }


def learning_rate(hp, step):
    """Adam's step size at `step`: a linear rise, flat, then half a cosine down to 0."""
    rise = min(1.0, (step + 1) / max(hp.warmup, 1))
    start = hp.decay_from * hp.max_steps
    share = min(max((step - start) / max(hp.max_steps - start, 1), 0.0), 1.0)
    return hp.lr * rise * (1 + math.cos(math.pi * share)) / 2


def set_stage(generator, hp, step):
    """Freezes what `step` does not train (stage 0: the audio encoder), in weights, dropout and layer drop.

    Differs: the published code leaves a frozen audio encoder in train mode, with its dropout on.
    """
    generator.train()
    if hp.speech == "local":
        return
    encoder, hears = generator.speech, step >= hp.audio_from
    encoder.requires_grad_(hears and not hp.audio_train_layers)
    encoder.train(hears)
    for block in list(encoder.blocks)[-hp.audio_train_layers :] if hears else ():
        block.requires_grad_(True)


def stage_plan(hp):
    """The schedule in words, one line per stage, as it is printed at the start of a run."""
    starts = {0: ["generator under " + " + ".join(n for n, w in loss_weights(hp, 0).items() if w)]}
    if hp.adv_weight:
        starts.setdefault(hp.adv_from, []).append(f"discriminator, adversarial loss x {hp.adv_weight}")
    if hp.speech == "global":
        what = f"top {hp.audio_train_layers} blocks" if hp.audio_train_layers else "all"
        starts.setdefault(hp.audio_from, []).append(f"audio encoder trains ({what})")
    return [f"from step {start}: {', '.join(parts)}" for start, parts in sorted(starts.items()) if start < hp.max_steps]


def train_step(nets, optims, batch, weights, hp):
    """Updates the generator, then the discriminator where the adversarial loss is on.

    Returns every loss and the generator's gradient norm, detached, for the log.
    Differs: the published code lets the generator's adversarial gradient leak into the discriminator's update.
    """
    real, generator, discriminator = batch["target"], nets["generator"], nets["discriminator"]
    with torch.autocast(real.device.type, torch.bfloat16, enabled=hp.amp):
        speech = generator.listen(batch["audio"], batch["padding"])  # (B, L, D)
        fake = generator.draw(batch["face"], pick(speech, batch["index"]))  # (B, T, 3, H, W)
        terms = {
            "l1": lambda: pixel_loss(fake, real),
            "mouth": lambda: mouth_loss(fake, real, batch["mouth"]),
            "lips": lambda: lips_loss(nets["lips"](speech).float(), batch["lips"], batch["padding"]),
            "adv": lambda: adversarial_loss(discriminator(fake).float(), real=True),
        }
        discriminator.requires_grad_(False)
        losses = {name: terms[name]() for name, weight in weights.items() if weight > 0}
    total = sum(weights[name] * loss for name, loss in losses.items())
    optims["generator"].zero_grad(set_to_none=True)
    total.backward()
    limit = hp.clip_norm or math.inf
    losses["grad_norm"] = torch.nn.utils.clip_grad_norm_(generator.parameters(), limit)
    optims["generator"].step()

    discriminator.requires_grad_(True)
    if weights["adv"] > 0:
        with torch.autocast(real.device.type, torch.bfloat16, enabled=hp.amp):
            losses["d_real"] = adversarial_loss(discriminator(real).float(), real=True)
            losses["d_fake"] = adversarial_loss(discriminator(fake.detach()).float(), real=False)
        optims["discriminator"].zero_grad(set_to_none=True)
        (losses["d_real"] + losses["d_fake"]).backward()
        optims["discriminator"].step()
    return {name: loss.detach() for name, loss in {**losses, "total": total}.items()}


@torch.no_grad()
def average(mean, generator, decay):
    """Moves the averaged generator a little towards the current one; its batch norm statistics too."""
    for old, new in zip(mean.state_dict().values(), generator.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)


@torch.no_grad()
def validate(generator, clips, hp, device, strip=None):
    """Mean losses over a split's fixed samples, in eval mode; writes a picture strip to `strip`.

    A row of the strip is a clip; its pictures are identity | pose prior | generated | real, twice.
    """
    generator.eval()
    sums, rows = {"l1": 0.0, "mouth": 0.0}, []
    count = min(len(clips), hp.valid_clips)
    chosen = np.linspace(0, len(clips) - 1, count).astype(int)
    for i in chosen:
        batch = {name: part.to(device) for name, part in collate([clips.validation(i)]).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=hp.amp):
            fake = generator(batch["face"], batch["audio"], batch["index"], batch["padding"])
        sums["l1"] += pixel_loss(fake, batch["target"]).item() / count
        sums["mouth"] += mouth_loss(fake, batch["target"], batch["mouth"]).item() / count
        if len(rows) < 6:
            pose, identity = batch["face"][0, [2, 5]].split(3, dim=1)
            rows.append(torch.stack([identity, pose, fake[0, [2, 5]], batch["target"][0, [2, 5]]], dim=1).flatten(0, 1))
    if strip is not None:
        write_picture(strip, torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1))  # (3, rows * H, 8 * W)
    return sums


def train(run, clips, valid, folder, workers, stop=None):
    """Runs from `run.step` to `max_steps` (or `stop`). All that is random follows from (seed, step)."""
    hp = run.hp
    stop = min(stop or hp.max_steps, hp.max_steps)
    draws = range(run.step * hp.batch_size, stop * hp.batch_size)
    loader = DataLoader(clips, hp.batch_size, sampler=draws, num_workers=workers, collate_fn=collate)
    faces_a_step, waited, since = hp.batch_size * hp.windows * hp.window, 0.0, time.perf_counter()
    before = since
    with open_log(folder / "metrics.jsonl", run.step) as log, tqdm(total=stop, initial=run.step, unit="step") as bar:
        for step, batch in enumerate(loader, start=run.step):
            waited += time.perf_counter() - before
            torch.manual_seed(hp.seed * 1_000_003 + step)  # dropout and layer drop too
            set_stage(run.nets["generator"], hp, step)
            for group in (group for optim in run.optims.values() for group in optim.param_groups):
                group["lr"] = learning_rate(hp, step)
            batch = {name: part.to(run.device) for name, part in batch.items()}
            losses = train_step(run.nets, run.optims, batch, loss_weights(hp, step), hp)
            if run.mean:
                average(run.mean, run.nets["generator"], min(hp.ema, (1 + step) / (10 + step)))
            run.step = step + 1
            logs, saves, validates = (run.step % n == 0 for n in (hp.log_every, hp.save_every, hp.valid_every))
            saves, validates = saves or run.step == stop, validates or run.step == hp.max_steps
            if logs or saves or validates:  # .item() waits for the GPU
                line = as_numbers(losses, run.step)
            if logs:
                took, since = time.perf_counter() - since, time.perf_counter()
                line |= {"faces_a_second": round(hp.log_every * faces_a_step / took, 1), "waiting": waited / took}
                print(json.dumps(line), file=log, flush=True)
                bar.set_postfix({name: f"{line[name]:.4f}" for name in ("l1", "total") if name in line}, refresh=False)
                waited = 0.0
            if validates:
                scores = validate(run.shown, valid, hp, run.device, folder / "samples" / f"{run.step:07d}.png")
                print(json.dumps({"step": run.step, "valid": scores}), file=log, flush=True)
                if scores["mouth"] < run.best:
                    run.best = scores["mouth"]
                    run.save(folder / "best.pt")
            if saves:
                run.save(folder / "last.pt")
            bar.update()
            before = time.perf_counter()


def start(args):
    """Builds or resumes the run that the flags describe."""
    folder = args.runs / args.name
    last = folder / "last.pt"
    state = checkpoint.load(last) if last.is_file() else None
    if state and "reader" in state:
        raise InputError(f"{last} is a run of train_expert.py: give another --name")
    hp = override(checkpoint.knobs(last, state.get("hparams", {})) if state else HParams(), args)
    run = Run(hp, torch.device(device_of(args.device)))
    if state:
        run.resume(last, state)
    elif args.init:
        run.begin_with(args.init)
    elif hp.speech == "global" and hp.audio_from and hp.audio_train_layers:
        raise InputError(
            "these knobs train only the top of the audio encoder, and late: give --init a generator whose encoder is "
            "trained, such as TalkLip's own, or train all of it: --audio_from 0 --audio_train_layers 0"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for line in [f"{folder}: step {run.step} of {hp.max_steps}", *stage_plan(hp)]:
        print(line, file=sys.stderr)
    return run, folder


def main(argv=None):
    """Parses the flags and trains, or resumes, a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--name", required=True, help="of the run; the same name resumes it")
    parser.add_argument("--runs", default=Path("runs"), type=Path, help="folder of all runs (default: %(default)s)")
    parser.add_argument("--workers", default=1, type=int, help="processes that read clips (default: %(default)s)")
    parser.add_argument("--stop", type=int, help="stop after this step, without changing the schedule")
    parser.add_argument("--export", type=Path, help="write the generator here at the end, as safetensors")
    parser.add_argument("--init", type=Path, help="begin with this generator's weights: ours or a published one")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    add_flags(parser)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)

    def work():
        if args.export:
            args.export.parent.mkdir(parents=True, exist_ok=True)
        run, folder = start(args)
        clips, valid = (Clips(args.data_root, split, run.hp) for split in ("train", "val"))
        train(run, clips, valid, folder, args.workers, args.stop)
        if args.export:
            checkpoint.export(args.export, run.shown, run.hp, step=run.step)

    return exit_code(parser.prog, work, if_stopped="stopped; the same command goes on from last.pt")


if __name__ == "__main__":
    sys.exit(main())
