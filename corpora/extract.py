"""Extraction of what is stored of a raw clip: its one face cut out of every frame, the mouth, the sound, the words."""

from typing import NamedTuple

import cv2
import numpy as np
import torch

import audio
from corpora.offset import SyncOffset, shifted
from corpora.transcripts import read_transcript
from data import whisper_encoder
from errors import InputError
from faces import crop, detect, mouth
from faces.landmarks import LIES, roll_of
from faces.track import Tracker, interpolated
from media import sound, video
from media.clip import FPS, encoded, joined, write_clip
from models.whisper import embed

LEAST_FRAMES = 6  # of a clip: a window of 5 and a place to move it to
LONGEST_GAP = 5  # frames without a face that are filled from those around
RIVAL = 0.8  # a second face of this share of the first one's size, summed over its frames, makes a clip ambiguous
INDEXED = (".mp4", ".m4v", ".mov")  # files whose header has the length of their pictures; of others it is the file's
WHOLE = 0.9  # share of its length that a clip must have in pictures that can be decoded, and in sound
ROOM = 512 << 20  # bytes: pictures of a clip up to this size are kept for the second pass, others decoded again
OUTSIDE_S = 0.5  # most by which a word may begin before its clip or end after it
SOUND_AFTER_S = 0.2  # sound that is kept after the last frame: the window of the local audio encoder


class Pictures:
    """The frames of a `RawClip`, 25 a second, (H, W, 3) uint8 RGB; they can be iterated over more than once."""

    def __init__(self, raw):
        self.raw, self.kept = raw, None

    def __iter__(self):
        if self.kept is not None:
            yield from self.kept
            return
        kept, room = [], ROOM
        for rgb in self._read():
            room -= rgb.nbytes
            if room >= 0:
                kept.append(rgb)
            yield rgb
        self.kept = kept if room >= 0 else None

    def _read(self):
        raw = self.raw
        for path in raw.pictures:
            yield next(video.frames_at(path, FPS))[1].rgb()
        if raw.pictures:
            return
        stop = None if raw.stop_s is None else round(raw.stop_s * FPS)
        for _, frame in video.frames_at(raw.video, FPS, round(raw.start_s * FPS), stop):
            rgb = frame.rgb()
            if raw.region:
                scale = rgb.shape[0] / (raw.region_height or rgb.shape[0])
                x, y, width, height = (round(scale * side) for side in raw.region)
                rgb = rgb[max(y, 0) : y + height, max(x, 0) : x + width]
                if not rgb.size:
                    raise InputError(f"its region {raw.region} lies outside the picture")
            yield rgb


class FollowedFace(NamedTuple):
    """The one face of a clip: meshes (L, 468, 2) px; size (height, width) of the frame; `others`: faces beside it."""

    meshes: np.ndarray
    size: tuple
    others: int


def follow_one_face(frames, detector):
    """The one face of a clip's frames, in every one of them.

    Raises InputError for a clip that is too short, without a face, with two faces of like size, with a scene cut, with
    frames of different sizes, with a gap longer than `LONGEST_GAP` frames, or whose head lies on its side.
    """
    tracker, size = Tracker(detector), None
    for rgb in frames:
        if size and size != rgb.shape[:2]:
            raise InputError(f"its frames change their size, at frame {tracker.frames}")
        size = rgb.shape[:2]
        tracker.add(rgb)
    count = tracker.frames
    if count < LEAST_FRAMES:
        raise InputError(f"{count} frames at {FPS} a second: {LEAST_FRAMES} are needed")
    if len(tracker.shots) > 1:
        raise InputError("a scene cut within the clip")
    track, others = largest(tracker.shots[0], f"no face in any of {count} frames")
    return FollowedFace(upright(without_gaps(track.meshes, count)), size, others)


def largest(tracks, if_none):
    """The largest of the faces of a shot, and how many there are beside it.

    Raises InputError where there is none, `if_none`, or another of like size.
    """
    tracks = sorted(tracks, key=lambda track: -track.size)
    if not tracks:
        raise InputError(if_none)
    if len(tracks) > 1 and tracks[1].size > RIVAL * tracks[0].size:
        raise InputError(f"two faces of like size: the second has {tracks[1].size / tracks[0].size:.0%} of the first")
    return tracks[0], len(tracks) - 1


