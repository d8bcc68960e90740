"""How far a generator's run has come: which stages have begun, whether it is still sound, how often it went back."""

import math
from dataclasses import asdict, dataclass, field, replace

import torch

WATCHED = ("l1", "mouth", "lips", "lip")  # losses that only fall in a sound run
MEMORY = 0.98  # decay of the running means
ENOUGH = 100  # steps before they are judged
DIVERGED = 3.0  # times the least running mean so far
SATURATED = 0.003  # nats: the discriminator knows every face, and its gradient is that of one shade of difference


@dataclass
class Progress:
    """What a run finds out on its way and a resumed one must know: plain numbers and words, saved with it.

    starts: knobs that say when a stage begins, found by plateaus; None: not yet.  least, stale: the best validation of
    this stage, and how many since were no better.  brake: what the step size is multiplied by.  rollbacks: how often
    the run went back.
    means, lows, steps: the running mean of each loss, its least so far, and of how many steps they are.
    over: the last stage has come to its end (only with `faithful`, as published).
    """

    starts: dict = field(default_factory=dict)
    least: float = math.inf
    stale: int = 0
    brake: float = 1.0
    rollbacks: int = 0
    over: bool = False
    means: dict = field(default_factory=dict)
    lows: dict = field(default_factory=dict)
    steps: dict = field(default_factory=dict)

    @classmethod
    def of(cls, hp):
        """The beginning of a run. With `patience`, stages that do not begin at step 0 have no step yet."""
        return cls(dict.fromkeys(hp.later) if hp.patience else {}, 100.0 if hp.faithful else math.inf)

    def knobs(self, hp):
        """`hp` with the steps at which stages began, where those were found on the way."""
        return replace(hp, **{name: hp.max_steps if start is None else start for name, start in self.starts.items()})

    @property
    def waiting(self):
        """The knobs of the stages for which a plateau has still to come, in order."""
        return [name for name, start in self.starts.items() if start is None]

    def state(self):
        """All of it, for a checkpoint."""
        return asdict(self)

    def validated(self, score, hp, step):
        """Takes down a validation's L1; returns the name of the stage that begins with `step`, or None.

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

    def note(self, losses):
        """Takes down the losses of a step, {name: scalar tensor}."""
        judged = {name: loss for name, loss in losses.items() if name in WATCHED}
        if "d_real" in losses:
            judged["discriminator"] = (losses["d_real"] + losses["d_fake"]) / 2
        for name, loss in judged.items():
            loss = loss.detach().float()
            old = self.means.get(name, loss).to(loss)
            self.means[name] = torch.lerp(loss, old, MEMORY)
            self.steps[name] = self.steps.get(name, 0) + 1

    def fault(self):
        """What is wrong with the run, in words, or None."""
        means = {name: mean.item() for name, mean in self.means.items() if self.steps[name] >= ENOUGH}
        for name, mean in means.items():
            if name == "discriminator":
                if mean < SATURATED:
                    return f"the discriminator is saturated: its loss is {mean:.1e}, and its gradient teaches nothing"
                continue
            self.lows[name] = min(mean, self.lows.get(name, math.inf))
            if mean > DIVERGED * self.lows[name]:
                return f"{name} diverges: its running mean has gone from {self.lows[name]:.4g} to {mean:.4g}"
        return None

    def back(self, other):
        """Goes back to `other`, the progress of an earlier step, with half the step size."""
        brake, rollbacks = self.brake / 2, self.rollbacks + 1
        self.__dict__.update(other.__dict__ | {"brake": brake, "rollbacks": rollbacks})
