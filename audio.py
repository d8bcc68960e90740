"""Features of a sound for the audio encoders. All positions in them are found by time."""

import atexit
from functools import cache
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

RATE = 16_000  # samples a second
ROW_RATE = 25  # rows of global features a second
BANDS = 80  # of every mel spectrogram
WINDOW_S = 0.2  # of sound in a mel window
JOINED = 4  # mel steps of a row, of a spectrogram with 100 steps a second
WHISPER_RATE = 50  # rows of Whisper's features a second, of two steps of its own mel
BLOCK_S = 60  # seconds of sound that are analysed at once
SILENCE = -4.0  # lowest value of the mel spectrogram


class MelSetting(NamedTuple):
    """Setting of a mel spectrogram: samples of an analysis window, and from one step to the next."""

    window: int
    hop: int

    @property
    def rate(self):
        """Steps a second."""
        return RATE // self.hop

    @property
    def steps(self):
        """Steps of a mel window, which is 0.2 s."""
        return round(WINDOW_S * self.rate)


MELS = {"wav2lip": MelSetting(800, 200), "cals": MelSetting(400, 160)}  # whose setting it is
STORED = MELS["wav2lip"]  # that of the mel in a data root


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
        lead = min(start, 1)  # one row more in front, as the pre-emphasis needs the sample before
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
    """The input of the global audio encoder for (samples,) int16 at 16 kHz: (rows, 104) float32, 25 rows a second."""
    return stack(log_filter_banks(wav))


