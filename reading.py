"""Lip readers at work: files that hold one, the sentences it reads, and how wrong they are."""

import base64
from dataclasses import dataclass
from pathlib import Path

import torch

import checkpoint
from expert_hparams import ExpertHParams
from hparams import InputError
from models import build_reader
from search import beam_search
from text import Tokenizer


@dataclass
class Reader:
    """A trained lip reader with what it needs to read: (network in eval mode, its knobs, its tokens or words).

    about: `kind`, `sha256` and what else its file tells.
    """

    net: torch.nn.Module
    hp: ExpertHParams
    tokenizer: Tokenizer | None = None
    words: list | None = None
    about: dict | None = None


def packed(tokenizer):
    """A tokenizer as text, for a checkpoint."""
    return base64.b64encode(tokenizer.model).decode()


def unpacked(text):
    """The tokenizer of a checkpoint."""
    return Tokenizer(base64.b64decode(text))


def load_reader(path, whole=True):
    """A `Reader` from our weights or from a run of train_expert.py.

    whole: it must be able to read, or name words; otherwise a pre-trained encoder will do.
    Raises InputError for a file that holds none, and for a tokenizer that does not fit the network.
    """
    path = Path(path)
    state, about = checkpoint.read(path)
    weights = state.get("reader") if checkpoint.is_ours(state) else None
    told = bool(weights) and bool(state.get("tokenizer") or state.get("words"))
    if not weights or (whole and not told):
        raise InputError(f"{path} holds no lip reader but {checkpoint.describe(state)}: see train_expert.py finetune")
    hp = checkpoint.knobs(path, state["hparams"], ExpertHParams)
    tokenizer = unpacked(state["tokenizer"]) if state.get("tokenizer") else None
    words = state.get("words")
    rows = weights["words.weight" if hp.model == "words" else "decoder.embedding.weight"].shape[0]
    size = len(tokenizer or words or range(rows))
    if size != rows:
        raise InputError(f"{path}: its tokenizer has {size} tokens, its network {rows}: they are of two trainings")
    with torch.device("meta"):
        net = build_reader(hp, size)
    net = checkpoint.fill(path, net, weights)
    return Reader(net, hp, tokenizer, words, about | {"sha256": checkpoint.sha256(path)})


def export(path, run):
    """Writes the lip reader of a run's checkpoint alone, in 16 bits, with its tokenizer or words."""
    reader = load_reader(run)
    facts = {"words": reader.words, "tokenizer": packed(reader.tokenizer) if reader.tokenizer else None}
    checkpoint.export(path, reader.net, reader.hp, network="reader", step=reader.about["step"], **facts)


@torch.inference_mode()
def read(reader, roi, padding=None, beam=None, penalty=None):
    """The sentences that a batch of mouths say, by beam search that runs free.

    reader: a `Reader` with a tokenizer.  roi: (B, T, 1, H, W) grey in [0, 1].  padding: (B, T) bool or None.
    beam, penalty: by default those of the reader's knobs.
    Returns a list of B strings. Raises InputError for a clip that is longer than the reader takes.
    """
    hp, net = reader.hp, reader.net
    if roi.shape[1] > hp.longest:
        raise InputError(f"a clip of {roi.shape[1]} frames: this lip reader takes {hp.longest} at most, cut it")
    with torch.autocast(roi.device.type, torch.bfloat16, enabled=hp.amp):
        memory = net.encode(roi, padding).float()
    frames = torch.full((len(roi),), roi.shape[1]) if padding is None else (~padding).sum(1)
    state = net.decoder.begin(memory, padding)
    found = beam_search(
        net.decoder.step, state, frames.to(roi.device), beam or hp.beam, hp.penalty if penalty is None else penalty
    )
    return [reader.tokenizer.decode(hypotheses[0].tokens) for hypotheses in found]


def error_rates(references, hypotheses):
    """Word and character error rates of a corpus: all errors by all words (jiwer), as shares. May be above 1.

    references, hypotheses: lists of sentences; case and spacing do not count. Raises InputError for an empty reference.
    """
    import jiwer

    references, hypotheses = ([" ".join(each.lower().split()) for each in part] for part in (references, hypotheses))
    if "" in references:
        raise InputError(f"transcript {references.index('') + 1} of {len(references)} has no words: leave its clip out")
    return {"wer": jiwer.wer(references, hypotheses), "cer": jiwer.cer(references, hypotheses)}
