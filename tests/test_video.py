"""Pictures: reading, changing a patch, playing forth and back, writing."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from conftest import buzz, make_video, make_wav, number_of, numbered

from errors import InputError
from media import video
from media.frame import CHROMA_STEPS, from_rgb, planes
from media.sound import read_audio
from media.video import bounce, frames_at, probe, read_frames, timeline
from media.writer import Writer

RATES = [15, Fraction(24_000, 1001), 25, Fraction(30_000, 1001), 30, 50, 60]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def samples(frame):
    return [plane.copy() for plane in planes(frame.picture)]


def still(path, rgb):
    import cv2

    cv2.imwrite(str(path), rgb[..., ::-1])
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("fps", RATES)
def test_a_constant_rate_gives_every_frame_once(tmp_path, fps, suffix):
    path = make_video(tmp_path / f"a.{suffix}", numbered(40), fps)
    assert float(probe(path).fps) == pytest.approx(float(fps), rel=1e-3)
    found = [(k, number_of(frame.rgb())) for k, frame in frames_at(path, probe(path).fps)]
    assert found == [(k, k) for k in range(40)]
    times = [frame.time_s for frame in read_frames(path)]
    np.testing.assert_allclose(times, np.arange(40) / float(fps), atol=2e-3)


def test_a_variable_rate_becomes_constant_by_time(tmp_path):
    times = [0.0, 0.1, 0.12, 0.5, 0.9, 1.0]
    path = make_video(tmp_path / "v.mkv", numbered(6), 30, times=times)
    shown = [number_of(frame.rgb()) for _, frame in frames_at(path, 10)]
    assert shown == [0, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_bounce_plays_forth_and_back(n):
    forth_and_back = [*range(n), *range(n - 2, 0, -1)]
    assert [bounce(k, n) for k in range(40)] == (forth_and_back * 40)[:40]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mpg"])
def test_the_timeline_shows_the_bounced_frames(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(video, "HELD_FRAMES", 8)
    codec = {"codec": "mpeg1video"} if suffix == "mpg" else {"gop_size": 10}
    path = make_video(tmp_path / f"a.{suffix}", numbered(41), 25, **codec)
    for count in (1, 41, 150):
        found = [(k, number_of(frame.rgb())) for k, frame in timeline(path, count)]
        assert found == [(bounce(k, 41),) * 2 for k in range(count)]


def test_playing_backward_holds_few_frames(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", numbered(70), 25, gop_size=10)
    monkeypatch.setattr(video, "HELD_FRAMES", 8)
    spans, frames_of = [], video.frames_at
    monkeypatch.setattr(video, "frames_at", lambda *args: spans.append(args[2:]) or frames_of(*args))
    assert len(list(timeline(path, 139))) == 139
    backward = [span for span in spans if span]
    assert backward and max(stop - start for start, stop in backward) <= 8


@pytest.mark.parametrize("size", [(287, 360), (523, 523), (48, 64), (49, 64), (48, 63)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p"])
def test_a_region_equals_that_part_of_the_whole(size, pix_fmt):
    frame = from_rgb(noise(*size), pix_fmt=pix_fmt)
    whole = frame.rgb()
    assert whole.shape == (*size, 3)
    for x0, y0, x1, y1 in ((3, 5, 20, 31), (0, 0, 1, 1), (10, 2, size[1], size[0])):
        np.testing.assert_array_equal(frame.rgb(x0, y0, x1, y1), whole[y0:y1, x0:x1])


@pytest.mark.parametrize("size", [(48, 64), (287, 359)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p"])
def test_paste_leaves_every_other_sample_bit_identical(size, pix_fmt):
    frame = from_rgb(noise(*size), pix_fmt=pix_fmt)
    before, whole = samples(frame), frame.rgb()
    for x, y, w, h in ((7, 9, 21, 13), (0, 0, 1, 1), (size[1] - 5, size[0] - 4, 5, 4), (0, 0, size[1], size[0])):
        patch = noise(h, w, seed=1)
        keep = np.zeros((h, w), bool)
        keep[: h // 2, : w // 2] = True
        patch[keep] = whole[y : y + h, x : x + w][keep]
        touched = np.zeros(size, bool)
        touched[y : y + h, x : x + w] = (patch != whole[y : y + h, x : x + w]).any(2)
        after = samples(frame.paste(patch, x, y))
        np.testing.assert_array_equal(after[0][~touched], before[0][~touched])
        sx, sy = CHROMA_STEPS[pix_fmt[-4:]]
        blocks = np.pad(touched, ((0, -size[0] % sy), (0, -size[1] % sx)))
        blocks = blocks.reshape(blocks.shape[0] // sy, sy, -1, sx).any((1, 3))
        for old, new in zip(before[1:], after[1:], strict=True):
            np.testing.assert_array_equal(new[~blocks], old[~blocks])
    for old, now in zip(before, samples(frame), strict=True):
        np.testing.assert_array_equal(now, old, err_msg="the frame itself was written to")


@pytest.mark.parametrize("colorspace", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("color_range", [1, 2])
@pytest.mark.parametrize("height", [48, 720])
def test_pasted_colours_are_read_back(colorspace, color_range, height):
    frame = from_rgb(np.full((height, 64, 3), 128, np.uint8))
    frame.picture.colorspace, frame.picture.color_range = colorspace, color_range
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 150, 120)):
        patch = np.full((16, 16, 3), colour, np.uint8)
        back = frame.paste(patch, 8, 8).rgb(8, 8, 24, 24).astype(int)
        assert np.abs(back - patch).max() <= 3


def test_untagged_colours_are_bt601_when_small_and_bt709_when_large():
    for height, luma in ((48, 82), (720, 63)):
        red = np.zeros((height, 16, 3), np.uint8)
        red[..., 0] = 255
        assert abs(int(samples(from_rgb(red))[0][0, 0]) - luma) <= 1


def test_a_patch_outside_the_frame_is_refused():
    with pytest.raises(ValueError):
        from_rgb(noise(48, 64)).paste(noise(8, 8), 60, 0)


@pytest.mark.parametrize("rotation", [90, -90, 180])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p"])
def test_a_phone_clip_stands_upright(tmp_path, rotation, pix_fmt):
    corners = np.zeros((48, 64, 3), np.uint8)
    corners[:16, :16] = 250  # top left
    corners[-16:, :16] = 120  # bottom left
    plain = make_video(tmp_path / "plain.mp4", corners[None].repeat(3, 0), pix_fmt=pix_fmt)
    path = make_video(tmp_path / "a.mp4", corners[None].repeat(3, 0), rotation=rotation, pix_fmt=pix_fmt)
    found = probe(path)
    expected = np.rot90(next(read_frames(plain)).rgb().astype(int), found.rotation // 90)
    rgb = next(read_frames(path)).rgb()
    assert (found.height, found.width) == rgb.shape[:2] == expected.shape[:2]
    assert found.rotation == rotation % 360 and np.abs(rgb - expected).max() <= 4
    with Writer(tmp_path / "b.mp4", like=found) as out:
        for frame in read_frames(path):
            out.write(frame)
    assert (probe(tmp_path / "b.mp4").width, probe(tmp_path / "b.mp4").rotation) == (found.width, 0)


def test_the_same_frames_are_the_same_file_whatever_memory_held_before(tmp_path, swaying_clip):
    frames, files = list(read_frames(swaying_clip)), set()
    for k in range(12):
        garbage = [np.full(100_000 + 997 * k, (37 * k + j) % 256, np.uint8) for j in range(20)]
        del garbage
        with Writer(tmp_path / f"{k}.mp4", like=probe(swaying_clip)) as out:
            for frame in frames:
                out.write(frame)
        files.add((tmp_path / f"{k}.mp4").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_still_is_a_video_of_one_frame(tmp_path, suffix):
    rgb = np.full((61, 83, 3), (200, 120, 40), np.uint8)
    path = still(tmp_path / f"a.{suffix}", rgb).rename(tmp_path / "named.wrongly")
    found = probe(path)
    assert found.still and (found.width, found.height, found.frames, found.has_audio) == (83, 61, 1, False)
    frames = list(timeline(path, 5))
    assert [k for k, _ in frames] == [0] * 5
    assert np.abs(frames[0][1].rgb().astype(int) - rgb).max() <= 6


@pytest.mark.parametrize("height", [60, 720])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp"])
def test_a_still_keeps_its_colours_whatever_its_format(tmp_path, suffix, height):
    rgb = np.zeros((height, 64, 3), np.uint8)
    rgb[..., 0], rgb[: height // 2, :, 1] = 220, 180
    path = still(tmp_path / f"a.{suffix}", rgb)
    frame = next(read_frames(path))
    assert frame.picture.format.name in ("yuv420p", "yuvj420p")
    off = (frame.rgb().astype(int) - rgb)[8:20], (frame.rgb().astype(int) - rgb)[-20:-8]
    assert max(np.abs(part.mean((0, 1))).max() for part in off) <= 5  # means, as gif dithers


@pytest.mark.parametrize("orientation, turn", [(2, 0), (3, 2), (4, 2), (5, 3), (6, 3), (7, 1), (8, 1)])
def test_a_photograph_stands_as_its_exif_says(tmp_path, orientation, turn):
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:16, :16] = 250
    data = still(tmp_path / "a.jpg", rgb).read_bytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation]) + b"\0\0\0\0\0\0"
    exif = b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff
    (tmp_path / "a.jpg").write_bytes(data[:2] + exif + data[2:])
    found = next(read_frames(tmp_path / "a.jpg")).rgb()
    expected = np.rot90(rgb, turn)
    expected = expected[:, ::-1] if orientation in (2, 4, 5, 7) else expected
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 5


def test_colour_tags_and_range_are_kept(tmp_path):
    tags = {"color_range": 2, "colorspace": 1, "color_primaries": 1, "color_trc": 13}
    path = make_video(tmp_path / "a.mp4", numbered(5), pix_fmt="yuvj420p", **tags)
    assert probe(path).tags == tags
    with Writer(tmp_path / "b.mp4", like=probe(path)) as out:
        for frame in read_frames(path):
            out.write(frame)
    assert probe(tmp_path / "b.mp4").tags == tags
    pairs = zip(read_frames(path), read_frames(tmp_path / "b.mp4"), strict=True)
    assert all(np.abs(a.rgb().astype(int) - b.rgb()).max() <= 4 for a, b in pairs)


def lengths(path):
    import av

    with av.open(str(path)) as container:
        return {s.type: float(s.duration * s.time_base) for s in container.streams}


@pytest.mark.parametrize("fps", RATES)
def test_picture_and_sound_have_their_lengths_at_any_rate(tmp_path, fps):
    path = make_video(tmp_path / "a.mp4", numbered(20), fps)
    voice = make_wav(tmp_path / "v.wav", np.stack([buzz(1.3, 44_100)] * 2), 44_100)
    count = round(1.3 * fps)
    with Writer(tmp_path / "b.mp4", like=probe(path), audio=voice) as out:
        for _, frame in timeline(path, count):
            out.write(frame)
    found = lengths(tmp_path / "b.mp4")
    assert found["video"] == pytest.approx(count / float(fps), abs=1e-3)
    assert found["audio"] == pytest.approx(1.3, abs=1e-3)
    assert len(list(read_frames(tmp_path / "b.mp4"))) == count
    written, given = read_audio(tmp_path / "b.mp4"), read_audio(voice)
    assert np.corrcoef(written[: len(given)], given)[0, 1] > 0.99


@pytest.mark.parametrize("size", [(287, 360), (523, 523)])
def test_an_odd_size_is_written_with_its_edge_doubled(tmp_path, size):
    frame = from_rgb(np.full((*size, 3), 90, np.uint8))
    like = replace(probe(make_video(tmp_path / "a.mp4", numbered(2))), width=size[1], height=size[0])
    with Writer(tmp_path / "b.mp4", like=like) as out:
        out.write(frame)
    found = next(read_frames(tmp_path / "b.mp4"))
    assert found.size == (size[1] + size[1] % 2, size[0] + size[0] % 2)
    assert np.abs(found.rgb().astype(int) - 90).max() <= 3


def test_a_talking_clip_keeps_its_sound_and_metadata(tmp_path, talking_clip):
    import av

    with Writer(tmp_path / "b.mkv", probe(talking_clip), audio=talking_clip, metadata={"comment": "made up"}) as out:
        for frame in read_frames(talking_clip):
            out.write(frame)
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert {k.lower(): v for k, v in container.metadata.items()}["comment"] == "made up"
    assert abs(len(read_audio(tmp_path / "b.mkv")) - len(read_audio(talking_clip))) <= 2048
    assert len(list(read_frames(tmp_path / "b.mkv"))) == 50


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_behind(tmp_path, error):
    like = probe(make_video(tmp_path / "a.mp4", numbered(3)))
    (tmp_path / "b.mp4").write_text("the last good result")
    with pytest.raises(error), Writer(tmp_path / "b.mp4", like) as out:
        out.write(from_rgb(numbered(1)[0]))
        raise error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    assert (tmp_path / "b.mp4").read_text() == "the last good result"


@pytest.mark.parametrize("name", ["a b.mp4", "-i.mp4", 'it\'s; "q".mp4', "two\nlines.mp4", "Zoë 声.mp4", "x:y%d.mp4"])
def test_strange_names_are_just_names(tmp_path, monkeypatch, name):
    source = make_video(tmp_path / "plain.mp4", numbered(3), audio=buzz(0.2))
    monkeypatch.chdir(tmp_path)
    with Writer(name, probe(source), audio=source) as out:
        for frame in read_frames(source):
            out.write(frame)
    assert len(list(read_frames(name))) == 3 and len(list(tmp_path.iterdir())) == 2


def test_a_truncated_file_gives_what_can_be_decoded(tmp_path):
    data = make_video(tmp_path / "a.mkv", [noise(48, 64, k) for k in range(30)]).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    assert 5 <= len(list(read_frames(tmp_path / "cut.mkv"))) < 30


def test_a_cut_off_mp4_is_detected_from_its_own_index(tmp_path):
    make_video(tmp_path / "a.mp4", [noise(48, 64, k) for k in range(30)])
    with Writer(tmp_path / "whole.mp4", probe(tmp_path / "a.mp4")) as out:  # its index stands in front
        for frame in read_frames(tmp_path / "a.mp4"):
            out.write(frame)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match="cut.mp4 is cut off"):
        probe(tmp_path / "cut.mp4")


def test_faults_of_the_file_are_one_line_that_names_it(tmp_path):
    whole = make_video(tmp_path / "whole.mp4", numbered(10)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("this is a shopping list, not a film\n" * 50)
    (tmp_path / "text.txt").write_text("this is a shopping list, not a film\n" * 50)
    (tmp_path / "empty.mp4").touch()
    make_wav(tmp_path / "sound.wav", buzz(0.2))
    faults = {
        "no.mp4": "no such",
        "cut.mp4": "media file",
        "text.mp4": "media file",
        "text.txt": "is a text",
        "empty.mp4": "empty",
        "sound.wav": "sound file",
    }
    for name, words in faults.items():
        for read in (probe, lambda path: list(read_frames(path))):
            with pytest.raises(InputError) as fault:
                read(tmp_path / name)
            assert str(tmp_path / name) in str(fault.value) and words in str(fault.value)
            assert "\n" not in str(fault.value)


def test_faults_of_the_output_are_found_before_work_begins(tmp_path):
    like = probe(make_video(tmp_path / "a.mp4", numbered(3)))
    (tmp_path / "folder.mp4").mkdir()
    for name, words in {"b.txt": ".mkv", "folder.mp4": "folder", "none/b.mp4": "no folder"}.items():
        with pytest.raises(InputError, match=words):
            Writer(tmp_path / name, like)
    with pytest.raises(InputError, match="no sound track"):
        Writer(tmp_path / "b.mp4", like, audio=tmp_path / "a.mp4")
