"""Sound: from any file with a sound track to what the audio encoders hear. All positions are found by time."""

from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np

from hparams import InputError

RATE = 16_000  # samples a second
ROW_RATE = 25  # rows of global features a second
MEL_RATE = 80  # mel steps a second
MEL_WINDOW = 16  # mel steps of a window: 0.2 s
BLOCK_S = 60  # seconds of sound that are analysed at once
SILENCE = -4.0  # lowest value of the mel spectrogram


@contextmanager
def open_media(path):
    """Opens a local media file for reading with PyAV; what goes wrong inside becomes a one-line InputError.

    The file is handed over open and PyAV may open nothing else: a play list named .mp4 cannot reach other files or the
    network, and any name works (spaces, quotes, newlines, a leading dash). A file that ends before what its own index
    tells of (mp4, mov) is refused; where there is no index, what can be decoded is taken.
    """
    import av

    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: name a media file")
        if not path.exists():
            raise InputError(f"{path}: there is no such file")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        options = {"protocol_whitelist": "none"}
        with open(path, "rb") as file, av.open(file, container_options=options, metadata_errors="ignore") as container:
            if container.format.name == "tty":  # FFmpeg would draw a text file as a video
                raise InputError(f"{path} is a text, not a media file")
            last = [stream.index_entries[-1] for stream in container.streams if len(stream.index_entries)]
            size, told = path.stat().st_size, max((entry.pos + entry.size for entry in last), default=0)
            if told > size:
                raise InputError(
                    f"{path} is cut off: it has {size} bytes, its own index tells of {told}. Copy it again"
                )
            yield container
    except av.FFmpegError as error:
        raise InputError(
            f"{path} cannot be read as a media file: damaged, or of another kind ({error.strerror})"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error


def decoded(container, stream):
    """Yields the frames of a stream in order of time. Broken packets are passed over, as players do."""
    import av

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        yield from frames


def pictures_of(container):
    """The container's video stream, or None: the cover picture of a song is not a video."""
    from av.stream import Disposition

    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


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


def sound_kind(path):
    """The (rate in Hz, "mono" or "stereo") of a file's sound track; raises InputError if it has none."""
    with open_media(path) as container:
        stream = _track(container, path)
        return stream.rate, "mono" if stream.codec_context.channels == 1 else "stereo"


def _track(container, path):
    if not container.streams.audio:
        raise InputError(f"{path} has no sound track: name a file with one")
    return container.streams.audio[0]


def sound(path, rate, layout="mono"):
    """Yields the sound of any media file piece by piece, on the clock of its picture: (channels, n) int16 at `rate` Hz.

    The first sample is heard with the first video frame: a sound track that begins later gets silence in front, one
    that begins earlier is cut. Without a video it is the first sample of the track. layout: "mono" or "stereo".
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
            late = round(late_s * rate) if abs(late_s) < 60 else 0  # more than a minute is a broken clock
        if late > 0:
            yield np.zeros((1 if layout == "mono" else 2, late), np.int16)
        for frame in resampled(chain([first], frames), format="s16p", layout=layout, rate=rate):
            piece = frame.to_ndarray()
            cut = min(max(-late, 0), piece.shape[1])
            late += cut
            yield piece[:, cut:]


def read_audio(path, rate=RATE):
    """Reads the whole sound of any media file, mono: (samples,) int16 at `rate` Hz; clock and errors as in `sound`."""
    wav = np.concatenate([piece[0] for piece in sound(path, rate)])
    if not len(wav):
        raise InputError(f"{path}: its sound ends before its picture begins")
    return wav


def log_filter_banks(wav):
    """Log energies of 26 mel filters over 25 ms, 100 times a second (python_speech_features' defaults).

    wav: (samples,) int16 at 16 kHz.
    Returns (n, 26) float32, n >= 1. An hour takes no more memory than a minute: it is done in blocks.
    """
    from python_speech_features import logfbank

    window, hop = RATE // 40, RATE // 100
    wav = wav if len(wav) else np.zeros(1, np.int16)
    rows = 1 + max(0, -(-(len(wav) - window) // hop))
    blocks = []
    for start in range(0, rows, BLOCK_S * 100):
        lead = min(start, 1)  # one row more in front, as the pre-emphasis looks back by a sample
        stop = min(start + BLOCK_S * 100, rows)
        piece = wav[(start - lead) * hop : (stop - 1) * hop + window if stop < rows else None]
        blocks.append(logfbank(piece, RATE)[lead:].astype(np.float32))
    return np.concatenate(blocks)


def stack(features):
    """Joins four filter bank rows to one, 25 rows a second, and normalises each row on its own.

    features: (n, 26), padded with zeros to a multiple of 4.
    Returns (rows, 104) float32, mean 0 and variance 1.
    """
    rows = np.pad(features, ((0, -len(features) % 4), (0, 0))).reshape(-1, 4 * features.shape[1])
    centred = rows - rows.mean(1, keepdims=True)
    return (centred / np.sqrt(centred.var(1, keepdims=True) + 1e-5)).astype(np.float32)


def global_features(wav):
    """What the global audio encoder hears of (samples,) int16 at 16 kHz: (rows, 104) float32, 25 rows a second."""
    return stack(log_filter_banks(wav))


def mel_spectrogram(wav):
    """The mel spectrogram of Wav2Lip: 80 bands from 55 to 7600 Hz, 80 steps a second.

    wav: (samples,) int16 at 16 kHz.
    Returns (80, steps) float32 in [-4, 4], steps = 1 + samples // 200; a sound below 0.05 s is filled up to that.
    """
    import librosa

    wav = wav.astype(np.float64) / 32768
    wav = np.append(wav[:1], wav[1:] - 0.97 * wav[:-1])
    wav = np.pad(wav, (0, max(0, 800 - len(wav))))  # one analysis window at least
    wav = np.pad(wav, 400, mode="reflect")
    bank = librosa.filters.mel(sr=RATE, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    steps, blocks = 1 + (len(wav) - 800) // 200, []
    for start in range(0, steps, BLOCK_S * MEL_RATE):
        piece = wav[start * 200 : (start + BLOCK_S * MEL_RATE - 1) * 200 + 800]
        power = np.abs(librosa.stft(piece, n_fft=800, hop_length=200, win_length=800, center=False))
        level = 20 * np.log10(np.maximum(1e-5, bank @ power)) - 20  # dB
        blocks.append(np.clip(8 * (level + 100) / 100 - 4, -4, 4).astype(np.float32))
    return np.concatenate(blocks, axis=1)


def mel_windows(mel, times_s):
    """Cuts the 0.2 s of mel that are heard from each time on; past the end the last full window stays.

    mel:     (80, steps), padded with silence if it is shorter than a window.
    times_s: (N,) seconds: the times of the frames, at any frame rate.
    Returns (N, 1, 80, 16).
    """
    mel = np.pad(mel, ((0, 0), (0, max(0, MEL_WINDOW - mel.shape[1]))), constant_values=SILENCE)
    starts = _positions(times_s, MEL_RATE, mel.shape[1] - MEL_WINDOW)
    columns = starts[:, None] + np.arange(MEL_WINDOW)  # (N, 16)
    return mel[:, columns].transpose(1, 0, 2)[:, None]  # (N, 1, 80, 16)


def rows_at(times_s, rows):
    """The row of the global features that is heard at each time; past the end it is the last.

    times_s: (N,) seconds. rows: how many rows there are.
    Returns (N,) int64.
    """
    return _positions(times_s, ROW_RATE, rows - 1)


def _positions(times_s, rate, last):
    exact = np.asarray(times_s, np.float64) * rate
    return np.clip(np.floor(exact + 1e-6), 0, last).astype(np.int64)  # 5 / 25 s * 80 is step 16, in floats too
