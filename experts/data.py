"""Training samples of lip readers and sync models: mouths, sound, words, in batches of like length."""

import numpy as np
import torch
from torch.utils.data import Dataset

import audio
from data import Clips
from errors import InputError
from faces import mouth
from faces.augment import augment_roi
from media.clip import FPS, Clip
from models.decoder import END, PAD
from models.syncnet import WINDOW

ROOM = 2**31  # bytes of decoded pictures that a process keeps


class Utterances(Dataset):
    """The clips of one split, each a training sample as a function of the seed and its number.

    tokenizer: a `Tokenizer`.  clusters: {clip id: (L,) int}, targets of pre-training. Both may be missing.
    lengths: frames of each clip's training samples.
    Raises InputError for a clip that is broken or longer than the knob `longest` or, with a tokenizer, has no words.
    """

    def __init__(self, root, split, hp, tokenizer=None, clusters=None):
        clips = Clips(root, split, hp)
        self.hp, self.about, self.tokenizer, self.clusters = hp, clips.about, tokenizer, clusters
        chosen = range(len(clips))
        if split == "train" and hp.fraction < 1:
            order = np.random.default_rng(0).permutation(len(clips))  # the same clips whatever the run's seed
            chosen = sorted(order[: max(1, round(hp.fraction * len(clips)))])
        self.names, self.paths = ([part[i] for i in chosen] for part in (clips.names, clips.paths))
        self.kept, self.room = {}, ROOM
        self.lengths = [self._check(path) for path in self.paths]

    def _check(self, path):
        """The frames of a clip that are trained on; raises InputError if it cannot be used."""
        clip = Clip(path)
        frames, times = len(clip), clip.times
        texts = [clip.text, *(clip.words if self.hp.frames_weight else ())]
        if frames > self.hp.longest:
            raise InputError(f"{path}: {frames} frames, the reader takes {self.hp.longest}: cut it, or raise --longest")
        if self.tokenizer:
            try:
                for text in texts:
                    self.tokenizer.encode(text)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
        return self.hp.frames if places(frames, times, self.hp.frames) else frames

    def __len__(self):
        return len(self.names)

    def __getitem__(self, at):
        """Sample number `draw` of clip `i`, at = (i, draw); draw None is the clip whole and unaltered, for validation.

        roi: (T, 1, 88, 88) grey in [0, 1].  audio: (T, 104).  tokens: (N,) with END.  clusters: (T,), -1 where unknown.
        said: (T,), with `frames_weight`: the first token of the word that is said in each frame, END in silence,
        PAD where times are unknown.
        """
        i, draw = at
        (clip, greys), rng = self.load(i), self.rng(draw)
        frames = np.arange(*window(clip, self.hp.frames, rng))
        rows = audio.stack(clip.logfbank)
        sample = {"roi": self.mouth_roi(greys[frames], rng)}
        sample["audio"] = torch.from_numpy(rows[audio.rows_at(frames / FPS, len(rows))])
        if self.tokenizer:
            sample["tokens"] = torch.tensor(self.tokenizer.encode(clip.text))
            if self.hp.frames_weight:
                sample["said"] = torch.from_numpy(said(clip, self.tokenizer)[frames])
        if self.clusters:
            sample["clusters"] = torch.from_numpy(self.clusters[self.names[i]][frames].astype(np.int64))
        return sample

    def rng(self, draw):
        """The random generator of a draw, or None without a draw."""
        return None if draw is None else np.random.default_rng((self.hp.seed, 3, draw))

    def load(self, i):
        """Clip `i` and its mouth windows, (L, 96, 96) uint8 grey; kept for later epochs if room is left."""
        if i not in self.kept:
            clip = Clip(self.paths[i])
            found = clip, clip.mouth_windows(self.hp.roi)
            if self.room < found[1].nbytes:
                return found
            self.kept[i], self.room = found, self.room - found[1].nbytes
        return self.kept[i]

    def mouth_roi(self, greys, rng=None):
        """The mouth ROI in windows, (T, 96, 96) uint8 -> (T, 1, 88, 88) in [0, 1]; augmented, `rng` alters it."""
        rng = rng if self.hp.augment else None
        whole = np.tile(np.eye(2, 3), (len(greys), 1, 1))
        roi = mouth.cut(torch.from_numpy(greys)[:, None] / 255, torch.from_numpy(mouth.inner(whole, rng)))
        return roi if rng is None else augment_roi(roi, rng)


