"""One training run, of a generator or an expert: its state, stages, guard and log, and the loop."""

import math
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import torch
from tqdm import tqdm

import checkpoint
import distributed
from errors import InputError
from experts.tokenizer import is_tokenizer
from media.files import check_place, make_folder, only_one
from media.metrics import Metrics
from models.published.archive import is_export
from workers import progress_bar

UNWATCHED = {"adv", "adv_weight", "d_real", "d_fake", "d_gap", "total", "chance", "cav"}  # may rise in a sound run
MEMORY = 0.98  # decay of the running means
ENOUGH = 100  # steps before they are judged
DIVERGED = 3.0  # times the least running mean so far
SATURATED = 0.003  # nats: the discriminator knows every face, and its gradient is that of one shade of difference
ASLEEP = 0.003  # nats from chance at most: the discriminator may know nothing
ALIKE = 0.001  # logits between real and generated at most: it knows nothing
CHANCES = math.log(2), 1.0  # a discriminator's loss where it knows nothing: cross-entropy, hinge


def learning_rate(hp, step):
    """The step size at `step`: a linear rise from `hp.rise_from` of it over `hp.rise_steps`, flat, then a fall from
    `hp.fall_step` to the end.

    The fall is exponential, to `hp.last_lr` of the step size; where that is 0, half a cosine.
    """
    rise = min(step / hp.rise_steps, 1) if hp.rise_steps else 1
    share = min(max((step - hp.fall_step) / max(hp.max_steps - hp.fall_step, 1), 0.0), 1.0)
    fall = hp.last_lr**share if hp.last_lr else (1 + math.cos(math.pi * share)) / 2
    return hp.lr * (hp.rise_from + (1 - hp.rise_from) * rise) * fall


@dataclass
class Plateaus:
    """The stages of a run that begin where validation says instead of at a step: all those of the knob `patience` at a
    plateau of its loss, each after the other, and that of `sync_below` once the sync loss is below it.

    starts: {knob that says when a stage begins: its step, None: not yet}.  least, stale: the best validation of this
    stage, and how many since were no better.  over: the last stage has come to its end (only with `faithful`).
    """

    starts: dict = field(default_factory=dict)
    least: float = math.inf
    stale: int = 0
    over: bool = False

    @classmethod
    def of(cls, hp):
        """The beginning of a run. Stages that wait for validation have no step yet."""
        starts = dict.fromkeys([*(hp.later if hp.patience else ()), *(["sync_from"] if hp.awaits_sync else ())])
        return cls(starts, 100.0 if hp.faithful else math.inf)

    def applied(self, hp):
        """`hp` with the steps at which stages have begun; those that have not begin after the last step."""
        return replace(hp, **{name: hp.max_steps if start is None else start for name, start in self.starts.items()})

    @property
    def waiting(self):
        """The knobs of the stages for which a plateau has still to come, in order."""
        return [name for name, start in self.starts.items() if start is None and name != "sync_from"]

    @property
    def kinds(self):
        """The knobs by which stages of this run wait for validation: {knob: bool}."""
        return {"patience": bool(self.starts.keys() - {"sync_from"}), "sync_below": "sync_from" in self.starts}

    def synced(self, loss, hp, step):
        """Notes the sync loss of a validation; returns whether it is low enough for its stage to begin with `step`."""
        if begins := self.starts.get("sync_from", 0) is None and loss < hp.sync_below:
            self.starts["sync_from"] = step
        return begins

    def validated(self, score, hp, step):
        """Notes the loss of a validation; returns the name of the stage that begins with `step`, or None.

        A stage ends when more than `patience` validations in a row were no better than its best.
        Differs: published, the best is one of all stages together and begins at 100, and the run ends with the last
        stage: `faithful`.
        """
        if not hp.patience:
            return None
        self.least, self.stale = (score, 0) if score < self.least else (self.least, self.stale + 1)
        waiting = self.waiting
        if self.stale <= hp.patience or not (waiting or hp.faithful):
            return None
        self.stale = 0
        if not waiting:
            self.over = True
            return None
        self.least = self.least if hp.faithful else math.inf
        self.starts[waiting[0]] = step
        return waiting[0].removesuffix("_from")


