"""Pictures and sound are placed by their own clocks: holes, late tracks, damage, and clocks that jump."""

import itertools
import struct
import time
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from conftest import make_video, make_wav, number_of, numbered

from corpora.corpus import RawClip
from corpora.extract import read_sound
from errors import InputError
from media import clock
from media.clock import Clock
from media.sound import read_audio, sound
from media.video import frames_at, probe, read_frames, timeline

RATE = 16_000
MS = Fraction(1, 1000)


def beeps(seconds, rate=RATE):
    """A short tone at every whole second."""
    t = np.arange(round(seconds * rate)) / rate
    return (np.where(t % 1 < 0.08, 0.6, 0.0) * 32767 * np.sin(2 * np.pi * 1000 * t)).astype(np.int16)


def heard(wav):
    """The times at which a tone begins, s, to a hundredth."""
    loud = np.convolve(np.abs(wav.astype(float)), np.ones(160) / 160, "same") > 3000
    starts = np.flatnonzero(np.diff(np.concatenate([[False], loud]).astype(int)) > 0) / RATE
    return [round(float(start), 2) for start in starts]


def recording(
    path, seconds, codec="aac", pictures="libx264", count=None, rate=RATE, bframes=0, change=lambda kind, s: s
):
    """A file of numbered frames, 25 a second, and beeps.

    change: (kind of packet, its time in s) -> another time, or None for a packet that is left out.
    """
    with av.open(str(path), "w") as out:
        video = out.add_stream(pictures, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.gop_size, video.codec_context.max_b_frames = 25, bframes
        track = out.add_stream(codec, rate=rate, layout="mono")
        packets = []
        for k, rgb in enumerate(numbered(count or round(25 * seconds))):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = k, Fraction(1, 25)
            packets += video.encode(picture)
        packets, wav = packets + video.encode(None), beeps(seconds, rate)[None]
        for sample in range(0, round(seconds * rate), 1000):
            piece = np.ascontiguousarray(wav[:, sample : sample + 1000])
            frame = av.AudioFrame.from_ndarray(piece, format="s16p", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, sample, Fraction(1, rate)
            packets += track.encode(frame)
        timed = []
        for packet in packets + track.encode(None):
            if (new_s := change(packet.stream.type, float(packet.pts * packet.time_base))) is not None:
                moved = round((new_s - float(packet.pts * packet.time_base)) / packet.time_base)
                packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
                timed.append((packet.dts * packet.time_base, len(timed), packet))
        for _, _, packet in sorted(timed):
            out.mux(packet)
    return path


def joined(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("suffix, codec", [("mkv", "aac"), ("mp4", "aac"), ("mkv", "libopus"), ("mkv", "pcm_s16le")])
def test_a_hole_in_the_sound_becomes_silence(tmp_path, suffix, codec):
    holed = recording(
        tmp_path / f"b.{suffix}",
        4,
        codec,
        rate=48_000 if codec == "libopus" else RATE,
        change=lambda kind, s: s + 2 if kind == "audio" and s > 1.5 else s,
    )
    wav = read_audio(holed)
    assert heard(wav) == pytest.approx([0, 1, 4, 5], abs=0.02) and len(wav) / RATE == pytest.approx(6, abs=0.1)
    lost = recording(
        tmp_path / f"c.{suffix}",
        4,
        codec,
        rate=48_000 if codec == "libopus" else RATE,
        change=lambda kind, s: None if kind == "audio" and 0.5 < s < 1.5 else s,
    )
    assert heard(read_audio(lost)) == pytest.approx([0, 2, 3], abs=0.02)
    stereo = np.concatenate(list(sound(lost, 44_100, "stereo")), axis=1)
    assert stereo.shape[0] == 2 and stereo.shape[1] / 44_100 == pytest.approx(4, abs=0.1)


def test_preprocessing_hears_the_same_hole(tmp_path):
    lost = recording(tmp_path / "b.mkv", 4, change=lambda kind, s: None if kind == "audio" and 0.5 < s < 1.5 else s)
    assert heard(read_sound(RawClip("x", lost), 100)) == pytest.approx([0, 2, 3], abs=0.02)
    assert heard(read_sound(RawClip("x", lost, start_s=2.0), 50)) == pytest.approx([0, 1], abs=0.02)


@pytest.mark.parametrize("late_s", [0.5, 70, 200])
def test_a_late_track_stays_where_it_is_at_any_distance(tmp_path, late_s):
    late = recording(tmp_path / "b.mkv", 3, "pcm_s16le", change=lambda kind, s: s + late_s if kind == "audio" else s)
    wav = read_audio(late)
    assert heard(wav) == pytest.approx([late_s, late_s + 1, late_s + 2], abs=0.02)
    early = recording(tmp_path / "c.mkv", 3, "pcm_s16le", change=lambda kind, s: s + late_s if kind == "video" else s)
    if late_s < 3:
        assert heard(read_audio(early)) == pytest.approx([0.5, 1.5], abs=0.03)
        assert next(read_frames(early)).time_s == 0
    else:
        with pytest.raises(InputError, match="sound ends before its picture begins"):
            read_audio(early)


def test_sound_that_begins_hours_after_the_pictures_is_refused(tmp_path):
    late = recording(tmp_path / "b.mkv", 2, change=lambda kind, s: s + 7200 if kind == "audio" else s)
    with pytest.raises(InputError, match="b.mkv: its sound begins 7200 s after its pictures"):
        read_audio(late)
    assert len(list(read_frames(late))) == 50, "its pictures are whole"


@pytest.mark.parametrize("suffix, codec", [("mkv", "libx264"), ("avi", "libx264"), ("avi", "mpeg4")])
def test_pictures_that_are_decoded_in_another_order_keep_their_times(tmp_path, suffix, codec):
    path = tmp_path / f"a.{suffix}"
    how = {"codec": codec, "max_b_frames": 3, "bit_rate": 4_000_000}
    make_video(path, numbered(24), fps=12, audio=beeps(2) if suffix == "mkv" else None, **how)
    assert [number_of(frame.rgb()) for _, frame in frames_at(path, 12)] == list(range(24))
    assert [frame.time_s for frame in read_frames(path)] == pytest.approx([k / 12 for k in range(24)], abs=0.002)
    assert [k for k, _ in timeline(path, 40, 12)] == [*range(24), *range(22, 6, -1)]
    if suffix == "mkv":
        assert heard(read_audio(path)) == pytest.approx([0, 1], abs=0.02)
        with av.open(str(path)) as container:
            assert clock.is_steady(container, path)


@pytest.mark.parametrize("suffix, pictures, codec", [("ts", "libx264", "aac"), ("mpg", "mpeg2video", "mp2")])
def test_where_recordings_were_joined_time_goes_on(tmp_path, suffix, pictures, codec):
    parts = [recording(tmp_path / f"{k}.{suffix}", 2, codec, pictures, rate=48_000) for k in range(3)]
    path = joined(tmp_path / f"joined.{suffix}", *parts)
    times = [frame.time_s for frame in read_frames(path)]
    assert len(times) in (149, 150) and min(np.diff(times)) > 0 and times[-1] == pytest.approx(6.05, abs=0.15)
    shown = [number_of(frame.rgb()) for _, frame in frames_at(path, 25)]
    firsts = [k for k in range(1, len(shown)) if shown[k] < shown[k - 1] - 20]
    assert firsts == pytest.approx([52, 104], abs=3) and 150 <= len(shown) <= 158
    begins = heard(read_audio(path))
    lag = begins[0] - 0.0
    for first, beep in zip([0, *firsts], begins[::2], strict=True):
        assert beep - lag == pytest.approx(first / 25, abs=0.06), "sound and pictures stay together"


@pytest.mark.parametrize("suffix, bframes", [("mkv", 0), ("mkv", 2), ("mp4", 0), ("mp4", 2)])
@pytest.mark.parametrize("tracks", [("video",), ("audio",), ("video", "audio")])
def test_a_clock_that_jumps_far_ahead_goes_on_without_the_gap(tmp_path, suffix, bframes, tracks):
    codec = "pcm_s16le" if suffix == "mkv" else "aac"
    change = lambda kind, s: s + 95_400 if kind in tracks and s > 1.99 else s  # noqa: E731
    path = recording(tmp_path / f"b.{suffix}", 3, codec, bframes=bframes, change=change)
    few = list(itertools.islice(frames_at(path, 25), 90))
    shown = [number_of(frame.rgb()) for _, frame in few]
    assert len(few) < 80 and (bframes or shown == list(range(75)))
    assert len(set(shown)) >= 72 and max(np.abs(np.subtract(shown, sorted(shown)))) <= 3
    assert 46_000 < sum(piece.shape[1] for piece in itertools.islice(sound(path, RATE), 900)) < 51_000
    assert heard(read_audio(path)) == pytest.approx([0, 1, 2], abs=0.07)
    some = [number_of(frame.rgb()) for _, frame in frames_at(path, 25, 60, 62)]
    assert some == shown[60:62]


def test_a_hole_of_the_pictures_that_has_sound_is_no_jump(tmp_path):
    path = recording(
        tmp_path / "b.mkv",
        320,
        "pcm_s16le",
        count=50,
        rate=8000,
        change=lambda kind, s: s + 310 if kind == "video" and s > 1 else s,
    )
    assert [frame.time_s for frame in read_frames(path)][-1] == pytest.approx(311.96, abs=0.01)


@pytest.mark.parametrize(
    "suffix, codec, rate", [("mp4", "aac", RATE), ("mkv", "libmp3lame", 44_100), ("mkv", "ac3", 48_000)]
)
def test_damaged_packets_cost_their_own_duration_and_no_more(tmp_path, suffix, codec, rate):
    path = recording(tmp_path / f"a.{suffix}", 4, codec, rate=rate)
    whole, rng = read_audio(path), np.random.default_rng(0)
    with av.open(str(path)) as container:
        packets = [(each.pos, each.size) for each in container.demux(audio=0) if each.size]
    data = bytearray(path.read_bytes())
    for pos, size in packets[len(packets) // 6 : len(packets) // 3]:
        data[pos + 8 : pos + size] = rng.bytes(size - 8)
    path.write_bytes(data)
    found = read_audio(path)
    assert abs(len(found) - len(whole)) <= 40 and heard(found)[-2:] == pytest.approx([2, 3], abs=0.01)


def test_an_even_clock_changes_no_sample(tmp_path):
    wav = np.random.default_rng(0).integers(-9000, 9000, RATE).astype(np.int16)
    make_wav(tmp_path / "a.wav", wav)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), wav)


def test_samples_that_are_no_numbers_are_silent(tmp_path):
    wav = np.full(RATE, 0.25, "<f4")
    wav[4000:5000], wav[9000] = np.nan, np.inf
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 3, 1, RATE, 4 * RATE, 4, 32)
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", 36 + 4 * RATE) + head)
    with open(tmp_path / "a.wav", "ab") as file:
        file.write(b"data" + struct.pack("<I", 4 * RATE) + wav.tobytes())
    expected = np.full(RATE, 8192)
    expected[4000:5000], expected[9000] = 0, 32767
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), expected)


