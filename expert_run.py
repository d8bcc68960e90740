"""An expert's training run: its network, optimizer and progress, saved and resumed whole, and the loop."""

import json
import math
import time
from dataclasses import asdict

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import checkpoint
import distributed
from data import one_thread
from errors import InputError
from experts.clusters import cluster_targets
from experts.data import Batches, SyncWindows, Utterances, Words, collate
from experts.lip_reader import TrainedLipReader, error_rates, load_reader, packed, read
from experts.sync import mismatches
from models import build_reader
from objectives import MaskedPrediction, Matching, Naming, Transcription, loss_weights
from run import as_numbers, fitting, open_log

OBJECTIVES = {"pretrain": MaskedPrediction, "finetune": Transcription, "words": Naming, "sync": Matching}
ALONE = {"words", "sync"}  # tasks with a model of their own, of the same name


class ExpertRun:
    """Everything of a run in one place: data, network, optimizer, progress.

    task: pretrain, finetune, words or sync.  tokenizer: for finetune.  teacher: a `Reader` whose features are
    clustered to units, for pretrain; None takes the sound's.
    """

    def __init__(self, task, hp, device, data_root, folder, tokenizer=None, teacher=None):
        if task != hp.model and {task, hp.model} & ALONE:
            raise InputError(f"{task} cannot train --model {hp.model}: say another --model, or a --preset that has one")
        self.task, self.hp, self.device, self.tokenizer = task, hp, device, tokenizer
        self.step, self.best, self.words = 0, math.inf, None
        if task == "words":
            self.clips = Words(data_root, "train", hp)
            self.words = self.clips.vocabulary
            self.valid = Words(data_root, "val", hp, self.words)
        elif task == "sync":
            self.clips, self.valid = (SyncWindows(data_root, split, hp) for split in ("train", "val"))
        else:
            splits = [Utterances(data_root, split, hp, tokenizer) for split in ("train", "val")]
            if task == "pretrain":
                with distributed.first_alone():
                    units = cluster_targets(splits, hp, folder / "units.npz", teacher)
                for split in splits:
                    split.units = units
            self.clips, self.valid = splits
        torch.manual_seed(hp.seed)
        size = None if task in ("pretrain", "sync") else len(self.words or tokenizer)
        self.net = OBJECTIVES[task](build_reader(hp, size), hp).to(device, memory_format=torch.channels_last)
        self.shared = distributed.shared(self.net)
        betas = (0.9, hp.beta2)
        self.optim = torch.optim.AdamW(self.net.parameters(), hp.lr, betas, weight_decay=hp.weight_decay)

    @property
    def reader(self):
        """The lip reader as it is now, for reading."""
        return TrainedLipReader(self.net.reader, self.hp, self.tokenizer, self.words)

    @property
    def facts(self):
        """What a run is of; it is resumed only as the same."""
        tokenizer = packed(self.tokenizer) if self.tokenizer else None
        return {"task": self.task, "words": self.words, "tokenizer": tokenizer}

    def save(self, path):
        """Writes all that `resume` needs; `reading.load_reader` reads it too."""
        state = {"step": self.step, "best": self.best, "hparams": asdict(self.hp), **self.facts}
        parts = {name: part.state_dict() for name, part in self.net.named_children()}  # reader, and heads if any
        checkpoint.save(path, optimizer=self.optim.state_dict(), **state, **parts)

    def resume(self, path, state):
        """Continues where the checkpoint at `path` was written. state: what `checkpoint.load` read from it."""
        with fitting(path):
            if other := [name for name, fact in self.facts.items() if state[name] != fact]:
                raise ValueError(f"its {other[0]} is another")
            for name, part in self.net.named_children():
                part.load_state_dict(state[name])
            self.optim.load_state_dict(state["optimizer"])
            self.step, self.best = state["step"], state["best"]

    def begin_with(self, path):
        """Takes the encoder of a run, a lip reader or a published file; for words, its video front end."""
        encoder, words = load_reader(path, whole=False).net.encoder, self.task == "words"
        if words and not hasattr(encoder, "video"):
            raise InputError(f"--init {path} is no avhubert, with whose video front end a word classifier begins")
        mine, found = (self.net.reader.front, encoder.video) if words else (self.net.reader.encoder, encoder)
        try:
            mine.load_state_dict(found.state_dict())
        except RuntimeError as error:
            raise InputError(f"--init {path} is an encoder of another size: give the --preset that fits") from error


def learning_rate(hp, step):
    """The step size at `step`: a linear rise from a hundredth, flat, then an exponential fall to `last_lr`."""
    share = step / hp.max_steps
    if share < hp.rise:
        return hp.lr * (0.01 + 0.99 * share / hp.rise)
    fall = max(share - hp.rise - hp.hold, 0) / max(1 - hp.rise - hp.hold, 1e-9)
    return hp.lr * hp.last_lr ** min(fall, 1)


