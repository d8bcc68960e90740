"""A generator at work: hears a sound track of any length, and redraws batches of frames."""

import numpy as np
import torch

import audio
import checkpoint
from distributed import has_bf16
from faces import blend, crop
from models.layers import fold_norms

CHUNK, CONTEXT = 75, 50  # rows (of 40 ms) of sound that are embedded at once, and how many are heard around them
KEPT = 8  # identities that are kept: those of four shots


def load(path, device, precision):
    """A generator ready to draw fast, its hparams, and what is known of it.

    precision: "bf16", "float32", or "auto": bf16 where the processor has it.
    """
    generator, hp, about = checkpoint.load_generator(path)
    dtype = torch.bfloat16 if precision == "bf16" or (precision == "auto" and has_bf16(device)) else torch.float32
    generator = fold_norms(generator).to(device, dtype, memory_format=torch.channels_last)
    return generator, hp, about | {"path": str(path), "precision": str(dtype).removeprefix("torch.")}


def like(generator, array):
    """A numpy array as a tensor on the device and in the type of a generator's weights."""
    weight = next(generator.parameters())
    return torch.from_numpy(array).to(weight.device, weight.dtype)


class SpeechTrack:
    """What is heard at each moment of a sound track.

    wav: (samples,) int16, 16 kHz.
    """

    def __init__(self, generator, hp, wav):
        self.generator, self.speech = generator, hp.speech
        if hp.speech == "global":
            self.rows = self._embed(audio.global_features(wav))
        else:
            self.mel = audio.mel_spectrogram(wav)

    def _embed(self, rows):
        """(rows, 104) -> (rows, D). Long sound is embedded in chunks that hear `CONTEXT` rows around themselves."""
        chunk = len(rows) if len(rows) <= CHUNK + 2 * CONTEXT else CHUNK
        rows, pieces = like(self.generator, rows), []
        for start in range(0, len(rows), chunk):
            low = max(start - CONTEXT, 0)
            heard = self.generator.encode_audio(rows[None, low : start + chunk + CONTEXT])[0]
            pieces.append(heard[start - low : start - low + chunk])
        return torch.cat(pieces)

    def __call__(self, times_s):
        """The speech heard at each time: (T,) seconds -> (T, D)."""
        if self.speech == "global":
            return self.rows[torch.from_numpy(audio.rows_at(times_s, len(self.rows)))]
        return self.generator.encode_audio(like(self.generator, audio.mel_windows(self.mel, times_s))[None])[0]


class FaceRenderer:
    """Redraws one person in the frames of a source.

    person: person.Person. source: source.Source. sound: a Sound. px: side of the generator's faces.
    """

    def __init__(self, generator, person, source, sound, px):
        self.generator, self.person, self.source, self.sound = generator, person, source, sound
        self.px, self.identities = px, {}

    def render(self, batch):
        """Draws the faces of a batch, a list of (source index, time in s, Frame).

        Returns a list: for each frame its face before and after, each (px, px, 3) float32 in [0, 1], or None where the
        person is not seen.
        """
        shown = [i for i, (index, _, _) in enumerate(batch) if index in self.person.boxes]
        pairs = [None] * len(batch)
        if not shown:
            return pairs
        real = np.stack([self._crop(batch[i][2], batch[i][0]) for i in shown])
        identity = np.stack([self._identity(batch[i][2], batch[i][0]) for i in shown])
        pose = real.copy()
        pose[:, self.px // 2 :] = 0
        face = like(self.generator, np.concatenate([pose, identity], axis=-1)).permute(0, 3, 1, 2)
        speech = self.sound([batch[i][1] for i in shown])
        drawn = self.generator.generate(face[None], speech[None])[0]
        drawn = drawn.float().permute(0, 2, 3, 1).cpu().numpy()
        for i, old, new in zip(shown, real, drawn, strict=True):
            pairs[i] = old, new
        return pairs

    def put_back(self, batch, pairs):
        """The frames of a batch with the faces that `render` returned for it."""
        frames = []
        for (index, _, frame), pair in zip(batch, pairs, strict=True):
            if pair is not None:
                box, mesh = self.person.boxes[index], self.person.meshes.get(index)
                mesh = None if mesh is None else crop.to_crop(mesh, box)
                frame = blend.put_back(frame, box, mesh, drawn=pair[1], real=pair[0])
            frames.append(frame)
        return frames

    def _crop(self, frame, index):
        """The face of a frame: (px, px, 3) float32 in [0, 1]."""
        x1, y1, x2, y2 = self.person.boxes[index]
        rim = 2 + (x2 - x1) / self.px  # what the crop's own sampling reaches around the box
        width, height = frame.size
        left, top = min(max(int(x1 - rim), 0), width - 1), min(max(int(y1 - rim), 0), height - 1)
        right, bottom = max(min(int(x2 + rim) + 1, width), left + 1), max(min(int(y2 + rim) + 1, height), top + 1)
        region = frame.rgb(left, top, right, bottom)
        return np.float32(crop.crop(region, (x1 - left, y1 - top, x2 - left, y2 - top), self.px)) / 255

    def _identity(self, frame, index):
        wanted = self.person.identities[index]
        if wanted == index:
            return self._crop(frame, index)
        if wanted not in self.identities:
            if len(self.identities) == KEPT:
                self.identities.pop(next(iter(self.identities)))  # the oldest
            self.identities[wanted] = self._crop(self.source.at(wanted), wanted)
        return self.identities[wanted]
