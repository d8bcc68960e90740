"""Sync models at work on a clip, SyncNet v2 or our compact one: distances of lips and sound, offset, scores."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import cv2
import numpy as np
import torch

import audio
import checkpoint
from data import evenly
from errors import InputError
from faces import mouth
from hparams import WEIGHTS, ExpertHParams, preset
from media.clip import FPS
from models import build_reader
from models.cals import CalsSync
from models.published import archive
from models.published.archive import kind_of
from models.published.experts import convert_syncnet, convert_wav2lip_sync
from models.published.generators import length
from models.syncnet import WINDOW, SyncNet, distances
from models.wav2lip import LOWER_FACES, Wav2LipSync

VSHIFT = 15  # frames that are tried to each side
LEVEL, MOST_GAIN = 19_000, 100  # of int16: what 1 % of GRID's samples are above; silence stays silence
FEW = 0.5  # an offset at which fewer of the windows have a sound is left out
BATCH, LONGEST = 20, 500  # windows that are embedded at once: as published, and of the compact model
SAMPLES, COLUMNS = audio.RATE // FPS, 4  # of sound and of cepstra, in a frame


class Score(NamedTuple):
    """Fit of a clip's lips and sound.

    offset: frames; positive: the picture is late (its sound comes before it), negative: the sound is late.
    c: confidence, the median of the mean distances at all offsets less the smallest.  d: the smallest.
    """

    offset: int
    c: float
    d: float


def score(found):
    """The offset, confidence and distance of a clip (Wav2Lip, sec. 4.2: LSE-C, LSE-D).

    found: (N, 2 * vshift + 1), see `Sync.distances`. Offsets at which less than half of the windows have a sound are
    left out. Returns a `Score`.
    """
    known = ~found.isnan()
    mean = found.nan_to_num().sum(0) / known.sum(0).clamp(min=1)
    mean = mean.masked_fill(known.float().mean(0) < FEW, torch.nan)
    best = int(np.nanargmin(mean.numpy()))
    d = mean[best].item()
    return Score(found.shape[1] // 2 - best, float(np.nanmedian(mean.numpy())) - d, d)


@dataclass
class Sync:
    """A trained sync model; `load_sync` makes one.

    name: of the model, and columns: of its numbers, so that those of two models never stand under one name.
    about: `kind`, `sha256` and what else its file tells.
    """

    net: torch.nn.Module
    about: dict
    name: ClassVar = ""
    columns: ClassVar = {}
    sure: ClassVar = 0.0  # confidence below which an offset is not believed
    beyond: ClassVar = torch.nan  # the embedding of the sound where there is none

    def embed(self, pictures, wav):
        """The embeddings of all windows of a clip: of its pictures (N, D), of its sound (M, D), float32, on the CPU."""
        raise NotImplementedError

    @torch.inference_mode()
    def distances(self, pictures, wav, vshift=VSHIFT):
        """Distances of each picture window from the sound before, at and after its time.

        pictures: the model's input, 25 a second, see `embed`.  wav: int16 at 16 kHz, which begins with them.
        Returns (N, 2 * vshift + 1); column k is of the sound k - vshift frames later; NaN where there is no sound.
        Raises InputError for a clip that is too short.
        """
        return distances(*self.embed(pictures, wav), vshift, self.beyond)

    @property
    def device(self):
        """The device of the network; a network without weights is on the processor."""
        return next((weight.device for weight in self.net.parameters()), torch.device("cpu"))


class Published(Sync):
    """SyncNet v2, evaluated as it is published: windows are numbered up to 5 before the end, silence is all zeros."""

    name, beyond, sure = "SyncNet v2", 0.0, 3.0  # sure: what LatentSync's makers ask of a training clip
    columns: ClassVar = {"c": "LSE-C", "d": "LSE-D", "offset": "offset"}

    def embed(self, pictures, wav):
        """pictures: (L, 224, 224, 3) uint8, RGB.  wav: (samples,) int16, 16 kHz. Returns two (N, 1024), N windows.

        The published count drops the last window: N = frames - 5, of picture or sound, whichever ends first.
        """
        count = windows_of(min(len(pictures), len(wav) // SAMPLES), len(pictures), wav)
        cepstra = torch.from_numpy(cepstra_of(wav).T.astype(np.float32))  # (13, columns)
        video, sound = [], []
        for first in range(0, count, BATCH):
            at = np.arange(first, min(first + BATCH, count))
            frames = torch.from_numpy(pictures[at[0] : at[-1] + WINDOW]).to(self.device)
            frames = frames.permute(0, 3, 1, 2) / 255  # (n + 4, 3, 224, 224)
            video.append(self.net.embed_video(frames.unfold(0, WINDOW, 1).permute(0, 4, 1, 2, 3)).cpu())
            windows = [cepstra[None, :, COLUMNS * i : COLUMNS * (i + WINDOW)] for i in at]
            sound.append(self.net.embed_audio(torch.stack(windows).to(self.device)).cpu())
        return torch.cat(video), torch.cat(sound)


class Compact(Sync):
    """Our compact sync model. Differs from SyncNet's way: every window counts, and where there is no sound, none."""

    name, sure = "sync_compact", 0.15  # sure: half of wrong sounds pass it, but so do people it does not know
    columns: ClassVar = {"c": "sync C (compact)", "d": "sync D (compact)", "offset": "sync offset (compact)"}

    def embed(self, pictures, wav):
        """pictures: (L, 1, 88, 88) float32, grey in [0, 1]: the aligned mouth ROI, see `mouths`.

        wav: (samples,) int16, 16 kHz. Returns (N, D) and (M, D): N windows of pictures as far as there is sound.
        """
        mel = audio.mel_spectrogram(levelled(wav))
        whole = audio.whole_mel_windows(mel.shape[1])
        count = windows_of(min(len(pictures), whole + WINDOW - 1), len(pictures), wav) + 1
        pictures, mels = pictures[: count + WINDOW - 1], audio.mel_windows(mel, np.arange(whole) / FPS)
        parts = [pictures[first : first + LONGEST + WINDOW - 1] for first in range(0, count, LONGEST)]
        video = [self.net.embed_video(part[None].to(self.device))[0].cpu() for part in parts]
        parts = torch.from_numpy(mels).split(LONGEST)
        sound = [self.net.embed_audio(part[None].to(self.device))[0].cpu() for part in parts]
        return torch.cat(video), torch.cat(sound)


