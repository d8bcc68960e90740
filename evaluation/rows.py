"""Rows of the table: the ground truth, the baselines, and what a generator makes of each sound."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch

from audio import RATE
from data import Clips, generator_input, to_tensor
from errors import InputError
from evaluation.videos import crops_of, frames_of, matched
from faces.blend import View, composed
from faces.shape import HeadShape, distant_references
from hparams import HParams
from media.clip import FPS, Clip
from media.video import bounce
from renderer import SpeechTrack, warped_layers
from renderer import load as load_generator

TRUTH, COPIED, OTHER_LIPS = BASELINES = "ground truth", "identity frame copied", "other clip's lips"
OTHER_SOUND, SILENCE, ROOM = ", other clip's sound", ", silence", ", room silence"  # after a method's name
RUNNING = ", minute of sound"
MINUTE_S = 60  # of running sound, at least
QUIET_S, EDGE_S = 0.2, 0.1  # of a clip: how long its room is heard alone, and what coding may blank at either end
FEATHER = 0.08  # of the mouth window: the soft rim of lips that are put into another face
BATCH_FRAMES = 25  # generated at once


@dataclass
class Real:
    """A real clip, which rows are compared with.

    crops: (L, P, P, 3) uint8, RGB: the face box and `margin` box sizes around it on each side.
    frames: (L, H, W, 3) uint8 where the real videos are given, else None.
    """

    name: str
    clip: Clip
    crops: np.ndarray
    frames: np.ndarray | None
    margin: float

    def faces(self, crops):
        """The face boxes of crops, without their surroundings: (L, 96, 96, 3) uint8."""
        border = round(crops.shape[1] * self.margin / (1 + 2 * self.margin))
        return np.ascontiguousarray(crops[:, border : crops.shape[1] - border, border : crops.shape[1] - border])


class Corpus:
    """The real clips of a split: those of a data root, or, given `videos`, cut out of the original videos.

    names: clip ids; faults: {name: why its video cannot be used}. Raises InputError as `Clips` and `matched` do.
    """

    def __init__(self, root, split, videos=None):
        clips = Clips(root, split, HParams())
        self.names, self.about = clips.names, clips.about
        self.place = dict(zip(clips.names, clips.paths, strict=True))
        self.margin = (self.about["crop_px"] / self.about["face_px"] - 1) / 2
        self.videos, self.faults, _ = matched(videos, self.names) if videos else (None, {}, [])

    def clip(self, name):
        """The stored clip of this name."""
        return Clip(self.place[name])

    @cached_property
    def minutes(self):
        """The clips of the list in parts of a minute; the last is filled up from the list's start: a list of lists."""
        names, parts, seconds = list(self.names), [[]], 0.0
        while names or seconds < MINUTE_S:
            if seconds >= MINUTE_S:
                parts, seconds = [*parts, []], 0.0
            name = names.pop(0) if names else self.names[(self.names.index(parts[-1][-1]) + 1) % len(self.names)]
            parts[-1].append(name)
            seconds += len(self.clip(name)) / FPS
        return parts

    def minute(self, name):
        """The minute of running sound that a clip is heard in: the names of its clips, (samples,) int16 of them all
        joined, and where this clip begins in it, s.
        """
        part = next(each for each in self.minutes if name in each)
        sounds = [self.clip(each).wav for each in part]
        before = sum(len(wav) for wav in sounds[: part.index(name)])
        return part, np.concatenate(sounds), before / RATE

    def real(self, name):
        """A `Real` by its name. Raises InputError if it has no video, or one that is not that of the stored clip."""
        clip = self.clip(name)
        if self.videos is None:
            return Real(name, clip, np.ascontiguousarray(clip.pictures()), None, self.margin)
        if name not in self.videos:
            raise InputError(f"{name}: {self.faults[name]}")
        frames = frames_of(self.videos[name], clip, slack=0)
        return Real(name, clip, crops_of(frames, clip.boxes, self.about["crop_px"], self.margin), frames, self.margin)


