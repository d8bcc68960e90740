"""From a face and a sound to a talking video: what inference.py writes, and what it leaves as it was."""

import json
import subprocess
import sys
import time
from fractions import Fraction

import cv2
import numpy as np
import pytest
from conftest import buzz, make_video, make_wav, number_of, numbered
from portraits import (
    ROOT,
    WEIGHTS,
    changed_region,
    command,
    export_narrow,
    head,
    inside,
    lower_half,
    moving_head,
    run,
    same,
    seconds_of,
    track_lengths,
    written_frames,
)

import inference
import renderer
from media.sound import read_audio
from media.video import bounce, probe, read_frames

RATES = [15, Fraction(24_000, 1001), 25, Fraction(30_000, 1001), 50]


def frames_of(path):
    return list(read_frames(path))


def save_picture(path, rgb):
    cv2.imwrite(str(path), rgb[..., ::-1])
    return path


def times_of_speech(monkeypatch):
    """A list that fills with the seconds at which speech is asked for."""
    times, track = [], renderer.SpeechTrack.__call__
    monkeypatch.setattr(renderer.SpeechTrack, "__call__", lambda self, at: times.extend(at) or track(self, at))
    return times


def test_a_video_and_a_sound_become_a_talking_video(tmp_path, swaying_clip, voice, narrow_weights):
    report = run(swaying_clip, voice, tmp_path / "out.mp4", narrow_weights)
    seconds, codecs = track_lengths(tmp_path / "out.mp4")
    assert codecs == {"video": "h264", "audio": "aac"}
    assert seconds["video"] == pytest.approx(0.6) and seconds["audio"] == pytest.approx(0.6, abs=0.001)
    found = probe(tmp_path / "out.mp4")
    assert (found.width, found.height, found.fps) == (160, 160, 25)
    written, given = read_audio(tmp_path / "out.mp4"), read_audio(voice)
    assert np.corrcoef(written[: len(given)], given)[0, 1] > 0.99
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.mp4"]
    assert report["frames"] == report["source_frames"] == 15


def test_the_report_says_what_was_done_and_with_what(tmp_path, swaying_clip, voice, narrow_weights):
    words = command(swaying_clip, voice, tmp_path / "out.mp4", narrow_weights, "--report", tmp_path / "report.json")
    assert inference.main(words) == 0 and not (tmp_path / "out.json").exists()
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)  # strict: no NaN
    assert sorted(map(int, report["boxes"])) == list(range(15))
    for x1, y1, x2, y2 in report["boxes"].values():
        assert 30 < x1 < x2 < 140 and 30 < y1 < y2 < 150 and 50 < x2 - x1 < 90
    assert report["passed_through"] == [] and report["fps"] == 25
    assert len(report["model"]["sha256"]) == 64 and report["model"]["path"] == str(narrow_weights)
    assert {"python", "torch", "opencv", "av"} <= report["versions"].keys()
    assert {"find faces", "encode audio", "render and write", "all"} <= report["seconds"].keys()
    assert "ynthetic" in report["synthetic"]


def test_the_result_says_that_it_is_synthetic(tmp_path, voice, narrow_weights):
    import av

    face = save_picture(tmp_path / "a.png", head())
    for name in ("out.mp4", "out.mov", "out.mkv"):
        run(face, voice, tmp_path / name, narrow_weights)
        with av.open(str(tmp_path / name)) as container:
            metadata = {key.lower(): value for key, value in container.metadata.items()}
        assert metadata["comment"] == inference.SYNTHETIC


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_picture_talks_too(tmp_path, voice, narrow_weights, monkeypatch, suffix):
    face = save_picture(tmp_path / f"a.{suffix}", head()[:151, :157])
    shown = written_frames(monkeypatch)
    report = run(face, voice, tmp_path / "out.mp4", narrow_weights)
    assert (report["frames"], report["fps"], report["source_frames"]) == (15, 25, 1)
    assert {frame.size for frame in shown} == {(157, 151)}
    assert frames_of(tmp_path / "out.mp4")[0].size == (158, 152)  # H.264 wants even sizes


