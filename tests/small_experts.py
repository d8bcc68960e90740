"""A narrow lip expert that nobody has trained, and what goes with it: knobs of a run under it, its file."""

from dataclasses import asdict, replace

import torch

import checkpoint
from experts.guidance import LipExpert
from experts.lip_reader import TrainedLipReader, packed
from experts.tokenizer import Tokenizer
from hparams import ExpertHParams, HParams
from models import build_reader

NARROW = {"width": 1 / 16, "audio_layers": 2, "audio_dim": 32, "audio_ffn": 64, "audio_heads": 4}
EXPERT = ExpertHParams(
    width=1 / 16,
    shrink=2,
    layers=2,
    dim=32,
    ffn=64,
    heads=4,
    decoder_layers=1,
    decoder_ffn=48,
    decoder_heads=2,
    grad_mult=0.1,
)
GUIDED = replace(
    HParams(**NARROW, batch_size=2, window=3, windows=2, lr=1e-3, roi="own"),
    lip_weight=0.1,
    lip_sum=False,
    contrastive_weight=0.05,
    mouth_weight=1.0,
    lips_weight=0.2,
    clip_norm=1.0,
    ema=0.9,
    max_steps=8,
    log_every=1,
    save_every=100,
    valid_every=4,
    adv_from=1,
    audio_from=2,
    audio_train_layers=1,
    lip_from=4,
)


def reader(root):
    """The `Reader` of a data root's tokenizer, with weights of its own."""
    tokenizer = Tokenizer((root / "tokenizer.model").read_bytes())
    torch.manual_seed(5)
    net = build_reader(EXPERT, len(tokenizer))
    for name, value in net.named_buffers():
        if "running" in name:
            value += 0.1 * torch.rand_like(value)
    return TrainedLipReader(net.eval(), EXPERT, tokenizer, about={"sha256": "made up"})


def expert(root, **how):
    """A `LipExpert` over it."""
    return LipExpert(reader(root), torch.device("cpu"), **how)


def write_expert(path, root):
    """Writes it as a file of ours."""
    made = reader(root)
    facts = {"words": None, "tokenizer": packed(made.tokenizer)}
    checkpoint.save(path, hparams=asdict(EXPERT), reader=made.net.state_dict(), step=0, **facts)
    return path
