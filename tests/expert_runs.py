"""Small runs of experts without the command: their knobs, and what `train_expert.work` makes of them."""

from argparse import Namespace
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch

import train_expert
import training
from data import collate
from experts.clusters import cluster_targets
from experts.lip_reader import TrainedLipReader
from experts.tokenizer import Tokenizer
from hparams import ExpertHParams

CPU = torch.device("cpu")
SIZES = {"layers": 2, "dim": 32, "ffn": 64, "heads": 2, "decoder_layers": 1, "decoder_ffn": 64, "decoder_heads": 2}
RECIPE = {"frames": 16, "augment": True, "max_frames": 50, "freeze": 0, "unmasked_weight": 0.5, "beam": 2, "lr": 3e-3}
EVERY = {"max_steps": 6, "log_every": 1, "save_every": 100, "valid_every": 2}
HP = ExpertHParams(width=1 / 16, clusters=5, **SIZES, **RECIPE, **EVERY)


def begin(root, folder, task, hp=HP, **knobs):
    """A tiny run of a task: its data, network, losses and state."""
    hp = replace(hp, **({"model": "words"} if task == "words" else {}) | knobs)
    tokenizer = Tokenizer((root / "tokenizer.model").read_bytes()) if task == "finetune" else None
    args = Namespace(task=task, data_root=root)
    clips, valid = train_expert.splits_of(args, hp, tokenizer)
    if task == "pretrain":
        clips.clusters = valid.clusters = cluster_targets([clips, valid], hp, folder / "clusters.npz")
    words = clips.vocabulary if task == "words" else None
    objective, state = train_expert.build(args, hp, CPU, words, tokenizer)
    reader = TrainedLipReader(getattr(objective, "reader", None), hp, tokenizer, words)
    return SimpleNamespace(task=task, clips=clips, valid=valid, objective=objective, state=state, reader=reader)


def batch_of(run, clips=(0, 1)):
    """A batch of these training clips, whole."""
    return collate([run.clips[i, None] for i in clips])


def step(run, batch):
    """The losses of one step."""
    return train_expert.train_step(run.objective, run.task, run.state, batch)


def validate(run):
    """The scores of a run on its validation clips."""
    return train_expert.validate(run.objective, run.task, run.valid, run.reader, run.state).scores


def go(run, folder, stop=None, step=None, validate=None):
    """Trains a run to `stop`; other functions may take the place of its step and its validation."""
    step = step or partial(train_expert.train_step, run.objective, run.task)
    validate = validate or partial(train_expert.validate, run.objective, run.task, run.valid, run.reader)
    training.train(run.state, folder, stop, partial(train_expert.batches, run.clips, 0), step, validate)