def test_a_video_gives_its_sound(tmp_path, swaying_clip, narrow_weights):
    report = run(save_picture(tmp_path / "a.png", head()), swaying_clip, tmp_path / "out.mp4", narrow_weights)
    assert report["frames"] == 30 and seconds_of(tmp_path / "out.mp4") == pytest.approx(1.2, abs=0.1)


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("sound_s", [0.211, 1.337])
def test_the_result_lasts_as_long_as_the_sound(tmp_path, narrow_weights, monkeypatch, fps, sound_s):
    face = make_video(tmp_path / "a.mp4", numbered(11, 96, 96), fps)
    sound = make_wav(tmp_path / "a.wav", buzz(sound_s))
    times = times_of_speech(monkeypatch)
    report = run(face, sound, tmp_path / "out.mp4", narrow_weights, "--box", 4, 60, 4, 60)
    seconds, _ = track_lengths(tmp_path / "out.mp4")
    assert abs(seconds["video"] - sound_s) <= 1 / fps and abs(seconds["audio"] - sound_s) <= 0.001
    assert report["fps"] == pytest.approx(float(fps))
    shown = [number_of(frame.rgb()) for frame in read_frames(tmp_path / "out.mp4")]
    assert shown == [bounce(k, 11) for k in range(report["frames"])], "forth and back"
    np.testing.assert_allclose(times, np.arange(report["frames"]) / float(fps), err_msg="each has its own time")


def test_a_phone_clip_comes_out_upright(tmp_path, voice, narrow_weights):
    lying = np.rot90(moving_head(15)[:, :, 8:-8], -1, axes=(1, 2))
    report = run(
        make_video(tmp_path / "a.mp4", lying, rotation=90), voice, tmp_path / "out.mp4", narrow_weights, "--crf", 8
    )
    found = frames_of(tmp_path / "out.mp4")[0]
    assert found.size == (144, 160) and probe(tmp_path / "out.mp4").rotation == 0 and len(report["boxes"]) == 15
    eyes = slice(40, 80)
    assert np.abs(found.rgb()[eyes].astype(int) - moving_head(1)[0][eyes, 8:-8]).mean() < 6


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_an_odd_size_is_served(tmp_path, voice, narrow_weights, monkeypatch, pix_fmt):
    face = make_video(tmp_path / "a.mkv", moving_head(15)[:, :-1, :-3], codec="ffv1", pix_fmt=pix_fmt)
    shown = written_frames(monkeypatch)
    report = run(face, voice, tmp_path / "out.mkv", narrow_weights)
    assert {frame.size for frame in shown} == {(157, 159)} and len(report["boxes"]) == 15


def test_only_the_lower_half_of_the_face_box_is_redrawn(tmp_path, swaying_clip, voice, narrow_weights, monkeypatch):
    shown = written_frames(monkeypatch)
    report = run(swaying_clip, voice, tmp_path / "out.mp4", narrow_weights)
    assert len(shown) == 15
    for k, (frame, old) in enumerate(zip(shown, frames_of(swaying_clip), strict=False)):
        region, box = changed_region(frame, old), report["boxes"][str(k)]
        assert inside(region, lower_half(box)), k
        assert region[2] - region[0] > 0.5 * (box[2] - box[0]) and region[3] - region[1] > 0.3 * (box[3] - box[1])


def test_frames_without_a_face_pass_through_bit_by_bit(tmp_path, narrow_weights, monkeypatch):
    frames = moving_head(40)
    frames[12:26] = np.random.default_rng(0).integers(0, 256, (160, 160, 3))
    face = make_video(tmp_path / "a.mp4", frames)
    sound = make_wav(tmp_path / "a.wav", buzz(2.0))  # 50 frames: the last 10 play backward
    shown, times = written_frames(monkeypatch), times_of_speech(monkeypatch)
    report = run(face, sound, tmp_path / "out.mp4", narrow_weights)
    assert report["passed_through"] == [[12, 25]] and report["frames"] == 50
    old = frames_of(face)
    for k, frame in enumerate(shown):
        passed = 12 <= k < 26
        assert same(frame, old[bounce(k, 40)]) == passed and (str(bounce(k, 40)) in report["boxes"]) != passed
    assert times == [k / 25 for k in range(50) if not 12 <= k < 26], "sound stays aligned"
    assert min(report["identity_frames"]) < 12 and max(report["identity_frames"]) >= 26, "each shot shows its own"