def container_of(*packets):
    """A stand-in for an open file: packets (track, dts in ms, pts in ms or None), each 40 ms long."""
    streams = [
        SimpleNamespace(index=i, type=kind, start_time=0, time_base=MS) for i, kind in enumerate(("video", "audio"))
    ]
    for stream in streams:
        stream.disposition, stream.guessed_rate, stream.frames = av.stream.Disposition(0), Fraction(25), 0
    made = [
        SimpleNamespace(
            stream=streams["va".index(track)], dts=dts, pts=dts if pts is None else pts, duration=40, time_base=MS
        )
        for track, dts, pts in packets
    ]
    kinds = SimpleNamespace(video=streams[:1], audio=streams[1:])
    return SimpleNamespace(streams=kinds, metadata={}, demux=lambda *_: iter(made)), streams


def placed(track, *packets):
    container, streams = container_of(*packets)
    return [packet.dts for packet in Clock(container, streams["va".index(track)]).packets()]


def steady(*starts, length=10):
    """Packets of both tracks, 40 ms apart, `length` from each start (ms) on."""
    times = itertools.chain(*(range(start, start + 40 * length, 40) for start in starts))
    return [(track, t, None) for t in times for track in "va"]


def test_a_jump_of_both_tracks_is_the_same_for_both():
    assert placed("v", *steady(0, 0)) == placed("a", *steady(0, 0)) == list(range(0, 800, 40))
    lone = [packet for packet in steady(0, 0) if packet[0] == "v" or packet[1] < 200]
    lone = lone[:-10] + [("a", t, None) for t in (0, 40)] + lone[-10:]
    assert placed("a", *lone)[5:7] == [0 + 400, 40 + 400] or placed("a", *lone)[-2:] == [400, 440]
    assert placed("v", *steady(0, 9_000_000)) == placed("a", *steady(0, 9_000_000)) == list(range(0, 800, 40))


