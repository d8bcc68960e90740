"""Augmentation of sounds: room, noise, equalisation, low-pass, level, zeroed silences; then cuts, speed, and what is
heard before and after: the sound again, or nothing."""

import numpy as np

from audio import RATE

NOISE_DB = (5, 40)  # signal over noise, over the whole clip
REVERB_S = (0.1, 0.5)  # in which a room's echo has fallen by 60 dB
ECHO_DB = (0, 15)  # the sound itself over its echo
EQUALISED_HZ, EQUALISED_DB = np.geomspace(80, 8000, 7), 8  # points of a smooth curve, and how far each moves
LOWPASS_HZ, TELEPHONE_HZ = (1500, 6000), 300  # where the band ends and, on the telephone, begins
LEVEL_DB = (-25, 6)
MARGIN_S = 0.2  # lips move before a word sounds, and after it
SPEED = 0.8, 1.25
RUNNING_S = 2.0  # most of a repeated sound, or of silence, before the clip and after it
ROOM_DB = (-80, -40)  # of a silent room's noise, under full scale


class SoundAugmentation:
    """One random choice of room, noise, equalisation, low-pass, level and zeroed silences, each with chance `chance`.

    Every sample stays at its time, so that lips go on to fit; see `Retiming` for what moves them.
    Sound is zeroed only outside words, where the clip shows a mouth at rest; what a mouth does while the sound of a
    word is missing no clip shows.
    rng: a numpy generator; it may be None where the chance is 0.
    """

    def __init__(self, chance, rng):
        def chosen():
            return chance > 0 and rng.random() < chance

        self.chance, self.rng = chance, rng
        self.room, self.noise, self.band, self.curve_db, self.gain = None, None, None, None, 1.0
        if chosen():
            self.room = rng.uniform(*REVERB_S), 10 ** (rng.uniform(*ECHO_DB) / -20)
        if chosen():
            self.noise = 10 ** (rng.uniform(*NOISE_DB) / -20), rng.uniform(0, 2)  # share, and how it falls with f
        if chosen():
            self.curve_db = rng.uniform(-EQUALISED_DB, EQUALISED_DB, len(EQUALISED_HZ))
        if chosen():
            self.band = TELEPHONE_HZ * int(rng.integers(2)), np.exp(rng.uniform(*np.log(LOWPASS_HZ)))
        if chosen():
            self.gain = 10 ** (rng.uniform(*LEVEL_DB) / 20)
        self.zeroes = chosen()
        filters = self.room, self.noise, self.curve_db, self.band
        self.alters = self.zeroes or self.gain != 1 or any(each is not None for each in filters)

    def apply(self, wav, times):
        """The altered sound, of the same length.

        wav: (samples,) int16, 16 kHz.  times: (N, 2) start and end of each word in s; without any nothing is zeroed.
        Draws random numbers: a second call has other noise and another room.
        """
        if not self.alters or not len(wav):
            return wav
        size = 1 << (len(wav) + int(RATE * REVERB_S[1])).bit_length()  # room for what rings on
        hz = np.fft.rfftfreq(size, 1 / RATE).clip(1)
        spectrum = np.fft.rfft(wav, size)
        if self.room is not None:
            spectrum *= np.fft.rfft(self._impulse_response(), size)
        if self.noise is not None:
            spectrum += self._noise(spectrum, hz, size / len(wav))
        sound = self.gain * np.fft.irfft(spectrum * self._response(hz), size)[: len(wav)]
        sound = sound.round().clip(-32768, 32767).astype(np.int16)
        if self.zeroes:
            for first, last in silences(len(wav), times):
                if self.rng.random() < 0.5:
                    sound[first:last] = 0
        return sound

    def retiming(self, wav_s, kept_s, times):
        """A `Retiming` of a sound, by this one's chance and random numbers."""
        return Retiming(self.chance, self.rng, wav_s, kept_s, times)

    def _impulse_response(self):
        """A room's: the sound itself at time 0, then noise that decays: (samples,)."""
        reverb_s, echo = self.room
        at_s = np.arange(int(RATE * reverb_s)) / RATE
        tail = self.rng.normal(size=len(at_s)) * np.exp(-6.9 * at_s / reverb_s)
        tail *= echo / np.linalg.norm(tail)
        tail[0] = 1.0
        return tail

    def _noise(self, spectrum, hz, padded):
        """The spectrum of a noise from white to brown. padded: the length of what is transformed over the sound's."""
        share, fall = self.noise
        noise = self.rng.normal(size=(2, len(hz))) * hz.clip(50) ** (-fall / 2)
        return (noise[0] + 1j * noise[1]) * share * padded**0.5 * np.linalg.norm(spectrum) / np.linalg.norm(noise)

    def _response(self, hz):
        """The gain at each frequency, by equalisation and band; it has no phase, so nothing is late."""
        gain = np.ones_like(hz)
        if self.curve_db is not None:
            gain *= 10 ** (np.interp(np.log(hz), np.log(EQUALISED_HZ), self.curve_db) / 20)
        if self.band is not None:
            low, high = self.band
            gain /= (1 + ((hz / high) ** 2) ** 2) * (1 + ((low / hz) ** 2) ** 2)  # 24 dB an octave
        return gain


