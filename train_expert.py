"""Trains experts: the lip reader and the sync expert that guide the generator, and the models that evaluate it.

python train_expert.py tokenizer --data_root data/grid --out data/grid/tokenizer.model --size 64
python train_expert.py pretrain --data_root data/grid --preset compact --name clusters
python train_expert.py finetune --data_root data/grid --preset compact --name expert --init runs/clusters/best.pt
python train_expert.py words --data_root data/grid --preset compact_words --name words
python train_expert.py sync --data_root data/grid --preset compact_sync --name sync
python train_expert.py sync --data_root data/grid --preset compact_wav2lip_sync --name teacher
python train_expert.py sync --data_root data/grid --preset compact_cals_sync --name units
"""

import argparse
import math
import shlex
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import checkpoint
import distributed
from corpora.data_root import check_data_root
from data import collate, evenly
from errors import InputError, exit_code
from experts import lip_reader, sync
from experts.clusters import cluster_targets
from experts.data import Batches, SyncWindows, Utterances, Words
from experts.faces import FaceWindows
from experts.lip_reader import TrainedLipReader, error_rates, load_reader, packed, read
from experts.tokenizer import Tokenizer, train_tokenizer, transcripts
from hparams import SYNC_MODELS, ExpertHParams, add_flags, override
from losses import cluster_loss, ctc_loss, l1_distance, matching_loss, pair_loss, reading_loss
from media.files import make_folder, replacing
from models import build_reader
from models.avhubert import ClusterHead, shuffle_spans, spans
from models.decoder import PAD
from models.syncnet import WINDOW
from training import TrainState, Validation, check_flags, to, train

# The losses of a step: each task turns a batch into some


class MaskedPrediction(nn.Module):
    """Pre-training (AV-HuBERT; SyncTalklip eq. 3): the cluster targets of masked frames, predicted from the rest.

    reader: a `LipReader` over an `AVHubert` with video, or over a `Conformer`, which takes no sound.
    Differs: where one modality is dropped, only what is masked in the other counts as masked. With `unmasked_weight` 1,
    as in the compact presets, and most batches without sound, each frame's sound is largely predicted from the lips.
    """

    def __init__(self, reader, hp):
        super().__init__()
        self.hp, self.reader, self.head = hp, reader, ClusterHead(hp.dim, hp.clusters)

    def forward(self, batch):
        """batch: see `data.collate`, with `clusters`. Returns {"clusters": scalar}."""
        hp, roi, audio = self.hp, batch["roi"], batch["audio"]
        video_masked = spans(batch["lengths"], hp.mask_video, hp.mask_video_span)
        audio_masked = spans(batch["lengths"], hp.mask_audio, hp.mask_audio_span)
        alone, video_only = torch.rand(2) < torch.tensor([hp.modality_dropout, hp.audio_dropout])
        roi = shuffle_spans(roi, video_masked, batch["lengths"])
        audio = torch.where(audio_masked[..., None], self.head.mask.to(audio.dtype), audio)
        masked = video_masked | audio_masked
        if hp.model == "conformer" or (alone and video_only):
            audio, masked = None, video_masked
        elif alone:
            roi, masked = None, audio_masked
        scores = self.head(self.reader.encode(roi, batch["roi_padding"], audio))
        weights = masked + hp.unmasked_weight * ~masked
        return {"clusters": cluster_loss(scores.float(), batch["clusters"], weights)}


class Transcription(nn.Module):
    """Fine-tuning: the tokens of the transcript with label smoothing; beside them, where asked for, CTC and frames.

    With `align_weight` it makes an AV-SyncNet (SyncTalklip, eq. 6): "align" is its eq. 5, "reading" its eq. 4.
    Differs: "lib" in eq. 6 is "lip". Eq. 5 is a mean over frames; printed, its norm is of all frames of a clip.
    Raises InputError if CTC is asked for and the reader has no layer for it.
    """

    def __init__(self, reader, hp):
        super().__init__()
        if hp.ctc_weight and reader.ctc is None:
            raise InputError(f"--ctc_weight {hp.ctc_weight}: --model {hp.model} has no CTC layer, the conformer has")
        self.hp, self.reader = hp, reader
        tokens = reader.decoder.embedding.num_embeddings
        self.said = nn.Linear(hp.dim, tokens) if hp.frames_weight else None

    def forward(self, batch):
        """batch: see `data.collate`, with `tokens`. Returns {name: scalar}."""
        hp, reader = self.hp, self.reader
        memory = reader.encode(batch["roi"], batch["roi_padding"])
        logits = reader.decoder(batch["previous"], memory, batch["roi_padding"])
        losses = {"reading": reading_loss(logits.float(), batch["tokens"], PAD, hp.label_smoothing)}
        if hp.ctc_weight:
            lengths = (batch["tokens"] != PAD).sum(1) - 1  # without END, which CTC has no need of
            losses["ctc"] = ctc_loss(reader.ctc(memory).float(), batch["tokens"], batch["lengths"], lengths)
        if hp.frames_weight:
            losses["frames"] = reading_loss(self.said(memory).float(), batch["said"], PAD)
        if hp.align_weight:
            heard, there = reader.encode(None, batch["roi_padding"], batch["audio"]), ~batch["roi_padding"]
            both = (reader.align(each, batch["roi_padding"])[there] for each in (heard, memory))
            losses["align"] = l1_distance(*both, hp.align_scale).mean()
        return losses


