"""What is in a file decides, not its name: stills, transparency, sound tracks, rates, and kinds that are named."""

import json
import os
import threading
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.codec.context import Flags
from conftest import buzz, make_video, make_wav, number_of, numbered
from portraits import command

import inference
from errors import InputError
from media import kinds
from media.face_video import FaceVideo
from media.files import pictures_of, regular, tiles_of
from media.sound import about_track, read_audio, sound
from media.video import frames_at, probe, read_frames
from media.writer import Writer

INTERLACED = Flags.interlaced_dct | Flags.interlaced_me
RGB = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def written(path, rgb=RGB, *options):
    cv2.imwrite(str(path), rgb[..., ::-1] if rgb.ndim == 3 and rgb.shape[2] == 3 else rgb, list(options))
    return path


@pytest.mark.parametrize("sampling", [0x411111, 0x211111, 0x221111])  # 4:4:4, 4:2:2, 4:2:0
def test_a_large_jpeg_is_a_still(tmp_path, sampling):
    path = written(tmp_path / "a.jpg", RGB, cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    assert path.stat().st_size > 20_000
    found = probe(path)
    assert (found.still, found.fps, found.frames, found.pix_fmt[-4:]) == (True, 25, 1, "420p")
    assert [frame.picture.format.name for frame in read_frames(path)] == [found.pix_fmt]
    video = FaceVideo(path, fps=50)
    assert video.still and video.fps == video.like.fps == 50


def avif(path, frames):
    """An AVIF file of one picture, or of more that move."""
    with av.open(str(path), "w", format="avif") as out:
        stream = out.add_stream("libaom-av1" if "libaom-av1" in av.codecs_available else "libsvtav1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.options = {"cpu-used": "8", "preset": "12"}
        for k, rgb in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = k, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("count", [1, 5])
def test_an_avif_is_a_still_if_it_has_one_picture(tmp_path, count):
    path = avif(tmp_path / "a.avif", numbered(count, 64, 64))
    assert probe(path).still == (count == 1) and len(list(read_frames(path))) == count


@pytest.mark.parametrize("codec, pix_fmt", [("png", "rgb24"), ("mjpeg", "yuvj444p")])
def test_pictures_that_move_are_a_video_whatever_their_codec(tmp_path, codec, pix_fmt):
    path = make_video(tmp_path / "a.mov", numbered(3), codec=codec, pix_fmt=pix_fmt)
    assert not probe(path).still and len(list(read_frames(path))) == 3
    one = make_video(tmp_path / "b.mov", numbered(1), codec=codec, pix_fmt=pix_fmt)
    assert probe(one).still and FaceVideo(one, fps=10).fps == 10


def moment(k):
    """A bright square that moves on a dark picture: (96, 128, 3) uint8."""
    rgb = np.full((96, 128, 3), 60, np.uint8)
    rgb[20:76, 8 + 4 * k : 48 + 4 * k] = 200
    return rgb


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_the_lines_of_an_interlaced_picture_become_those_of_one_moment(tmp_path, codec):
    woven = [np.where(np.arange(96)[:, None, None] % 2, moment(2 * k + 1), moment(2 * k)) for k in range(8)]
    path = make_video(tmp_path / "a.ts", woven, codec=codec, flags=INTERLACED)
    with av.open(str(path)) as container:
        raw = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    found = [frame.rgb() for frame in read_frames(path)]
    assert len(found) == len(raw) == 8 and probe(path).fps == 25

    def comb(rgb):
        return np.abs(np.diff(rgb[30:66].astype(int), axis=0)).mean()

    for k in range(1, 7):
        assert comb(raw[k]) > 5 > 10 * comb(found[k])
        assert min(np.abs(found[k].astype(int) - moment(2 * k + i)).mean() for i in range(2)) < 2
    ((_, sought),) = frames_at(path, 25, 4, 5)
    np.testing.assert_array_equal(sought.rgb(), found[4])


def test_a_png_that_loads_line_by_line_is_no_interlaced_video(tmp_path):
    by_lines, plain = (
        make_video(tmp_path / f"{flags}.mov", [RGB], codec="png", pix_fmt="rgb24", flags=flags)
        for flags in (Flags.interlaced_dct, 0)
    )
    assert by_lines.stat().st_size != plain.stat().st_size, "they are written differently"
    a, b = (next(read_frames(path)) for path in (by_lines, plain))
    np.testing.assert_array_equal(a.rgb(), b.rgb())


@pytest.mark.parametrize("kind", ["rgba", "grey and alpha"])
def test_what_is_transparent_lies_on_white(tmp_path, kind):
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., :3], rgba[:24, :, 3] = (30, 90, 200), 255
    rgba[24:, :32, 3], rgba[24:, 32:, :3] = 128, np.random.default_rng(0).integers(0, 256, (24, 32, 3))
    cv2.imwrite(str(tmp_path / "a.png"), rgba)
    if kind != "rgba":
        grey = np.dstack([rgba[..., 0], rgba[..., 3]])
        with av.open(str(tmp_path / "a.png"), "w", format="image2", options={"update": "1"}) as out:
            stream = out.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "ya8"
            picture = av.VideoFrame(64, 48, "ya8")
            picture.planes[0].update(
                np.pad(grey.reshape(48, 128), ((0, 0), (0, picture.planes[0].line_size - 128))).tobytes()
            )
            picture.pts = 0
            out.mux(stream.encode(picture))
            out.mux(stream.encode(None))
    found = next(read_frames(tmp_path / "a.png")).rgb().astype(int)
    top = [200, 90, 30] if kind == "rgba" else [30, 30, 30]
    assert np.abs(found[4:20] - top).max() <= 6, "opaque"
    assert np.abs(found[28:44, 36:60] - 255).max() <= 3, "what lies under transparency does not show"
    assert np.abs(found[28:44, 4:28] - (np.array(top) * 128 + 255 * 127) / 255).max() <= 6, "half of each"


def test_a_whole_picture_with_an_alpha_channel_is_as_without(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([RGB, np.full((240, 320), 255, np.uint8)]))
    cv2.imwrite(str(tmp_path / "b.png"), RGB)
    a, b = (next(read_frames(tmp_path / f"{name}.png")).rgb() for name in "ab")
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("shown", [RGB, RGB[..., 1]], ids=["colour", "grey"])
def test_a_picture_in_16_bits_is_as_in_8(tmp_path, shown, suffix):
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), np.uint16(257) * shown)
    cv2.imwrite(str(tmp_path / f"b.{suffix}"), shown)
    a, b = (next(read_frames(tmp_path / f"{name}.{suffix}")).rgb().astype(int) for name in "ab")
    assert np.abs(a - b).max() <= 6 and np.abs(a - b).mean() < 1