def distant(count):
    """The frame most distant in time from each, which is its identity: (count,) int."""
    return np.where(np.arange(count) < count // 2, count - 1, 0)


def copied(real):
    """The crops of a clip, every one that of the identity frame: a baseline deaf to the sound. (L, P, P, 3) uint8."""
    return real.crops[distant(len(real.crops))]


def with_lips_of(real, other):
    """The crops of a clip with another's lips in their place, turned and scaled as the mean face: (L, P, P, 3) uint8.

    other: a `Real`, the source of the lips; played forth and back where it is shorter. A lip reader sees its mouth ROI.
    """
    px, at = real.crops.shape[1], np.array([bounce(k, len(other.crops)) for k in range(len(real.crops))])
    inner, outer = in_crop(other, px)[at], in_crop(real, px)
    rim = np.minimum(np.arange(px) + 0.5, px - np.arange(px) - 0.5) / px / FEATHER
    soft = np.clip(np.minimum(rim[:, None], rim), 0, 1).astype(np.float32)
    out = []
    for crop, source, from_window, to_window in zip(real.crops, other.crops[at], inner, outer, strict=True):
        back = cv2.invertAffineTransform(to_window)  # from the crop to the window, [0, 1] x [0, 1]
        turn = np.column_stack([from_window[:, :2] @ back[:, :2], from_window @ [*back[:, 2], 1]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        lips = cv2.warpAffine(source, turn, (px, px), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(soft, back * px - [0, 0, 0.5], (px, px), flags=flags)[..., None]
        out.append((mask * lips + (1 - mask) * crop + 0.5).astype(np.uint8))
    return np.stack(out)


def in_crop(real, px):
    """Maps from a clip's mouth windows, [0, 1] x [0, 1], to px of its crops, pixel centres whole numbers: (L, 2, 3)."""
    windows = real.clip.windows.astype(np.float64)
    windows[..., 2] += real.margin
    scaled = windows * px / (1 + 2 * real.margin)
    scaled[..., 2] -= 0.5
    return scaled


def baseline_rows(real, other):
    """The rows beside every method: {row: crops (L, P, P, 3) uint8}. other: the `Real` that is the source of lips."""
    return {TRUTH: real.crops, COPIED: copied(real), OTHER_LIPS: with_lips_of(real, other)}


def room_silence(wav):
    """What a room sounds like in which nobody speaks: the quietest part of a sound, forth and back, as long as it.

    wav: (samples,) int16, 16 kHz. Returns the same.
    """
    edge, size = round(EDGE_S * RATE), round(QUIET_S * RATE)
    inside = wav[edge:-edge] if len(wav) > 2 * edge + size else wav
    loudness = np.convolve(inside.astype(np.float64) ** 2, np.ones(min(size, len(inside))), "valid")
    quiet = inside[int(loudness.argmin()) :][:size]
    return np.resize(np.concatenate([quiet, quiet[::-1]]), len(wav))


class GeneratedRows:
    """A generator that lip-syncs the clips of a data root to any sound; the identity is the most distant frame.

    path: any file that `checkpoint.load_generator` reads.  articulation: see `renderer.SpeechTrack`.
    name: of its rows, with the articulation where it is not 1.  about: what is known of the file.
    """

    def __init__(self, path, device="cpu", articulation=1.0):
        self.generator, self.hp, self.about = load_generator(path, device, "float32")
        self.articulation, self.name = articulation, path.stem
        self.minute = None, None  # names of clips, and the `SpeechTrack` of all their sound
        if articulation != 1:
            self.about = self.about | {"articulation": articulation}
            self.name += f", articulation {articulation:g}"

    @torch.inference_mode()
    def track(self, wav):
        """The `SpeechTrack` of a sound, (samples,) int16, 16 kHz."""
        return SpeechTrack(self.generator, self.hp, wav, self.articulation)

    @torch.inference_mode()
    def generate(self, real, track, start_s=0.0):
        """The crops of a clip with every face generated for a sound: (L, P, P, 3) uint8.

        track: see `track`.  start_s: where the clip begins in the sound.
        The whole face box is generated; around it, the real surroundings.
        """
        speech = track(start_s + np.arange(len(real.crops)) / FPS)
        return self.warped(real, speech) if self.hp.model == "warp" else self.painted(real, speech)

    @torch.inference_mode()
    def painted(self, real, speech, frames=None):
        """The crops of a clip, or of some of its frames, with the faces of a generator that paints: (T, P, P, 3) uint8.

        speech: (T, D), of these frames.  frames: (T,) int, by default all.
        """
        frames = np.arange(len(real.crops)) if frames is None else np.asarray(frames)
        shown = to_tensor(real.faces(real.crops))
        if shown.shape[-1] != self.hp.face_size:
            raise InputError(f"{real.name}: faces of {shown.shape[-1]} px, the generator makes {self.hp.face_size}")
        face = generator_input(shown[frames], shown[distant(len(shown))[frames]])
        parts = zip(face.split(BATCH_FRAMES), speech.split(BATCH_FRAMES), strict=True)
        fake = torch.cat([self.generator.generate(f[None].to(s.device), s[None])[0].float().cpu() for f, s in parts])
        crops, border = real.crops[frames], (real.crops.shape[1] - shown.shape[-1]) // 2
        inside = slice(border, border + shown.shape[-1])
        crops[:, inside, inside] = (fake * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return crops

    def warped(self, real, speech):
        """The crops of a clip redrawn by a generator that warps; the references are of the other half of the clip."""
        clip, px, count = real.clip, real.crops.shape[1], len(real.crops)
        head = HeadShape(clip.meshes, clip.boxes, real.margin)
        border = px * real.margin / (1 + 2 * real.margin)
        views = [View.of(rgb, (border, border, px - border, px - border)) for rgb in real.crops]
        chosen = distant_references(head.opening, np.arange(count), self.hp.references)
        crops = real.crops.copy()
        for start in range(0, count, BATCH_FRAMES):
            part = range(start, min(start + BATCH_FRAMES, count))
            shapes = [(head.points[t], head.resting[t], head.turns[t]) for t in part]
            references = [[(views[k], head.points[k]) for k in chosen[t]] for t in part]
            layers = warped_layers(self.generator, speech[list(part)], [views[t] for t in part], shapes, references)
            for t, each in zip(part, layers, strict=True):
                if (drawn := composed(views[t], each, [views[k] for k in chosen[t]])) is not None:
                    patch, (x, y) = drawn
                    crops[t, y : y + patch.shape[0], x : x + patch.shape[1]] = patch
        return crops

    def rows(self, real, other, minute):
        """{row: crops}: for the clip's own sound, the `Real` other's, none, its room's, its own within a minute.

        minute: see `Corpus.minute`; the speech of one is kept for the clips that follow.
        """
        own = real.clip.wav
        sounds = {"": own, OTHER_SOUND: other.clip.wav, SILENCE: np.zeros_like(own), ROOM: room_silence(own)}
        found = {self.name + row: self.generate(real, self.track(wav)) for row, wav in sounds.items()}
        names, wav, start_s = minute
        if self.minute[0] != names:
            self.minute = names, self.track(wav)
        return found | {self.name + RUNNING: self.generate(real, self.minute[1], start_s)}
