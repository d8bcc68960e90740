"""Narrow experts that nobody has trained, and what goes with them: knobs of a run under them, their files."""

from dataclasses import asdict, replace

import torch
import torch.nn.functional as F

import checkpoint
from audio import MELS
from experts.guidance import LipExpert
from experts.lip_reader import TrainedLipReader, packed
from experts.sync_guidance import SyncExpert
from experts.tokenizer import Tokenizer
from hparams import ExpertHParams, HParams, preset
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
SHORT = {  # what runs of a sync expert's kinds share
    "batch_size": 2,
    "warmup": 0,
    "lr": 1e-3,
    "augment": 0.0,
    "ema": 0.9,
    "max_steps": 8,
    "log_every": 1,
    "save_every": 100,
    "valid_every": 2,
    "valid_clips": 2,
    "amp": False,
}
SYNCED = replace(  # a run of Wav2Lip under a sync expert
    preset("compact_wav2lip"),
    **SHORT,
    width=1 / 16,
    sync_weight=0.05,
    sync_from=3,
)

CALS = replace(  # a run of CALS: two steps of Audio-to-Lip, then faces, whose sync losses begin later
    preset("compact_cals_a2l_av_vv"),
    **NARROW,
    **SHORT,
    audio_dropout=0.1,
    windows=2,
    mask_span=21,
    a2l_steps=2,
    av_weight=0.05,
    vv_weight=0.05,
    sync_from=4,
    adv_from=5,
)


def shaken(net):
    """`net` in eval mode, whose batch norms have statistics as if it had been trained."""
    for name, value in net.named_buffers():
        if "running" in name:
            value += 0.1 * torch.rand_like(value)
    return net.eval()


def sync_hparams(**knobs):
    """The knobs of a narrow sync expert, trained by InfoNCE unless `knobs` say otherwise; model: a preset's name."""
    row = knobs.get("model", "compact_wav2lip_sync")
    return replace(preset(row, ExpertHParams), width=1 / 16, **knobs)


def sync_expert(**knobs):
    """A narrow `SyncExpert`, whose batch norms know pictures and sounds: else all its embeddings would be 0."""
    hp = sync_hparams(**knobs)
    torch.manual_seed(6 + hp.seed)
    net = build_reader(hp, None).train()
    with torch.no_grad():
        for _ in range(20):
            faces = F.interpolate(torch.rand(24, 3, 8, 8), size=(hp.face_px, hp.face_px), mode="bilinear")
            net.embed_video(faces.unflatten(0, (4, 6)))
            net.embed_audio(8 * torch.rand(1, 16, 1, 80, MELS[hp.mel].steps) - 4)
    return SyncExpert(net, hp, "made up too", torch.device("cpu"))


def write_sync_expert(path, **knobs):
    """Writes it as a file of ours."""
    made = sync_expert(**knobs)
    checkpoint.export(path, made.net, made.hp, network="sync", step=0)
    return path


def reader(root, **knobs):
    """The `Reader` of a data root's tokenizer, with weights of its own; `knobs` take the place of EXPERT's."""
    hp, tokenizer = replace(EXPERT, **knobs), Tokenizer((root / "tokenizer.model").read_bytes())
    torch.manual_seed(5)
    net = shaken(build_reader(hp, len(tokenizer)))
    return TrainedLipReader(net, hp, tokenizer, about={"sha256": "made up"})


def expert(root, **how):
    """A `LipExpert` over it."""
    return LipExpert(reader(root), torch.device("cpu"), **how)


def write_expert(path, root, **knobs):
    """Writes it as a file of ours."""
    made = reader(root, **knobs)
    facts = {"words": None, "tokenizer": packed(made.tokenizer)}
    checkpoint.save(path, hparams=asdict(made.hp), reader=made.net.state_dict(), step=0, **facts)
    return path