@dataclass
class DivergenceGuard:
    """Watches the losses of a run, and how often it went back to an earlier step.

    brake: what the step size is multiplied by.  rollbacks: how often the run went back.
    means, lows, steps: the running mean of each loss, its least so far, and of how many steps they are.  warned: what
    `warning` had to say has been said.
    """

    brake: float = 1.0
    rollbacks: int = 0
    means: dict = field(default_factory=dict)
    lows: dict = field(default_factory=dict)
    steps: dict = field(default_factory=dict)
    warned: bool = False

    def note(self, losses):
        """Takes the losses of a step into the running means. losses: {name: scalar tensor}."""
        watched = {name: loss for name, loss in losses.items() if name not in UNWATCHED}
        if "d_real" in losses:
            watched["discriminator"] = (losses["d_real"] + losses["d_fake"]) / 2
        if "d_gap" in losses:
            watched["gap"] = losses["d_gap"].abs()  # of one at work it comes and goes, also where its mean is 0
        for name, loss in watched.items():
            loss = loss.detach().float()
            old = self.means.get(name, loss).to(loss)
            self.means[name] = torch.lerp(loss, old, MEMORY)
            self.steps[name] = self.steps.get(name, 0) + 1

    def judged(self):
        """The running means that are of enough steps: {name: number}."""
        return {name: mean.item() for name, mean in self.means.items() if self.steps[name] >= ENOUGH}

    def warning(self):
        """A fault that going back would not mend, in words, and only once; else None."""
        means = self.judged()
        gap, mean = means.get("gap", math.inf), means.get("discriminator", math.inf)
        if self.warned or gap > ALIKE or min(abs(mean - chance) for chance in CHANCES) > ASLEEP:
            return None
        self.warned = True
        return (
            f"the discriminator is asleep: its loss stays at {mean:.4f}, that of chance, and its verdicts on real and "
            f"generated faces differ by {gap:.1e}, so it teaches nothing. Give the run a new one, or a larger --lr"
        )

    def fault(self):
        """A fault of the run, in words, or None."""
        means = self.judged()
        if 0 <= (mean := means.get("discriminator", math.inf)) < SATURATED:  # as SyncTalklip prints it, it is below 0
            return f"the discriminator is saturated: its loss is {mean:.1e}, and its gradient teaches nothing"
        for name, mean in means.items():
            if name in ("discriminator", "gap"):
                continue
            self.lows[name] = min(mean, self.lows.get(name, math.inf))
            if mean > DIVERGED * self.lows[name]:
                return f"{name} diverges: its running mean has gone from {self.lows[name]:.4g} to {mean:.4g}"
        return None

    def rolled_back(self, earlier):
        """The guard of a run that goes back: that of the earlier step, with half the step size of now."""
        return replace(earlier, brake=self.brake / 2, rollbacks=self.rollbacks + 1, warned=self.warned)


