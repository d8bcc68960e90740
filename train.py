"""Trains a generator: pixel losses and a discriminator, then, in stages, experts that read its lips or hold them to
the sound.

python train.py --data_root data/grid
python train.py --data_root data/lrs2 --preset talklip_g_c --name lrs2_g_c --expert lip_expert.pt
python train.py --data_root data/lrs2 --preset wav2lip_gan --name lrs2_gan --sync_expert lipsync_expert.pth
"""

import argparse
import copy
import sys
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader

import checkpoint
import distributed
from corpora.data_root import check_data_root
from data import Clips, GuidedClips, collate, evenly
from errors import InputError, exit_code
from experts.audio_to_lip import a2l_scores, a2l_step, shortened, unit_clips
from experts.guidance import lip_expert_of
from experts.sync_guidance import sync_expert_of
from faces.landmarks import LIP_NUMBERS
from hparams import METHODS, PRESETS, WEIGHTS, add_flags, loss_weights, override, preset, stage_plan
from losses import balanced_weight, detail_loss, exact, lips_loss, motion_loss, mouth_loss, pixel_loss, verdict_loss
from media.files import make_folder
from media.frame import write_picture
from models import build_discriminator, build_generator
from models.decoder import PAD
from models.talklip import redrawn, set_stage
from training import TrainState, Validation, check_flags, to, train

STRIP_ROWS, STRIP_FACES = 6, [2, 5]  # clips of a validation's picture strip, and which of their faces it shows
MOST_JUDGED = 10  # clips of a validation that experts judge: all their frames are generated

# The losses of a step


def generator_losses(nets, batch, weights, hp, expert=None, sync_expert=None):
    """Generates a batch's faces, and their losses.

    batch: see `data.collate`.  weights: see `loss_weights`; a loss whose weight is 0 costs nothing.
    expert, sync_expert: a `LipExpert` and a `SyncExpert`, for losses that have a weight.
    Returns fake, (W, T, 3, H, W) in [0, 1], and {name: scalar} of the losses with a weight.
    """
    generator, real = nets["generator"], batch["target"]  # (W, T, 3, H, W)
    fake, speech, said = redrawn(generator, batch)
    guided = weights["lip"] or weights["contrastive"] or weights["cav"]
    memory = expert.features(fake, batch) if guided else None  # (B, L, D)
    windows = sync_expert.embed(fake, batch) if weights["sync"] else ()  # of lips and of sound
    lips = sync_expert.embed_lips(fake, batch) if weights["av"] or weights["vv"] else None
    terms = {
        "l1": lambda: pixel_loss(fake, real),
        "rec": lambda: real[0, 0].numel() * pixel_loss(fake, real),  # summed over a face, as SyncTalklip's eq. 7
        "mouth": lambda: mouth_loss(fake, real, batch["mouth"]),
        "detail": lambda: detail_loss(fake, real),
        "motion": lambda: motion_loss(fake, real, batch["mouth"]),
        "lips": lambda: lips_loss(
            exact((nets.get("lips") or generator.outline)(speech)), batch["lips"], batch["audio_padding"]
        ),
        "adv": lambda: verdict_loss(nets["discriminator"](fake), hp),
        "lip": lambda: expert.reading_loss(memory, batch, hp.lip_sum),
        "contrastive": lambda: expert.contrastive_loss(generator.project(said), memory, batch, hp.faithful),
        "cav": lambda: expert.cav_loss(speech, memory, batch, hp),
        "sync": lambda: sync_expert.loss(*map(distributed.gathered, windows)),
        "av": lambda: sync_expert.contrast(lips, sync_expert.embed_sound(batch), batch, hp.sync_temperature),
        "vv": lambda: sync_expert.contrast(lips, sync_expert.embed_lips(real, batch), batch, hp.sync_temperature),
    }
    return fake, {name: terms[name]() for name, weight in weights.items() if weight > 0}


def discriminator_losses(discriminator, fake, real, hp):
    """Losses of the discriminator's verdicts on real and on generated faces: {name: scalar}.

    d_gap, which is for the log: the mean verdict on real faces minus that on generated ones, in logits.
    """
    on_real, on_fake = discriminator(real), discriminator(fake.detach())
    pairs = ("d_real", on_real, True), ("d_fake", on_fake, False)
    losses = {name: verdict_loss(logits, hp, wished) for name, logits, wished in pairs}
    return losses | {"d_gap": (on_real.mean() - on_fake.mean()).detach()}


