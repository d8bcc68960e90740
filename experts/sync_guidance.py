"""The sync expert in the generator's training: frozen, it tells how well generated lips fit their sound."""

import shlex

import torch
import torch.nn.functional as F

import checkpoint
import distributed
from errors import InputError
from experts.guidance import shrunk
from experts.sync import load_network
from hparams import WEIGHTS
from losses import cals_sync_loss, exact, matching_loss, pair_loss
from models.cals import CalsSync
from models.syncnet import WINDOW
from models.wav2lip import Wav2LipSync


class SyncExpert:
    """A frozen sync expert in eval mode. Its losses of generated faces have gradients; its weights never change.

    It teaches by the loss that it was trained with, its knob `sync_loss`: "pairs", its cosine is a probability
    (Wav2Lip, sec. 3); "matching", it is not, and generated lips have to find their sound among others, by the expert's
    own temperature. What other systems ask of such an expert is another loss of what `embed` returns.
    net: a `Wav2LipSync` or a `CalsSync`.  hp: the `ExpertHParams` it was trained with.  sha256: of its file.
    """

    def __init__(self, net, hp, sha256, device):
        self.hp, self.sha256 = hp, sha256
        self.net = net.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()

    def embed(self, faces, batch):
        """Embeddings of every five faces, of their sound, and of more sounds of the same clips.

        faces: (W, T, 3, H, W) in [0, 1], RGB, of frames that follow each other, generated or real.
        batch: see `data.collate`, with `sync_mel` (W, T, 1, 80, S), the 0.2 s from each face on, NaN past the end.
        Returns (N, D) twice, row i of both of the same 0.2 s, and (K, D), all of length 1. Faces without their whole
        sound are left out.
        """
        mels, known, lips = batch["sync_mel"], self.known(batch), faces.shape[1] - WINDOW + 1
        others = self.net.embed_audio(mels[:, lips:][known[:, lips:]][None])[0]
        return self.embed_lips(faces, batch), self.embed_sound(batch), exact(others)

    def known(self, batch):
        """Whether the 0.2 s of sound from each face on are whole: (W, T) bool."""
        return ~batch["sync_mel"][:, :, 0, 0, 0].isnan()

    def embed_lips(self, faces, batch):
        """Embeddings of every five faces whose sound is whole, see `embed`: (N, D) of length 1."""
        video = self.net.embed_video(sized(faces, self.hp.face_px))  # (W, T - 4, D)
        return exact(video[self.known(batch)[:, : video.shape[1]]])

    def embed_sound(self, batch):
        """Embeddings of the sound of every five faces, see `embed`: (N, D) of length 1."""
        lips = batch["sync_mel"].shape[1] - WINDOW + 1
        return exact(self.net.embed_audio(batch["sync_mel"][:, :lips][self.known(batch)[:, :lips]][None])[0])

    def contrast(self, lips, own, batch, temperature):
        """CALS' sync loss of generated lips, over the faces of all processes: a scalar in nats.

        lips: `embed_lips` of generated faces.  own: that of the real ones (d_vv), or `embed_sound` (d_av).
        Windows that share a frame are no counter-examples of each other.
        """
        known = self.known(batch)[:, : 1 - WINDOW]
        clip = batch["clip"] + distributed.rank()[0] * len(batch["audio"])  # a clip of its own in each process
        rows = lips, own, clip[:, None].expand_as(known)[known], batch["frames"][:, : 1 - WINDOW][known]
        return cals_sync_loss(*map(distributed.gathered, rows), temperature, WINDOW)

    def loss(self, video, audio, others):
        """The sync loss of what `embed` returns: a scalar in nats, in 32 bits."""
        with torch.autocast(video.device.type, enabled=False):
            if self.hp.sync_loss == "matching":
                return matching_loss(video, audio, self.hp.temperature, others)
            return pair_loss(video, audio, torch.ones(len(video), dtype=torch.bool, device=video.device))

    def scores(self, fake, batch):
        """{"sync": its loss} of a validation clip of which every frame is generated."""
        return {"sync": self.loss(*self.embed(fake, batch)).item()}


def sized(faces, px):
    """Faces at an expert's own size: larger ones shrunk without aliasing, smaller ones enlarged. (W, T, 3, H, W)."""
    if faces.shape[-1] >= px:
        return shrunk(faces, px)
    return F.interpolate(faces.flatten(0, 1), (px, px), mode="bilinear", align_corners=False).unflatten(
        0, faces.shape[:2]
    )


def sync_expert_of(path, hp, device, data_root):
    """The `SyncExpert` that a run with the knobs `hp` will need, from the file at `path`; None for a run without.

    Raises InputError where no file is named, for the model that judges, one of another kind, and a schedule that is not
    for it.
    """
    if not hp.needs_sync_expert or (hp.sync_from >= hp.max_steps and not hp.awaits_sync and not hp.a2l_steps):
        return None
    kind = "cals" if hp.model == "cals" else "wav2lip"
    if path is None:
        name = f"{kind}_sync" if hp.width == 1 else f"compact_{kind}_sync"
        root = shlex.quote(str(data_root))
        how = f"python train_expert.py sync --preset {name} --data_root {root} --name {name} --export {name}"
        raise InputError(f"--sync_expert FILE is missing, none is shipped. To train one: {how}.safetensors")
    if path.name == WEIGHTS["sync"].name or (path.is_file() and checkpoint.sha256(path) == judge_sha256()):
        raise InputError(f"--sync_expert {path} is the model that judges sync: what it taught, it could not judge")
    net, own, about = load_network(path)
    if not isinstance(net, Wav2LipSync):
        raise InputError(f"--sync_expert {path} is not of Wav2Lip's kind, which sees the lower half of faces")
    if isinstance(net, CalsSync) != (kind == "cals"):
        raise InputError(f"--sync_expert {path} is a {own.model}: --model {hp.model} learns under a {kind}_sync")
    if kind == "cals" and net.dim != hp.sync_dim:
        raise InputError(f"--sync_expert {path} has lip-motion units of {net.dim} numbers: say --sync_dim {net.dim}")
    if hp.sync_below and own.sync_loss != "pairs":
        why = f"--sync_below {hp.sync_below:g} is of the published loss, {path} was trained by InfoNCE"
        raise InputError(f"{why}: say --sync_below 0 and a step, --sync_from 1000")
    return SyncExpert(net, own, about["sha256"], device)


def judge_sha256():
    """The SHA-256 of the sync model in weights/, None where it is not there."""
    return checkpoint.sha256(WEIGHTS["sync"]) if WEIGHTS["sync"].is_file() else None
