"""A stored clip: one safetensors file a clip, written whole or not at all, whose parts are read one by one.

The format is described in docs/data.md; safetensors alone reads it.
"""

import json
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import audio
from errors import InputError
from media.files import replacing

FORMAT, FPS = 2, 25
SUFFIX = ".safetensors"
QUALITY = 95  # of JPEG files


def encoded(picture):
    """A picture, (H, W, 3) uint8, RGB, or (H, W) uint8, grey, as a JPEG file: (bytes,) uint8."""
    picture = picture[..., ::-1] if picture.ndim == 3 else picture
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].ravel()


def joined(jpegs):
    """A list of JPEG files one after the other: (bytes,) uint8, and where each ends, (L,) int64."""
    return np.concatenate(jpegs), np.cumsum([len(jpeg) for jpeg in jpegs])


def write_clip(path, arrays, about):
    """Writes a clip's file whole or not at all, in a folder that is made if need be. See `Clip` for what it holds.

    arrays: numpy arrays by name.  about: its other facts, for JSON.
    Raises OSError where there is no room or no right to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        with replacing(path) as partial:
            save_file(arrays, partial, metadata={"about": json.dumps({"format": FORMAT, "fps": FPS, **about})})
    except SafetensorError as error:
        raise OSError(str(error)) from error


@contextmanager
def reading(path):
    """Wraps reading from a clip's file: one that is broken becomes an InputError."""
    try:
        yield
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is broken ({error}): remove it and preprocess again") from error