@contextmanager
def fitting(path):
    """Around taking over the checkpoint at `path`: one that the flags do not fit becomes an InputError."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        hint = "leave out the flags that change a network, or give another --name"
        raise InputError(f"{path} does not fit these flags: {hint} ({reason})") from error


class TrainState:
    """The knobs, networks, optimizers and progress of a run, in one place that is saved and resumed whole.

    nets, optims: {name: network}, {name: its optimizer}; the names are those in the checkpoint.  mean: a copy of
    "generator", to hold its average over the steps, or None.  facts: what the run is of, {name: value}: it is resumed
    only with the same; a value that is None on either side is not compared, nor who taught, which may grow.
    `hp` has the steps at which stages begin, also where a plateau has found them.
    """

    def __init__(self, hp, device, nets, optims, mean=None, facts=None):
        self.plateaus, self.guard = Plateaus.of(hp), DivergenceGuard()
        self.hp, self.device, self.step, self.best = self.plateaus.applied(hp), device, 0, math.inf
        self.nets, self.optims, self.mean, self.facts = nets, optims, mean, facts or {}

    def save(self, path, before=None):
        """Writes all that `resume` needs; see `checkpoint.save`."""
        state = {name: net.state_dict() for name, net in self.nets.items()}
        state |= {f"{name}_optimizer": optim.state_dict() for name, optim in self.optims.items()}
        if self.mean:
            state["ema"] = self.mean.state_dict()
        state |= {"plateaus": asdict(self.plateaus), "guard": asdict(self.guard)}
        checkpoint.save(path, before, hparams=asdict(self.hp), step=self.step, best=self.best, **self.facts, **state)

    def resume(self, path, state):
        """Continues where the checkpoint at `path` was written. state: what `checkpoint.load` read from it.

        Raises InputError for one that the flags do not fit, or that is of another run.
        """
        for name, fact in self.facts.items():
            if name != "taught_by" and None not in (fact, state.get(name)) and state[name] != fact:
                raise InputError(f"not the {name} that {path} was begun with: give the same, or another --name")
        with fitting(path):
            for name, net in self.nets.items():
                net.load_state_dict(state[name])
            for name, optim in self.optims.items():
                optim.load_state_dict(state[f"{name}_optimizer"])
            if self.mean:  # a run that averages from now on begins with what it has
                self.mean.load_state_dict(state.get("ema", state["generator"]))
            self.step, self.best = state["step"], state["best"]
            fresh = Plateaus.of(self.hp)
            self.plateaus, self.guard = Plateaus(**state["plateaus"]), DivergenceGuard(**state["guard"])
        for flag, began in self.plateaus.kinds.items():
            if began != fresh.kinds[flag]:
                raise InputError(f"{path} began {'with' if began else 'without'} --{flag}: that cannot change")
        self.hp = self.plateaus.applied(self.hp)
        if state["hparams"]["lr"] != self.hp.lr:  # chosen anew: what slowed the run down belongs to the old one
            self.guard.brake, self.guard.rollbacks = 1.0, 0

    def roll_back(self, path, fault):
        """Goes back to the checkpoint at `path` with half the step size, because of `fault`; returns a line about it.

        Raises InputError when there is nothing to go back to, or when it has been done often enough.
        """
        guard, found = self.guard, f"step {self.step}: {fault}"
        if not path.is_file():
            raise InputError(f"{found}, before anything was saved. Lower --lr")
        if guard.rollbacks >= self.hp.rollbacks:
            times = f" after {guard.rollbacks} times back to an earlier step" if guard.rollbacks else ""
            best = path.with_name("best.pt")
            anew = f", --init {best} begins anew under another --name" if best.is_file() else ""
            raise InputError(f"{found}{times}. Lower --lr; the same command resumes from {path}{anew}")
        self.resume(path, checkpoint.load(path))
        self.guard = guard.rolled_back(self.guard)
        return f"{found}. Back to step {self.step}, the step size times {self.guard.brake:g}"

    def groups(self):
        """The parameter groups of all optimizers."""
        return [group for optim in self.optims.values() for group in optim.param_groups]

    def begin_step(self):
        """Makes ready for the gradients of a step. All that is random follows from (seed, step, process)."""
        rank, world = distributed.rank()
        torch.manual_seed(self.hp.seed * 1_000_003 + self.step * world + rank)  # dropout, masks, layer drop
        hp, lr = self.hp, self.guard.brake * learning_rate(self.hp, self.step)
        for name, optim in self.optims.items():
            own_lr, own_beta1 = (hp.adv_lr, hp.adv_beta1) if name == "discriminator" else (0, 0)  # 0: as the others
            for group in optim.param_groups:
                group["lr"], group["betas"] = lr * (own_lr / hp.lr if own_lr else 1), (own_beta1 or hp.beta1, hp.beta2)
            optim.zero_grad(set_to_none=True)

    def end_step(self, losses, clipped, stepped=None):
        """Updates the networks by the gradients of all processes, and counts the step.

        losses: {name: scalar} of this process.  clipped: the weights whose gradients `clip_norm` limits.
        stepped: names of the optimizers that take part, by default all.
        Returns the losses of all processes joined and the gradient's norm, detached, for the log.
        """
        losses = distributed.means({name: loss.detach() for name, loss in losses.items()})
        self.guard.note(losses)
        distributed.share_gradients(weight for group in self.groups() for weight in group["params"])
        losses["grad_norm"] = torch.nn.utils.clip_grad_norm_(clipped, self.hp.clip_norm or math.inf)
        for name in self.optims if stepped is None else stepped:
            self.optims[name].step()
        if self.mean:
            average(self.mean, self.nets["generator"], min(self.hp.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        return losses


@torch.no_grad()
def average(mean, net, decay):
    """Moves an averaged network a little towards the current one; its batch norm statistics too."""
    for old, new in zip(mean.state_dict().values(), net.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)


class Validation(NamedTuple):
    """Findings of a validation. scores: {name: number}, for the log.  score: the less, the better, for best.pt.

    plateau: the loss whose plateau ends a stage, see `Plateaus`.
    """

    scores: dict
    score: float
    plateau: float = 0.0


def check_flags(args):
    """Raises InputError, before any work is done, for flags of a trainer that would only fail after it."""
    for flag in ("workers", "stop"):
        if (value := getattr(args, flag, None)) is not None and value < 0:
            raise InputError(f"--{flag} {value} must be at least 0")
    for flag, is_ours in {"export": is_export, "export_discriminator": is_export, "out": is_tokenizer}.items():
        if path := getattr(args, flag, None):
            check_place(path, f"--{flag}", is_ours)


def not_finite(losses):
    """The first of a step's losses that is no number, in words, or None."""
    return next((f"{name} is not finite" for name, loss in losses.items() if not loss.isfinite()), None)