class WordNaming(nn.Module):
    """The word classifier's only task: which word it is."""

    def __init__(self, classifier, hp):
        super().__init__()
        self.hp, self.reader = hp, classifier

    def forward(self, batch):
        """batch: see `data.collate`, with `word` (B,) and `inside` (B, T). Returns {"word": scalar}."""
        logits = self.reader(batch["roi"], batch["roi_padding"], batch["inside"])
        return {"word": reading_loss(logits.float()[:, None], batch["word"][:, None], -1, self.hp.label_smoothing)}


class Synchrony(nn.Module):
    """The sync model's task: which sound belongs to which lips, among all windows of all clips of the batch.

    With the knob `sync_loss` at "pairs" (Wav2Lip, sec. 3.1): whether the one sound beside its lips belongs to them.
    """

    def __init__(self, sync, hp):
        super().__init__()
        self.hp, self.sync = hp, sync

    def forward(self, batch):
        """batch: see `data.collate`, with `mel` (B, T - 4, 1, 80, S), and for pairs `paired` (B, T - 4) bool.

        Returns {"sync": scalar, "chance": what it is for a model that knows nothing}, nats.
        """
        at = torch.arange(batch["mel"].shape[1], device=batch["mel"].device)
        inside = at < batch["lengths"][:, None] - (WINDOW - 1)
        video, audio = self.sync.embed_video(batch["roi"]), self.sync.embed_audio(batch["mel"])  # (B, T - 4, D)
        if self.hp.sync_loss == "pairs":
            loss = pair_loss(video[inside], audio[inside], batch["paired"][inside])
            return {"sync": loss, "chance": loss.new_tensor(math.log(2))}
        loss = matching_loss(video[inside], audio[inside], self.hp.temperature)
        return {"sync": loss, "chance": inside.sum().float().log()}


OBJECTIVES = {"pretrain": MaskedPrediction, "finetune": Transcription, "words": WordNaming, "sync": Synchrony}
ALONE = {"words": ("words",), "sync": SYNC_MODELS}  # tasks with models of their own


def objective_weights(hp):
    """The weight of each loss of the tasks; `chance` is no loss but what one is held against."""
    reading = {"reading": 1 - hp.ctc_weight, "ctc": hp.ctc_weight, "frames": hp.frames_weight}
    reading["align"] = hp.align_weight
    return {"clusters": 1.0, "word": 1.0, "sync": 1.0, "chance": 0.0, **reading}


# The step


def train_step(objective, task, state, batch):
    """One update of the network. Returns every loss and the gradient's norm, detached.

    Differs: an encoder frozen in fine-tuning is in eval mode; published, its dropout goes on.
    """
    hp, weights = state.hp, objective_weights(state.hp)
    state.begin_step()
    objective.train()
    if task == "finetune":
        frozen = state.step < hp.freeze
        objective.reader.encoder.requires_grad_(not frozen).train(not frozen)
    with distributed.autocast(state.device, hp.amp):
        losses = objective(batch)
    losses["total"] = sum(weights[name] * loss for name, loss in losses.items())
    losses["total"].backward()
    return state.end_step(losses, objective.parameters())


# Batches


def batches(clips, workers, state, stop):
    """Yields (the batch of a step, how many frames it has) from the step of `state` to `stop`."""
    rank, world = distributed.rank()
    chosen = Batches(clips.lengths, state.hp, state.step, stop, rank, world)
    loader = DataLoader(
        clips, batch_sampler=chosen, num_workers=workers, collate_fn=collate, worker_init_fn=distributed.one_thread
    )
    for batch in loader:
        yield to(state.device, batch), int(batch["lengths"].sum())


# Validation


@torch.inference_mode()
def validate(objective, task, clips, reader, state, _=None):
    """The `Validation` of a run on fixed samples of a split; the first of its scores is what is to be small."""
    objective.eval()
    if task == "sync":
        scores = sync.mismatches(objective.sync, clips, state.hp.valid_clips, state.device)
    else:
        scores = score_reader(objective, task, clips, reader, state)
    return Validation(scores, next(iter(scores.values())))