class Clip:
    """One preprocessed clip; each array is read at its first use and kept, pictures are read at every use.

    boxes: (L, 4) float32: the face box in each frame, x1, y1, x2, y2 in px of the frame.
    meshes: (L, 468, 2) float32, face box as [0, 1] x [0, 1].  windows: (L, 2, 3), from the mouth window, [0, 1] x
    [0, 1], to the face box.  wav: (samples,) int16, 16 kHz.  logfbank: (100 a s, 26).  mel: (80, 80 a s).
    whisper: (50 a s, 384).  text: the transcript.  words, times: each of its words, (N, 2) start and end in s; may be
    empty.
    size: [height, width] of the frame in px.  about: all its facts besides the arrays.
    Raises InputError for a file that is broken or of another format.
    """

    def __init__(self, path):
        self.path = Path(path)
        with reading(path):
            self.file = safe_open(path, framework="np")
            self.about = json.loads((self.file.metadata() or {}).get("about", "{}"))
            found = self.about.get("format")
        if found != FORMAT:
            raise InputError(f"{path}: a clip of format {found}, this code reads {FORMAT}: preprocess it again")
        with reading(path):
            self.text, self.words, self.size = (self.about[name] for name in ("text", "words", "size"))

    def array(self, name, part=None):
        """An array of the file, or rows `part` (a slice) of it."""
        with reading(self.path):
            return self.file.get_tensor(name) if part is None else self.file.get_slice(name)[part]

    def __len__(self):
        return len(self.ends)

    @cached_property
    def ends(self):
        """The end of each frame's JPEG file in `faces`, (L,) int64 bytes."""
        return self._ends("faces")

    @cached_property
    def meshes(self):
        return self.array("mesh").astype(np.float32)

    @cached_property
    def boxes(self):
        return self.array("boxes")

    @cached_property
    def windows(self):
        return self.array("mouth_windows")

    @cached_property
    def times(self):
        return self.array("word_times")

    @property
    def in_words(self):
        """1.0 for the frames in whose middle a word is said, 0.0 for the others: (L,)."""
        middles_s = (np.arange(len(self)) + 0.5) / FPS
        return ((self.times[:, :1] <= middles_s) & (middles_s < self.times[:, 1:])).any(0).astype(float)

    @cached_property
    def wav(self):
        return self.array("wav")

    @property
    def silent(self):
        """Whether it has no sound at all: it is of still pictures."""
        return not self.wav.any()

    @cached_property
    def logfbank(self):
        return self.array("logfbank")

    @cached_property
    def mel(self):
        return self.array("mel")

    def mel_by(self, setting):
        """The mel spectrogram by a setting of `audio.MELS`: the stored one, or made of the sound: (80, steps)."""
        return self.mel if setting == audio.STORED else audio.fast_mel_spectrogram(self.wav, setting)

    @cached_property
    def whisper(self):
        self.check_whisper()
        return self.array("whisper")

    def check_whisper(self):
        """Raises InputError for a clip that was stored without Whisper's features, by an older version."""
        if "whisper" not in self.file.keys():
            raise InputError(f"{self.path} has no features of Whisper: preprocess the corpus again, to another folder")

    def picture(self, frame):
        """The crop of a frame with its surroundings: (crop_px, crop_px, 3) uint8, RGB."""
        return self.pictures(slice(frame, frame + 1))[0]

    def pictures(self, frames=slice(None)):
        """The crops of consecutive frames, read at once: (T, crop_px, crop_px, 3) uint8, RGB."""
        return self._decoded("faces", self.ends, frames, cv2.IMREAD_COLOR)[..., ::-1]

    def greys(self):
        """The crops of all frames in grey, rounded to 8 bits: (L, crop_px, crop_px) uint8."""
        return self._decoded("faces", self.ends, slice(None), cv2.IMREAD_GRAYSCALE)

    def mouths(self, frames=slice(None)):
        """The mouth windows of consecutive frames, cut out of the video itself: (T, 96, 96) uint8, grey."""
        return self._decoded("mouths", self._ends("mouths"), frames, cv2.IMREAD_GRAYSCALE)

    @property
    def has_middles(self):
        """True if there are `middles`: only of frames of 160x160 px."""
        return "middles" in self.file.keys()

    def middles(self):
        """The middle of every frame of 160x160 px, LRS2's size: (L, 96, 96) uint8, grey; see `has_middles`."""
        return self._decoded("middles", self._ends("middles"), slice(None), cv2.IMREAD_GRAYSCALE)

    def _ends(self, name):
        """Where each JPEG file of some pictures ends, (L,) bytes."""
        ends = self.array(f"{name.removesuffix('s')}_ends")
        if ends.dtype.kind not in "iu":
            raise InputError(f"{self.path} is broken (ends of {name} in {ends.dtype}): remove it and preprocess again")
        return ends

    def _decoded(self, name, ends, frames, colour):
        first, last, _ = frames.indices(len(ends))
        begin = int(ends[first - 1]) if first else 0
        data = self.array(name, slice(begin, int(ends[last - 1])))
        ends = ends[first:last] - begin
        pictures = [cv2.imdecode(data[a:b], colour) for a, b in zip(np.append(0, ends[:-1]), ends, strict=True)]
        if any(picture is None for picture in pictures):
            raise InputError(f"{self.path} is broken (a picture of {name}): remove it and preprocess again")
        return np.stack(pictures)

    def mouth_windows(self, roi):
        """The mouth windows by the knob `roi`, (L, 96, 96) uint8 grey. Raises InputError where there are none."""
        self.check_roi(roi)
        return self.mouths() if roi == "aligned" else self.middles()

    def check_roi(self, roi):
        """Raises InputError where there are no mouth windows by the knob `roi`."""
        if roi == "lrs2" and not self.has_middles:
            size = f"{self.size[1]}x{self.size[0]}"
            raise InputError(f"{self.path}: frames of {size} px: --roi lrs2 is for LRS2's 160x160, say --roi aligned")


def inside(ids, path):
    """The clip ids of a filelist, as a list, each once; raises InputError for one that leads out of the root.

    Spaces around an id, a byte-order mark, and comments, lines that begin with #, are left out.
    """
    ids = (name.replace("\ufeff", "").strip() for name in ids)
    clips = Path(path).parent / "clips"
    ids = [name for name in ids if name and (name[0] != "#" or (clips / f"{name}{SUFFIX}").is_file())]
    if out := [name for name in ids if leads_out(name)]:
        raise InputError(f"{path}: {out[0]!r} leads out of the root: clip ids look like speaker/clip")
    return list(dict.fromkeys(ids))


def leads_out(name):
    """True if a clip id, joined to a root, can be a place outside it."""
    return Path(name).is_absolute() or ".." in Path(name).parts
