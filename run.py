"""A training run: its networks, optimizers and progress, saved and resumed whole."""

import copy
import json
import math
from contextlib import contextmanager
from dataclasses import asdict

import torch

import checkpoint
from clip import LIP_NUMBERS
from hparams import InputError
from models import build_generator
from models.talklip import Discriminator


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
    """The networks, optimizers and progress of a run, in one place that is saved and resumed whole."""

    def __init__(self, hp, device):
        torch.manual_seed(hp.seed)
        layout = {"device": device, "memory_format": torch.channels_last}
        self.hp, self.device, self.step, self.best = hp, device, 0, math.inf
        generator = build_generator(hp).to(**layout)
        lips = torch.nn.Linear(generator.speech_size, LIP_NUMBERS).to(device)
        self.nets = {"generator": generator, "discriminator": Discriminator(hp).to(**layout), "lips": lips}
        self.mean = copy.deepcopy(self.nets["generator"]).requires_grad_(False) if hp.ema else None
        adam = {"lr": hp.lr, "betas": (hp.beta1, hp.beta2)}
        trained = {"generator": [*generator.parameters(), *lips.parameters()]}
        trained["discriminator"] = self.nets["discriminator"].parameters()
        self.optims = {name: torch.optim.Adam(weights, **adam) for name, weights in trained.items()}

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


def as_numbers(losses, step):
    """The losses of a step as plain numbers; raises InputError that names the first one that is not finite."""
    numbers = {name: round(loss.item(), 6) for name, loss in losses.items()}
    if bad := [name for name, value in numbers.items() if not math.isfinite(value)]:
        raise InputError(f"step {step}: {bad[0]} is not finite. Lower --lr; what was saved before is sound")
    return {"step": step, **numbers}


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
    path.write_text("".join(f"{line}\n" for line in kept))
    return path.open("a")