def shares(batches, hp):
    """Factors of each batch's losses that make up the losses of all batches of all processes joined.

    A mean over faces, pixels, rows or tokens counts by how many of them a batch has; contrastive and sync losses, which
    are of one batch, of all processes, count alike. Any other loss is taken for a mean over faces.
    Returns {name: scalar} for each batch.
    """

    def counts(batch):
        faces, mouth, rows = torch.ones_like(batch["index"]), batch["mouth"], ~batch["audio_padding"]
        moving = mouth[:, 1:]
        tokens = batch["tokens"] != PAD if "tokens" in batch else rows[:0]
        return torch.stack([each.sum().float() for each in (faces, mouth, moving, rows, tokens)])

    world = distributed.rank()[1]
    counted = torch.stack([counts(batch) for batch in batches])  # (N, 5)
    parts = world * counted / distributed.total(counted.sum(0)).clamp(min=1e-9)
    found = []
    for faces, mouth, moving, rows, tokens in parts:
        own = {
            "mouth": mouth,
            "motion": moving,
            "lips": rows,
            "lip": world if hp.lip_sum else tokens,
            "contrastive": 1 / len(batches),
            "cav": world if hp.cav_sum else faces,
            **dict.fromkeys(("sync", "av", "vv"), 1 / len(batches)),
        }
        found.append(defaultdict(lambda faces=faces: faces, own))
    return found


# The step


def add_gradients(state, batch, weights, expert, share, sync_expert=None):
    """Adds a batch's gradients to both networks. Returns every loss times its `share`, detached.

    Differs: the published code lets the generator's adversarial gradient leak into the discriminator's update:
    `faithful`.
    """
    hp, discriminator = state.hp, state.nets["discriminator"]
    discriminator.requires_grad_(hp.faithful)
    with distributed.autocast(batch["face"].device, hp.amp):
        fake, losses = generator_losses(state.nets, batch, weights, hp, expert, sync_expert)
    losses = {name: share[name] * loss for name, loss in losses.items()}
    if hp.adv_ratio and weights["adv"] > 0:
        others = sum(weights[name] * loss for name, loss in losses.items() if name != "adv")
        weight = balanced_backward(fake, others, losses["adv"], hp.adv_ratio)
        losses |= {"adv_weight": share["adv"] * weight, "total": others + weight * losses["adv"]}
    else:
        losses["total"] = sum(weights[name] * loss for name, loss in losses.items())
        losses["total"].backward()
    discriminator.requires_grad_(True)
    if weights["adv"] > 0:
        with distributed.autocast(batch["face"].device, hp.amp):
            judged = discriminator_losses(discriminator, fake, batch["target"], hp)
        losses |= {name: share[name] * loss for name, loss in judged.items()}
        (losses["d_real"] + losses["d_fake"]).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def balanced_backward(fake, others, adversarial, ratio):
    """Adds the gradients of `others`, and of the adversarial loss times the weight of `adv_ratio`, which is returned.

    Both lengths are those of all processes' faces. The weight is found while the gradient of `others` goes by, so that
    neither loss is gone through twice.
    """
    (pull,) = torch.autograd.grad(adversarial, fake)
    found = []

    def join(gradient):
        squares = torch.stack([gradient.square().sum(), pull.square().sum()])
        found.append(balanced_weight(*distributed.total(squares).sqrt(), ratio))
        return gradient + found[0] * pull

    fake.register_hook(join)
    others.backward()
    return found[0]


def train_step(state, batches, expert=None, sync_expert=None):
    """Updates the generator, and the discriminator where the adversarial loss is on, once.

    batches: one, or more whose gradients are gathered; each has batch norms of its own.
    Returns every loss, of all batches and processes joined, and the generator's gradient norm, detached, for the log.
    """
    weights = loss_weights(state.hp, state.step)
    state.begin_step()
    set_stage(state.nets["generator"], state.hp, state.step)
    if state.hp.shortest_rows:
        batches = [shortened(batch, state.hp.shortest_rows) for batch in batches]
    if state.step < state.hp.a2l_steps:
        return a2l_step(state, batches)
    parts = zip(batches, shares(batches, state.hp), strict=True)
    found = [add_gradients(state, batch, weights, expert, share, sync_expert) for batch, share in parts]
    losses = {name: sum(each[name] for each in found) for name in found[0]}
    stepped = ["generator", "discriminator"] if weights["adv"] > 0 else ["generator"]
    return state.end_step(losses, state.nets["generator"].parameters(), stepped)  # the lips' head is not clipped


# Batches


