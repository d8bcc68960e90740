"""The sound of any media file, on the clock of its picture."""

import wave
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from audio import RATE
from errors import InputError
from media import clock
from media.files import check_codec, open_media, pictures_of, sound_of

BLOCK_S, PART_S = 0.25, 0.02  # of several channels that are mixed into one: read, and looked at, at once
CANCELLED = 0.03  # share of the loudest channel's energy below which a mix of all has lost what they say
FAINT = 100.0  # mean square below which nothing can be lost: -50 dB
FADE_S = 0.01  # from a mix to one channel and back


def read_audio(path, rate=RATE, most_s=None):
    """Reads the whole sound of any media file, mono: (samples,) int16 at `rate` Hz; clock and errors as in `sound`.

    most_s: longer sound is refused, before more of it is in memory.
    """
    wav, piece = bytearray(), None  # which grows without a copy of it all
    for piece in limited(path, rate, "mono", most_s):
        wav += piece.tobytes()
    if piece is None:  # nothing comes out of the resampler, not even an empty piece
        raise InputError(f"{path}: its sound is but a few samples, less than 3 ms: name a longer one")
    if not wav:
        raise InputError(f"{path}: its sound ends before its picture begins")
    return np.frombuffer(wav, np.int16)


def limited(path, rate, layout, most_s):
    """Yields as `sound`, and raises InputError when that is longer than `most_s`, unless that is None."""
    samples = 0
    for piece in sound(path, rate, layout):
        samples += piece.shape[1]
        if most_s is not None and samples > most_s * rate:
            raise InputError(f"{path}: its sound is longer than {most_s:g} s, the most that is allowed here")
        yield piece


def sound_kind(path):
    """The (rate in Hz, "mono" or "stereo") of a file's sound track; raises InputError if it has none."""
    with open_media(path) as container:
        stream = _track(container, path)
        return stream.rate, "mono" if stream.codec_context.channels == 1 else "stereo"


def about_track(path):
    """What tells a file's sound track from its others, a dict for JSON; raises InputError if it has none."""
    with open_media(path) as container:
        stream, tracks = _track(container, path), container.streams.audio
        found = {"number": tracks.index(stream) + 1, "of": len(tracks), "codec": stream.codec_context.name}
        return found | {name: stream.metadata[name] for name in ("language", "title") if name in stream.metadata}


def sound(path, rate, layout="mono"):
    """Yields the sound of any media file piece by piece, on the clock of its picture: (channels, n) int16 at `rate` Hz.

    The first sample belongs to the first video frame: a sound track that begins later gets silence in front, one that
    begins earlier is cut. Without a video it is the first sample of the track. What a hole or a damaged packet leaves
    out is silence, see `media.clock`. Of several tracks it is the file's default. layout: "mono" or "stereo".
    Raises InputError if there is no file, no sound track, or nothing in it can be decoded.
    """
    with open_media(path) as container:
        stream, video = _track(container, path), pictures_of(container)
        try:
            begin_s, frames = clock.gapless(clock.frames(container, stream))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if frames is None:
            raise InputError(f"{path}: its sound track holds no sample that can be decoded")
        late = 0  # samples: how much later than the picture the sound starts
        if video and video.start_time is not None and begin_s is not None:
            late = round(float(begin_s - video.start_time * video.time_base) * rate)
        for start in range(0, late, rate):
            yield np.zeros((1 if layout == "mono" else 2, min(rate, late - start)), np.int16)
        for piece in mixed(frames, rate) if layout == "mono" else resampled(frames, layout, rate):
            cut = min(max(-late, 0), piece.shape[1])
            late += cut
            yield piece[:, cut:]


@contextmanager
def together(paths, most_s=None, rate=48_000):
    """Gives the path of a sound in which several files are heard at once, from their beginnings; of one it is the file.

    What is made lies in the folder for temporary files and goes away at the end.  most_s: see `limited`.
    """
    if len(paths) == 1:
        yield paths[0]
        return
    layout = "stereo" if "stereo" in {sound_kind(path)[1] for path in paths} else "mono"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "together.wav"
        with wave.open(str(path), "wb") as out:
            out.setparams((2 if layout == "stereo" else 1, 2, rate, 0, "NONE", ""))
            for samples in added([limited(each, rate, layout, most_s) for each in paths]):
                out.writeframes(np.ascontiguousarray(samples.T).astype("<i2").tobytes())
        yield path


