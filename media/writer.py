"""Writes H.264 video with sound, frame by frame, in constant memory."""

import struct
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from math import inf
from pathlib import Path

import numpy as np

from errors import InputError
from media.files import replacing
from media.frame import CHROMA_STEPS, cut
from media.sound import sound, sound_kind

XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # XMP specification, part 3, 1.2.5
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")
# The same file each time, on any processor: with AVX-512, x264 decides between frames by memory that it has not set.
SAME = {"x264-params": "cpu-independent=1"}
AAC_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


class Writer:
    """Streams Frames to a video file: H.264 at constant quality, and the whole sound of `audio` as AAC.

    with Writer("out.mp4", like=probe("in.mp4"), audio="speech.wav") as out: out.write(frame)

    like: a Video: its size, rate, pixel format, colour tags and pixel aspect are kept. Where pixels share chroma,
    H.264 needs even sizes: an odd last column or row is doubled, as 4:4:4 video plays in few players.
    xmp: a packet of XMP, text, that is put into mp4 and mov.  sign: function of the path of the complete file.
    The file appears when it is complete; on any exception nothing is left. Raises InputError if it can't be written.
    """

    def __init__(self, path, like, fps=None, audio=None, crf=18, preset="veryfast", metadata=None, xmp="", sign=None):
        self.path, self.like, self.fps, self.audio = Path(path), like, Fraction(fps or like.fps), audio
        if self.path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: a video is written as one of {', '.join(SUFFIXES)}")
        if self.path.is_dir():
            raise InputError(f"{path} is a folder: name a file in it")
        if not self.path.parent.is_dir():
            raise InputError(f"{path} cannot be written: there is no folder {self.path.parent}")
        self.sound_kind = sound_kind(audio) if audio else None
        self.settings, self.xmp = ({"crf": str(crf), "preset": preset, **SAME}, metadata or {}), xmp.encode()
        self.sign = sign
        self.frames, self.samples = 0, 0  # written so far

    def __enter__(self):
        with ExitStack() as stack:  # on an exception here, nothing is left either
            partial = stack.enter_context(replacing(self.path))
            with _writing(self.path):
                self._open(partial)
            stack.push(self._close)
            self.ending = stack.pop_all()
        return self

    def _open(self, partial):
        """Opens the container and its streams; raises OSError in a folder that may not be written to."""
        import av

        coding, metadata = self.settings
        across, down = CHROMA_STEPS[self.like.pix_fmt[-4:]]
        faststart = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
        self.partial = partial
        partial.touch(exist_ok=False)  # PyAV would report the missing right only at the first frame
        self.container = av.open(f"file:{partial.absolute()}", "w", options=faststart)
        self.container.metadata.update(metadata)
        self.video = self.container.add_stream("libx264", rate=self.fps, options=coding)
        self.video.width = self.like.width + self.like.width % across
        self.video.height = self.like.height + self.like.height % down
        self.video.pix_fmt, self.video.codec_context.time_base = self.like.pix_fmt, 1 / self.fps
        self.video.codec_context.sample_aspect_ratio = self.like.pixel_aspect
        for name, value in self.like.tags.items():
            setattr(self.video.codec_context, name, value)
        if self.audio:
            rate, layout = self.sound_kind
            rate = rate if rate in AAC_RATES else 48_000
            self.track = self.container.add_stream("aac", rate=rate, layout=layout, bit_rate=192_000)
            self.pieces = sound(self.audio, rate, layout)

    def write(self, frame):
        """Appends one Frame, shown for 1 / fps seconds."""
        if frame.size != (self.like.width, self.like.height):
            found, expected = "x".join(map(str, frame.size)), f"{self.like.width}x{self.like.height}"
            raise InputError(f"{self.like.path}: at {frame.time_s:.2f} s its size is {found}, before it was {expected}")
        self._write_sound(self.frames / self.fps + 1)
        picture = frame.picture
        if picture.format.name != self.like.pix_fmt:
            picture = picture.reformat(format=self.like.pix_fmt, threads=1)
        picture = cut(picture, 0, 0, self.video.width, self.video.height)
        picture.pts, picture.time_base = self.frames, 1 / self.fps
        with _writing(self.path):
            self.container.mux(self.video.encode(picture))
        self.frames += 1

    def _write_sound(self, until_s):
        from av import AudioFrame

        while self.audio and self.samples < until_s * self.track.rate:
            piece = next(self.pieces, None)
            if piece is None:
                return
            if not piece.size:
                continue
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="s16p", layout=self.sound_kind[1])
            frame.sample_rate, frame.pts, frame.time_base = self.track.rate, self.samples, Fraction(1, self.track.rate)
            self.samples += piece.shape[1]
            with _writing(self.path):
                self.container.mux(self.track.encode(frame))

    def __exit__(self, kind, error, trace):
        with _writing(self.path):
            self.ending.__exit__(kind, error, trace)

    def _close(self, kind, error, trace):
        """Completes the container, or gives it up after an exception."""
        from av import FFmpegError

        if kind:
            with suppress(FFmpegError):
                self.container.close()
            return
        self._write_sound(inf)
        for stream in self.container.streams:
            self.container.mux(stream.encode(None))
        self.container.close()
        if self.xmp and self.path.suffix.lower() != ".mkv":
            with open(self.partial, "ab") as file:  # a box of its own at the end: nothing before it moves
                file.write(struct.pack(">I4s", 24 + len(self.xmp), b"uuid") + XMP_UUID + self.xmp)
        if self.sign:
            self.sign(self.partial)


@contextmanager
def _writing(path):
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