def silences(samples, times):
    """The (first, last) samples of the stretches further than `MARGIN_S` from every word; none without words.

    times: (N, 2) start and end of each word in s.
    """
    if not len(times):
        return []
    times = np.asarray(times, np.float64)
    times = times[np.argsort(times[:, 0])]
    begins = np.append(0, np.maximum.accumulate(times[:, 1]) + MARGIN_S) * RATE
    ends = np.append((times[:, 0] - MARGIN_S) * RATE, samples)
    begins, ends = (each.round().astype(int).clip(0, samples) for each in (begins, ends))
    return [(first, last) for first, last in zip(begins.tolist(), ends.tolist(), strict=True) if first < last]


class Retiming:
    """One random choice of a cut, another speed, and repetition of a sound or silence around it, by chance `chance`.

    A clip without its silences, again and again, is like running speech; at another speed it has another pitch too.
    In silence, which is digital or a room's, lips are at rest, as between the words of no clip for long.
    wav_s: the length of the sound.  kept_s: times that stay, with `MARGIN_S` around them: of the frames that a sample
    shows.  times: (N, 2), see `SoundAugmentation.apply`.
    """

    def __init__(self, chance, rng, wav_s, kept_s, times):
        def chosen():
            return chance > 0 and rng.random() < chance

        first, last = max(min(kept_s) - MARGIN_S, 0), min(max(kept_s) + MARGIN_S, wav_s)
        self.start, self.stop, self.rate, self.before, self.after = 0.0, wav_s, 1.0, 0.0, 0.0  # s of the clip
        self.rests, self.room, self.rng = False, 0.0, rng
        if chosen():
            self.start, self.stop = rng.uniform(0, first), rng.uniform(last, wav_s)
        if chosen():
            self.rate = np.exp(rng.uniform(*np.log(SPEED)))
        if chosen():
            self.rests = rng.random() < 0.5
            if len(times) and not self.rests:
                self.start = np.clip(times.min() - MARGIN_S, self.start, first)
                self.stop = np.clip(times.max() + MARGIN_S, last, self.stop)
            self.before, self.after = rng.uniform(0, RUNNING_S, 2)
            if rng.random() < 0.5:
                self.room = 32768 * 10 ** (rng.uniform(*ROOM_DB) / 20)
        self.alters = (self.start, self.stop, self.rate, self.before, self.after) != (0.0, wav_s, 1.0, 0.0, 0.0)

    def apply(self, wav):
        """The sound that is heard: (samples,) int16, 16 kHz, of the clip's."""
        rows = np.arange(int((self.before + self.stop - self.start + self.after) / self.rate * RATE)) / RATE
        places = self.shown_at(rows) * RATE
        sound = np.interp(places, np.arange(len(wav)), wav)
        if self.rests:
            silent = np.isnan(places)
            sound[silent] = self.room * self.rng.normal(size=silent.sum())
        return sound.round().clip(-32768, 32767).astype(np.int16)

    def shown_at(self, times_s):
        """The times in the clip of what is heard at these times; NaN in the silence around it."""
        places, length = np.asarray(times_s) * self.rate - self.before, self.stop - self.start
        if self.rests:
            return np.where((places >= 0) & (places < length), self.start + places, np.nan)
        return self.start + places % length

    def heard_at(self, times_s):
        """The times at which what is shown at these times in the clip is heard."""
        return (np.asarray(times_s) - self.start + self.before) / self.rate
