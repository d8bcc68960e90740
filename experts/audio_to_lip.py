"""Audio-to-Lip in the generator's training (CALS, stage 1): its clips and targets, its step, its validation."""

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch.nn import functional as F

import distributed
from data import Clips, audio_features, evenly
from experts.faces import faces_of
from faces.augment import Augmentation
from losses import a2l_loss, exact
from media.clip import Clip
from media.files import make_folder, replacing
from models.cals import mask_spans, masked_units
from models.syncnet import WINDOW
from workers import progress_bar

AT_ONCE = 100  # frames of which units are made


class UnitClips(Clips):
    """The clips of a split as the sound of whole utterances beside their lip-motion units.

    units: {clip id: (L, D) float16}, see `lip_units`, which fills it.
    """

    units = None

    def __getitem__(self, draw):
        """Training sample number `draw` of stage 1, the same as `utterance` of the clip that it chooses."""
        return self.utterance(self._which(draw, np.random.default_rng((self.hp.seed, 1, draw))))

    def utterance(self, i):
        """Clip `i`: audio (L, 320), see `audio.mel_rows`, and units (L, D) float32, as far as both go."""
        units = self.units[self.names[i]]
        rows, _, _ = audio_features(Clip(self.paths[i]), [0], "utterance")
        length = min(len(rows), len(units))
        return {"audio": torch.from_numpy(rows[:length]), "units": torch.from_numpy(units[:length].astype(np.float32))}


@torch.no_grad()
def units_of(clip, about, expert):
    """The lip-motion units of a clip's real faces: (L, D) float16. Unit t is of the frames t - 2 to t + 2.

    At the clip's ends its first and its last frame stand for those beyond.
    about: the facts of its data root.  expert: a `SyncExpert` over a `CalsSync`.
    """
    side, found, weight = WINDOW // 2, [], next(expert.net.parameters())
    for start in range(0, len(clip), AT_ONCE):
        stop = min(start + AT_ONCE, len(clip))
        low, high = max(start - side, 0), min(stop + side, len(clip))
        faces = faces_of(clip, low, high, expert.hp.face_px, about, Augmentation(0.0, None))
        at = np.arange(start - side, stop + side).clip(low, high - 1) - low
        found.append(expert.net.embed_video(faces[at][None].to(weight.device))[0])
    return torch.cat(found).half().cpu().numpy()


def unit_clips(root, hp, expert, path):
    """The `UnitClips` of training and validation, None and None of a run that has no stage 1; see `lip_units`."""
    if not hp.a2l_steps:
        return None, None
    splits = [UnitClips(root, split, hp) for split in ("train", "val")]
    for split in splits:
        split.leave_out(windows=False)  # what is to be said of these has been
    splits[0].units = splits[1].units = lip_units(splits, expert, path)
    return splits


def lip_units(clips, expert, path):
    """The lip-motion units of all clips, kept at `path` for the next time: {clip id: (L, D) float16}.

    clips: splits of one data root.  expert: the frozen `SyncExpert` that makes them, once, before the training.
    """
    wanted = {name: place for split in clips for name, place in zip(split.names, split.paths, strict=True)}
    with distributed.first_alone():
        units = kept_at(path, expert.sha256)
        if wanted.keys() <= units.keys():
            return units
        with progress_bar(len(wanted), "clip", desc="lip-motion units") as bar:
            for name, place in wanted.items():
                units[name] = units_of(Clip(place), clips[0].about, expert)
                bar.update()
        make_folder(path.parent)
        with replacing(path) as partial:
            save_file(units, partial, {"sync_expert": expert.sha256})
    return units


def kept_at(path, sha256):
    """The units that `lip_units` wrote by the expert with this SHA-256; none of another or of a broken file."""
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("sync_expert") != sha256:
                return {}
            return {name: file.get_tensor(name) for name in file.keys()}
    except (FileNotFoundError, SafetensorError):
        return {}