class Words(Utterances):
    """The words of a split, one sample a word, cut by the times in the transcripts: what LRW is for single words.

    vocabulary: the words of the classifier, or None for all that the split has. Raises InputError for a split without
    word times, and for a word that the vocabulary lacks.
    """

    def __init__(self, root, split, hp, vocabulary=None):
        super().__init__(root, split, hp)
        timed = [timed_words(path) for path in self.paths]  # (frames, words, times)
        self.places = [(i, k) for i, (_, _, times) in enumerate(timed) for k in range(len(times))]
        found = sorted({word for _, words, _ in timed for word in words})
        if not found:
            raise InputError(f"{root}: no clip of {split}.txt has word times, which tell where its words are cut")
        self.vocabulary = vocabulary or found
        if unknown := [word for word in found if word not in self.vocabulary]:
            raise InputError(f"{root}: {split}.txt has the word {unknown[0]!r}, which the classifier was not taught")
        most = 2 * hp.augment  # frames that an augmented word may be longer
        self.lengths = [len(self.frames(timed[i][0], timed[i][2][k])) + most for i, k in self.places]

    def __len__(self):
        return len(self.places)

    def frames(self, length, times, rng=None):
        """The frames of a word and `context` more on each side, as far as the clip goes; augmented, its ends move."""
        first, last = word_frames(length, times)[[0, -1]] + [-self.hp.context, self.hp.context + 1]
        if rng is not None and self.hp.augment:
            move = min(self.hp.context, 1)  # the word itself stays whole
            first, last = [first, last] + rng.integers(-move, move + 1, 2)
        return np.arange(max(first, 0), min(last, length))

    def __getitem__(self, at):
        """Sample number `draw` of word `at[0]`: roi as above, `word` its place in the vocabulary, `inside` its frames.

        inside: (T,) bool, True in the word itself, False in what surrounds it.
        """
        place, draw = at
        i, k = self.places[place]
        (clip, greys), rng = self.load(i), self.rng(draw)
        word = torch.tensor(self.vocabulary.index(clip.words[k].lower()))
        frames = self.frames(len(clip), clip.times[k], rng)
        inside = torch.from_numpy(np.isin(frames, word_frames(len(clip), clip.times[k])))
        return {"roi": self.mouth_roi(greys[frames], rng), "word": word, "inside": inside}


def word_frames(length, times):
    """The frames of a word, one at least. times: (2,) s, its start and end."""
    first, last = np.round(times * FPS).astype(int)
    first = min(max(first, 0), length - 1)
    return np.arange(first, min(max(last, first + 1), length))


def timed_words(path):
    """The frames of a clip, its words in lower case and their times, (N, 2) s; read without its pictures.

    Raises InputError where words and times do not agree.
    """
    clip = Clip(path)
    frames, times, words = len(clip), clip.times, [word.lower() for word in clip.words]
    if len(times) and len(words) != len(times):
        raise InputError(f"{path}: {len(words)} words but {len(times)} times: correct its transcript and preprocess it")
    return frames, words[: len(times)], times


def window(clip, frames, rng):
    """First and last + 1 frame of what is trained on: `frames` of the clip at random, or all of it."""
    found = places(len(clip), clip.times, frames)
    if rng is None or not found:
        return 0, len(clip)
    first = int(rng.integers(found[0], found[1] + 1))
    return first, first + frames


def places(length, times, frames):
    """The first and the last place of a window of `frames` that holds all words of a clip; None if there is none.

    Without times the window lies anywhere; clips whose words take longer, and shorter clips, have no place for it.
    """
    if not frames or frames >= length:
        return None
    low, high = 0, length - frames
    if len(times):
        low = min(max(low, int(np.ceil(times[-1, 1] * FPS)) + 1 - frames), high)  # a word may end with the clip
        high = min(high, int(times[0, 0] * FPS))
    return (low, high) if low <= high else None


def said(clip, tokenizer):
    """The first token of the word that is said in each frame, END in silence, PAD where no times are given: (L,)."""
    if not len(clip.times):
        return np.full(len(clip), PAD)
    tokens = np.full(len(clip), END)
    for word, (start_s, end_s) in zip(clip.words, clip.times, strict=True):
        tokens[int(start_s * FPS) : int(np.ceil(end_s * FPS))] = tokenizer.encode(word)[0]
    return tokens


