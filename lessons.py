"""What a guided training step is given: drawn windows, and the whole clips around them as the lip expert sees them."""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

import mouth
from data import Clips
from hparams import InputError
from text import END, PAD


class Lessons(Clips):
    """The clips of a split with what a lip reader needs to read them, beside what a generator is given.

    tokenizer: see `text.Tokenizer`.  roi: "aligned" or "lrs2".  longest: frames that the lip reader takes.
    """

    def __init__(self, root, split, hp, tokenizer, roi, longest):
        super().__init__(root, split, hp)
        self.tokenizer, self.roi, self.longest = tokenizer, roi, longest

    def build(self, clip, frames, identity, look, draw):
        """The sample of a draw, see `data.sample`, with what the expert is shown and should read.

        roi: (L, 1, 88, 88) grey in [0, 1], the mouth as filmed.  frames: (T,) the frames that are drawn.
        to_face: (T, 2, 3) from the ROI to the face that is to be drawn, [0, 1] x [0, 1].  tokens: (N,) with END.
        """
        if len(clip) > self.longest:
            raise self.fault(draw, f"{len(clip)} frames, the lip expert takes {self.longest}: cut it")
        try:
            windows = mouth.aligned(clip.meshes, clip.boxes) if self.roi == "aligned" else self.middle(clip)
            tokens = self.tokenizer.encode(clip.text, strict=not self.hp.faithful)
        except InputError as error:
            raise self.fault(draw, error) from error
        # its own numbers, so that a draw is the same with and without the expert
        rng = np.random.default_rng((self.hp.seed, 4, draw)) if self.hp.augment else None
        to_box = mouth.inner(windows, rng)
        told = {
            "roi": self.filmed(clip, to_box, look),
            "frames": torch.from_numpy(frames),
            "to_face": torch.from_numpy(self.to_drawn(to_box[frames], look)),
            "tokens": torch.tensor(tokens),
        }
        return super().build(clip, frames, identity, look, draw) | told

    def fault(self, draw, what):
        """The InputError of a draw's clip."""
        place = self._which(draw, np.random.default_rng((self.hp.seed, 1, draw)))
        return InputError(f"{self.paths[place]}: {what}")

    @property
    def margin(self):
        """How much of the face's surroundings a stored crop shows on each side, in sizes of the face box."""
        return (self.about["crop_px"] / self.about["face_px"] - 1) / 2

    def middle(self, clip):
        """Where TalkLip's experts look, see `mouth.lrs2`."""
        return mouth.lrs2(clip.boxes, clip.size, self.margin)

    def filmed(self, clip, to_box, look):
        """The ROI of every frame, in the light of `look`; its geometry is left to `to_drawn`, which undoes it."""
        if look.paints:
            seen = np.stack([look.paint(clip.picture(i)) for i in range(len(clip))])
            pictures = torch.from_numpy(seen).movedim(-1, 1) / 255
        else:
            pictures = torch.from_numpy(clip.greys())[:, None] / 255
        return mouth.cut(pictures, torch.from_numpy(to_box), self.margin)

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