def faces_of_stills(frames, detector):
    """The face in each of a person's pictures, looked for anew in every one: a `FollowedFace`.

    Its size is (0, 0) where pictures differ in it.
    Raises InputError for one without a face, for two of like size, and where heads lie on their side.
    """
    meshes, others, sizes = [], 0, set()
    for number, rgb in enumerate(frames, 1):
        tracker = Tracker(detector)
        tracker.add(rgb)
        track, beside = largest(tracker.shots[0], f"no face in picture {number}")
        meshes.append(track.last)
        others = max(others, beside)
        sizes.add(rgb.shape[:2])
    size = sizes.pop() if len(sizes) == 1 else (0, 0)
    return FollowedFace(upright(np.stack(meshes).astype(np.float32)), size, others)


def upright(meshes):
    """The meshes (L, 468, 2) of a head; raises InputError where it lies on its side in most of them."""
    if (roll := np.median(np.abs(roll_of(meshes)))) > LIES:
        raise InputError(f"its head lies on its side, by {roll:.0f} degrees: turn the video upright")
    return meshes


def without_gaps(meshes, count):
    """Meshes for all of `count` frames, those between filled in; raises InputError for a gap that is too long.

    meshes: {frame: (468, 2) px}. Returns (count, 468, 2) float32.
    """
    found = np.array(sorted(meshes))
    gaps = np.diff(np.concatenate([[-1], found, [count]])) - 1
    if gaps.max() > LONGEST_GAP:
        where = int(np.concatenate([[-1], found])[gaps.argmax()]) + 1
        raise InputError(f"no face in {gaps.max()} frames from frame {where} on")
    return interpolated(meshes, np.arange(count)).astype(np.float32)