def batches(clips, guided, workers, state, stop, units=None):
    """Yields (the batches of a step, how many frames they have) until the next stage's take their place, or `stop`.

    clips: for the steps before `lip_from`.  guided: for those after.  units: for those before `a2l_steps`.
    """
    rank, world = distributed.rank()
    hp = state.hp.paced(state.step)
    chosen = guided if state.step >= hp.lip_from else clips
    chosen = units if state.step < hp.a2l_steps else chosen
    end = min([stop, *(first for first in (hp.a2l_steps, hp.lip_from) if first > state.step)])
    numbers = range(state.step * hp.accumulate, end * hp.accumulate)
    draws = [(number * world + rank) * hp.batch_size + i for number in numbers for i in range(hp.batch_size)]
    how = {"num_workers": workers, "worker_init_fn": distributed.one_thread, "pin_memory": state.device.type == "cuda"}
    loader = DataLoader(chosen, hp.batch_size, sampler=draws, collate_fn=partial(collate, window=hp.window), **how)
    for of_step in zip(*[iter(loader)] * hp.accumulate, strict=True):
        frames = sum(batch.get("index", batch["audio_padding"]).numel() for batch in of_step)
        yield [to(state.device, batch) for batch in of_step], frames


# Validation


@torch.no_grad()
def pixel_scores(generator, clips, hp, device, strip=None):
    """Mean losses over a split's fixed samples, in eval mode; writes a picture strip to `strip`.

    A row of the strip is a clip; its pictures are identity | pose prior | generated | real, twice.
    """
    found, rows = [], []
    for i in evenly(len(clips), hp.valid_clips):
        sample = clips.validation(i)
        batch = to(device, collate([sample], window=len(sample["face"])))
        with distributed.autocast(device, hp.amp):
            fake, _, _ = redrawn(generator, batch)
        real = batch["target"]
        found.append({"l1": pixel_loss(fake, real).item(), "mouth": mouth_loss(fake, real, batch["mouth"]).item()})
        if len(rows) < STRIP_ROWS:
            pose, identity = batch["face"][0, STRIP_FACES].split(3, dim=1)[:2]
            rows.append(torch.stack([identity, pose, fake[0, STRIP_FACES], real[0, STRIP_FACES]], dim=1).flatten(0, 1))
    if strip is not None:
        write_picture(strip, torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1))  # (3, rows * H, 8 * W)
    return means(found)


@torch.no_grad()
def expert_scores(generator, experts, clips, hp, device):
    """The `scores` of experts on validation clips of which every frame is generated: means over clips."""
    found = []
    for i in evenly(len(clips), min(hp.valid_clips, MOST_JUDGED)):
        batch = to(device, clips.whole(i))
        with distributed.autocast(device, hp.amp):
            fake, _, _ = redrawn(generator, batch)
            found.append({name: score for each in experts for name, score in each.scores(fake, batch).items()})
    return means(found)


def means(found):
    """The mean of each score over clips: [{name: number}] -> {name: number}."""
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}


def validate(clips, expert, state, strip, sync_expert=None, units=None):
    """The `Validation` of a run; writes a picture strip, but not in stage 1 of CALS, which is validated on `units`."""
    generator, hp = (state.mean or state.nets["generator"]).eval(), state.hp
    if state.step <= hp.a2l_steps and units:
        scores = a2l_scores(generator.speech, units, hp, state.device)
        return Validation(scores, 1 + scores["a2l"])  # an error at the mouth is below 1: any later one is better
    scores = pixel_scores(generator, clips, hp, state.device, strip)
    if experts := [each for each in (expert if clips.guided else None, sync_expert) if each]:
        scores |= expert_scores(generator, experts, clips, hp, state.device)
    begun = (expert and state.step > hp.lip_from, sync_expert and state.step > hp.sync_from)
    best = scores["mouth"] - sum(map(bool, begun))  # an error is below 1: best.pt under experts beats any before them
    plateau = scores["l1"] * min(len(clips), hp.valid_clips) if hp.faithful else scores["l1"]  # published: a sum
    return Validation(scores, best, plateau)


# Building a run


def build(hp, device, facts=None):
    """A `TrainState` of untrained networks, as the knobs say."""
    torch.manual_seed(hp.seed)
    layout = {"device": device, "memory_format": torch.channels_last}
    generator = build_generator(hp).to(**layout)
    nets = {"generator": generator}
    if not hasattr(generator, "outline"):
        nets["lips"] = torch.nn.Linear(generator.speech_size, LIP_NUMBERS).to(device)
    nets["discriminator"] = build_discriminator(hp).to(**layout)
    mean = copy.deepcopy(generator).requires_grad_(False) if hp.ema else None
    adam = partial(torch.optim.Adam, lr=hp.lr, betas=(hp.beta1, hp.beta2))
    learning = [net for name, net in nets.items() if name != "discriminator"]
    optims = {"generator": adam([weight for net in learning for weight in net.parameters()])}
    optims["discriminator"] = adam(nets["discriminator"].parameters())
    return TrainState(hp, device, nets, optims, mean, facts)