class Batches:
    """The batches of a run, number `step` of them always the same: clips of like length, `max_frames` together.

    rank, world: of so many processes that share a step, the one that this batch is for.
    """

    def __init__(self, lengths, hp, start, stop, rank=0, world=1):
        self.lengths, self.hp, self.start, self.stop = lengths, hp, start, stop
        self.rank, self.world = rank, world

    def __len__(self):
        return self.stop - self.start

    def __iter__(self):
        number, epoch = 0, 0
        while number < self.stop * self.world:
            for batch in self.epoch(epoch):
                step, rank = divmod(number, self.world)
                if self.start <= step < self.stop and rank == self.rank:
                    yield [(i, epoch * len(self.lengths) + i) for i in batch]
                number += 1
            epoch += 1

    def epoch(self, epoch):
        """Every clip once: shuffled, brought near those of like length, then the batches shuffled again."""
        rng = np.random.default_rng((self.hp.seed, 2, epoch))
        order = sorted(rng.permutation(len(self.lengths)), key=lambda i: self.lengths[i] // 8)
        batches, batch, longest = [], [], 0
        for i in map(int, order):
            longest = max(longest, self.lengths[i])
            if batch and longest * (len(batch) + 1) > self.hp.max_frames:
                batches.append(batch)
                batch, longest = [], self.lengths[i]
            batch.append(i)
        return [[*batches, batch][k] for k in rng.permutation(len(batches) + 1)]


LOUDER = 0.5  # steps of the mel spectrogram, 6 dB: how much a training clip's level may be altered


class SyncWindows(Utterances):
    """The clips of a split as windows of lips and sound; see `Utterances`.

    With the knob `sync_loss` at "pairs" half of the sounds are of another window of the clip, however near (Wav2Lip,
    sec. 3.1). Raises InputError for a clip that has no two windows of lips and sound.
    """

    def __init__(self, root, split, hp):
        super().__init__(root, split, hp)
        self.lengths = [min(length, hp.frames or length) for length in self.lengths]
        least = WINDOW if hp.sync_loss == "pairs" else WINDOW + 1  # their other sounds are of the whole clip
        if short := [path for path, length in zip(self.paths, self.lengths, strict=True) if length < least]:
            raise InputError(f"{short[0]}: a sync model needs {least} frames, of the clip and of --frames")

    def __getitem__(self, at):
        """Sample number `draw` of clip `i`, at = (i, draw); draw None is the clip whole and unaltered, for validation.

        roi: (T, 1, 88, 88) grey in [0, 1].  mel: (T - 4, 1, 80, S): the 0.2 s of sound from each frame on, or others.
        paired: (T - 4,) bool, where others are among them: whether the sound is its own.
        """
        i, draw = at
        (clip, greys), rng = self.load(i), self.rng(draw)
        mel, setting = clip.mel_by(audio.MELS[self.hp.mel]), audio.MELS[self.hp.mel]
        length = min(len(clip), audio.whole_mel_windows(mel.shape[1], setting) + WINDOW - 1)
        if length <= WINDOW:
            raise InputError(f"{self.paths[i]}: its sound ends after {length} frames: leave the clip out")
        first, count = 0, length
        if rng is not None and self.hp.frames:
            count = min(self.hp.frames, length)
            first = int(rng.integers(0, length - count + 1))
        frames = first + np.arange(count)
        starts, paired = frames[: 1 - WINDOW], {}
        if rng is not None and self.hp.sync_loss == "pairs":
            own, places = rng.random(len(starts)) < 0.5, length - WINDOW + 1
            others = (starts + rng.integers(1, places, len(starts))) % places
            starts, paired = np.where(own, starts, others), {"paired": torch.from_numpy(own)}
        mels = audio.mel_windows(mel, starts / FPS, setting)
        if rng is not None and self.hp.augment:
            mels = (mels + np.float32(rng.uniform(-LOUDER, LOUDER))).clip(audio.SILENCE, -audio.SILENCE)
        return {"roi": self.shown(clip, greys, frames, rng), "mel": torch.from_numpy(np.float32(mels))} | paired

    def shown(self, clip, greys, frames, rng):
        """What a sync model sees of a clip's chosen frames: here the mouth ROI in `greys`, see `load`."""
        return self.mouth_roi(greys[frames], rng)
