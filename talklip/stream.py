"""A face that says sound while it comes in: frames that hear at most a given time ahead, and inference.py --live."""

import sys
import time
from contextlib import contextmanager
from math import floor

import numpy as np
import torch

import audio
from distributed import within_memory
from errors import InputError
from media.disclosure import labelled
from media.transport import TransportWriter, pcm_blocks
from renderer import SpeechTrack

HEARD_S = 2.0  # s of sound up to the end of the look-ahead that are embedded for each block: a window of Whisper's
STEP = audio.RATE // 5  # samples: windows begin at multiples, which are rows and mel steps of every model's too


class SpeechStream:
    """The speech embedding of sound that comes in, as `SpeechTrack` has that of a whole one.

    For every block of frames the last `HEARD_S` seconds are embedded anew, as if they were the whole sound.
    Differs: rows near the beginning and end of those depend on less, also the mean of `articulation`.
    """

    def __init__(self, generator, hp, articulation=1.0):
        self.how, self.articulation = (generator, hp), articulation
        self.kept, self.first, self.track = np.zeros(0, np.int16), 0, None

    @property
    def samples(self):
        """The number of samples that have come in."""
        return self.first + len(self.kept)

    def add(self, samples):
        """Appends sound: (n,) int16, 16 kHz."""
        self.kept = np.concatenate([self.kept, samples])

    @torch.inference_mode()
    def hear(self, stop):
        """Embeds the sound before sample `stop`, and forgets what is too old for later ones."""
        start = max(0, stop - round(HEARD_S * audio.RATE))
        start = -(-start // STEP) * STEP
        self.kept, self.first = self.kept[start - self.first :], start
        self.track = SpeechTrack(*self.how, self.kept[: stop - start], self.articulation)

    def sound(self, start, stop):
        """Samples that were heard: (n,) int16."""
        return self.kept[start - self.first : stop - self.first]

    def __call__(self, times_s):
        """The speech at each time of the stream: (T,) seconds -> (T, D)."""
        return self.track(np.asarray(times_s) - self.first / audio.RATE)


class TalkingFace:
    """A face whose frames are made while its sound comes in.

    renderer: of the face, whose speech is a `SpeechStream`.
    ahead_s: seconds of sound after the beginning of a frame that it may depend on, at most; at least half of it is
    heard: frames are made in blocks that last up to half of it, each as soon as so much sound is there.
    """

    def __init__(self, renderer, ahead_s):
        self.renderer, self.speech, self.fps = renderer, renderer.speech, renderer.video.fps
        self.block = max(1, floor(self.fps * ahead_s / 2))
        self.ahead_s = max(ahead_s, self.block / self.fps)  # at few frames a second: a frame's own sound
        self.frames, self.made, self.working_s = 0, 0, 0.0  # gone out, made, and in what time

    def frames_of(self, sounds):
        """Yields (Frame, its sound, (n,) int16) in order of time, at the rate of the face's video.

        sounds: iterable of blocks of samples, (n,) int16, 16 kHz.
        The video is played forth and back. At the end of the sound come the frames that are left, to within half a
        frame. Before the first block of sound a frame that is not shown is made, as first frames take longer.
        Raises InputError where no sound comes in.
        """
        played = self.renderer.video.played(sys.maxsize)
        self.speech.hear(0)
        index, frame = next(self.renderer.video.played(1))
        self._made([(index, 0.0, frame)])
        self.working_s = 0.0
        for samples in sounds:
            self.speech.add(samples)
            while self.speech.samples >= self._sample(self.frames, self.ahead_s):
                yield from self._next(played, self.block, self._sample(self.frames, self.ahead_s))
        if not self.speech.samples:
            raise InputError("no sound came in: send 16-bit mono at 16 kHz")
        count = max(1, round(self.speech.samples / audio.RATE * self.fps))
        while self.frames < count:
            stop = min(self._sample(self.frames, self.ahead_s), self.speech.samples)
            yield from self._next(played, min(self.block, count - self.frames), stop)

    def told(self, ended):
        """A line that says what was made, with which delay, and whether it kept up. ended: why it ended."""
        seconds = float(self.frames / self.fps)
        if not self.frames:
            return f"0 frames; {ended}"
        share = self.working_s / float(self.made / self.fps)
        work_s = share * float(self.block / self.fps)
        delay = f"delay {float(self.ahead_s):.2f} s of look-ahead and {work_s:.2f} s of work"
        late = f"kept up, {share:.2f} s of work" if share <= 1 else f"slower than its sound, {share:.2f} s of work"
        return f"{self.frames} frames, {seconds:.2f} s; {ended}; {delay}; {late} for a second"

    def _sample(self, frame, later_s=0):
        """The number of the sample that is heard when a frame is seen, or so much later."""
        return round((frame / self.fps + later_s) * audio.RATE)

    def _next(self, played, count, stop):
        """The next `count` frames with their sound, by what is heard before sample `stop`."""
        start = time.perf_counter()
        batch = [(*next(played), k) for k in range(self.frames, self.frames + count)]
        self.speech.hear(stop)
        frames = self._made([(index, float(k / self.fps), frame) for index, frame, k in batch])
        self.working_s, self.made = self.working_s + time.perf_counter() - start, self.made + count
        for frame in frames:
            self.frames += 1
            yield frame, self.speech.sound(self._sample(self.frames - 1), self._sample(self.frames))

    @torch.inference_mode()
    def _made(self, batch):
        """The frames of a batch, redrawn."""
        return self.renderer.put_back(batch, within_memory(self.renderer.render, batch))


@contextmanager
def written(path):
    """The unbuffered file that a stream goes to: a new one at `path`, or standard output. An empty one is removed."""
    if not path and sys.stdout.isatty():
        raise InputError("--live writes an MPEG-TS to standard output: pipe it into a player, or name an --outfile")
    try:
        file = open(path, "xb", buffering=0) if path else open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)
    except OSError as error:
        raise InputError(f"--outfile {path} cannot be written: {error.strerror}") from error
    try:
        with file:
            yield file
    finally:
        if path and not path.stat().st_size:
            path.unlink()


def live(args, make_renderer):
    """Makes a face say what comes in on standard input, an MPEG-TS; returns a line that says how it went.

    args: of inference.py.  make_renderer: gives that of `TalkingFace`.  Ctrl-C and a reader that goes away end it too.
    """
    if sys.stdin.isatty():
        raise InputError("--live reads sound from standard input: pipe 16-bit mono at 16 kHz into it")
    ended = "its sound ended"
    with written(args.outfile) as file:
        face = TalkingFace(make_renderer(), args.live)
        writer = TransportWriter(file, face.renderer.video.like, args.crf)
        try:
            for frame, samples in face.frames_of(pcm_blocks(sys.stdin.buffer)):
                start = time.perf_counter()
                writer.write(labelled(frame) if args.label else frame, samples)
                face.working_s += time.perf_counter() - start
        except KeyboardInterrupt:
            ended = "stopped"
        except BrokenPipeError:
            ended = "nobody reads it any more"
        writer.close()
    return face.told(ended)