def knobs_of(args, last):
    """The knobs of the run that the flags begin, or resume from `last`: (hparams, its checkpoint or None)."""
    state = checkpoint.latest(last)
    if state is None:
        return override(preset(args.row), args), None
    if "task" in state:
        raise InputError(f"{last} is a run of train_expert.py: give another --name")
    return override(checkpoint.knobs(last, state["hparams"]), args), state


def start(args, hp, found, device, expert, reader, sync_expert=None):
    """The state of the run that the flags begin, or resume from the checkpoint `found`."""
    facts = {"expert": expert and expert.sha256, "clips": checkpoint.sha256(args.data_root / "train.txt")}
    facts["sync_expert"] = sync_expert and sync_expert.sha256
    facts["faces"] = args.faces and checkpoint.sha256(args.faces / "train.txt")
    state, begun = build(hp, device, facts), found or {"taught_by": []}
    generator = state.nets["generator"]
    if expert:
        expert.check(generator, hp)
    both = [net for net in (generator, state.mean) if net]
    if found:
        state.resume(args.runs / args.name / "last.pt", found)
    elif path := args.init or args.init_faces:
        init, _, begun = checkpoint.load_generator(path)
        begin = checkpoint.begin_with if args.init else checkpoint.begin_with_faces
        flag = "--init" if args.init else "--init_faces"
        begin(both, init.state_dict(), f"{flag} {path} is a generator of another size")
    untrained = hp.has_expert_encoder and not (found or args.init)  # the audio encoder
    if untrained and reader:  # as published, it begins as the expert's own
        encoder = {k: v for k, v in reader.net.encoder.state_dict().items() if not k.startswith("video.")}
        why = f"--expert {args.expert} is of another size, and the audio encoder is to begin as its encoder"
        checkpoint.begin_with([net.speech for net in both], encoder, why)
    elif untrained and hp.audio_from and hp.audio_train_layers:
        raise InputError(
            "these knobs train only the top of the audio encoder, and late: give --init a generator whose encoder is "
            "trained, such as TalkLip's own, or train all of it: --audio_from 0 --audio_train_layers 0"
        )
    if args.init_discriminator and not found:
        weights = checkpoint.load_discriminator(args.init_discriminator)[0].state_dict()
        why = f"--init_discriminator {args.init_discriminator} is one of another size"
        checkpoint.begin_with([state.nets["discriminator"]], weights, why)
    state.facts["taught_by"] = checkpoint.teachers(begun, facts)
    steps = distributed.gathered(torch.tensor([state.step], device=device))
    if steps.unique().numel() > 1:
        raise InputError(f"{args.runs}: processes find steps {steps.tolist()} there: all machines must see one --runs")
    return state


def clips_of(args, hp, expert):
    """The clips of a run: of the steps before `lip_from`, of those after, and of validation.

    What the later two cannot use is left out and said. Where validation has none that the expert reads, it is of pixels
    alone. Where training has none, that is refused, but if nobody has asked for the expert or a row that has one.
    """
    faces = Clips(args.faces, "train", hp) if args.faces else None
    clips, late = Clips(args.data_root, "train", hp, faces), hp.paced(hp.lip_from)
    for part in filter(None, (clips, faces)):
        part.check()
    found = []
    for split, when in (("train", "steps from --lip_from on are"), ("val", "validation is")):
        shown = (expert.tokenizer, expert.hp.roi, expert.hp.longest) if expert else ()
        part = (GuidedClips if expert else Clips)(args.data_root, split, late, *shown)
        count, reasons = len(part), part.leave_out(windows=split == "train")
        first = next(iter(reasons.values()), None)
        if len(reasons) == count and expert and split == "val":
            distributed.say(f"{part.listed}: the expert reads none of its {count} clips, the first: {first}")
            part = Clips(args.data_root, split, late)
        elif len(reasons) == count and not (expert and is_bare(args)):
            raise InputError(f"{part.listed}: none of its clips can be used: {first}")
        elif reasons:
            distributed.say(f"{part.listed}: {when} without {len(reasons)} of {count} clips, the first: {first}")
        found.append(part)
    return clips, *found


def is_bare(args):
    """Whether the expert is there by default: nobody asked for it, or for a row that has one."""
    return not hasattr(args, "preset") and args.expert == WEIGHTS["expert"]


