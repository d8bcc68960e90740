"""Augmentation of sounds: room, noise, equalisation, low-pass, level, zeroed silences; nothing is moved in time."""

import numpy as np

from audio import RATE

NOISE_DB = (5, 40)  # signal over noise, over the whole clip
REVERB_S = (0.1, 0.5)  # in which a room's echo has fallen by 60 dB
ECHO_DB = (0, 15)  # the sound itself over its echo
EQUALISED_HZ, EQUALISED_DB = np.geomspace(80, 8000, 7), 8  # points of a smooth curve, and how far each moves
LOWPASS_HZ, TELEPHONE_HZ = (1500, 6000), 300  # where the band ends and, on the telephone, begins
LEVEL_DB = (-25, 6)
MARGIN_S = 0.2  # lips move before a word sounds, and after it


class SoundAugmentation:
    """One random choice of room, noise, equalisation, low-pass, level and zeroed silences, each with chance `chance`.

    Every sample stays at its time, so that lips go on to fit: speed is never changed, and pitch would cost too much.
    Sound is zeroed only outside words, where the clip shows a mouth at rest; what a mouth does while the sound of a
    word is missing no clip shows.
    rng: a numpy generator; it may be None where the chance is 0.
    """

    def __init__(self, chance, rng):
        def chosen():
            return chance > 0 and rng.random() < chance

        self.rng, self.room, self.noise, self.band, self.curve_db, self.gain = rng, None, None, None, None, 1.0
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
