"""A raw clip is stored as documented: one face, its mouth, its sound; an unusable one is refused with a reason."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import buzz, make_video, make_wav, number_of, numbered
from corpus_clips import FRAMES, TRANSCRIPT, portrait, write_clip
from portraits import head, moving_head

import corpora.extract as extraction
from corpora.corpus import RawClip
from corpora.extract import extract, follow_one_face
from corpora.offset import SyncOffset, shifted
from errors import InputError
from faces import crop, detect, landmarks
from media import video
from media.clip import Clip
from media.clip import write_clip as store

FIXTURES = Path(__file__).parents[1].parent / "shared" / "reference" / "fixtures"


def whisper(wav):
    """Stands for Whisper's encoder: as many rows, that tell where in the sound they lie."""
    rows = max(1, -(-len(wav) // 320))
    return np.repeat(np.arange(rows, dtype=np.float16)[:, None], 384, axis=1)


@pytest.fixture(scope="module")
def detector():
    return detect.BlazeFace()


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    path = write_clip(tmp_path_factory.mktemp("raw") / "one.mp4")
    return RawClip("ann/one", path, transcript=path.with_suffix(".txt"), kind="lrs")


@pytest.fixture(scope="module")
def extracted(raw, detector):
    return extract(raw, detector, whisper)


def test_the_arrays_are_as_documented(extracted):
    arrays, facts = extracted
    shapes = {name: (value.shape, value.dtype.name) for name, value in arrays.items()}
    assert shapes["boxes"] == ((FRAMES, 4), "float32") and shapes["mesh"] == ((FRAMES, 468, 2), "float16")
    assert shapes["mouth_windows"] == ((FRAMES, 2, 3), "float32")
    samples = len(arrays["wav"])
    assert arrays["wav"].dtype == np.int16 and FRAMES * 640 <= samples < FRAMES * 640 + 2048  # AAC fills its last block
    assert shapes["logfbank"] == ((1 + -(-(samples - 400) // 160), 26), "float32")
    assert shapes["mel"] == ((80, 1 + samples // 200), "float32")
    assert shapes["whisper"] == ((-(-samples // 320), 384), "float16")
    for kind in ("face", "mouth"):
        ends = arrays[f"{kind}_ends"]
        assert len(ends) == FRAMES and ends[-1] == len(arrays[f"{kind}s"]) and arrays[f"{kind}s"].dtype == np.uint8
    assert "middles" not in arrays, "frames of another size have none"
    np.testing.assert_allclose(arrays["word_times"], [[0.1, 0.25], [0.25, 0.4]], rtol=1e-6)
    wanted = {"text": "BIN BLUE AT F TWO NOW", "words": ["BIN", "BLUE"], "size": [200, 240], "source_fps": 25.0}
    assert facts == {**wanted, "offset": 0, "others": 0}


def test_crops_show_the_boxes_and_meshes_lie_on_them(extracted, raw, tmp_path):
    store(tmp_path / "one.safetensors", *extracted)
    clip = Clip(tmp_path / "one.safetensors")
    np.testing.assert_allclose(clip.boxes[0], (178 - 110, 78 - 20, 271 - 110, 179 - 20), atol=9)  # of the portrait
    np.testing.assert_allclose(np.diff(clip.boxes[:, 0])[3:-3], 1, atol=0.2)  # a pixel a frame
    frames = [frame.rgb() for _, frame in video.frames_at(raw.video, 25)]
    for k in (0, 5, FRAMES - 1):
        wanted = crop.crop(frames[k], clip.boxes[k], 128, 128 / 96)
        assert np.abs(clip.picture(k).astype(int) - wanted).mean() < 3
        mesh = clip.meshes[k]
        assert abs(mesh[:, 0].min()) < 0.05 and abs(mesh[:, 0].max() - 1) < 0.05 and abs(mesh[151, 1]) < 0.05
        assert 0.88 < mesh[landmarks.CHIN, 1] < 1


def test_mouth_windows_have_the_lips_in_their_middle(extracted, tmp_path):
    store(tmp_path / "one.safetensors", *extracted)
    clip = Clip(tmp_path / "one.safetensors")
    lips = clip.meshes[:, landmarks.OUTER_LIPS + landmarks.INNER_LIPS].mean(1)  # (L, 2), of the face box
    middle = clip.windows @ [0.5, 0.5, 1]
    assert np.abs(middle - lips).max() < 0.04  # lips move by a hundredth a frame, their place is a mean over 12
    mouths = clip.mouths()
    assert mouths.shape == (FRAMES, 96, 96)
    # the same place, cut out of the stored face crop
    for k in (0, FRAMES - 1):
        grey = cv2.cvtColor(np.ascontiguousarray(clip.picture(k)), cv2.COLOR_RGB2GRAY)
        again = extraction.mouth.cut_window(grey, clip.windows[k], np.array([16, 16, 112, 112], np.float32))
        assert np.abs(again.astype(int) - mouths[k]).mean() < 4


@pytest.mark.parametrize("face_px", [128, 256])
def test_larger_faces_are_kept_where_that_is_asked_for(raw, detector, face_px, tmp_path):
    store(tmp_path / "one.safetensors", *extract(raw, detector, whisper, face_px))
    assert Clip(tmp_path / "one.safetensors").picture(0).shape == (round(face_px * 4 / 3),) * 2 + (3,)


def test_pictures_are_silent_clips_and_each_face_is_looked_for_anew(detector, tmp_path):
    pictures = [*portrait(-30, 1), *portrait(0, 1), portrait(0, 1)[0][:, :200]]
    paths = tuple(tmp_path / f"{k}.png" for k in range(3))
    for path, rgb in zip(paths, pictures, strict=True):
        cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
    store(tmp_path / "c.safetensors", *extract(RawClip("c", paths[0], pictures=paths), detector, whisper))
    clip = Clip(tmp_path / "c.safetensors")
    assert len(clip) == 3 and clip.silent and clip.text == "" and not len(clip.times)
    np.testing.assert_allclose(clip.boxes[0] - clip.boxes[1], [-30, 0, -30, 0], atol=2)
    assert np.abs(clip.picture(0).astype(int) - clip.picture(1)).mean() < 6
    cv2.imwrite(str(paths[1]), np.zeros_like(pictures[1]))
    with pytest.raises(InputError, match="no face in picture 2"):
        extract(RawClip("c", paths[0], pictures=paths), detector, whisper)


def test_frames_of_lrs2_keep_their_middle(detector, tmp_path):
    path = write_clip(tmp_path / "small.mp4", moving_head(FRAMES))
    store(tmp_path / "small.safetensors", *extract(RawClip("small", path), detector, whisper))
    middles = Clip(tmp_path / "small.safetensors").middles()
    grey = cv2.cvtColor(head(160), cv2.COLOR_RGB2GRAY)
    assert middles.shape == (FRAMES, 96, 96)
    assert (
        np.abs(middles[0].astype(int) - cv2.cvtColor(moving_head(1)[0], cv2.COLOR_RGB2GRAY)[32:-32, 32:-32]).mean() < 3
    )
    assert grey.shape == (160, 160)


def test_other_rates_are_resampled_by_time(detector, tmp_path):
    path = write_clip(tmp_path / "fast.mp4", portrait(count=23), fps=50)
    arrays, facts = extract(RawClip("fast", path), detector, whisper)
    assert len(arrays["boxes"]) == 12 and facts["source_fps"] == 50
    shown = [
        number_of(frame.rgb()) for _, frame in video.frames_at(make_video(tmp_path / "n.mp4", numbered(23), 50), 25)
    ]
    assert shown == list(range(0, 23, 2)), "the frame that is shown at k / 25 s"
    np.testing.assert_allclose(np.diff(arrays["boxes"][:, 0])[3:-3], 2, atol=0.3)  # px a frame: two frames of the video


def test_a_part_of_a_long_video_is_cut_out(raw, detector, tmp_path):
    path = write_clip(tmp_path / "long.mp4", portrait(count=40))
    whole, _ = extract(RawClip("long", path), detector, whisper)
    part, _ = extract(RawClip("part", path, start_s=0.4, stop_s=1.2, region=(60, 20, 160, 170)), detector, whisper)
    assert len(part["boxes"]) == 20 and len(part["wav"]) == 16_000
    np.testing.assert_array_equal(part["wav"], whole["wav"][6400:22_400])
    shift = np.array([60, 20, 60, 20])
    assert np.abs(part["boxes"][3:-3] + shift - whole["boxes"][13:27]).max() < 3
    bigger = replace(RawClip("part", path, region=(120, 40, 320, 340)), region_height=400)
    assert extract(bigger, detector, whisper)[1]["size"] == [170, 160]
    with pytest.raises(InputError, match="lies outside the picture"):
        extract(RawClip("part", path, region=(900, 20, 160, 170)), detector, whisper)


def test_sound_may_lie_in_a_file_of_its_own(detector, tmp_path):
    video_path = make_video(tmp_path / "a.mp4", portrait())
    sound = make_wav(tmp_path / "a.wav", buzz(FRAMES / 25))
    arrays, _ = extract(RawClip("a", video_path, sound=sound), detector, whisper)
    np.testing.assert_array_equal(arrays["wav"], buzz(FRAMES / 25))


def test_sound_that_is_late_is_moved_and_its_words_with_it(raw, detector):
    calls, heard = [], []

    def late(pictures, wav, boxes, meshes):
        calls.append((len(list(pictures)), wav, boxes.shape, meshes.shape))
        return 3, {"sync": {"c": 1.5}}

    arrays, facts = extract(raw, detector, lambda wav: heard.append(wav.tobytes()) or whisper(wav), sync=late)
    frames, wav, *shapes = calls[0]
    assert frames == FRAMES and shapes == [(FRAMES, 4), (FRAMES, 468, 2)]
    assert facts["offset"] == 3 and facts["sync"] == {"c": 1.5}
    np.testing.assert_array_equal(arrays["wav"][:-1920], wav[1920:])
    assert heard == [arrays["wav"].tobytes()], "features are those of the sound that is stored"
    np.testing.assert_allclose(arrays["word_times"], [[0, 0.13], [0.13, 0.28]], atol=1e-6)


class FakeScorer:
    """Stands for a sync model with its protocol: returns a given offset of the picture, and keeps its input."""

    about, columns, sync = {"sha256": "abc"}, {"c": "sync C"}, SimpleNamespace(sure=0.5)

    def __init__(self, offset, c=2.0):
        self.offset, self.c, self.given = offset, c, None

    def __call__(self, frames, wav, face):
        self.given = frames, face
        return {"c": self.c, "d": 0.5, "offset": self.offset}


def test_a_sync_model_measures_the_offset_of_the_sound(extracted, raw, monkeypatch):
    boxes, meshes = extracted[0]["boxes"], extracted[0]["mesh"].astype(np.float32)
    pictures = list(extraction.Pictures(raw))
    for offset, most in ((-4, 5), (2, 2)):
        fake = FakeScorer(offset)
        monkeypatch.setattr("experts.lse.scorer", lambda path, protocol, fake=fake: fake)
        late, facts = SyncOffset("x", most)(pictures, extracted[0]["wav"], boxes, meshes)
        assert late == -offset and facts == {"sync": {"model": "abc", "c": 2.0, "d": 0.5}}
        frames, face = fake.given
        x1, y1, x2, y2 = face.boxes[0].round().astype(int)
        x, y = boxes[0, :2].round().astype(int)
        np.testing.assert_array_equal(frames[0][y1:y2, x1:x2], pictures[0][y : y + y2 - y1, x : x + x2 - x1])
    monkeypatch.setattr("experts.lse.scorer", lambda path, protocol: FakeScorer(-6))
    with pytest.raises(InputError, match="its sound is 6 frames late, more than --max_offset 5"):
        SyncOffset("x", 5)(pictures, extracted[0]["wav"], boxes, meshes)
    monkeypatch.setattr("experts.lse.scorer", lambda path, protocol: FakeScorer(1, 0.4))
    with pytest.raises(InputError, match="fit at no offset that was tried: sync C 0.40, 0.5 is the least"):
        SyncOffset("x", 5)(pictures, extracted[0]["wav"], boxes, meshes)


def test_moving_sound_keeps_its_length():
    wav, times = np.arange(1, 6401, dtype=np.int16), np.array([[0.1, 0.2]])
    late, moved = shifted(wav, times, 2)
    assert len(late) == 6400 and late[0] == 1281 and not late[-1280:].any() and np.allclose(moved, [[0.02, 0.12]])
    early, moved = shifted(wav, times, -2)
    assert shifted(wav, [[0.3, 0.4]], -2)[1].tolist() == [[0.38, 0.4]], "words end with the clip"
    assert len(early) == 6400 and not early[:1280].any() and early[1280] == 1 and np.allclose(moved, [[0.18, 0.28]])


class Found:
    """A detector that sees a face, ever further right, unless the picture is dark."""

    def rois(self, rgb):
        return [(1.0, None)] if rgb.max() > 100 else []

    def mesh(self, rgb, _):
        points = np.random.default_rng(0).random((468, 2)) * 40 + 20
        return np.float32(points + [float(rgb[0, 0, 0]) - 110, 0]), float(rgb.max() > 100)


def follow(levels):
    return follow_one_face((np.full((90, 160, 3), level, np.uint8) for level in levels), Found())


def test_short_gaps_are_filled_and_long_ones_refused():
    found = follow([110, 111, 95, 95, 95, 115])
    assert found.meshes.shape == (6, 468, 2) and found.meshes.dtype == np.float32 and found.size == (90, 160)
    np.testing.assert_allclose(found.meshes[:, 0, 0] - found.meshes[0, 0, 0], [0, 1, 2, 3, 4, 5], atol=1e-4)
    for levels, why in (
        ([110, 111, *[95] * 6, 115], "^no face in 6 frames from frame 2 on"),
        ([110, *[95] * 7], "no face in 7 frames from frame 1 on"),
        ([110, 111, 250, 250, 250, 250], "^a scene cut"),
        ([95] * 8, "no face in any of 8 frames"),
        ([110] * 5, "5 frames at 25 a second: 6 are needed"),
    ):
        with pytest.raises(InputError, match=why):
            follow(levels)


def two_people(small):
    """Frames, 320 px wide, of a person and, beside them, the same person at `small` of the size."""
    first = head(160)
    second = cv2.resize(first, None, fx=small, fy=small, interpolation=cv2.INTER_AREA)
    frame = np.full((160, 340, 3), 120, np.uint8)
    frame[:, :160] = first
    frame[: len(second), 180 : 180 + len(second)] = second
    return np.stack([frame] * FRAMES)


def test_a_second_face_is_noted_and_one_of_like_size_is_refused(detector, tmp_path):
    path = write_clip(tmp_path / "two.mp4", two_people(0.6))
    assert extract(RawClip("two", path), detector, whisper)[1]["others"] == 1
    path = write_clip(tmp_path / "like.mp4", two_people(1.0))
    with pytest.raises(InputError, match="two faces of like size: the second has 9"):
        extract(RawClip("like", path), detector, whisper)


def test_clips_that_cannot_be_used_are_refused_with_a_reason(detector, tmp_path):
    def refused(why, name, sound=None, transcript=None):
        with pytest.raises(InputError, match=why):
            extract(RawClip("x", tmp_path / name, sound=sound, transcript=transcript, kind="lrs"), detector, whisper)

    make_wav(tmp_path / "sound.wav", buzz(0.2))
    make_video(tmp_path / "mute.mp4", portrait())
    refused("no sound track", "mute.mp4")
    refused("0.20 s of sound for 0.48 s", "mute.mp4", sound=tmp_path / "sound.wav")
    refused("no pictures", "sound.wav")
    write_clip(tmp_path / "good.mp4")
    refused("transcript is missing: there is no gone.txt", "good.mp4", transcript=tmp_path / "gone.txt")
    write_clip(tmp_path / "one.mp4", portrait(count=1))
    refused("1 frames at 25 a second", "one.mp4")
    (tmp_path / "empty.mp4").touch()
    refused("empty", "empty.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    refused("loop.mp4", "loop.mp4")
    refused("no such file", "gone.mp4")


def test_words_outside_the_clip_are_another_clips(detector, tmp_path):
    for text in (TRANSCRIPT.replace("0.25 0.40", "0.25 9.40"), TRANSCRIPT.replace("0.10 0.25", "-3 0.25")):
        path = write_clip(tmp_path / "a.mp4", text=text)
        with pytest.raises(InputError, match="its words are said from .* to .* s, it lasts 0.5"):
            extract(RawClip("a", path, transcript=path.with_suffix(".txt"), kind="lrs"), detector, whisper)


def test_a_video_that_breaks_off_is_refused(detector, tmp_path):
    path = write_clip(tmp_path / "long.mp4", portrait(count=50), text=TRANSCRIPT)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged|cut off"):
        extract(RawClip("x", path), detector, whisper)
    entry = whole.index(b"mdat") + 8  # its index is whole, its later half is rubbish
    broken = bytearray(whole)
    end = whole.index(b"moov") - 4 if whole.index(b"moov") > entry else len(whole)
    broken[entry + (end - entry) // 3 : end] = bytes(end - entry - (end - entry) // 3)
    path.write_bytes(bytes(broken))
    with pytest.raises(InputError, match="it breaks off: 0.36 of 2.00 s"):
        extract(RawClip("x", path), detector, whisper)


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the reference fixtures are not beside the checkout")
def test_a_clip_of_grid_as_distributed(detector):
    arrays, facts = extract(RawClip("s1/bbaf2n", FIXTURES / "bbaf2n.mpg"), detector, whisper)
    assert len(arrays["boxes"]) == 75 and facts["size"] == [288, 360] and facts["others"] == 0
    wanted = np.load(FIXTURES / "bbaf2n_wav.npy")
    wav = arrays["wav"][: len(wanted)].astype(int)
    assert np.abs(wav - wanted[: len(wav)]).mean() < 40