def described(args, found, expert, sync_expert=None):
    """The preset and the experts of a run in words, and the flags of its published size where it has one."""
    named = ([args.expert] if expert else []) + ([args.sync_expert] if sync_expert else [])
    under, row = f" under {' and '.join(map(str, named))}" if named else "", args.row.removeprefix("compact_")
    if found and not hasattr(args, "preset") and args.name != args.row:
        return f"its own knobs{under}"
    if row not in PRESETS.keys() - {args.row}:
        return f"{args.row}{under}"
    wanted = " --expert FILE" * preset(row).guided + " --sync_expert FILE" * preset(row).needs_sync_expert
    return f"{args.row}{under} (the published size: --preset {row}{wanted})"


def work(args):
    """Trains the run that the flags describe, and exports it where that is asked for."""
    check_flags(args)
    check_data_root(args.data_root, "train.py")
    args.row = getattr(args, "preset", METHODS[args.method])
    args.name = args.name or args.row
    hp, found = knobs_of(args, args.runs / args.name / "last.pt")
    if args.faces and hp.model != "warp":
        raise InputError(f"--faces: their lips, of which no sound tells, are for --method warp, not --model {hp.model}")
    device = distributed.join(torch.device(distributed.device_of(args.device)))
    expert, reader = lip_expert_of(args.expert, hp, device, args.data_root)
    sync_expert = sync_expert_of(args.sync_expert, hp, device, args.data_root)
    clips, guided, valid = clips_of(args, hp, expert)
    if not len(guided):
        distributed.say(f"{guided.listed}: the expert reads none of its clips: trained as {args.name}_unguided")
        args.name += "_unguided"
        hp, found = knobs_of(args, args.runs / args.name / "last.pt")
        expert, hp = None, replace(hp, lip_weight=0.0, contrastive_weight=0.0, cav_weight=0.0)
        clips, guided, valid = clips_of(args, hp, None)
    folder = args.runs / args.name
    units, valid_units = unit_clips(args.data_root, hp, sync_expert, folder / "units.safetensors")
    state = start(args, hp, found, device, expert, reader, sync_expert)
    what = described(args, found, expert, sync_expert)
    distributed.say(f"{folder}: {what} on {len(clips)} clips, step {state.step} of {state.hp.max_steps}")
    for line in stage_plan(state.hp):
        distributed.say(line)
    generator, discriminator = state.mean or state.nets["generator"], state.nets["discriminator"]
    exports = ((args.export, generator, {}), (args.export_discriminator, discriminator, {"network": "discriminator"}))
    exports = [export for export in exports if export[0] and not distributed.rank()[0]]
    for path, _, _ in exports:
        make_folder(path.parent)
    of_stage = partial(batches, clips, guided, args.workers, units=units)
    step = partial(train_step, expert=expert, sync_expert=sync_expert)
    judges = {"sync_expert": sync_expert if hp.synced else None, "units": valid_units}
    train(state, folder, args.stop, of_stage, step, partial(validate, valid, expert, **judges), args.tensorboard)
    for path, net, about in exports:
        checkpoint.export(path, net, state.hp, step=state.step, taught_by=state.facts["taught_by"], **about)
    distributed.leave()


def main(argv=None):
    """Parses the flags and trains, or resumes, a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="made by preprocess.py")
    add("--method", choices=METHODS, default="talklip", help="whose training: its compact preset (default: talklip)")
    add("--name", help="of the run; the same name resumes it (default: its preset's)")
    add("--runs", default=Path("runs"), type=Path, help="folder of all runs (default: %(default)s)")
    add("--workers", default=1, type=int, help="processes that read clips (default: %(default)s)")
    add("--stop", type=int, help="stop after this step, without changing the schedule")
    add("--export", type=Path, help="write the generator here at the end, as safetensors")
    add("--export_discriminator", type=Path, help="and the discriminator here, to go on training with")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--init", type=Path, help="begin with this generator's weights: ours or a published one")
    begin.add_argument("--init_faces", type=Path, help="or with all but its audio encoder; of another method's too")
    add("--init_discriminator", type=Path, help="and with this discriminator's")
    add("--expert", default=WEIGHTS["expert"], type=Path, help="lip-reading expert (default: compact, in weights/)")
    add("--faces", type=Path, help="data root of pictures for --faces_share: it needs no sound (--method warp)")
    add("--sync_expert", type=Path, help="sync expert of Wav2Lip's or CALS' kind: train_expert.py sync, or published")
    add("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    add("--tensorboard", action="store_true", help="log for TensorBoard too, in the folder of the run")
    add_flags(parser)
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    return exit_code(parser.prog, lambda: work(args), if_stopped="stopped; the same command resumes from last.pt")


if __name__ == "__main__":
    sys.exit(main())
