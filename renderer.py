"""A generator at work: embeds a sound track of any length, and generates the faces of batches of frames."""

import numpy as np
import torch

import audio
import checkpoint
from data import generator_input
from distributed import has_bf16
from faces import blend, crop
from models.layers import fold_norms

ROW_S = 0.04  # of sound in a row of speech
CHUNK, CONTEXT = 75, 50  # rows of sound that are embedded at once, and how many around them are given too
KEPT = 8  # identities that are kept: those of four shots


def load(path, device, precision):
    """Loads a generator for fast inference; returns it, its hparams, and a dict of facts about it.

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
    """The speech embedding of a sound track at any time.

    wav: (samples,) int16, 16 kHz.
    articulation: embeddings are scaled by it about their mean over the sound track; over 1, lips move more. 1 changes
    no bit.
    """

    def __init__(self, generator, hp, wav, articulation=1.0):
        self.generator, self.speech, self.articulation = generator, hp.speech, articulation
        if hp.speech == "global":
            self.rows = self._embed(audio.global_features(wav))
        else:
            self.mel = audio.mel_spectrogram(wav)
        self.mean = None if articulation == 1 else self._mean(len(wav) / audio.RATE)

    def _embed(self, rows):
        """(rows, 104) -> (rows, D). A long track is embedded in chunks, each with `CONTEXT` rows to both sides."""
        chunk = len(rows) if len(rows) <= CHUNK + 2 * CONTEXT else CHUNK
        rows, pieces = like(self.generator, rows), []
        for start in range(0, len(rows), chunk):
            low = max(start - CONTEXT, 0)
            speech = self.generator.encode_audio(rows[None, low : start + chunk + CONTEXT])[0]
            pieces.append(speech[start - low : start - low + chunk])
        return torch.cat(pieces)

    def _at(self, times_s):
        """The speech at each time as the generator embeds it: (T,) seconds -> (T, D)."""
        if self.speech == "global":
            return self.rows[torch.from_numpy(audio.rows_at(times_s, len(self.rows)))]
        return self.generator.encode_audio(like(self.generator, audio.mel_windows(self.mel, times_s))[None])[0]

    def _mean(self, seconds):
        """The mean of the speech over a track of this length, every 40 ms: (D,) float32."""
        times_s = np.arange(0, seconds, ROW_S)
        parts = [self._at(times_s[start : start + CHUNK]).float().sum(0) for start in range(0, len(times_s), CHUNK)]
        return sum(parts) / len(times_s)

    def __call__(self, times_s):
        """The speech at each time; past the end, the last of it: (T,) seconds -> (T, D)."""
        speech = self._at(times_s)
        if self.mean is None:
            return speech
        return (self.mean + self.articulation * (speech.float() - self.mean)).to(speech.dtype)


class FaceRenderer:
    """Redraws one face in the frames of a video.

    target: a `TargetFace`.  video: the `FaceVideo` it was found in.  speech: a `SpeechTrack`.
    px: side of the generator's faces.
    """

    def __init__(self, generator, target, video, speech, px):
        self.generator, self.target, self.video, self.speech = generator, target, video, speech
        self.px, self.identities = px, {}

    def render(self, batch):
        """Generates the faces of a batch, a list of (frame's index in the video, time in s, Frame).

        Returns a list: for each frame its real and its generated face, each (px, px, 3) float32 in [0, 1], RGB, or None
        where the face was not found.
        """
        shown = [i for i, (index, _, _) in enumerate(batch) if index in self.target.boxes]
        pairs = [None] * len(batch)
        if not shown:
            return pairs
        real = np.stack([self._crop(batch[i][2], batch[i][0]) for i in shown])
        identity = np.stack([self._identity(batch[i][2], batch[i][0]) for i in shown])
        face = generator_input(*(like(self.generator, each).permute(0, 3, 1, 2) for each in (real, identity)))
        speech = self.speech([batch[i][1] for i in shown])
        generated = self.generator.generate(face[None], speech[None])[0]
        generated = generated.float().permute(0, 2, 3, 1).cpu().numpy()
        for i, pair in zip(shown, zip(real, generated, strict=True), strict=True):
            pairs[i] = pair
        return pairs

    def put_back(self, batch, pairs):
        """The frames of a batch with the faces that `render` returned for it."""
        frames = []
        for (index, _, frame), pair in zip(batch, pairs, strict=True):
            if pair is not None:
                real, generated = pair
                box, mesh = self.target.boxes[index], self.target.meshes.get(index)
                mesh = None if mesh is None else crop.to_crop(mesh, box)
                frame = blend.put_back(frame, box, mesh, generated, real)
            frames.append(frame)
        return frames

    def _crop(self, frame, index):
        """The face of a frame: (px, px, 3) float32 in [0, 1]."""
        x1, y1, x2, y2 = self.target.boxes[index]
        rim = 2 + (x2 - x1) / self.px  # what the crop's own sampling reaches around the box
        width, height = frame.size
        left, top = min(max(int(x1 - rim), 0), width - 1), min(max(int(y1 - rim), 0), height - 1)
        right, bottom = max(min(int(x2 + rim) + 1, width), left + 1), max(min(int(y2 + rim) + 1, height), top + 1)
        region = frame.rgb(left, top, right, bottom)
        return np.float32(crop.crop(region, (x1 - left, y1 - top, x2 - left, y2 - top), self.px)) / 255

    def _identity(self, frame, index):
        """The identity of a frame, cut out of its identity frame: (px, px, 3) float32 in [0, 1]."""
        wanted = self.target.identities[index]
        if wanted == index:
            return self._crop(frame, index)
        if wanted not in self.identities:
            if len(self.identities) == KEPT:
                self.identities.pop(next(iter(self.identities)))  # the oldest
            self.identities[wanted] = self._crop(self.video.at(wanted), wanted)
        return self.identities[wanted]
