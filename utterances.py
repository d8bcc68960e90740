"""Whole clips as a lip reader is trained on them: mouth ROI, sound, words and units, in batches of like length."""

import cv2
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

import audio
import mouth
from data import FPS, Clip, Clips, to_tensor
from hparams import InputError
from text import END, PAD


class Utterances(Dataset):
    """The clips of one split, each a training sample as a function of the seed and its number.

    tokenizer: see `text.Tokenizer`; units: {clip id: (L,) int} targets of pre-training; both may be missing.
    Raises InputError for a clip that is longer than the knob `longest` or, with a tokenizer, has no words.
    """

    def __init__(self, root, split, hp, tokenizer=None, units=None):
        clips = Clips(root, split, hp)
        self.hp, self.tokenizer, self.units, self.about = hp, tokenizer, units, clips.about
        chosen = range(len(clips))
        if split == "train" and hp.fraction < 1:
            order = np.random.default_rng(0).permutation(len(clips))  # the same clips whatever the run's seed
            chosen = sorted(order[: max(1, round(hp.fraction * len(clips)))])
        self.names, self.paths = ([part[i] for i in chosen] for part in (clips.names, clips.paths))
        self.lengths = [self._check(path) for path in self.paths]

    def _check(self, path):
        """The frames of a clip; raises InputError if it cannot be used."""
        with np.load(path) as arrays:  # members are read one by one: this is quick
            frames, text = len(arrays["ends"]), str(arrays["text"])
        if frames > self.hp.longest:
            raise InputError(f"{path}: {frames} frames, the reader takes {self.hp.longest}: cut it, or raise --longest")
        if self.tokenizer:
            try:
                self.tokenizer.encode(text)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        return frames

    def __len__(self):
        return len(self.names)

    def __getitem__(self, at):
        """Sample number `draw` of clip `i`, at = (i, draw); draw None is the clip whole and unaltered, for validation.

        roi: (T, 1, 88, 88) grey in [0, 1].  audio: (T, 104).  tokens: (N,) with END.  units: (T,), -1 where unknown.
        said: (T,) the first token of the word that is said in each frame, END in silence; PAD where times are unknown.
        """
        i, draw = at
        clip, rng = Clip(self.paths[i]), self.chance(draw)
        frames = np.arange(*window(clip, self.hp.frames, rng))
        rows = audio.stack(clip.logfbank)
        heard = rows[audio.rows_at(frames / FPS, len(rows))]
        sample = {"roi": self.see(clip, frames, rng), "audio": torch.from_numpy(heard)}
        if self.tokenizer:
            sample["tokens"] = torch.tensor(self.tokenizer.encode(clip.text))
            sample["said"] = torch.from_numpy(said(clip, self.tokenizer)[frames])
        if self.units:
            sample["units"] = torch.from_numpy(self.units[self.names[i]][frames].astype(np.int64))
        return sample

    def chance(self, draw):
        """The random numbers of a draw, or None where nothing is to be altered."""
        return None if draw is None or not self.hp.augment else np.random.default_rng((self.hp.seed, 3, draw))

    def see(self, clip, frames, rng=None):
        """The mouth ROI of chosen frames: (T, 1, 88, 88) grey in [0, 1]; `rng` alters place, light and sharpness."""
        to_face = mouth.inner(self.windows(clip)[frames], rng)
        pictures = to_tensor(np.stack([clip.picture(t) for t in frames]))
        margin = (self.about["crop_px"] / self.about["face_px"] - 1) / 2
        roi = mouth.cut(pictures, torch.from_numpy(to_face), margin)
        return roi if rng is None else altered(roi, rng)

    def windows(self, clip):
        """Matrices from the window around the mouth to the face box, by the knob `roi`."""
        if self.hp.roi == "aligned":
            return mouth.aligned(clip.meshes, clip.boxes)
        return mouth.lrs2(clip.boxes, self.about.get("frame_size", (0, 0)))


class Words(Utterances):
    """The words of a split, one sample a word, cut by the times in the transcripts: what LRW is for single words.

    vocabulary: the words to be told apart, or None for all that the split has. Raises InputError for a split without
    word times, and for a word that the vocabulary lacks.
    """

    def __init__(self, root, split, hp, vocabulary=None):
        super().__init__(root, split, hp)
        clips = [Clip(path) for path in self.paths]
        self.places = [(i, k) for i, clip in enumerate(clips) for k in range(len(clip.times))]
        found = sorted({word.lower() for clip in clips for word in clip.words[: len(clip.times)]})
        if not found:
            raise InputError(f"{root}: no clip of {split}.txt has word times, which tell where its words are cut")
        self.vocabulary = vocabulary or found
        if unknown := [word for word in found if word not in self.vocabulary]:
            raise InputError(f"{root}: {split}.txt has the word {unknown[0]!r}, which the classifier was not taught")
        self.lengths = [len(self.frames(clips[i], k, None)) for i, k in self.places]

    def __len__(self):
        return len(self.places)

    def frames(self, clip, k, rng):
        """The frames of word `k` and `context` frames on each side, as far as the clip goes; `rng` moves both ends."""
        first, last = np.round(clip.times[k] * FPS).astype(int) + [-self.hp.context, self.hp.context]
        if rng is not None:
            first, last = [first, last] + rng.integers(-1, 2, 2)
        first = min(max(first, 0), len(clip) - 1)
        return np.arange(first, min(max(last, first + 1), len(clip)))

    def __getitem__(self, at):
        """Sample number `draw` of word `at[0]`: roi as above, `word` its place in the vocabulary."""
        place, draw = at
        i, k = self.places[place]
        clip, rng = Clip(self.paths[i]), self.chance(draw)
        word = torch.tensor(self.vocabulary.index(clip.words[k].lower()))
        return {"roi": self.see(clip, self.frames(clip, k, rng), rng), "word": word}


