"""A generator at work: embeds a sound track of any length, and generates the faces of batches of frames."""

import numpy as np
import torch

import audio
import checkpoint
from data import generator_input, whisper_encoder
from distributed import has_bf16
from faces import blend, crop
from faces.blend import View, composed
from faces.landmarks import JAW, turn_away
from faces.shape import HeadShape, references_of
from models.layers import fold_norms
from models.whisper import embedded, paired, row_count

ROW_S = 0.04  # of sound in a row of speech
CHUNK, CONTEXT = 75, 50  # rows of sound that are embedded at once, and how many around them are given too
KEPT = 8  # identities that are kept: those of four shots
VIEWS = 24  # references that are kept
MARGIN = (crop.SURROUNDINGS - 1) / 2  # box sizes of surroundings on each side of a face box
STEADY_S = 0.04  # s over which the mesh is averaged, against trembling
SEEN = 500  # frames of a shot, at most, from which a person's lips at rest and their amplitude are known
TURNED = 0.42, 0.52  # `turn_away` between which the frame's own mouth fades in: about 33 to 38 degrees


def load(path, device, precision):
    """Loads a generator for fast inference; returns it, its hparams, and a dict of facts about it.

    precision: "bf16", "float32", or "auto": bf16 where the processor has it.
    """
    generator, hp, about = checkpoint.load_generator(path)
    dtype = torch.bfloat16 if precision == "bf16" or (precision == "auto" and has_bf16(device)) else torch.float32
    generator = fold_norms(generator).to(device, dtype, memory_format=torch.channels_last)
    if hp.model == "warp":  # a recurrent network and what says where things are
        for part in (generator.speech, generator.outline):
            part.float()
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
        elif hp.speech == "utterance":
            self.rows = self._embed(audio.mel_rows(audio.mel_spectrogram(wav, audio.MELS["cals"])))
        elif hp.speech == "whisper":  # whose features of an hour are too many to keep
            whisper = whisper_encoder().to(next(generator.parameters()).device)
            parts = paired(embedded(whisper, wav))
            self.rows = self._embed(next(parts), parts, -(-row_count(wav) // 2))
        else:
            self.mel = audio.mel_spectrogram(wav)
        self.mean = None if articulation == 1 else self._mean(len(wav) / audio.RATE)

    def _embed(self, rows, later=(), count=None):
        """(rows, features), and `later` ones in parts, `count` in all -> (count, D).

        A long track is embedded in chunks, with `CONTEXT` rows to both sides; what came before these is forgotten.
        """
        count, first, found = count or len(rows), 0, None  # the number of the first row that is at hand
        chunk = count if count <= CHUNK + 2 * CONTEXT else CHUNK
        for start in range(0, count, chunk):
            low, high = max(start - CONTEXT, 0), min(start + chunk + CONTEXT, count)
            while first + len(rows) < high:
                rows = np.concatenate([rows, next(later)])
            rows, first = rows[low - first :], low
            speech = self.generator.encode_audio(like(self.generator, rows[None, : high - low]))[0]
            found = speech.new_empty(count, speech.shape[1]) if found is None else found
            found[start : start + chunk] = speech[start - low : start - low + chunk]
        return found

    def _at(self, times_s):
        """The speech at each time as the generator embeds it: (T,) seconds -> (T, D)."""
        if self.speech in ("global", "utterance"):
            return self.rows[torch.from_numpy(audio.rows_at(times_s, len(self.rows)))]
        if self.speech == "whisper":  # between two rows at other rates than theirs
            at = torch.as_tensor(np.asarray(times_s) / ROW_S).clamp(0, len(self.rows) - 1)
            share = (at % 1).to(self.rows)[:, None]
            return torch.lerp(self.rows[at.floor().long()], self.rows[at.ceil().long()], share)
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


def around(size, box, rim):
    """The part of a frame of (width, height) around a box: left, top, right, bottom px; there is a pixel at least.

    rim: px around the box, what a crop's own sampling reaches there.
    """
    (x1, y1, x2, y2), (width, height) = crop.bounds(box, rim), size
    left, top = min(max(int(x1), 0), width - 1), min(max(int(y1), 0), height - 1)
    return left, top, max(min(int(x2) + 1, width), left + 1), max(min(int(y2) + 1, height), top + 1)


class FaceRenderer:
    """Redraws one face in the frames of a video.

    target: a `TargetFace`.  video: the `FaceVideo` it was found in.  speech: a `SpeechTrack`.
    px: side of the generator's faces.
    """

    def __init__(self, generator, target, video, speech, px):
        self.generator, self.target, self.video, self.speech = generator, target, video, speech
        self.px, self.identities = px, {}

    def sources(self):
        """The indices of the frames whose looks the redrawn face has."""
        return sorted(set(self.target.identities.values()))

    def share(self, index):
        """How much a face is redrawn in a frame, in [0, 1]: less where the head is turned far; None without a face."""
        return 1.0 if index in self.target.boxes else None

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
        box = self.target.boxes[index]
        part = around(frame.size, box, 2 + (box[2] - box[0]) / self.px)
        return np.float32(crop.crop(frame.rgb(*part), crop.shifted(box, -part[0], -part[1]), self.px)) / 255

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


def warped_layers(generator, speech, shown, shapes, references):
    """The `Layers` of faces as numpy arrays: a list of (places, weights, shade, mask).

    speech: (N, D).  shown: N `View`s of the frames.  shapes: (points (P, 2), resting, turn) of each frame.
    references: for each frame K pairs of a `View` and its points.
    """
    face = [
        [view.crop, *(reference.crop for reference, _ in chosen)]
        for view, chosen in zip(shown, references, strict=True)
    ]
    points = [[own, *(there for _, there in chosen)] for (own, _, _), chosen in zip(shapes, references, strict=True)]
    resting, turns = ([shape[i] for shape in shapes] for i in (1, 2))
    face = like(generator, np.float32(face) / 255).permute(0, 1, 4, 2, 3).flatten(1, 2)
    parts = (like(generator, np.float32(each)) for each in (points, resting, turns))
    found = generator.layers(face, *parts, speech)
    return list(zip(*(part.float().cpu().numpy() for part in found), strict=True))


class WarpRenderer(FaceRenderer):
    """Redraws one face in the frames of a video out of the pixels of others of its frames, see `ReferenceWarp`."""

    def __init__(self, generator, target, video, speech, px):
        super().__init__(generator, target, video, speech, px)
        self.views, self.person_of, self.references, self.shares = {}, {}, {}, {}
        self.shot_of = {i: number for number, shot in enumerate(target.shots) for i in shot}
        size = video.first.size
        for shot in target.shots:
            meshes = target.meshes.of(shot)
            some = [shot[i] for i in np.linspace(0, len(shot) - 1, min(len(shot), SEEN)).astype(int)]
            self.person_of |= dict.fromkeys(shot, HeadShape(*self._placed(some), MARGIN).person)
            inside = [i for i, mesh in meshes.items() if (mesh[JAW] >= 0).all() and (mesh[JAW] < size).all()]
            self.references |= references_of(meshes, target.sharpness, generator.references, inside)

    def render(self, batch):
        """The layers of a batch's faces: a list, for each frame (its view, layers, views of its references, share)."""
        shown = [i for i, (index, _, _) in enumerate(batch) if index in self.target.boxes]
        found = [None] * len(batch)
        if not shown:
            return found
        indices = [batch[i][0] for i in shown]
        views = [self._view(batch[i][2], batch[i][0]) for i in shown]
        chosen = [[self._reference(k) for k in self.references[index]] for index in indices]
        shapes = [self._shape(index) for index in indices]
        layers = warped_layers(self.generator, self.speech([batch[i][1] for i in shown]), views, shapes, chosen)
        for i, index, view, each, pairs in zip(shown, indices, views, layers, chosen, strict=True):
            found[i] = view, each, [reference for reference, _ in pairs], self.share(index)
        return found

    def sources(self):
        return sorted({k for chosen in self.references.values() for k in chosen})

    def share(self, index):
        if index in self.target.boxes and index not in self.shares:
            (low, high), away = TURNED, turn_away(self._steady(index))
            self.shares[index] = float(1 - np.clip((away - low) / (high - low), 0, 1))
        return self.shares.get(index)

    def put_back(self, batch, found):
        """The frames of a batch with the faces that `render` returned for it."""
        frames = []
        for (index, _, frame), each in zip(batch, found, strict=True):
            if each is not None and (drawn := composed(*each)) is not None:
                patch, (x, y) = drawn
                left, top, *_ = self._part(frame, index)
                frame = frame.paste(patch, left + x, top + y)
            frames.append(frame)
        return frames

    def _part(self, frame, index):
        """The part of a frame that a crop shows, see `around`."""
        x1, y1, x2, y2, *_ = box = self.target.boxes[index]
        return around(frame.size, box, 2 + MARGIN * max(x2 - x1, y2 - y1))

    def _view(self, frame, index):
        """The `View` of the face in a frame."""
        part = self._part(frame, index)
        return View.of(frame.rgb(*part), crop.shifted(self.target.boxes[index], -part[0], -part[1]))

    def _placed(self, indices):
        """Meshes of frames, relative to their boxes, steady over time, and the boxes: (N, 468, 2), (N, 4)."""
        boxes = [self.target.boxes[i] for i in indices]
        meshes = [crop.to_crop(self._steady(i), box) for i, box in zip(indices, boxes, strict=True)]
        return np.stack(meshes), np.array([box[:4] for box in boxes])

    def _steady(self, index):
        """The mesh of a frame, averaged with those right before and after it in its shot."""
        meshes, sigma, shot = self.target.meshes, STEADY_S * float(self.video.fps), self.shot_of[index]
        around = range(index - round(2 * sigma), index + round(2 * sigma) + 1)
        near = [i for i in around if self.shot_of.get(i) == shot]
        weights = np.exp(-((np.array(near) - index) ** 2) / (2 * sigma**2))
        return np.tensordot(weights / weights.sum(), np.stack([meshes[i] for i in near]), 1)

    def _shape(self, index):
        """The points of a frame, its lips at rest, and the turn of its head."""
        head = HeadShape(*self._placed([index]), MARGIN, self.person_of[index])
        return head.points[0], head.resting[0], head.turns[0]

    def _reference(self, index):
        """The view of a reference, and its points."""
        if index not in self.views:
            if len(self.views) == VIEWS:
                self.views.pop(next(iter(self.views)))  # the oldest
            self.views[index] = self._view(self.video.at(index), index), self._shape(index)[0]
        return self.views[index]


def renderer_of(generator, hp, target, video, speech):
    """The renderer of a face by a generator, whose hparams are hp; for the rest see `FaceRenderer`."""
    kind = WarpRenderer if hp.model == "warp" else FaceRenderer
    return kind(generator, target, video, speech, hp.face_size)