def added(sounds):
    """The sum of several sounds, piece by piece, as long as the longest: (channels, n) int16, clipped."""
    rest = {k: next(each, None) for k, each in enumerate(sounds)}
    while rest := {k: piece for k, piece in rest.items() if piece is not None}:
        size = min(piece.shape[1] for piece in rest.values())
        total = sum(piece[:, :size].astype(np.int32) for piece in rest.values())
        yield total.clip(-32768, 32767).astype(np.int16)
        for k, piece in rest.items():
            rest[k] = piece[:, size:] if piece.shape[1] > size else next(sounds[k], None)


class Resampler:
    """Converts sound frames to int16 arrays of one layout and rate, also where their own format changes.

    layout: "mono", "stereo", or None for that of each frame.
    """

    def __init__(self, layout, rate):
        self.layout, self.rate, self.kind, self.resampler = layout, rate, None, None

    def __call__(self, frame):
        """The samples that are ready after this frame, None at the end: a list of (channels, n) int16."""
        from av import AudioResampler

        kind = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
        ready = self.resampler.resample(None) if self.resampler and kind != self.kind else []
        if frame:
            if kind != self.kind:
                self.resampler = AudioResampler(format="s16p", layout=self.layout or frame.layout, rate=self.rate)
            frame.pts = None  # the resampler counts samples
            ready += self.resampler.resample(frame)
        self.kind = kind
        return [each.to_ndarray() for each in ready]


def resampled(frames, layout, rate):
    """Yields sound frames as arrays of a layout and rate: (channels, n) int16."""
    resampler = Resampler(layout, rate)
    for frame in chain(frames, [None]):
        yield from resampler(frame)


def mixed(frames, rate):
    """Yields sound frames mixed into one channel: (1, n) int16.

    Where channels cancel each other, as those of a stereo sound in opposite phase do, it is the loudest one of them.
    """
    first = next(frames)
    frames = chain([first], frames)
    if len(first.layout.channels) == 1:
        yield from resampled(frames, "mono", rate)
        return
    mix, apart, step, before, block = Resampler("mono", rate), Resampler(None, rate), round(PART_S * rate), (), []
    for frame in chain(frames, [None]):
        block += zip(mix(frame), apart(frame), strict=True)
        if frame is not None and sum(one.shape[1] for one, _ in block) < BLOCK_S * rate:
            continue
        for one, channels in joined(block):
            found = cancelled(one, channels, step)
            if before in ((), None) and not any(after is not None for after in found):
                before = None
                yield one
                continue
            for k, after in enumerate(found):
                part = slice(k * step, (k + 1) * step)
                before = after if before == () else before
                yield faded(one[:, part], channels[:, part], before, after, round(FADE_S * rate))
                before = after
        block = []


def joined(block):
    """The (mix, channels) of a list as few of them: those that follow each other and have as many channels are one."""
    for _, same in groupby(block, key=lambda pair: len(pair[1])):
        yield tuple(np.concatenate(each, axis=1) for each in zip(*same, strict=True))


def cancelled(one, channels, step):
    """For each part of a sound the number of the loudest channel, where the mix has next to nothing of it, or None.

    one: (1, n) int16, the mix.  channels: (C, n) int16.  step: samples of a part.
    """
    starts = np.arange(0, one.shape[1], step)
    if len(channels) == 1 or not len(starts):
        return [None] * len(starts)
    sizes = np.diff(np.append(starts, one.shape[1]))
    mean, *energies = (np.add.reduceat(np.square(x, dtype=np.float32), starts) / sizes for x in (one[0], *channels))
    loudest, most = np.argmax(energies, 0), np.max(energies, 0)
    lost = (mean < CANCELLED * most) & (most > FAINT)
    return [int(channel) if is_lost else None for channel, is_lost in zip(loudest, lost, strict=True)]


def faded(one, channels, before, after, samples):
    """A block of the mix, or of a channel, that begins with what came before it and fades over in some samples.

    before, after: numbers of channels, None for the mix.
    """
    sounds = [one[0] if k is None or k >= len(channels) else channels[k] for k in (before, after)]
    if before == after:
        return sounds[1][None]
    share = (np.arange(one.shape[1]) / samples).clip(0, 1)
    return ((1 - share) * sounds[0] + share * sounds[1]).round().astype(np.int16)[None]


def _track(container, path):
    if (track := sound_of(container)) is None:
        raise InputError(f"{path} has no sound track: name a file with one")
    check_codec(track, path, "sound")
    return track