def mel_spectrogram(wav, setting=STORED):
    """The mel spectrogram of Wav2Lip: 80 bands from 55 to 7600 Hz; by its own setting 80 steps a second.

    wav: (samples,) int16 at 16 kHz.
    Returns (80, steps) float32 in [-4, 4], steps = 1 + samples // hop; a sound below an analysis window is filled up.
    """
    librosa, (window, hop) = _librosa(), setting
    wav = _emphasised(wav.astype(np.float64) / 32768)
    wav = np.pad(wav, (0, max(0, window - len(wav))))
    wav = np.pad(wav, window // 2, mode="reflect")
    bank = librosa.filters.mel(sr=RATE, n_fft=window, n_mels=BANDS, fmin=55, fmax=7600)
    steps, block, blocks = 1 + (len(wav) - window) // hop, BLOCK_S * setting.rate, []
    for start in range(0, steps, block):
        piece = wav[start * hop : (start + block - 1) * hop + window]
        power = np.abs(librosa.stft(piece, n_fft=window, hop_length=hop, win_length=window, center=False))
        level = 20 * np.log10(np.maximum(1e-5, bank @ power)) - 20  # dB
        blocks.append(np.clip(8 * (level + 100) / 100 - 4, -4, 4).astype(np.float32))
    return np.concatenate(blocks, axis=1)


def whisper_mel(wav):
    """The log-mel spectrogram of Whisper: 80 bands up to 8 kHz, 25 ms every 10 ms (Radford et al. 2022, sec. 2.2).

    wav: (samples,) int16 at 16 kHz. As published it is always 30 s, with zeros after a shorter sound: what lies more
    than 8 (80 dB) below the loudest value is raised to that, so all values depend on the loudest one of these 30 s.
    Returns (80, samples // 160) float32, about -1.5 to 2; to a sound below 0.025 s zeros are added up to that: 2 steps.
    """
    wav = np.pad(wav.astype(np.float32) / 32768, (0, max(0, 400 - len(wav))))
    power = _centred_power(wav, 400, 160)[:-1]  # (steps, 201)
    level = np.log10(np.maximum(1e-10, _slaney_bank(400, 0, 8000) @ power.T))
    return (np.maximum(level, level.max() - 8) / 4 + 1).astype(np.float32)


def pairs(rows):
    """Joins two rows of Whisper's features to one, 25 rows a second: (n, 384) -> (n / 2, 768), rounded up, float32."""
    rows = np.asarray(rows, np.float32)
    rows = np.concatenate([rows, rows[-1:]]) if len(rows) % 2 else rows
    return rows.reshape(len(rows) // 2, -1)


def fast_log_filter_banks(wav):
    """`log_filter_banks` within 1e-3 (tested), in numpy alone, for sound that training alters anew at every draw.

    Training from a data root imports no library of sound; preprocessing and inference keep those of the published code.
    """
    wav = _emphasised(wav.astype(np.float64) if len(wav) else np.zeros(1))
    window, hop = RATE // 40, RATE // 100
    rows = 1 + max(0, -(-(len(wav) - window) // hop))
    wav = np.pad(wav, (0, (rows - 1) * hop + window - len(wav)))
    frames = np.lib.stride_tricks.sliding_window_view(wav, window)[::hop]  # (n, 400)
    power = _power(frames, 512) / 512 @ _htk_bank().T  # (n, 26)
    return np.log(np.where(power == 0, np.finfo(float).eps, power)).astype(np.float32)


def fast_mel_spectrogram(wav, setting=STORED):
    """`mel_spectrogram` within 1e-3 (tested), in numpy alone: see `fast_log_filter_banks`."""
    wav = _emphasised(wav.astype(np.float64) / 32768)
    wav = np.pad(wav, (0, max(0, setting.window - len(wav))))
    bands = _slaney_bank(setting.window, 55, 7600) @ np.sqrt(_centred_power(wav, *setting)).T
    level = 20 * np.log10(np.maximum(1e-5, bands)) - 20  # dB
    return np.clip(8 * (level + 100) / 100 - 4, -4, 4).astype(np.float32)


@cache
def _librosa():
    """The library librosa, whose compiler writes a cache: where neither its folder nor a home can be written to,
    to a temporary folder.
    """
    try:
        from librosa import filters, stft  # noqa: F401  (librosa loads its parts when they are asked for)
    except RuntimeError:
        from numba import config

        folder = TemporaryDirectory()
        atexit.register(folder.cleanup)
        config.CACHE_DIR = folder.name
    import librosa

    return librosa


def _emphasised(wav):
    """Sound whose high frequencies are raised, (samples,) float64."""
    return np.append(wav[:1], wav[1:] - 0.97 * wav[:-1])


def _centred_power(wav, size, hop):
    """The power spectra of Hann windows of `size` samples, centred on every `hop`-th one: (steps, size // 2 + 1)."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wav, size // 2, mode="reflect"), size)[::hop]
    return _power(frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)), size)


def _power(frames, size):
    """The power spectrum of each frame, filled up to `size` samples: (n, size // 2 + 1)."""
    spectrum = np.fft.rfft(frames, size)
    return spectrum.real**2 + spectrum.imag**2


@cache
def _htk_bank():
    """26 triangles from 0 to 8000 Hz over the bins of 512 samples, by python_speech_features' rounding: (26, 257)."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), 28)
    edges = np.floor(513 * 700 * (10 ** (mels / 2595) - 1) / RATE)  # bins
    low, middle, high = (edges[i : i + 26, None] for i in range(3))
    bins = np.arange(257)
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where(bins < middle, rising, falling).clip(0)


@cache
def _slaney_bank(size, lowest_hz, highest_hz):
    """80 triangles of one area over the bins of `size` samples, on Slaney's scale: (80, size // 2 + 1)."""
    step, octave = 200 / 3, np.log(6.4) / 27  # linear below 1000 Hz, logarithmic above
    low, high = lowest_hz / step, 15 + np.log(highest_hz / 1000) / octave
    mels = np.linspace(low, high, 82)
    edges = np.where(mels < 15, mels * step, 1000 * np.exp(octave * (mels - 15)))  # Hz
    low, middle, high = (edges[i : i + 80, None] for i in range(3))
    hz = np.arange(size // 2 + 1) * RATE / size
    return np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)).clip(0) * 2 / (high - low)


def mel_windows(mel, times_s, setting=STORED):
    """Cuts the 0.2 s of mel from each time on; past the end the last full window stays.

    mel:     (80, steps), padded with silence if it is shorter than a window.
    times_s: (N,) seconds: the times of the frames, at any frame rate.
    Returns (N, 1, 80, S), S = 16 by the stored setting.
    """
    mel = np.pad(mel, ((0, 0), (0, max(0, setting.steps - mel.shape[1]))), constant_values=SILENCE)
    starts = _positions(times_s, setting.rate, mel.shape[1] - setting.steps)
    columns = starts[:, None] + np.arange(setting.steps)  # (N, S)
    return mel[:, columns].transpose(1, 0, 2)[:, None]  # (N, 1, 80, S)


def whole_mel_windows(steps, setting=STORED, fps=25):
    """The number of frames, from the first on, whose 0.2 s of mel are whole. steps: of the mel."""
    return max((steps - setting.steps) * fps // setting.rate + 1, 0)


def known_mel_windows(mel, frames, setting=STORED, fps=25):
    """`mel_windows` of frames (N,), NaN where a window is not whole: (N, 1, 80, S) float32."""
    windows = mel_windows(mel, np.asarray(frames) / fps, setting).astype(np.float32)
    windows[np.asarray(frames) >= whole_mel_windows(mel.shape[1], setting, fps)] = np.nan
    return windows


def mel_rows(mel):
    """Joins the four mel steps that begin within each 40 ms to one row: CALS' sound, 25 rows a second.

    mel: (80, steps), 100 steps a second.
    Returns (rows, 320), one step after the other; there is a row for each 40 ms begun, filled up with silence.
    """
    rows = max(-(-(mel.shape[1] - 1) // JOINED), 1)  # the last step is centred on the end of the sound
    mel = np.pad(mel, ((0, 0), (0, max(0, JOINED * rows - mel.shape[1]))), constant_values=SILENCE)
    return mel[:, : JOINED * rows].T.reshape(rows, JOINED * BANDS)


def rows_at(times_s, rows, rate=ROW_RATE):
    """The row of the features at each time; past the end it is the last.

    times_s: (N,) seconds. rows: how many rows there are. rate: of them a second: global features, or WHISPER_RATE.
    Returns (N,) int64.
    """
    return _positions(times_s, rate, rows - 1)


def _positions(times_s, rate, last):
    exact = np.asarray(times_s, np.float64) * rate
    return np.clip(np.floor(exact + 1e-6), 0, last).astype(np.int64)  # 5 / 25 s * 80 is step 16, in floats too
