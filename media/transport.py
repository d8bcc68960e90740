"""Sound that comes in on a pipe, and an MPEG-TS of pictures and sound that goes out on one while it is made."""

import struct
from fractions import Fraction

import numpy as np

from audio import RATE
from errors import InputError
from media.disclosure import SYNTHETIC
from media.frame import cut

AAC_RATE = 48_000  # Hz: its packets last 21 ms, at 16 kHz 64 ms
MOST = 1 << 14  # bytes that are read at once
CODING = {"tune": "zerolatency", "preset": "veryfast", "bf": "0"}  # every picture leaves the encoder at once


def pcm_blocks(file):
    """Yields blocks of samples, (n,) int16, as they come: 16-bit mono at 16 kHz, with or without a WAV header.

    file: binary, with `read` and `read1`. The header's length of the sound is ignored, as pipes do not know it.
    Raises InputError for a WAV file of another kind.
    """
    rest = file.read(12)
    if rest[:4] == b"RIFF" and rest[8:] == b"WAVE":
        rest = b""
        while (head := file.read(8))[:4] != b"data":
            if len(head) < 8:
                return
            size = struct.unpack("<I", head[4:])[0]
            chunk = file.read(size + size % 2)
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", chunk[:16]) if head[:4] == b"fmt " else (0,) * 6
            if head[:4] == b"fmt " and (channels, rate, bits) != (1, RATE, 16):
                found = f"{channels} channels of {bits} bits at {rate} Hz"
                raise InputError(
                    f"standard input has {found}: send 16-bit mono at {RATE} Hz, as arecord -f S16_LE -r {RATE}"
                )
    while True:
        even = len(rest) & ~1
        if even:
            yield np.frombuffer(rest[:even], "<i2").astype(np.int16)
        more = file.read1(MOST)
        if not more:
            return
        rest = rest[even:] + more


class Pipe:
    """An open file as PyAV writes into it: what is written leaves this process at once.

    file: binary and unbuffered.  fault: the first OSError; what is written after it is dropped, as exceptions that
    pass through FFmpeg may come out as others.
    """

    def __init__(self, file):
        self.file, self.fault = file, None

    def write(self, data):
        """Writes all of some bytes."""
        rest = memoryview(data)
        try:
            while rest and not self.fault:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            self.fault = error
        return len(data)


class TransportWriter:
    """An MPEG-TS of H.264 without reordered pictures and AAC, written picture by picture, each with its sound.

    file: binary and unbuffered.  like: a `media.video.Video`: its size, made even, its rate and its pixel aspect stay.
    Its service name says that it is synthetic.
    """

    def __init__(self, file, like, crf):
        import av

        options = {"flush_packets": "1", "max_delay": "0", "mpegts_flags": "resend_headers"}
        self.pipe = Pipe(file)
        self.container = av.open(self.pipe, "w", format="mpegts", options=options)
        self.container.metadata.update({"service_name": SYNTHETIC, "service_provider": "talklip"})
        self.fps, self.frames, self.samples = Fraction(like.fps), 0, 0
        second = str(max(1, round(self.fps)))  # who tunes in waits for a whole picture
        self.video = self.container.add_stream(
            "libx264", rate=self.fps, options=CODING | {"crf": str(crf), "g": second}
        )
        self.video.width, self.video.height = like.width + like.width % 2, like.height + like.height % 2
        self.video.pix_fmt, self.video.codec_context.time_base = "yuv420p", 1 / self.fps
        self.video.codec_context.sample_aspect_ratio = like.pixel_aspect
        self.track = self.container.add_stream("aac", rate=AAC_RATE, layout="mono", bit_rate=96_000)

    def write(self, frame, samples):
        """Appends one Frame and the sound that is heard while it is seen, (n,) int16. Raises OSError."""
        from av import AudioFrame

        if len(samples):
            sound = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, self.samples, Fraction(1, RATE)
            self.samples += len(samples)
            self.container.mux(self.track.encode(sound))
        picture = cut(frame.picture, 0, 0, self.video.width, self.video.height)
        if picture.format.name != "yuv420p":
            picture = picture.reformat(format="yuv420p", threads=1)
        picture.pts, picture.time_base = self.frames, 1 / self.fps
        self.frames += 1
        self.container.mux(self.video.encode(picture))
        if self.pipe.fault:
            raise self.pipe.fault

    def close(self):
        """Writes what the encoders still hold."""
        for stream in self.container.streams:
            self.container.mux(stream.encode(None))
        self.container.close()
