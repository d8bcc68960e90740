"""A training run: its networks, optimizers and progress, saved and resumed whole."""

import copy
import json
import math
import os
from contextlib import contextmanager
from dataclasses import asdict

import torch

import checkpoint
from errors import InputError
from faces.landmarks import LIP_NUMBERS
from models import build_generator
from models.talklip import Discriminator
from progress import Progress


@contextmanager
def fitting(path):
    """Around taking over the checkpoint at `path`: one that the flags do not fit becomes an InputError."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        hint = "leave out the flags that change a network, or give another --name"
        raise InputError(f"{path} does not fit these flags: {hint} ({reason})") from error


class Run:
    """The networks, optimizers and progress of a run, in one place that is saved and resumed whole.

    expert: a `LipExpert`, or None where the run has no use for one. It is not saved: it never changes.
    """

    def __init__(self, hp, device, expert=None):
        torch.manual_seed(hp.seed)
        layout = {"device": device, "memory_format": torch.channels_last}
        self.hp, self.device, self.step, self.best = hp, device, 0, math.inf
        self.expert, self.progress = expert, Progress.of(hp)
        generator = build_generator(hp).to(**layout)
        if expert and hp.contrastive_weight and (size := generator.sync.out_features) != expert.hp.dim:
            found = f"the --expert has features of {expert.hp.dim}, sound is compared in {size}"
            raise InputError(f"{found}: say --sync_dim {expert.hp.dim}")
        lips = torch.nn.Linear(generator.speech_size, LIP_NUMBERS).to(device)
        self.nets = {"generator": generator, "discriminator": Discriminator(hp).to(**layout), "lips": lips}
        self.mean = copy.deepcopy(self.nets["generator"]).requires_grad_(False) if hp.ema else None
        adam = {"lr": hp.lr, "betas": (hp.beta1, hp.beta2)}
        trained = {"generator": [*generator.parameters(), *lips.parameters()]}
        trained["discriminator"] = self.nets["discriminator"].parameters()
        self.optims = {name: torch.optim.Adam(weights, **adam) for name, weights in trained.items()}

    @property
    def now(self):
        """The knobs, with the steps at which stages began."""
        return self.progress.knobs(self.hp)

    @property
    def shown(self):
        """The generator that is validated and exported: the averaged one where there is one."""
        return self.mean or self.nets["generator"]

    def save(self, path):
        """Writes all that `resume` needs."""
        state = {name: net.state_dict() for name, net in self.nets.items()}
        state |= {f"{name}_optimizer": optim.state_dict() for name, optim in self.optims.items()}
        if self.mean:
            state["ema"] = self.mean.state_dict()
        state |= {"progress": self.progress.state(), "expert": self.expert and self.expert.sha256}
        checkpoint.save(path, hparams=asdict(self.hp), step=self.step, best=self.best, **state)

    def begin_with(self, path):
        """Takes the generator's weights from any file that holds one of the same size."""
        found = checkpoint.load_generator(path)[0].state_dict()
        try:
            for net in filter(None, (self.nets["generator"], self.mean)):
                net.load_state_dict(found)
        except RuntimeError as error:
            raise InputError(f"--init {path} is a generator of another size: give the --preset that fits") from error

    def resume(self, path, state):
        """Continues where the checkpoint at `path` was written. state: what `checkpoint.load` read from it."""
        with fitting(path):
            for name, net in self.nets.items():
                net.load_state_dict(state[name])
            for name, optim in self.optims.items():
                optim.load_state_dict(state[f"{name}_optimizer"])
            if self.mean:  # a run that averages from now on begins with what it has
                self.mean.load_state_dict(state.get("ema", state["generator"]))
            self.step, self.best = state["step"], state["best"]
            if "progress" in state:  # older checkpoints have none
                self.progress = Progress(**state["progress"])
        for group in (group for optim in self.optims.values() for group in optim.param_groups):
            group["betas"] = self.hp.beta1, self.hp.beta2
        if state["hparams"]["lr"] != self.hp.lr:  # chosen anew: what slowed the run down belongs to the old one
            self.progress.brake, self.progress.rollbacks = 1.0, 0
        if self.expert and (state.get("expert") or self.expert.sha256) != self.expert.sha256:
            raise InputError(f"{path} was trained under another lip reader: give its --expert, or another --name")
        if bool(self.progress.starts) != bool(Progress.of(self.hp).starts):
            raise InputError(
                f"{path} began {'with' if self.progress.starts else 'without'} --patience: that cannot change"
            )

    def go_back(self, path, fault):
        """Goes back to the checkpoint at `path` with half the step size, because of `fault`, and says so in one line.

        Raises InputError when there is nothing to go back to, or when it has been done often enough.
        """
        progress, found = self.progress, f"step {self.step}: {fault}"
        if not path.is_file():
            raise InputError(f"{found}, before anything was saved. Lower --lr")
        if progress.rollbacks >= self.hp.rollbacks:
            times = f" after {progress.rollbacks} times back to an earlier step" if progress.rollbacks else ""
            best = path.with_name("best.pt")
            anew = f", --init {best} begins anew under another --name" if best.is_file() else ""
            raise InputError(f"{found}{times}. Lower --lr; the same command goes on from {path}{anew}")
        self.resume(path, checkpoint.load(path))
        progress.back(self.progress)
        self.progress = progress
        return f"{found}. Back to step {self.step}, the step size times {progress.brake:g}"

    def judge_with(self, path):
        """Takes the discriminator's weights from any file that holds one of the same size."""
        found = checkpoint.load_discriminator(path)[0].state_dict()
        try:
            self.nets["discriminator"].load_state_dict(found)
        except RuntimeError as error:
            wanted = "--init_discriminator"
            raise InputError(f"{wanted} {path} is one of another size: give the --preset that fits") from error

    def transfer(self, path, reader):
        """Begins the global audio encoder as the expert's own encoder, as published. reader: that of `path`."""
        found = {k: v for k, v in reader.net.encoder.state_dict().items() if not k.startswith("video.")}
        try:
            for net in filter(None, (self.nets["generator"], self.mean)):
                net.speech.load_state_dict(found)
        except RuntimeError as error:
            asked = "the audio encoder is to begin as its encoder"
            raise InputError(f"--expert {path} is of another size, and {asked}: give a --preset that fits") from error


def as_numbers(losses, step):
    """The losses of a step as plain numbers; raises InputError that names the first one that is not finite."""
    if bad := not_finite(losses):
        raise InputError(f"step {step}: {bad}. Lower --lr; what was saved before is sound")
    return {"step": step, **{name: round(loss.item(), 6) for name, loss in losses.items()}}


def not_finite(losses):
    """The first of a step's losses that is no number, in words, or None."""
    return next((f"{name} is not finite" for name, loss in losses.items() if not loss.isfinite()), None)


def step_of(line):
    """The step of a line of a log; -1 for one that a crash, or somebody's editor, has left broken."""
    try:
        return int(json.loads(line)["step"])
    except (KeyError, OverflowError, TypeError, ValueError):
        return -1


def open_log(path, step):
    """The log of a run, opened to go on after `step`; what a killed run did beyond its last checkpoint is dropped."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    kept = [line for line in lines if -1 < step_of(line) <= step]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(f"{line}\n" for line in kept))
    os.replace(partial, path)
    return path.open("a")