def train_step(run, batch):
    """One update of the network. Returns every loss and the gradient's norm, detached.

    Differs: an encoder frozen in fine-tuning is in eval mode; published, its dropout goes on.
    """
    hp, weights = run.hp, loss_weights(run.hp)
    for group in run.optim.param_groups:
        group["lr"] = learning_rate(hp, run.step)
    run.net.train()
    if run.task == "finetune":
        frozen = run.step < hp.freeze
        run.net.reader.encoder.requires_grad_(not frozen).train(not frozen)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=hp.amp):
        losses = run.shared(batch)
    total = sum(weights[name] * loss for name, loss in losses.items())
    run.optim.zero_grad(set_to_none=True)
    total.backward()
    losses["grad_norm"] = torch.nn.utils.clip_grad_norm_(run.net.parameters(), hp.clip_norm or math.inf)
    run.optim.step()
    return {name: loss.detach() for name, loss in {**losses, "total": total}.items()}


@torch.inference_mode()
def validate(run):
    """Scores of a run on fixed samples of its validation split, by name; the first is what is to be small."""
    run.net.eval()
    if run.task == "sync":
        return mismatches(run.net.sync, run.valid, run.hp.valid_clips, run.device)
    count = min(len(run.valid), run.hp.valid_clips)
    chosen = np.linspace(0, len(run.valid) - 1, count).astype(int)
    right, places, said, heard = 0, 0, [], []
    for part in np.array_split(chosen, -(-count // 8)):
        batch = collate([run.valid[int(i), None] for i in part])
        batch = {name: each.to(run.device) for name, each in batch.items()}
        roi, padding = batch["roi"], batch["padding"]
        if run.task == "finetune":
            said += [run.tokenizer.decode(tokens) for tokens in batch["tokens"]]
            heard += read(run.reader, roi, padding)
            continue
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.hp.amp):
            scores = (
                run.net.head(run.net.reader.encode(roi, padding))
                if run.task == "pretrain"
                else run.net.reader(roi, padding, batch["inside"])
            )
        wanted = batch["units"] if run.task == "pretrain" else batch["word"]
        right, places = right + (scores.argmax(-1) == wanted).sum().item(), places + (wanted >= 0).sum().item()
    return error_rates(said, heard) if run.task == "finetune" else {"errors": 1 - right / places}


def train(run, folder, workers, stop=None):
    """Runs from `run.step` to `max_steps` (or `stop`). All that is random follows from (seed, step)."""
    hp = run.hp
    stop = min(stop or hp.max_steps, hp.max_steps)
    rank, world = distributed.rank()
    batches = Batches(run.clips.lengths, hp, run.step, stop, rank, world)
    loader = DataLoader(
        run.clips, batch_sampler=batches, num_workers=workers, collate_fn=collate, worker_init_fn=one_thread
    )
    diary = Diary(run, folder, stop) if rank == 0 else None  # the others wait for it at their next gradient
    for batch in loader:
        torch.manual_seed(hp.seed * 1_000_003 + run.step * world + rank)  # dropout, masks, dropped modalities
        losses = train_step(run, {name: part.to(run.device) for name, part in batch.items()})
        run.step += 1
        if diary:
            diary.note(losses, int(batch["lengths"].sum()) * world, run.step == stop)


class Diary:
    """What is kept of a run while it goes: the log, validations, checkpoints, the bar."""

    def __init__(self, run, folder, stop):
        self.run, self.folder = run, folder
        self.log = open_log(folder / "metrics.jsonl", run.step)
        self.bar = tqdm(total=stop, initial=run.step, unit="step")
        self.frames, self.since = 0, time.perf_counter()

    def note(self, losses, frames, over):
        """Takes down a step of so many frames; `over`: it was the last."""
        run, hp = self.run, self.run.hp
        self.frames += frames
        logs, saves, validates = (run.step % n == 0 for n in (hp.log_every, hp.save_every, hp.valid_every))
        saves, validates = saves or over, validates or run.step == hp.max_steps
        if logs or saves or validates:  # .item() waits for the GPU
            line = as_numbers(losses, run.step)
        if logs:
            took, self.since = time.perf_counter() - self.since, time.perf_counter()
            self.write(line | {"frames_a_second": round(self.frames / took, 1)})
            self.bar.set_postfix(total=f"{line['total']:.4f}", refresh=False)
            self.frames = 0
        if validates:
            scores = validate(run)
            self.write({"step": run.step, "valid": scores})
            if next(iter(scores.values())) < run.best:
                run.best = next(iter(scores.values()))
                run.save(self.folder / "best.pt")
        if saves:
            run.save(self.folder / "last.pt")
        self.bar.update()
        if over:
            self.bar.close()

    def write(self, line):
        """Adds a line to the log."""
        print(json.dumps(line), file=self.log, flush=True)
