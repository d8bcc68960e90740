"""Mouths and the sound that is heard with them, as a sync model is trained on them."""

import numpy as np
import torch

import audio
from clip import FPS
from hparams import InputError
from models.syncnet import WINDOW
from utterances import Utterances

LOUDER = 0.5  # steps of the mel spectrogram, 6 dB: how much a training clip's level may be altered


def heard_windows(steps):
    """How many frames, from the first on, have the 0.2 s of mel that belong to them whole. steps: of the mel."""
    return max((steps - audio.MEL_WINDOW) * FPS // audio.MEL_RATE + 1, 0)


class Pairs(Utterances):
    """The clips of a split as windows of lips and sound; see `Utterances`.

    Raises InputError for a clip that has no two windows of lips and sound.
    """

    def __init__(self, root, split, hp):
        super().__init__(root, split, hp)
        self.lengths = [min(length, hp.frames or length) for length in self.lengths]
        if short := [path for path, length in zip(self.paths, self.lengths, strict=True) if length <= WINDOW]:
            raise InputError(f"{short[0]}: a sync model needs {WINDOW + 1} frames, of the clip and of --frames")

    def __getitem__(self, at):
        """Sample number `draw` of clip `i`, at = (i, draw); draw None is the clip whole and unaltered, for validation.

        roi: (T, 1, 88, 88) grey in [0, 1].  mel: (T - 4, 1, 80, 16): what is heard from each frame on.
        """
        i, draw = at
        (clip, greys), rng = self.load(i), self.chance(draw)
        length = min(len(clip), heard_windows(clip.mel.shape[1]) + WINDOW - 1)
        if length <= WINDOW:
            raise InputError(f"{self.paths[i]}: its sound ends after {length} frames: leave the clip out")
        first, count = 0, length
        if rng is not None and self.hp.frames:
            count = min(self.hp.frames, length)
            first = int(rng.integers(0, length - count + 1))
        frames = first + np.arange(count)
        mels = audio.mel_windows(clip.mel, frames[: 1 - WINDOW] / FPS)
        if rng is not None and self.hp.augment:
            mels = (mels + np.float32(rng.uniform(-LOUDER, LOUDER))).clip(audio.SILENCE, -audio.SILENCE)
        return {"roi": self.see(greys[frames], rng), "mel": torch.from_numpy(np.float32(mels))}
