"""The sound of any media file, on the clock of its picture."""

from itertools import chain

import numpy as np

from audio import RATE
from errors import InputError
from media.files import decoded, open_media, pictures_of

BROKEN_CLOCK_S = 60  # sound that begins further from its picture than this has a broken clock: it begins with it


def read_audio(path, rate=RATE):
    """Reads the whole sound of any media file, mono: (samples,) int16 at `rate` Hz; clock and errors as in `sound`."""
    wav = np.concatenate([piece[0] for piece in sound(path, rate)])
    if not len(wav):
        raise InputError(f"{path}: its sound ends before its picture begins")
    return wav


def sound_kind(path):
    """The (rate in Hz, "mono" or "stereo") of a file's sound track; raises InputError if it has none."""
    with open_media(path) as container:
        stream = _track(container, path)
        return stream.rate, "mono" if stream.codec_context.channels == 1 else "stereo"


def sound(path, rate, layout="mono"):
    """Yields the sound of any media file piece by piece, on the clock of its picture: (channels, n) int16 at `rate` Hz.

    The first sample belongs to the first video frame: a sound track that begins later gets silence in front, one that
    begins earlier is cut. Without a video it is the first sample of the track. layout: "mono" or "stereo".
    Raises InputError if there is no file, no sound track, or nothing in it can be decoded.
    """
    with open_media(path) as container:
        stream, video = _track(container, path), pictures_of(container)
        frames = decoded(container, stream)
        first = next(frames, None)
        if first is None:
            raise InputError(f"{path}: its sound track holds no sample that can be decoded")
        late = 0  # samples: how much later than the picture the sound starts
        if video and video.start_time is not None and first.pts is not None:
            late_s = float(first.pts * first.time_base - video.start_time * video.time_base)
            late = round(late_s * rate) if abs(late_s) < BROKEN_CLOCK_S else 0
        if late > 0:
            yield np.zeros((1 if layout == "mono" else 2, late), np.int16)
        for frame in resampled(chain([first], frames), format="s16p", layout=layout, rate=rate):
            piece = frame.to_ndarray()
            cut = min(max(-late, 0), piece.shape[1])
            late += cut
            yield piece[:, cut:]


def resampled(frames, **target):
    """Converts a stream of audio frames to `target` (format, layout, rate), also where its own format changes."""
    from av import AudioResampler

    resampler, kind = AudioResampler(**target), None
    for frame in frames:
        if kind not in (None, (frame.format.name, frame.layout.name, frame.sample_rate)):
            yield from resampler.resample(None)
            resampler = AudioResampler(**target)
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        frame.pts = None  # the resampler counts samples; times of damaged files would disturb it
        yield from resampler.resample(frame)
    if kind:
        yield from resampler.resample(None)


def _track(container, path):
    if not container.streams.audio:
        raise InputError(f"{path} has no sound track: name a file with one")
    return container.streams.audio[0]
