"""Sound in and an MPEG-TS out: every byte is heard, pictures and sound keep together, a reader may go away."""

import io
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
from conftest import buzz, make_video, make_wav, numbered

from errors import InputError
from media.frame import from_rgb
from media.sound import read_audio
from media.transport import RATE, TransportWriter, pcm_blocks
from media.video import probe, read_frames


class InPieces(io.BytesIO):
    """A pipe that gives odd numbers of bytes."""

    def read1(self, size=-1):
        return super().read(min(size, 777))


@pytest.fixture(scope="module")
def like(tmp_path_factory):
    found = probe(make_video(tmp_path_factory.mktemp("like") / "a.mp4", numbered(2, 48, 62), 25))
    return replace(found, height=49)


def heard(data):
    return np.concatenate([*pcm_blocks(InPieces(data)), np.zeros(0, np.int16)])


def test_all_sound_comes_through_with_or_without_a_header(tmp_path):
    sound = buzz(0.3)
    assert np.array_equal(heard(sound.tobytes()), sound)
    assert np.array_equal(heard(make_wav(tmp_path / "a.wav", sound).read_bytes()), sound)
    assert heard(sound.tobytes() + b"\1").shape == sound.shape and len(heard(b"")) == 0
    endless = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    assert np.array_equal(heard(endless + b"data\xff\xff\xff\xff" + sound.tobytes()), sound)


def test_another_kind_of_sound_is_told(tmp_path):
    path = make_wav(tmp_path / "a.wav", np.stack([buzz(0.1, 44_100)] * 2), 44_100)
    with pytest.raises(InputError, match="2 channels of 16 bits at 44100 Hz: send 16-bit mono at 16000 Hz"):
        heard(path.read_bytes())


def test_pictures_and_sound_keep_together(tmp_path, like):
    import av

    with open(tmp_path / "a.ts", "wb", buffering=0) as file:
        writer = TransportWriter(file, like, 18)
        for k in range(50):
            white, loud = 255 * (k >= 30), buzz(0.04) if k >= 30 else np.zeros(640, np.int16)
            writer.write(from_rgb(np.full((49, 62, 3), white, np.uint8)), loud)
            assert k < 10 or os.path.getsize(tmp_path / "a.ts") > 188 * k, "it waits for nothing"
        writer.close()
    with av.open(str(tmp_path / "a.ts")) as container:
        frames = list(container.decode(video=0, audio=0))
    shown = [frame for frame in frames if isinstance(frame, av.VideoFrame)]
    sounds = [frame for frame in frames if isinstance(frame, av.AudioFrame)]
    seen_s = next(frame.time for frame in shown if frame.to_ndarray(format="gray").mean() > 128)
    loud = next(frame for frame in sounds if np.abs(frame.to_ndarray()).max() > 0.02)
    heard_s = loud.time + float(np.argmax(np.abs(loud.to_ndarray()[0]) > 0.02)) / loud.sample_rate
    assert abs(heard_s - seen_s) < 1 / 25
    assert len(shown) == 50 and av.video.frame.PictureType.B not in {frame.pict_type for frame in shown}
    assert next(iter(read_frames(tmp_path / "a.ts"))).size == (62, 50)
    assert len(read_audio(tmp_path / "a.ts")) == pytest.approx(50 * 640, abs=3 * 1024)


def test_a_reader_that_goes_away_is_told(like):
    reader, end = os.pipe()
    with open(end, "wb", buffering=0) as file:
        writer = TransportWriter(file, like, 18)
        os.close(reader)
        frame = from_rgb(np.zeros((49, 62, 3), np.uint8))
        with pytest.raises(BrokenPipeError):
            for _ in range(10):
                writer.write(frame, buzz(0.04))
        writer.close()