def levelled(wav):
    """Sound at the level that the compact model was trained on: (samples,) int16 -> (samples,) float, 1 at least."""
    if not len(wav):
        return np.zeros(1)
    loud = np.percentile(np.abs(wav.astype(np.float64)), 99)
    return wav * (LEVEL / max(loud, LEVEL / MOST_GAIN))


def windows_of(frames, pictures, wav):
    """SyncNet's count of windows in so many frames with sound, one too few; raises InputError for less than 6 frames.

    pictures, wav: how many frames there are, and the sound, for the error.
    """
    if frames <= WINDOW:
        found = f"{pictures} frames at {FPS} fps and {len(wav) / audio.RATE:.2f} s of sound"
        raise InputError(f"{found}: sync cannot be told from less than {WINDOW + 1} frames of both")
    return frames - WINDOW


def cepstra_of(wav):
    """13 cepstra over 25 ms, 100 times a second, as SyncNet takes them (python_speech_features' defaults): (n, 13)."""
    from python_speech_features import mfcc

    return mfcc(wav, audio.RATE)


def inner(windows):
    """The mouth ROI in mouth windows of 96x96 px: (L, 96, 96) uint8, grey -> (L, 1, 88, 88) float32 in [0, 1]."""
    edge = (mouth.WINDOW_PX - mouth.ROI_PX) // 2
    return torch.from_numpy(np.asarray(windows)[:, None, edge:-edge, edge:-edge]) / 255