def two_tracks(path, default):
    """A video with two sound tracks, of 440 and 880 Hz, one of which is marked as its default."""
    from av.stream import Disposition

    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        tracks = [out.add_stream("aac", rate=16_000, layout="mono") for _ in range(2)]
        for k, track in enumerate(tracks):
            track.disposition = Disposition.default if k == default else Disposition(0)
            track.metadata["language"] = ("eng", "deu")[k]
        for k, rgb in enumerate(numbered(25)):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = k, Fraction(1, 25)
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
        for k, track in enumerate(tracks):
            tone = (9000 * np.sin(2 * np.pi * 440 * (k + 1) * np.arange(16_000) / 16_000)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16p", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            out.mux(track.encode(frame))
            out.mux(track.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_sound_track_is_taken_and_told(tmp_path, suffix, default):
    path = two_tracks(tmp_path / f"a.{suffix}", default)
    wav = read_audio(path)[2000:14_000]
    assert np.abs(np.fft.rfft(wav)).argmax() * 16_000 / len(wav) == pytest.approx(440 * (default + 1), abs=5)
    told = about_track(path)
    assert (told["number"], told["of"], told["codec"]) == (default + 1, 2, "aac")
    assert told["language"] == ("eng", "deu")[default]


def test_a_song_is_sound_whatever_pictures_it_has(tmp_path):
    path = make_video(tmp_path / "a.mp4", numbered(1), 1, audio=buzz(1), codec="mjpeg", pix_fmt="yuvj420p")
    data = path.read_bytes().replace(b"ftypisom", b"ftypM4A ", 1)
    (tmp_path / "a.m4a").write_bytes(data)
    with av.open(str(tmp_path / "a.m4a")) as container:
        assert pictures_of(container) is None
    with pytest.raises(InputError, match="it is a sound file"):
        probe(tmp_path / "a.m4a")
    assert len(read_audio(tmp_path / "a.m4a")) > 15_000


@pytest.mark.parametrize("fps", [300, 480, 1000])
def test_fast_videos_keep_their_rate(tmp_path, fps):
    path = make_video(tmp_path / "a.mp4", numbered(30), fps)
    assert probe(path).fps == fps == FaceVideo(path).fps
    assert [number_of(frame.rgb()) for _, frame in frames_at(path, fps)] == list(range(30))
    with Writer(tmp_path / "b.mp4", probe(path)) as out:
        for frame in read_frames(path):
            out.write(frame)
    assert probe(tmp_path / "b.mp4").fps == fps


def test_a_rate_that_cannot_be_kept_is_told(tmp_path):
    path = make_video(tmp_path / "a.mp4", numbered(30), 2000)
    with pytest.raises(InputError, match="a.mp4: 2000 frames a second; 1000 are the most"):
        FaceVideo(path)
    assert FaceVideo(path, static=True).first.size == (64, 48)


def test_channels_in_opposite_phase_do_not_cancel(tmp_path):
    voice = buzz(2)
    against = make_wav(tmp_path / "a.wav", np.stack([voice, -voice]))
    np.testing.assert_array_equal(read_audio(against), voice)
    uneven = make_wav(tmp_path / "b.wav", np.stack([(0.8 * voice).astype(np.int16), -voice]))
    assert np.abs(read_audio(uneven).astype(int) + voice).max() <= 1, "the louder one"
    for rate in (16_000, 44_100):
        twice = make_wav(tmp_path / "c.wav", np.stack([buzz(2, rate)] * 2), rate)
        alone = make_wav(tmp_path / "d.wav", buzz(2, rate), rate)
        assert np.abs(read_audio(twice).astype(int) - read_audio(alone)).max() <= 1


def test_channels_that_cancel_for_a_while_leave_no_click(tmp_path):
    tone = (8000 * np.sin(2 * np.pi * 200 * np.arange(48_000) / 16_000)).astype(np.int16)
    other = tone.copy()
    other[16_000:32_000] *= -1
    found = read_audio(make_wav(tmp_path / "a.wav", np.stack([tone, other]))).astype(float)
    assert len(found) == 48_000 and np.abs(np.diff(found)).max() < 1.2 * np.abs(np.diff(tone.astype(float))).max()
    blocks = np.square(found.reshape(-1, 800)).mean(1) ** 0.5
    assert blocks.min() > 4000, "nothing is lost"


def test_stereo_stays_as_it_is(tmp_path):
    voice = buzz(1)
    path = make_wav(tmp_path / "a.wav", np.stack([voice, -voice]))
    np.testing.assert_array_equal(np.concatenate(list(sound(path, 16_000, "stereo")), axis=1), [voice, -voice])


def test_kinds_that_cannot_be_read_are_named(tmp_path):
    animated = b"RIFF\x64\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x3f\0\0\x2f\0\0ANIM\x06\0\0\0\xff\xff\xff\xff\0\0"
    animated += b"ANMF\x10\0\0\0" + bytes(16)
    files = {
        "a.webp": (animated, "an animated WebP"),
        "a.pdf": (b"%PDF-1.7\n" + b"x" * 3000, "a PDF document"),
        "a.jpg": (b"<!DOCTYPE html><html><body>not found</body></html>" * 40, "a web page"),
        "a.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>' * 40, "an SVG drawing"),
        "a.zip": (b"PK\x03\x04" + b"x" * 3000, "a zip archive"),
        "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"x" * 3000, "a photograph in HEIF"),
    }
    for name, (data, words) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}.*: it is {words}"):
            probe(tmp_path / name)
    assert kinds.named(written(tmp_path / "b.png")) == ""


def test_tiles_of_a_photograph_are_no_video():
    from types import SimpleNamespace

    from av.stream import Disposition

    streams = [SimpleNamespace(disposition=Disposition.dependent, frames=1) for _ in range(12)]
    container = SimpleNamespace(streams=SimpleNamespace(video=streams), metadata={})
    assert tiles_of(container) == 12 and pictures_of(container) is None


@pytest.mark.parametrize("how", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]])
def test_a_jpeg_that_is_cut_off_is_told_and_what_follows_a_whole_one_is_left_alone(tmp_path, how):
    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (80, 96, 3), np.uint8), how)[1].tobytes()
    path = tmp_path / "a.jpg"
    for whole in (data, data + b"\0\xff\xda\xff\xd8 a film" * 9):
        path.write_bytes(whole)
        assert probe(path).still
    for share in (0.5, 0.8, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(InputError, match="a.jpg: this JPEG is cut off"):
            probe(path)


def test_what_begins_as_a_video_is_told_from_the_rest(tmp_path):
    for suffix in ("mp4", "mkv", "avi", "flv", "ts", "mov", "webm"):
        codec = "libvpx" if suffix == "webm" else "libx264"
        path = make_video(tmp_path / f"a.{suffix}", numbered(25), codec=codec)
        assert kinds.is_video(path), suffix
    for path in (written(tmp_path / "a.png"), make_wav(tmp_path / "a.wav", buzz(0.1)), tmp_path / "gone"):
        assert not kinds.is_video(path)


def fed(path, data):
    """A pipe into which data are written once."""
    os.mkfifo(path)
    threading.Thread(target=lambda: path.write_bytes(data), daemon=True).start()
    return path


def test_a_pipe_is_read_once_and_errors_name_it(tmp_path):
    pipe = fed(tmp_path / "p", b"hello")
    with regular(pipe) as copy:
        assert copy.read_bytes() == copy.read_bytes() == b"hello"
    assert not copy.exists()
    with pytest.raises(InputError, match=f"^{tmp_path}/q is broken"), regular(fed(tmp_path / "q", b"x")) as copy:
        raise InputError(f"{copy} is broken")
    with pytest.raises(InputError, match="p is a pipe or a device: write it to a file first"):
        probe(tmp_path / "p")


def test_inference_reads_pipes(tmp_path, swaying_clip, voice, narrow_weights, capsys):
    face, wav = fed(tmp_path / "face", swaying_clip.read_bytes()), fed(tmp_path / "voice", voice.read_bytes())
    words = command(face, wav, tmp_path / "a.mp4", narrow_weights, "--box", 50, 120, 50, 116)
    assert inference.main(words) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["face"] == str(face) and report["sound_track"] == {"number": 1, "of": 1, "codec": "pcm_s16le"}
    capsys.readouterr()
    empty = fed(tmp_path / "none", b"")
    assert inference.main(command(empty, voice, tmp_path / "b.mp4", narrow_weights)) == 1
    assert capsys.readouterr().err == f"inference.py: {empty} is empty (0 bytes)\n"