def score_reader(objective, task, clips, reader, state):
    """The error rates of a lip reader, or the share of cluster targets or words that are predicted wrong."""
    chosen = evenly(len(clips), state.hp.valid_clips)
    right, places, said, predicted = 0, 0, [], []
    for part in np.array_split(chosen, -(-len(chosen) // 8)):
        batch = to(state.device, collate([clips[int(i), None] for i in part]))
        roi, padding = batch["roi"], batch["roi_padding"]
        if task == "finetune":
            said += [reader.tokenizer.decode(tokens) for tokens in batch["tokens"]]
            predicted += read(reader, roi, padding)
            continue
        with distributed.autocast(state.device, state.hp.amp):
            scores = (
                objective.head(objective.reader.encode(roi, padding))
                if task == "pretrain"
                else objective.reader(roi, padding, batch["inside"])
            )
        wanted = batch["clusters"] if task == "pretrain" else batch["word"]
        right, places = right + (scores.argmax(-1) == wanted).sum().item(), places + (wanted >= 0).sum().item()
    return error_rates(said, predicted) if task == "finetune" else {"errors": 1 - right / places}


# Building a run


def splits_of(args, hp, tokenizer):
    """The clips of a task, [train, val]; those of pre-training have no `clusters` yet."""
    root = args.data_root
    if args.task == "words":
        clips = Words(root, "train", hp)
        return [clips, Words(root, "val", hp, clips.vocabulary)]
    if args.task == "sync":
        windows = SyncWindows if hp.model == "sync" else FaceWindows
        return [windows(root, split, hp) for split in ("train", "val")]
    return [Utterances(root, split, hp, tokenizer) for split in ("train", "val")]


def build(args, hp, device, words, tokenizer):
    """An untrained network under the losses of its task, and the `TrainState` of both."""
    torch.manual_seed(hp.seed)
    size = None if args.task in ("pretrain", "sync") else len(words or tokenizer)
    objective = OBJECTIVES[args.task](build_reader(hp, size), hp).to(device, memory_format=torch.channels_last)
    optim = torch.optim.AdamW(objective.parameters(), hp.lr, (hp.beta1, hp.beta2), weight_decay=hp.weight_decay)
    facts = {"task": args.task, "words": words, "tokenizer": packed(tokenizer) if tokenizer else None}
    facts["clips"] = checkpoint.sha256(args.data_root / "train.txt")
    return objective, TrainState(hp, device, dict(objective.named_children()), {"expert": optim}, facts=facts)


def begin_with(objective, task, path):
    """Takes the encoder of a run, a lip reader or a published file; for words, its video front end."""
    encoder, words = load_reader(path, whole=False).net.encoder, task == "words"
    if words and not hasattr(encoder, "video"):
        raise InputError(f"--init {path} is no avhubert, with whose video front end a word classifier begins")
    mine, found = (objective.reader.front, encoder.video) if words else (objective.reader.encoder, encoder)
    checkpoint.begin_with([mine], found.state_dict(), f"--init {path} is an encoder of another size")


def knobs_of(args, last):
    """The knobs of the run that the flags begin, or resume from `last`: (hparams, its checkpoint or None)."""
    found = checkpoint.latest(last)
    if found and found.get("task") != args.task:
        raise InputError(f"{last} is a run of {found.get('task', 'train.py')}: give another --name")
    stored = checkpoint.knobs(last, found["hparams"], ExpertHParams) if found else ExpertHParams()
    hp = override(stored, args)
    others = {model for task, models in ALONE.items() if task != args.task for model in models}
    if hp.model in others or hp.model not in ALONE.get(args.task, (hp.model,)):
        why = f"{args.task} cannot train --model {hp.model}: say another --model, or a --preset that has one"
        raise InputError(why)
    if not found and not args.init and args.task == "finetune" and hp.freeze:
        raise InputError(f"--freeze {hp.freeze} keeps an encoder that nobody has trained: give --init, or --freeze 0")
    return hp, found


def make_tokenizer(args):
    """Trains a tokenizer on the transcripts of the training split and writes it."""
    check_data_root(args.data_root, f"train_expert.py tokenizer --out {shlex.quote(str(args.out))}")
    tokenizer = train_tokenizer(transcripts(args.data_root, "train"), args.size, args.kind)
    make_folder(args.out.parent)
    with replacing(args.out) as partial_file:
        partial_file.write_bytes(tokenizer.model)
    print(f"{args.out}: {len(tokenizer)} tokens, sha256 {tokenizer.sha256}")


def tokenizer_of(args):
    """The tokenizer that --tokenizer names, by default the one in the data root."""
    path = args.tokenizer or args.data_root / "tokenizer.model"
    if not path.is_file():
        raise InputError(f"no tokenizer at {path}: make one with train_expert.py tokenizer --out {path}")
    try:
        return Tokenizer(path.read_bytes())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def work(args):
    """Trains the run that the flags describe, and exports it where that is asked for."""
    cv2.setNumThreads(0)
    preset = f" --preset {args.preset}" if hasattr(args, "preset") else ""
    check_data_root(args.data_root, f"train_expert.py {args.task} --name {shlex.quote(args.name)}{preset}")
    folder = args.runs / args.name
    hp, found = knobs_of(args, folder / "last.pt")
    tokenizer = tokenizer_of(args) if args.task == "finetune" else None
    device = distributed.join(torch.device(distributed.device_of(args.device)))
    teacher = load_reader(args.teacher, whole=False) if args.teacher else None
    if teacher:
        teacher.net.to(device)
    clips, valid = splits_of(args, hp, tokenizer)
    words = clips.vocabulary if args.task == "words" else None
    objective, state = build(args, hp, device, words, tokenizer)
    if found:
        state.resume(folder / "last.pt", found)
    elif args.init:
        begin_with(objective, args.task, args.init)
    if args.task == "pretrain":
        path, older = folder / "clusters.npz", folder / "units.npz"  # the latter of runs of older versions
        with distributed.first_alone():
            if found and older.is_file() and not path.is_file():
                older.rename(path)
            if not found and distributed.rank()[0] == 0 and path.is_file():
                path.unlink()  # of a start with maybe other flags, before any checkpoint
            clips.clusters = valid.clusters = cluster_targets([clips, valid], hp, path, teacher)
    if args.export:
        make_folder(args.export.parent)
    distributed.say(f"{folder}: {args.task}, step {state.step} of {state.hp.max_steps}")
    reader = TrainedLipReader(getattr(objective, "reader", None), state.hp, tokenizer, words)
    step, validation = partial(train_step, objective, args.task), partial(validate, objective, args.task, valid, reader)
    train(state, folder, args.stop, partial(batches, clips, args.workers), step, validation, args.tensorboard)
    if args.export and distributed.rank()[0] == 0:
        validated = math.isfinite(state.best) and (folder / "best.pt").is_file()
        export = (sync if args.task == "sync" else lip_reader).export
        export(args.export, folder / ("best.pt" if validated else "last.pt"))
    distributed.leave()


def main(argv=None):
    """Parses the flags and makes a tokenizer, or trains or resumes a lip reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="task")
    notes = {
        "pretrain": "an encoder, by masked prediction of cluster targets",
        "finetune": "a lip reader, on transcripts",
        "words": "a classifier of single words",
        "sync": "a sync model or sync expert, by telling each window's sound from others",
    }
    own = {  # flags that not every task has; elsewhere they are None
        "init": (("pretrain", "finetune", "words"), "begin with the encoder of this run or lip reader"),
        "teacher": (("pretrain",), "cluster the features of this run, not the sound"),
        "tokenizer": (("finetune",), "(default: tokenizer.model in the data root)"),
        "export": (
            ("finetune", "words", "sync"),
            "write the model here at the end, as safetensors: the best one, or the last if none was validated",
        ),
    }
    for task, note in notes.items():
        sub = tasks.add_parser(task, help=note, description=note)
        sub.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
        sub.add_argument("--name", required=True, help="of the run; the same name resumes it")
        sub.add_argument("--runs", default=Path("runs"), type=Path, help="folder of all runs (default: %(default)s)")
        sub.set_defaults(**dict.fromkeys(own))
        for flag in own:
            if task in own[flag][0]:
                sub.add_argument(f"--{flag}", type=Path, help=own[flag][1])
        sub.add_argument("--workers", default=1, type=int, help="processes that read clips (default: %(default)s)")
        sub.add_argument("--stop", type=int, help="stop after this step, without changing the schedule")
        sub.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
        sub.add_argument("--tensorboard", action="store_true", help="log for TensorBoard too, in the folder of the run")
        add_flags(sub, ExpertHParams)
    sub = tasks.add_parser("tokenizer", help="a tokenizer, from the transcripts of train.txt")
    sub.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    sub.add_argument("--out", required=True, type=Path, help="file to be written")
    sub.add_argument("--size", default=1000, type=int, help="tokens, at most (default: %(default)s)")
    sub.add_argument("--kind", default="unigram", help="unigram, bpe, word or char (default: %(default)s)")
    args = parser.parse_args(argv)
    job = make_tokenizer if args.task == "tokenizer" else work

    def checked():
        check_flags(args)
        job(args)

    return exit_code(parser.prog, checked, if_stopped="stopped; the same command resumes from last.pt")


if __name__ == "__main__":
    sys.exit(main())
