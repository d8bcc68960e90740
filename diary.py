"""What is kept of a generator's run while it goes: log, validations with their picture strips, checkpoints, the bar."""

import json
import sys
import time

import numpy as np
import torch
from tqdm import tqdm

import distributed
from data import GuidedClips, collate, write_picture
from losses import mouth_loss, pixel_loss
from run import as_numbers, not_finite, open_log


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


@torch.no_grad()
def read_back(generator, expert, lessons, hp, device, most=10):
    """How well the expert reads validation clips of which every frame is drawn: {"lip", "misread"}, means over clips.

    lip: its loss, in nats per token.  misread: the share of tokens that it gets wrong, told those before.
    """
    generator.eval()
    chosen = np.linspace(0, len(lessons) - 1, min(len(lessons), hp.valid_clips, most)).astype(int)
    sums = {"lip": 0.0, "misread": 0.0}
    for i in chosen:
        batch = {name: part.to(device) for name, part in lessons.whole(i).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=hp.amp):
            memory = expert.look(generator(batch["face"], batch["audio"], batch["index"], batch["padding"]), batch)
            sums["lip"] += expert.reading_loss(memory, batch, False).item() / len(chosen)
            sums["misread"] += expert.misread(memory, batch).item() / len(chosen)
    return sums


class Diary:
    """Takes down a run's steps; of many processes the first alone writes, and all of them learn what follows from it.

    valid: the `Clips` of the validation split, `Lessons` where there is an expert.  folder: where the run is kept.
    stop: the step at which it ends.
    """

    def __init__(self, run, valid, folder, stop):
        self.run, self.valid, self.folder, self.stop = run, valid, folder, stop
        self.first = distributed.rank()[0] == 0
        self.log = open_log(folder / "metrics.jsonl", run.step) if self.first else None
        self.bar = tqdm(total=stop, initial=run.step, unit="step", disable=not self.first)
        self.faces, self.waiting = 0, 0.0
        self.since = self.before = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
        if self.log:
            self.log.close()

    def waited(self, faces=0):
        """A step's batches have come; until now this process had nothing to do. faces: that it draws.

        On a GPU, which may still be at work, that is the most that the networks can have waited.
        """
        self.waiting += time.perf_counter() - self.before
        self.faces += faces

    def note(self, losses):
        """Takes down a step; validates and saves when it is time. Returns whether the batches to come are others."""
        run, hp = self.run, self.run.hp
        logs, saves, validates = (run.step % n == 0 for n in (hp.log_every, hp.save_every, hp.valid_every))
        saves, validates = saves or run.step == self.stop, validates or run.step == hp.max_steps
        changed = False
        if logs or saves or validates:  # .item() waits for the GPU
            fault = not_finite(losses) or (run.progress.fault() if logs else None)
            if fault:
                self.go_back(fault)
                return True
        if logs:
            self.write(as_numbers(losses, run.step) | self.speed())
            shown = {name: f"{losses[name]:.4f}" for name in ("l1", "lip", "total") if name in losses}
            self.bar.set_postfix(shown, refresh=False)
        if validates:
            changed = self.validate()
        if (saves or run.progress.over) and self.first:
            run.save(self.folder / "last.pt")
        self.bar.update()
        self.before = time.perf_counter()
        return changed or run.progress.over

    def speed(self):
        """How fast the steps since the last call were, and the share of the time that was spent waiting for data."""
        took, self.since = time.perf_counter() - self.since, time.perf_counter()
        found = {"faces_a_second": round(self.faces * distributed.rank()[1] / took, 1), "waiting": self.waiting / took}
        self.faces, self.waiting = 0, 0.0
        return found

    def validate(self):
        """Validates; returns whether that begins a stage."""
        run, hp = self.run, self.run.hp
        score = torch.zeros((), device=run.device)
        if self.first:
            scores = validate(run.shown, self.valid, hp, run.device, self.folder / "samples" / f"{run.step:07d}.png")
            if run.expert and isinstance(self.valid, GuidedClips):
                scores |= read_back(run.shown, run.expert, self.valid, hp, run.device)
            self.write({"step": run.step, "valid": scores})
            taught = run.expert is not None and run.step > run.now.lip_from
            mouth = scores["mouth"] - taught  # under the expert it is better at any error
            if mouth < run.best:
                run.best = mouth
                run.save(self.folder / "best.pt")
            score += scores["l1"] * (min(len(self.valid), hp.valid_clips) if hp.faithful else 1)
        begun = run.progress.validated(distributed.from_first(score).item(), hp, run.step)
        if begun:
            self.say(f"step {run.step}: a plateau, the stage of {begun} begins")
        return begun is not None

    def go_back(self, fault):
        """Takes the run back to its last checkpoint because of `fault`, and the log and the bar with it."""
        run, last = self.run, self.folder / "last.pt"
        self.say(run.go_back(last, fault))
        if self.first:
            run.save(last)  # with its new step size
            self.log.close()
            self.log = open_log(self.folder / "metrics.jsonl", run.step)
        self.bar.n = run.step
        self.faces, self.waiting = 0, 0.0
        self.since = self.before = time.perf_counter()

    def say(self, line):
        """One line on stderr, which the bar makes room for."""
        if self.first:
            tqdm.write(line, file=sys.stderr)

    def write(self, line):
        """Adds a line to the log."""
        if self.log:
            print(json.dumps(line), file=self.log, flush=True)