class Log:
    """The record of a run while it goes: metrics.jsonl, validations, checkpoints, the progress bar.

    Of many processes the first alone writes, and all of them learn what follows from it.
    folder: where the run is kept.  stop: the step at which it ends.  validate: function of the state and a path for a
    picture strip that returns a `Validation`.  tensorboard: see `Metrics`.
    """

    def __init__(self, state, folder, stop, validate, tensorboard=False):
        self.state, self.folder, self.stop, self.validate = state, folder, stop, validate
        self.first = distributed.rank()[0] == 0
        self.file = Metrics(folder, state.step, tensorboard) if self.first else None
        self.bar = progress_bar(stop, "step", initial=state.step, disable=not self.first)
        self.frames, self.idle_s = 0, 0.0
        self.since = self.before = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
        if self.file:
            self.file.close()

    def waited(self, frames):
        """A step's batches have come; until now this process had nothing to do. frames: that the step is of.

        On a GPU, which may still be at work, that is the most that the networks can have waited.
        """
        self.idle_s += time.perf_counter() - self.before
        self.frames += frames

    def after_step(self, losses):
        """Logs a step; validates and saves when it is time.

        Returns whether the batches have to be made anew: a stage has begun or the last one ended, or the run went back.
        """
        state, hp = self.state, self.state.hp
        logs, saves, validates = (state.step % n == 0 for n in (hp.log_every, hp.save_every, hp.valid_every))
        logs, saves = (each or state.step == self.stop for each in (logs, saves))
        validates = validates or state.step == hp.max_steps
        if logs or saves or validates:  # .item() waits for the GPU
            fault = not_finite(losses) or (state.guard.fault() if logs else None)
            if fault:
                self.roll_back(fault)
                return True
        if logs and (warning := state.guard.warning()):
            self.say(f"step {state.step}: {warning}")
        if logs:
            numbers = {name: round(loss.item(), 6) for name, loss in losses.items()}
            self.write({"step": state.step} | numbers | self.speed())
            shown = {name: f"{losses[name]:.4f}" for name in ("l1", "lip", "total") if name in losses}
            self.bar.set_postfix(shown, refresh=False)
        changed = validates and self.validated()
        if (saves or state.plateaus.over) and self.first:
            state.save(self.folder / "last.pt", self.folder / checkpoint.BEFORE)
        self.bar.update()
        self.before = time.perf_counter()
        return changed or state.plateaus.over

    def speed(self):
        """Speed of the steps since the last call, and the share of the time that was spent waiting for data."""
        took, self.since = time.perf_counter() - self.since, time.perf_counter()
        rate = round(self.frames * distributed.rank()[1] / took, 1)
        found = {"frames_a_second": rate, "waiting": round(self.idle_s / took, 4)}
        self.frames, self.idle_s = 0, 0.0
        return found

    def validated(self):
        """Validates; returns whether that begins a stage."""
        state, told = self.state, torch.zeros(2, device=self.state.device)
        if self.first:
            found = self.validate(state, self.folder / "samples" / f"{state.step:07d}.png")
            self.write({"step": state.step, "valid": found.scores})
            if found.score < state.best:
                state.best = found.score
                state.save(self.folder / "best.pt")
            told += torch.tensor([found.plateau, found.scores.get("sync", math.inf)], device=told.device)
        plateau, sync = distributed.from_first(told).tolist()
        begun = {state.plateaus.validated(plateau, state.hp, state.step): "a plateau"}
        if state.plateaus.synced(sync, state.hp, state.step):
            begun["sync"] = f"a sync loss of {sync:.4f}, below {state.hp.sync_below:g}"
        begun.pop(None, None)
        state.hp = state.plateaus.applied(state.hp) if begun else state.hp
        for name, why in begun.items():
            self.say(f"step {state.step}: {why}, the stage of {name} begins")
        return bool(begun)

    def roll_back(self, fault):
        """Takes the run back to its last checkpoint because of `fault`, and the log and the bar with it."""
        state, last = self.state, self.folder / "last.pt"
        self.say(state.roll_back(last, fault))
        if self.first:
            state.save(last)  # with its new step size
            self.file.go_back(state.step)
        self.bar.n = state.step
        self.frames, self.idle_s = 0, 0.0
        self.since = self.before = time.perf_counter()

    def say(self, line):
        """One line on stderr, which the bar makes room for."""
        if self.first:
            tqdm.write(line, file=sys.stderr)

    def write(self, line):
        """Adds a line to metrics.jsonl."""
        if self.file:
            self.file.write(line)