def test_of_several_faces_the_largest_is_redrawn(tmp_path, voice, narrow_weights, monkeypatch):
    both = np.full((200, 330, 3), 120, np.uint8)
    both[40:150, 10:120], both[20:200, 140:320] = head(110), head(180)
    face, shown = save_picture(tmp_path / "a.png", both), written_frames(monkeypatch)
    box = run(face, voice, tmp_path / "out.mp4", narrow_weights)["boxes"]["0"]
    assert inside(box, (140, 20, 320, 200))
    assert all(inside(changed_region(frame, frames_of(face)[0]), lower_half(box)) for frame in shown)


def test_a_face_half_outside_the_frame_is_no_trouble(tmp_path, voice, narrow_weights, monkeypatch):
    frames = np.stack([head(160, x=-20 - 4 * k) for k in range(15)])  # it leaves to the left
    face, shown = make_video(tmp_path / "a.mp4", frames), written_frames(monkeypatch)
    report = run(face, voice, tmp_path / "out.mp4", narrow_weights)
    assert min(box[0] for box in report["boxes"].values()) < 0
    for k, (frame, old) in enumerate(zip(shown, frames_of(face), strict=True)):
        if str(k) in report["boxes"]:
            assert inside(changed_region(frame, old), lower_half(report["boxes"][str(k)]))


@pytest.mark.parametrize("name", ["talklip_l", "wav2lip", "cals"])
def test_the_other_generators_work_too(tmp_path, swaying_clip, voice, narrow_weights, name):
    weights = export_narrow(tmp_path / "w.safetensors", **WEIGHTS[name])
    default = run(swaying_clip, voice, tmp_path / "a.mp4", narrow_weights)["boxes"]
    boxes = run(swaying_clip, voice, tmp_path / "b.mp4", weights)["boxes"]
    below = 10 if name == "wav2lip" else 0  # its boxes were padded in training
    for i, (x1, y1, x2, y2) in default.items():
        np.testing.assert_allclose(boxes[i], (x1, y1, x2, y2 + below), atol=0.11)


@pytest.mark.parametrize("samples", [1, 900])
def test_a_click_becomes_one_frame(tmp_path, swaying_clip, narrow_weights, samples):
    sound = make_wav(tmp_path / "a.wav", np.full(samples, 1000, np.int16))
    assert run(swaying_clip, sound, tmp_path / "out.mp4", narrow_weights)["frames"] == 1
    assert len(frames_of(tmp_path / "out.mp4")) == 1


def test_a_video_of_one_frame_is_a_picture(tmp_path, voice, narrow_weights):
    face = make_video(tmp_path / "a.mp4", moving_head(1))
    report = run(face, voice, tmp_path / "out.mp4", narrow_weights)
    assert (report["frames"], report["source_frames"], report["identity_frames"]) == (15, 1, [0])


def test_help_answers_at_once(tmp_path):
    words, seconds = [sys.executable, "-X", "importtime", ROOT / "inference.py", "--help"], []
    for _ in range(3):  # the best of three, as the machine may be busy
        start = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1 and "--face" in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"torch", "cv2", "av", "numpy", "librosa", "scipy"}


def test_two_runs_at_once_in_one_folder_do_not_disturb_each_other(tmp_path, swaying_clip, voice, narrow_weights):
    words = [command(swaying_clip, voice, name, narrow_weights) for name in ("a.mp4", "b.mp4")]
    runs = [subprocess.Popen([sys.executable, ROOT / "inference.py", *w], cwd=tmp_path) for w in words]
    assert [each.wait() for each in runs] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.mp4", "b.json", "b.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
