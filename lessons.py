"""What a guided training step is given: drawn windows, and the whole clips around them as the lip expert sees them."""

import cv2
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

import mouth
from clip import Clip
from data import Clips, Look
from hparams import InputError
from text import END, PAD
from utterances import check_roi, mouths


class Lessons(Clips):
    """The clips of a split with what a lip reader needs to read them, beside what a generator is given.

    tokenizer: see `text.Tokenizer`.  roi: "aligned" or "lrs2".  longest: frames that the lip reader takes.
    """

    def __init__(self, root, split, hp, tokenizer, roi, longest):
        super().__init__(root, split, hp)
        self.tokenizer, self.roi, self.longest = tokenizer, roi, longest

    def check_clip(self, clip, drawn):
        """The tokens of a clip; raises InputError where it is too long, or short, or has no text that the tokenizer
        knows, or no such ROI."""
        super().check_clip(clip, drawn)
        if len(clip) > self.longest:
            raise InputError(f"{clip.path}: {len(clip)} frames, the lip expert takes {self.longest}: cut it")
        check_roi(clip, self.roi)
        try:
            return self.tokenizer.encode(clip.text, strict=not self.hp.faithful)
        except InputError as error:
            raise InputError(f"{clip.path}: {error}") from error

    def build(self, clip, frames, identity, look, draw):
        """The sample of a draw, see `data.sample`, with what the expert is shown and should read.

        roi: (L, 1, 88, 88) grey in [0, 1], the mouth as filmed.  frames: (T,) the frames that are drawn.
        to_face: (T, 2, 3) from the ROI to the face that is to be drawn, [0, 1] x [0, 1].  tokens: (N,) with END.
        Raises InputError as `check_clip`.
        """
        tokens = self.check_clip(clip, drawn=False)
        filmed, whole = mouths(clip, self.roi), np.tile(np.eye(2, 3), (len(clip), 1, 1))
        windows = clip.windows if self.roi == "aligned" else mouth.lrs2(clip.boxes, clip.size)
        # Numbers of its own: a draw is the same with and without the expert. Twice the same, for the same part is read.
        alter = draw is not None and self.hp.augment
        chances = [np.random.default_rng((self.hp.seed, 4, draw)) if alter else None for _ in range(2)]
        inner, to_box = mouth.inner(whole, chances[0]), mouth.inner(windows, chances[1])
        filmed = torch.from_numpy(relit(filmed, clip, frames, look))[:, None] / 255
        told = {
            "roi": mouth.cut(filmed, torch.from_numpy(inner)),
            "frames": torch.from_numpy(frames),
            "to_face": torch.from_numpy(self.to_drawn(to_box[frames], look)),
            "tokens": torch.tensor(tokens),
        }
        return super().build(clip, frames, identity, look, draw) | told

    def whole(self, i):
        """A fixed batch of clip `i`, for validation: all its frames are drawn, the identity is its first."""
        clip = Clip(self.paths[i])
        frames = np.arange(len(clip))
        return collate([self.build(clip, frames, np.zeros_like(frames), Look(0.0, None), None)], len(clip))

    def to_drawn(self, to_box, look):
        """Matrices (T, 2, 3) from the ROI to the face box, made to end in the face as `look` has turned it."""
        px, face_px = self.hp.face_size, self.about["face_px"]
        border = (self.about["crop_px"] - face_px) / 2
        to_face = look.matrix(px, px / face_px, border)  # pixels of the stored crop to those of the face
        linear = to_face[:, :2] * face_px / px
        shift = (to_face[:, :2] @ np.full(2, border - 0.5) + to_face[:, 2] + 0.5) / px
        if look.flip:
            linear, shift = linear * [[-1], [1]], shift * [-1, 1] + [1, 0]
        matrices = linear @ to_box
        matrices[..., 2] += shift
        return matrices.astype(np.float32)


def relit(windows, clip, frames, look):
    """Mouth windows, (L, H, W) uint8 grey, in the light of `look`: so that they go with what is drawn in that light.

    The light is found on the crops of a few of the drawn `frames`, as a curve of grey levels; sharpness stays.
    """
    if not look.paints:
        return windows
    crops = [clip.picture(i) for i in frames[:: max(len(frames) // 3, 1)]]
    before, after = (
        np.concatenate([cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY).ravel()[::5] for crop in each])
        for each in (crops, [look.paint(crop) for crop in crops])
    )
    curve = np.polyval(np.polyfit(before / 255.0, after, 2), np.arange(256) / 255.0)
    return cv2.LUT(windows.reshape(-1, 1), curve.clip(0, 255).round().astype(np.uint8)).reshape(windows.shape)


def collate(samples, window):
    """Samples of a training step as a batch: each window is a row, `clip` (W,) says of which clip.

    face, target, mouth, index, and where there is an expert frames and to_face: (W, window, ...); a window that a short
    clip repeats is left out.  audio, lips, roi, tokens: a row for each clip, padded; `padding` (B, L) says where audio
    ends, `unseen` (B, L) where the clip does; previous: (B, N), the token before each.
    """
    rows = {name: [] for name in ("face", "target", "mouth", "index", "frames", "to_face") if name in samples[0]}
    clips = []
    for number, sample in enumerate(samples):
        kept = different(sample["frames"] if "frames" in sample else None, len(sample["face"]) // window, window)
        clips += [number] * len(kept)
        for name, parts in rows.items():
            parts.append(sample[name].unflatten(0, (-1, window))[kept])
    batch = {name: torch.cat(parts) for name, parts in rows.items()} | {"clip": torch.tensor(clips)}
    batch |= {name: padded(samples, name) for name in ("audio", "lips")}
    batch["padding"] = beyond(samples, "audio")
    if "roi" in samples[0]:
        batch |= {"roi": padded(samples, "roi"), "unseen": beyond(samples, "roi")}
        batch["tokens"] = tokens = padded(samples, "tokens", PAD)
        previous = torch.cat([torch.full_like(tokens[:, :1], END), tokens[:, :-1]], dim=1)
        batch["previous"] = previous.masked_fill(tokens == PAD, PAD)
    return batch


def different(frames, windows, window):
    """The numbers of a clip's windows without those that begin where another one does; all where `frames` is None."""
    if frames is None:
        return list(range(windows))
    starts = frames[::window].tolist()
    return [i for i, start in enumerate(starts) if start not in starts[:i]]


def padded(samples, name, value=0):
    """What each sample has of `name`, (L, ...), padded at the end to (B, longest, ...)."""
    return pad_sequence([sample[name] for sample in samples], batch_first=True, padding_value=value)


def beyond(samples, name):
    """(B, longest) bool: True after the end of what each sample has of `name`."""
    lengths = torch.tensor([len(sample[name]) for sample in samples])
    return torch.arange(int(lengths.max())) >= lengths[:, None]
