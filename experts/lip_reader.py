"""Lip readers at work: files that hold one, the sentences it reads, and how wrong they are."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import checkpoint
import distributed
from errors import InputError
from experts.beam_search import beam_search
from experts.tokenizer import Tokenizer
from hparams import ExpertHParams, preset
from models import build_reader
from models.published import archive
from models.published.archive import kind_of
from models.published.avhubert import is_fine_tuned, knobs_of
from models.published.experts import convert_conformer, convert_expert, convert_pretrained
from models.published.fairseq import is_fairseq, read_fairseq
from models.published.generators import length


@dataclass
class TrainedLipReader:
    """A trained lip reader with what it needs to read: (network in eval mode, its knobs, its tokens or words).

    about: `kind`, `sha256` and what else its file tells.
    """

    net: torch.nn.Module
    hp: ExpertHParams
    tokenizer: Tokenizer | None = None
    words: list | None = None
    about: dict | None = None

    @property
    def device(self):
        """The device of the network; a network without weights is on the processor."""
        return next((weight.device for weight in self.net.parameters()), torch.device("cpu"))


def packed(tokenizer):
    """A tokenizer as text, for a checkpoint."""
    return base64.b64encode(tokenizer.model).decode()


def unpacked(text):
    """The tokenizer of a checkpoint."""
    return Tokenizer(base64.b64decode(text))


def load_reader(path, whole=True, roi=None):
    """A `TrainedLipReader` from our weights, a run of train_expert.py or a published AV-HuBERT, by their content.

    whole: it must be able to read, or name words. Otherwise any encoder will do, also a pre-trained AV-HuBERT and the
    published Conformer, and it comes alone: `net.decoder` and the tokenizer are None.
    roi: the mouth ROI that it takes, in place of the file's own; a published file has none and gets the default.
    Raises InputError for a file that holds none, and for a tokenizer that does not fit the network.
    """
    path = Path(path)
    weights, reader = (from_fairseq if is_fairseq(path) else from_checkpoint)(path, whole)
    if roi:
        reader.hp = replace(reader.hp, roi=roi)
    if not whole:
        weights = {name: part for name, part in weights.items() if name.startswith(("encoder.", "neighbours."))}
    size = len(reader.tokenizer or reader.words) if whole else None
    rows = length(weights, "words.weight" if reader.words else "decoder.embedding.weight", size)
    if rows != size:
        had = f"its tokenizer has {size} tokens, its network {rows}"
        raise InputError(f"{path}: {had}. They are of two trainings: get the original, or export it again")
    with torch.device("meta"):  # without weights: those of the file take their place
        net = build_reader(reader.hp, size)
    reader.net = checkpoint.fill(path, net, weights)
    reader.about["sha256"] = checkpoint.sha256(path)
    return reader


def from_checkpoint(path, whole):
    """Contents of our file or the published Conformer's: (weights, a `TrainedLipReader` that has no network yet)."""
    try:
        state, about = archive.read(path)
    except InputError as error:
        if "fairseq." in str(error):
            read_fairseq(path)  # whose error names the class that is refused
        raise
    if archive.is_ours(state):
        weights, words, tokens = (state.get(name) for name in ("reader", "words", "tokenizer"))
        if weights and ((words or tokens) if whole else not words):
            hp = checkpoint.knobs(path, state["hparams"], ExpertHParams, weights)
            return weights, TrainedLipReader(None, hp, unpacked(tokens) if whole and tokens else None, words, about)
    elif (kind := kind_of(published := archive.state_dict_of(path, state))) == "Conformer lip reader":
        if whole:
            why = "whose table of characters is not in the file: it cannot read, only lend its encoder (--init)"
            raise InputError(f"{path} holds a published {kind}, {why}")
        hp = preset("conformer", ExpertHParams)
        return convert_conformer(published), TrainedLipReader(None, hp, about=about | {"kind": kind})
    wanted, task = ("lip reader", "finetune") if whole else ("encoder", "pretrain")
    raise InputError(f"{path} holds no {wanted} but {archive.describe(state)}: see train_expert.py {task}")


def from_fairseq(path, whole):
    """Contents of AV-HuBERT's published file: (weights, a `TrainedLipReader` that has no network yet)."""
    file = read_fairseq(path)
    fine_tuned = is_fine_tuned(file.model)
    try:
        hp = knobs_of(file.config, file.model)
        if whole and not fine_tuned:
            raise InputError("a pre-trained AV-HuBERT, which cannot read yet: fine-tune it, train_expert.py --init")
        tokenizer = tokenizer_of(file.task) if whole else None
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    about = {"kind": f"{'fine-tuned' if fine_tuned else 'pre-trained'} AV-HuBERT"}
    about |= {} if file.step is None else {"step": file.step}
    weights = (convert_expert if fine_tuned else convert_pretrained)(file.model)
    return weights, TrainedLipReader(None, hp, tokenizer, about=about)


def export(path, run):
    """Writes the lip reader of a run's checkpoint alone, in 16 bits, with its tokenizer or words."""
    reader = load_reader(run)
    facts = {"words": reader.words, "tokenizer": packed(reader.tokenizer) if reader.tokenizer else None}
    checkpoint.export(path, reader.net, reader.hp, network="reader", step=reader.about.get("step"), **facts)


@torch.inference_mode()
def read(reader, roi, padding=None, beam=None, penalty=None):
    """The sentences of a batch of mouths, by beam search.

    reader: a `TrainedLipReader` with a tokenizer.  roi: (B, T, 1, H, W) grey in [0, 1].  padding: (B, T) bool or None.
    beam, penalty: by default those of the reader's knobs.
    Returns a list of B strings. Raises InputError for a clip that is longer than the reader takes.
    """
    hp = reader.hp
    if roi.shape[1] > hp.longest:
        raise InputError(f"a clip of {roi.shape[1]} frames: this lip reader takes {hp.longest} at most, cut it")
    return write(reader, features(reader, roi, padding), padding, beam, penalty)


@torch.inference_mode()
def features(reader, roi, padding=None):
    """A reader's features of the mouths of a batch, which it reads: (B, T, D) float32. roi, padding: as in `read`."""
    with distributed.autocast(roi.device, reader.hp.amp):
        return reader.net.encode(roi, padding).float()


@torch.inference_mode()
def write(reader, memory, padding=None, beam=None, penalty=None):
    """The sentences of clips whose mouths are embedded already: `memory` (B, T, D). Otherwise as `read`."""
    hp, decoder = reader.hp, reader.net.decoder
    frames = torch.full((len(memory),), memory.shape[1]) if padding is None else (~padding).sum(1)
    beam, penalty = beam or hp.beam, hp.penalty if penalty is None else penalty
    found = beam_search(decoder.step, decoder.begin(memory, padding), frames.to(memory.device), beam, penalty)
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


def tokenizer_of(task):
    """The Tokenizer of a fine-tuned model. Raises InputError if there is none, or its dictionary has other ids."""
    bpe, dictionary = task.get("s2s_tokenizer"), task.get("target_dictionary")
    proto = bpe.get("sp") if isinstance(bpe, dict) else None
    symbols = dictionary.get("symbols") if isinstance(dictionary, dict) else None
    if not isinstance(proto, bytes) or not isinstance(symbols, list):
        raise InputError("no tokenizer in its task state, so it cannot read: give a fine-tuned model as published")
    tokenizer = Tokenizer(proto)
    if tokenizer.symbols != symbols:
        raise InputError(
            f"the {len(symbols)} symbols of the dictionary are not the {len(tokenizer)} pieces of the tokenizer: they"
            " are not of the same model"
        )
    return tokenizer
