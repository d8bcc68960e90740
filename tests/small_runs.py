"""Runs of small generators: the command and its flags, the loop without the command, and what a run leaves."""

import json
from dataclasses import asdict
from functools import partial

import torch

import checkpoint
import train
import training
from data import Clips, GuidedClips
from experts.audio_to_lip import unit_clips
from hparams import HParams

CPU = torch.device("cpu")
CLOCK = {"frames_a_second", "waiting"}


def flags_of(hp):
    """The flags of a run with the knobs `hp`, which begin at the published TalkLip (g)."""
    flags = ["--preset=talklip_g"]
    for name, value in asdict(hp).items():
        if value != getattr(HParams(), name):
            switch = f"--{name}" if value else f"--no-{name}"
            flags.append(switch if isinstance(value, bool) else f"--{name}={value}")
    return flags


def command(root, runs, *more):
    """The exit code of train.py for a run named tiny; later words of `more` win."""
    argv = ["--data_root", root, "--name", "tiny", "--runs", runs, "--workers=0", "--device=cpu", *more]
    return train.main([str(word) for word in argv])


def go(root, folder, stop, hp, expert=None, path=None, sync_expert=None):
    """The state of a run of `stop` steps, or of one that is resumed from the checkpoint at `path`."""
    facts = {"expert": expert and expert.sha256, "sync_expert": sync_expert and sync_expert.sha256}
    state = train.build(hp, CPU, facts)
    if path:
        state.resume(path, checkpoint.load(path))
    clips, late = Clips(root, "train", hp), hp.paced(hp.lip_from)
    shown = (expert.tokenizer, "aligned", 100) if expert else ()
    guided, valid = ((GuidedClips if expert else Clips)(root, split, late, *shown) for split in ("train", "val"))
    units, valid_units = unit_clips(root, hp, sync_expert, folder / "units.safetensors")
    batches = partial(train.batches, clips, guided, 0, units=units)
    judges = {"sync_expert": sync_expert if hp.synced else None} | ({"units": valid_units} if units else {})
    validate = partial(train.validate, valid, expert, **judges)
    step = partial(train.train_step, expert=expert, sync_expert=sync_expert)
    training.train(state, folder, stop, batches, step, validate)
    return state


def stilled(state, step):
    """`state` as before `step`, with optimizers that leave the gradients and move nothing, at --lr 0."""
    state.optims = {
        name: torch.optim.SGD(optim.param_groups[0]["params"], lr=0.0) for name, optim in state.optims.items()
    }
    state.step = step
    return state


def gradients(nets):
    """{(network, weight): its gradient}, of all that have one."""
    found = ((name, weight, each.grad) for name, net in nets.items() for weight, each in net.named_parameters())
    return {(name, weight): gradient.clone() for name, weight, gradient in found if gradient is not None}


def metrics(folder):
    """The lines of a run's log, without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def flat(state, prefix=""):
    """Every tensor, number and word in nested dicts and lists, by its path; tensors as bytes."""
    if isinstance(state, (dict, list)):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, each in pairs for k, v in flat(each, f"{prefix}/{name}").items()}
    return {prefix: state.numpy().tobytes() if isinstance(state, torch.Tensor) else state}