def test_sound_that_ended_early_goes_on_with_its_pictures_after_a_join():
    first = [packet for packet in steady(0, length=50) if packet[0] == "v" or packet[1] < 600]
    found = placed("a", *first, *steady(0))
    assert found[15:] == list(range(2000, 2400, 40)), "not right after the sound that was before"


@pytest.mark.parametrize("wrong", [9_000_000, 5_000, -5_000])
def test_one_wrong_time_is_not_believed(wrong):
    packets = steady(0, length=20)
    packets[20] = ("v", packets[20][1] + wrong, None)
    assert placed("v", *packets) == placed("a", *packets) == list(range(0, 800, 40))


def test_a_picture_is_never_shown_hours_after_it_is_decoded():
    container, streams = container_of(("v", 0, 40), ("v", 40, 9_000_000), ("v", 80, 120))
    assert [packet.pts for packet in Clock(container, streams[0]).packets()] == [40, 80, 120]


def test_a_clock_that_always_jumps_costs_no_more():
    start = time.monotonic()
    packets = [("va"[k % 2], (k * 7919) % 40_009 * 1000, None) for k in range(4000)]
    assert len(placed("v", *packets)) == 2000 and time.monotonic() - start < 10


def test_files_whose_clock_jumps_are_not_sought(tmp_path):
    path = recording(tmp_path / "a.mkv", 2)
    with av.open(str(path)) as container:
        assert clock.is_steady(container, path)
    jumping = recording(tmp_path / "b.mkv", 2, change=lambda kind, s: s + 9000 if s > 1 else s)
    with av.open(str(jumping)) as container:
        assert not clock.is_steady(container, jumping)
    parts = recording(tmp_path / "a.ts", 2)
    with av.open(str(parts)) as container:
        assert not clock.is_steady(container, parts)


def test_what_is_known_of_a_file_is_as_before(tmp_path):
    path = make_video(tmp_path / "a.mp4", numbered(30), 30)
    assert (probe(path).fps, probe(path).frames, probe(path).still) == (30, 30, False)