def window(clip, frames, rng):
    """First and last + 1 frame of what is trained on: `frames` of the clip at random that hold all its words, if any.

    Without times the window lies anywhere; clips whose words take longer, and shorter clips, stay whole.
    """
    length = len(clip)
    if rng is None or not frames or frames >= length:
        return 0, length
    low, high = 0, length - frames
    if len(clip.times):
        low = max(low, int(np.ceil(clip.times[-1, 1] * FPS)) + 1 - frames)
        high = min(high, int(clip.times[0, 0] * FPS))
    if low > high:
        return 0, length
    first = int(rng.integers(low, high + 1))
    return first, first + frames


def said(clip, tokenizer):
    """The first token of the word that is said in each frame, END in silence, PAD where no times are given: (L,)."""
    if not len(clip.times):
        return np.full(len(clip), PAD)
    tokens = np.full(len(clip), END)
    for word, (start_s, end_s) in zip(clip.words, clip.times, strict=True):
        tokens[int(start_s * FPS) : int(np.ceil(end_s * FPS))] = tokenizer.encode(word)[0]
    return tokens


def altered(roi, rng):
    """A mouth in another light and sharpness, a span of its frames blank. roi: (T, 1, H, W). Returns the same shape."""
    gain, lift, gamma = rng.uniform(0.7, 1.3), rng.uniform(-0.1, 0.1), np.exp(rng.uniform(-0.3, 0.3))
    roi = (roi.clamp(min=0) ** gamma * gain + lift).clamp(0, 1)
    if rng.random() < 0.3:
        sigma = rng.uniform(0.4, 1.2)
        roi = torch.from_numpy(np.stack([cv2.GaussianBlur(picture, (5, 5), sigma) for picture in roi[:, 0].numpy()]))[
            :, None
        ]
    if rng.random() < 0.5:
        span = int(rng.integers(1, 6))
        start = int(rng.integers(0, max(len(roi) - span, 1)))
        roi[start : start + span] = roi.mean()
    return roi


class Batches:
    """The batches of a run, number `step` of them always the same: clips of like length, `max_frames` together."""

    def __init__(self, lengths, hp, start, stop):
        self.lengths, self.hp, self.start, self.stop = lengths, hp, start, stop

    def __len__(self):
        return self.stop - self.start

    def __iter__(self):
        step, epoch = 0, 0
        while step < self.stop:
            for batch in self.epoch(epoch):
                if self.start <= step < self.stop:
                    yield [(i, epoch * len(self.lengths) + i) for i in batch]
                step += 1
            epoch += 1

    def epoch(self, epoch):
        """Every clip once: shuffled, brought near those of like length, then the batches shuffled again."""
        rng = np.random.default_rng((self.hp.seed, 2, epoch))
        cap = self.hp.frames or self.hp.longest
        order = sorted(rng.permutation(len(self.lengths)), key=lambda i: min(self.lengths[i], cap) // 8)
        batches, batch, longest = [], [], 0
        for i in map(int, order):
            longest = max(longest, min(self.lengths[i], cap))
            if batch and longest * (len(batch) + 1) > self.hp.max_frames:
                batches.append(batch)
                batch, longest = [], min(self.lengths[i], cap)
            batch.append(i)
        return [[*batches, batch][k] for k in rng.permutation(len(batches) + 1)]


def collate(samples):
    """Pads samples to a batch: `padding` (B, T) says where a video ends, `previous` (B, N) what each token follows."""
    fill = {"tokens": PAD, "units": -1, "said": PAD}
    batch = {
        name: pad_sequence([each[name] for each in samples], batch_first=True, padding_value=fill.get(name, 0))
        for name in samples[0].keys() - {"word"}
    }
    if "word" in samples[0]:
        batch["word"] = torch.stack([each["word"] for each in samples])
    lengths = torch.tensor([len(each["roi"]) for each in samples])
    batch |= {"lengths": lengths, "padding": torch.arange(batch["roi"].shape[1]) >= lengths[:, None]}
    if "tokens" in batch:
        batch["previous"] = torch.cat([torch.full_like(batch["tokens"][:, :1], END), batch["tokens"][:, :-1]], dim=1)
        batch["previous"][batch["tokens"] == PAD] = PAD
    return batch