def train(state, folder, stop, batches, step, validate, tensorboard=False):
    """Runs from `state.step` to `stop`, by default to the last step; the run's folder is made here, and not before.

    batches: function of (state, stop) that yields (the batches of a step, how many frames they have), until the next
    stage's take their place.  step: function of (state, the batches of a step) that returns its losses.
    validate, tensorboard: see `Log`.
    """
    stop = state.hp.max_steps if stop is None else min(stop, state.hp.max_steps)
    make_folder(folder)
    if state.step >= stop:
        distributed.say(f"{folder}: step {state.step} is done, nothing is left to do; another --name begins anew")
    alone = only_one(folder) if not distributed.rank()[0] else nullcontext()
    with alone, Log(state, folder, stop, validate, tensorboard) as log:
        while state.step < stop and not state.plateaus.over:
            for of_step, frames in batches(state, stop):
                log.waited(frames)
                if log.after_step(step(state, of_step)):
                    break
        if state.step >= state.hp.max_steps and (never := state.plateaus.waiting):
            stages = ", ".join(name.removesuffix("_from") for name in never)
            log.say(f"no plateau came in {state.step} steps, so stages never began: {stages}. Raise --max_steps")
        if state.step >= state.hp.max_steps and state.plateaus.starts.get("sync_from", 0) is None:
            log.say(f"validation's sync loss never was below {state.hp.sync_below:g}: the sync loss never began")


def to(device, batch):
    """A batch, {name: tensor}, on a device."""
    return {name: part.to(device, non_blocking=True) for name, part in batch.items()}
