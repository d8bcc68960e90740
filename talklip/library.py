"""`LipSync`: the generator as a library, loaded once, for files and arrays."""

import tempfile
import wave
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import inference
from errors import InputError
from hparams import WEIGHTS
from workers import progress_bar

RATE = 16_000  # Hz, of sound that is given as an array


class Drawn(NamedTuple):
    """A video that was drawn, and no file: (L, H, W, 3) uint8 RGB, its frames a second, and the report."""

    frames: object
    fps: float
    report: dict


class LipSync:
    """A generator that is loaded once and draws many videos.

    checkpoint_path, device, precision: the flags of inference.py.
    Raises InputError, whose text says what to do, for what a file or a flag has wrong.
    """

    def __init__(self, checkpoint_path=None, device=None, precision="auto"):
        from distributed import device_of  # slow
        from renderer import load

        self.path = Path(checkpoint_path or WEIGHTS["generator"])
        self.device, self.precision = device_of(device), precision
        self.loaded = load(self.path, self.device, precision)

    def __call__(self, face, audio, outfile=None, fps=None, rate=RATE, bar=None, **flags):
        """Makes the face say the sound.

        face: a video or picture, or frames (L, H, W, 3) uint8 RGB, `fps` (25) a second, or one picture (H, W, 3).
        audio: a file with sound, {number of a person: file}, or samples (n,), int16 or in [-1, 1], `rate` a second.
        outfile: the video to write; without one the frames are returned.
        bar: shows the progress, see `workers.progress_bar`.  flags: others of inference.py, by their names.
        Returns the report, a dict; without `outfile` a `Drawn`.
        """
        with tempfile.TemporaryDirectory(prefix="talklip_") as folder:
            folder = Path(folder)
            audio = as_sound(audio, folder / "sound.wav", rate) if hasattr(audio, "shape") else audio
            sounds = [f"{n}={path}" for n, path in audio.items()] if isinstance(audio, dict) else [audio]
            args = self._flags(folder, face, fps, flags | {"audio": sounds, "outfile": outfile, "quiet": not bar})
            out = None if outfile else Kept()
            report = inference.lip_sync(args, self.loaded, out, bar or progress_bar)
        return report if outfile else Drawn(out.array(), report["fps"], report)

    def stream(self, face, sounds, ahead_s=0.4, fps=None, bar=None, **flags):
        """Makes the face say sound while it comes in; yields each frame, (H, W, 3) uint8 RGB, with its sound, (n,).

        face, fps, bar, flags: as above; all of the face is read first.
        sounds: iterable of blocks of samples, (n,) int16, `RATE` a second.
        ahead_s: seconds of sound after its beginning that a frame may depend on, 0.1 to 1: see `talklip.stream`.
        Until it ends torch computes on one thread less.
        """
        from distributed import one_core_left
        from talklip.stream import TalkingFace

        with tempfile.TemporaryDirectory(prefix="talklip_") as folder, one_core_left():
            args = self._flags(Path(folder), face, fps, flags | {"live": ahead_s, "quiet": not bar})
            renderer = inference.live_renderer(args, args.face, self.loaded, bar or progress_bar)
            for frame, samples in TalkingFace(renderer, ahead_s).frames_of(sounds):
                yield frame.rgb(), samples

    def _flags(self, folder, face, fps, flags):
        """The flags of inference.py for a face, which is written into a folder if it is an array."""
        if hasattr(face, "shape"):
            face = as_video(face, folder / "face.mkv", fps or 25)
        own = {"checkpoint_path": self.path, "device": self.device, "precision": self.precision}
        return inference.parse(words(flags | own | {"face": face, "fps": fps}), strict())


def strict():
    """The parser of inference.py, whose faults are InputErrors."""

    def refuse(message):
        raise InputError(message)

    parser = inference.flags()
    parser.error = refuse
    return parser


class Kept:
    """Takes the frames of a video in place of a `Writer`."""

    def __init__(self):
        self.frames = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, frame):
        """Appends a Frame."""
        self.frames.append(frame.rgb())

    def array(self):
        """The frames: (L, H, W, 3) uint8, RGB."""
        import numpy as np

        return np.stack(self.frames)


def words(flags):
    """The words of a command line with these flags, {name: value}: True alone, False and None not at all."""
    found = []
    for name, value in flags.items():
        if value is None or value is False:
            continue
        many = value if isinstance(value, (list, tuple)) else [value]
        found += [f"--{name}", *([] if value is True else map(str, many))]
    return found


def as_video(frames, path, fps):
    """Writes (L, H, W, 3) or (H, W, 3) uint8 RGB as a video, its colours but for rounding; returns its path."""
    from media.frame import from_rgb
    from media.video import Video
    from media.writer import Writer

    if frames.dtype != "uint8" or frames.ndim not in (3, 4) or frames.shape[-1] != 3 or not frames.size:
        raise InputError(f"face is {frames.dtype} {frames.shape}: give (L, H, W, 3) uint8, RGB")
    frames = frames if frames.ndim == 4 else frames[None]
    height, width = frames.shape[1:3]
    rate = Fraction(str(fps)).limit_denominator(1001)
    facts = {"said_fps": rate, "frames": len(frames), "duration_s": None, "rotation": 0, "tags": {}, "still": False}
    like = Video(path, width, height, rate, pix_fmt="yuv444p", pixel_aspect=Fraction(1), has_audio=False, **facts)
    with Writer(path, like, crf=0, preset="ultrafast") as out:
        for rgb in frames:
            out.write(from_rgb(rgb, pix_fmt="yuv444p"))
    return path


def as_sound(samples, path, rate):
    """Writes (n,) samples, int16 or in [-1, 1], as a wav file; returns its path."""
    import numpy as np

    if samples.ndim != 1 or samples.dtype.kind not in "if" or samples.dtype.kind == "i" and samples.dtype != "int16":
        raise InputError(f"audio is {samples.dtype} {samples.shape}: give (n,) int16, or floats in [-1, 1]")
    if samples.dtype.kind == "f":
        samples = (samples.clip(-1, 1) * 32_767).round()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(int(rate))
        file.writeframes(samples.astype(np.int16).tobytes())
    return path