def read_sound(raw, count):
    """The sound of a clip of `count` frames, (samples,) int16 at 16 kHz; raises InputError where much of it is missing.

    It begins with the first frame and ends `SOUND_AFTER_S` after the last, if there is so much. Pictures are silent.
    """
    if raw.pictures:
        return np.zeros(count * audio.RATE // FPS, np.int16)
    wav = sound.read_audio(raw.sound or raw.video)
    wav = wav[round(raw.start_s * FPS) * audio.RATE // FPS :][: round((count / FPS + SOUND_AFTER_S) * audio.RATE)]
    sound_s, pictures_s = len(wav) / audio.RATE, count / FPS
    if sound_s < WHOLE * pictures_s:
        raise InputError(f"{sound_s:.2f} s of sound for {pictures_s:.2f} s of pictures")
    return wav


def check_length(raw, about, count):
    """Raises InputError for a clip much of whose pictures can't be decoded. about: its facts by `video.probe`."""
    length_s = about.duration_s if raw.video.suffix.lower() in INDEXED else None
    if length_s and raw.stop_s:
        length_s = min(length_s, raw.stop_s)
    if length_s and count / FPS < WHOLE * (length_s - raw.start_s) - 1 / FPS:
        raise InputError(f"it breaks off: {count / FPS:.2f} of {length_s - raw.start_s:.2f} s can be decoded")


def check_times(times, length_s):
    """Raises InputError for words, (N, 2) s, that lie outside a clip of this length: they are another clip's."""
    if len(times) and not -OUTSIDE_S <= times.min() <= times.max() <= length_s + OUTSIDE_S:
        said = f"its words are said from {times.min():.2f} to {times.max():.2f} s"
        raise InputError(f"{said}, it lasts {length_s:.2f} s: its transcript is another clip's, or in other units")


def whisper_features(wav):
    """Whisper's features of a sound, by the encoder in weights/: (50 a s, 384) float16."""
    return embed(whisper_encoder(), wav).numpy().astype(np.float16)


def extract(raw, detector, whisper, face_px=96, sync=None):
    """Extracts what is stored of a `RawClip`: (arrays, facts) for `media.clip.write_clip`.

    whisper: gives a sound's features, see `whisper_features`.
    face_px: height and width at which the face box is kept.
    sync: measures the offset of the sound, which is then corrected, see `SyncOffset`; None leaves the sound as it is.
    Raises InputError with the reason to leave the clip out.
    """
    about = video.probe(raw.video)
    transcript = read_transcript(raw.transcript, raw.kind) if raw.transcript else ("", [], np.zeros((0, 2)))
    pictures = Pictures(raw)
    face = (faces_of_stills if raw.pictures else follow_one_face)(pictures, detector)
    count = len(face.meshes)
    check_length(raw, about, count)
    wav, (text, words, times) = read_sound(raw, count), transcript
    check_times(times, max(len(wav) / audio.RATE, count / FPS))
    spans = face.meshes[:, None] if raw.pictures else face.meshes[None]  # pictures do not follow each other
    boxes, meshes, windows = (np.concatenate(part) for part in zip(*map(places, spans), strict=True))
    jpegs = cut_pictures(pictures, boxes, windows, face, face_px)
    offset, facts = sync(pictures, wav, boxes, meshes) if sync and not raw.pictures else (0, {})
    wav, times = shifted(wav, times, offset) if offset else (wav, times)
    arrays = {
        "boxes": boxes,
        "mesh": meshes.astype(np.float16),
        "mouth_windows": windows,
        "logfbank": audio.log_filter_banks(wav),
        "mel": audio.mel_spectrogram(wav),
        "whisper": whisper(wav),
        "wav": wav,
        "word_times": np.asarray(times, np.float32),
    }
    for name, files in jpegs.items():
        arrays[name], arrays[f"{name.removesuffix('s')}_ends"] = joined(files)
    facts |= {"text": text, "words": words, "size": list(face.size), "source_fps": float(about.fps)}
    return arrays, facts | {"offset": offset, "others": face.others}


def places(meshes):
    """Where the face and the mouth are in frames that follow each other: boxes, meshes in them, and mouth windows.

    meshes: (L, 468, 2) px. Returns (L, 4) px, (L, 468, 2) and (L, 2, 3), see `media.clip.Clip`.
    """
    found = crop.face_boxes(dict(enumerate(meshes)))
    boxes = np.stack([found[i] for i in range(len(meshes))]).astype(np.float32)
    inner = np.stack([crop.to_crop(mesh, box) for mesh, box in zip(meshes, boxes, strict=True)])
    return boxes, inner, mouth.aligned(inner, boxes)


def cut_pictures(pictures, boxes, windows, face, face_px):
    """Cuts face, mouth and, of frames of LRS2's size, the middle out of every picture: lists of JPEG files by name."""
    jpegs = {"faces": [], "mouths": []}
    if face.size == (mouth.LRS2_PX, mouth.LRS2_PX):
        jpegs["middles"] = []
    crop_px, edge = round(face_px * crop.SURROUNDINGS), (mouth.LRS2_PX - mouth.WINDOW_PX) // 2
    for rgb, box, window in zip(pictures, boxes, windows, strict=True):
        grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
        jpegs["faces"].append(encoded(crop.crop(rgb, box, crop_px, crop.SURROUNDINGS)))
        jpegs["mouths"].append(encoded(mouth.cut_window(grey, window, box)))
        if "middles" in jpegs:
            jpegs["middles"].append(encoded(grey[edge:-edge, edge:-edge]))
    return jpegs


class Extractor:
    """Turns raw clips into stored ones, in a process of its own.

    root: the `DataRoot` they go to.  face_px: of the face box.  detector: a key of `faces.detect.DETECTORS`.
    sync: None, or the path of a sync model and the most frames that the sound may be off, see `SyncOffset`.
    """

    def __init__(self, root, face_px, detector, sync=None):
        cv2.setNumThreads(1)
        self.root, self.face_px, self.detector = root, face_px, detect.DETECTORS[detector]("cpu")
        torch.set_num_threads(1)  # the processors are taken by other processes
        self.sync = SyncOffset(*sync) if sync else None

    def __call__(self, raw):
        """Extracts and stores one `RawClip`, unless another run has done so; returns a dict with its `name` and:

        reason: why it was left out, or None.  seconds, bytes: of the clip that was stored, 0 if none was.
        """
        result, target = {"name": raw.name, "reason": None, "seconds": 0.0, "bytes": 0}, self.root.clip(raw.name)
        if target.is_file():
            return result
        try:
            self.root.begin(raw)
            arrays, facts = extract(raw, self.detector, whisper_features, self.face_px, self.sync)
            write_clip(target, arrays, facts)
        except InputError as error:
            self.root.skip(raw, str(error))
            return result | {"reason": str(error)}
        except KeyboardInterrupt:
            self.root.take_back(raw)
            raise
        self.root.marker(raw).unlink(missing_ok=True)
        return result | {"seconds": len(arrays["boxes"]) / FPS, "bytes": target.stat().st_size}