def mouths(frames, boxes, meshes):
    """The mouth ROI of a clip as the compact model takes it, in a real or generated video of the same head.

    frames: (L, H, W, 3) uint8, RGB.  boxes: (L, 4) px.  meshes: (L, 468, 2), the face box as [0, 1] x [0, 1].
    Returns (L, 1, 88, 88) float32 grey in [0, 1].
    """
    boxes = np.asarray(boxes, np.float32)
    parts = zip(frames, mouth.aligned(meshes, boxes), boxes, strict=True)
    greys = ((cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), at, box) for rgb, at, box in parts)
    return inner(np.stack([mouth.cut_window(*each) for each in greys]))


def load_sync(path=None, device="cpu"):
    """A `Sync` that judges, from our weights, a run of train_expert.py sync, or the published syncnet_v2.model.

    path: None for the compact model in weights/.
    Raises InputError for a file that holds no sync model, or one that teaches.
    """
    path = Path(path or WEIGHTS["sync"])
    net, hp, about = load_network(path)
    if isinstance(net, Wav2LipSync):
        whose = "CALS" if isinstance(net, CalsSync) else "Wav2Lip"
        raise InputError(f"{path} holds a sync expert of {whose}: it teaches (train.py --sync_expert), and judges none")
    kind = Compact if hp else Published
    return kind(net.to(device, memory_format=torch.channels_last), about)


def load_network(path):
    """A sync network from our weights, a run of train_expert.py sync or a published file, by their content.

    No code of the file is run. Returns (network in eval mode, its `ExpertHParams`, None of SyncNet, about: `kind`,
    `sha256` and what else the file tells). Raises InputError for a file that holds none.
    """
    path = Path(path)
    state, about = archive.read(path)
    if archive.is_ours(state) and "sync" in state:
        weights, hp = state["sync"], checkpoint.knobs(path, state.get("hparams"), ExpertHParams, state["sync"])
    else:
        published = {} if archive.is_ours(state) else archive.state_dict_of(path, state)
        kind = kind_of(published)
        if kind == "SyncNet":
            weights, hp, about = convert_syncnet(published), None, about | {"kind": "SyncNet v2"}
        elif kind == "sync expert of Wav2Lip":
            weights, about = convert_wav2lip_sync(published), about | {"kind": kind}
            hp, first = preset("wav2lip_sync", ExpertHParams), LOWER_FACES[0].out
            hp = replace(hp, width=length(weights, "faces.0.0.conv.weight", first) / first)
        else:
            raise InputError(f"{path} holds no sync model but {archive.describe(state)}: see train_expert.py sync")
    with torch.device("meta"):  # without weights: those of the file take their place
        net = build_reader(hp, None) if hp else SyncNet()
    return checkpoint.fill(path, net, weights), hp, about | {"sha256": checkpoint.sha256(path)}


def export(path, run):
    """Writes the sync model of a run's checkpoint alone, in 16 bits."""
    net, hp, about = load_network(run)
    checkpoint.export(path, net, hp, network="sync", step=about.get("step"))


@torch.inference_mode()
def mismatches(net, clips, most, device):
    """The error rates of a sync model on fixed clips, at most so many: {measure: share}.

    clips: `SyncWindows`.  errors: of windows, for which another sound within `VSHIFT` frames is nearer than their own.
    offsets: of clips whose offset is found more than a frame from 0.
    """
    wrong, count, off = 0, 0, 0
    chosen = evenly(len(clips), most)
    for i in chosen:
        sample = clips[i, None]
        video = net.embed_video(sample["roi"][None].to(device))[0]
        sound = net.embed_audio(sample["mel"][None].to(device))[0]
        found = distances(video.cpu(), sound.cpu(), VSHIFT, torch.nan)
        wrong, count = wrong + (found.nan_to_num(torch.inf).argmin(1) != VSHIFT).sum().item(), count + len(found)
        off += abs(score(found).offset) > 1
    return {"errors": wrong / count, "offsets": off / len(chosen)}