def shortened(batch, least):
    """A batch whose clips' sound is cut to a random length, `least` rows or more, around the frames that are generated.

    batch: see `data.collate`; of stage 1, or with one window a clip, so that row w of what is windowed is of clip w.
    Differs: not in the poster, whose figure 3 has short windows of sound. Without it they are unknown to a network that
    has always had whole utterances.
    """
    lengths, cut = (~batch["audio_padding"]).sum(1).tolist(), dict(batch)
    anywhere = torch.stack([torch.randint(length, ()) for length in lengths])[:, None]
    index = batch["index"].cpu() if "index" in batch else anywhere
    parts = []
    for length, rows in zip(lengths, index, strict=True):
        first, last = int(rows.min()), int(rows.max()) + 1
        size = int(torch.randint(min(max(least, last - first), length), length + 1, ()))
        start = int(torch.randint(max(last - size, 0), min(first, length - size) + 1, ()))
        parts.append((start, start + size))
    longest = max(stop - start for start, stop in parts)
    for name in ("audio", "units", "lips"):
        if name in batch:
            rows = [each[start:stop] for each, (start, stop) in zip(batch[name], parts, strict=True)]
            cut[name] = torch.stack([F.pad(each, (0, 0, 0, longest - len(each))) for each in rows])
    sizes = torch.tensor([stop - start for start, stop in parts], device=batch["audio"].device)
    cut["audio_padding"] = torch.arange(longest, device=sizes.device) >= sizes[:, None]
    if "index" in batch:
        cut["index"] = batch["index"] - torch.tensor([[start] for start, _ in parts], device=sizes.device)
    return cut


def a2l_step(state, batches):
    """Updates Audio-to-Lip alone, once, by its own loss. Returns it, and the gradient's norm, detached, for the log.

    batches: of `UnitClips`, one, or more whose gradients are gathered.
    """
    hp, generator, world = state.hp, state.nets["generator"], distributed.rank()[1]
    masks = [mask_spans(batch["audio_padding"], hp.mask_share, hp.mask_span) for batch in batches]
    counted = [~batch["audio_padding"] for batch in batches] if hp.a2l_heard else list(map(masked_units, masks))
    counts = torch.stack([each.sum().float() for each in counted]).to(state.device)
    shares = world * counts / distributed.total(counts.sum()).clamp(min=1)
    losses = []
    for batch, mask, units, share in zip(batches, masks, counted, shares, strict=True):
        with distributed.autocast(state.device, hp.amp):
            predicted = generator.speech(batch["audio"], batch["audio_padding"], mask)
        loss = a2l_loss(predicted, batch["units"], units, hp.a2l_sum)
        losses.append((world if hp.a2l_sum else share) * loss)
        losses[-1].backward()
    total = sum(loss.detach() for loss in losses)
    return state.end_step({"a2l": total, "total": total}, generator.parameters(), ["generator"])


@torch.no_grad()
def a2l_scores(encoder, clips, hp, device):
    """Scores of Audio-to-Lip on a split's fixed clips with fixed masks: {name: number}.

    a2l: the mean square of the errors of masked units.  unit_cosine: the mean cosine of masked units and predictions.
    """
    predicted, units = [], []
    for i in evenly(len(clips), hp.valid_clips):
        sample = {name: part[None].to(device) for name, part in clips.utterance(i).items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(i)
            mask = mask_spans(torch.zeros_like(sample["audio"][..., 0], dtype=torch.bool), hp.mask_share, hp.mask_span)
        with distributed.autocast(device, hp.amp):
            found = encoder(sample["audio"], None, mask)
        predicted.append(exact(found[masked_units(mask)]))
        units.append(sample["units"][masked_units(mask)])
    predicted, units = torch.cat(predicted)[None], torch.cat(units)[None]
    error = a2l_loss(predicted, units, torch.ones_like(units[..., 0], dtype=torch.bool))
    cosine = F.cosine_similarity(predicted, units, dim=-1).sum() / max(units.shape[1], 1)
    return {"a2l": error.item(), "unit_cosine": cosine.item()}
