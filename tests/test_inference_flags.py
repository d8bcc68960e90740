"""The flags of inference.py mean what Wav2Lip's users expect."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_video
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
    searches,
    written_frames,
)

import inference
from errors import InputError
from media.frame import planes
from media.video import probe, read_frames

NEEDED = ["--face", "x.mp4", "--audio", "y.wav"]


def frames_of(path):
    return list(read_frames(path))


def boxes_of(report):
    return np.array([report["boxes"][i] for i in sorted(report["boxes"], key=int)])


@pytest.fixture(scope="module")
def plain(tmp_path_factory, swaying_clip, voice, narrow_weights):
    """The report of a run without flags."""
    return run(swaying_clip, voice, tmp_path_factory.mktemp("plain") / "out.mp4", narrow_weights)


@pytest.fixture
def go(tmp_path, swaying_clip, voice, narrow_weights):
    """Runs the swaying clip with flags; returns the report."""
    return lambda *flags, face=swaying_clip: run(face, voice, tmp_path / "out.mp4", narrow_weights, *flags)


def test_the_default_checkpoint_is_in_weights_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inference.parse(NEEDED).checkpoint_path == ROOT / "weights" / "reference_warp.safetensors"


def test_the_defaults_are_those_of_wav2lip():
    args = inference.parse(NEEDED)
    assert (args.static, args.resize_factor, args.rotate, args.nosmooth) == (False, 1, False, False)
    assert (args.crop, args.box) == ([0, -1, 0, -1], [-1, -1, -1, -1])
    assert args.outfile == Path("result.mp4") and args.identity == "best"


@pytest.mark.parametrize(
    "words, static",
    [(["--static"], True), (["--static", "True"], True), (["--static", "False"], False), (["--static", "0"], False)],
)
def test_static_is_said_with_or_without_a_word(words, static):
    assert inference.parse([*words, *NEEDED]).static is static
    assert inference.parse([*NEEDED, *words]).static is static


def test_static_shows_only_the_first_frame_at_the_rate_of_the_video(tmp_path, go, monkeypatch):
    face, shown = make_video(tmp_path / "a.mp4", moving_head(5), 20), written_frames(monkeypatch)
    report = go("--static", face=face)
    assert (report["frames"], report["fps"], report["source_frames"]) == (12, 20, 1)
    first = frames_of(face)[0]
    box = lower_half(report["boxes"]["0"])
    assert all(inside(changed_region(frame, first), box) for frame in shown)
    assert go("--static", "True", "--fps", 10, face=face)["frames"] == 6


def test_fps_is_for_pictures_a_video_keeps_its_own(tmp_path, go):
    cv2.imwrite(str(tmp_path / "a.png"), head()[..., ::-1])
    report = go("--fps", 29.97, face=tmp_path / "a.png")
    assert (report["frames"], report["fps"]) == (18, 29.97)
    assert float(probe(tmp_path / "out.mp4").fps) == pytest.approx(29.97)
    assert go("--fps", 50)["fps"] == 25


def test_pads_widen_the_box_top_bottom_left_right(plain, go):
    np.testing.assert_allclose(
        boxes_of(go("--pads", 1, 20, 3, -4)) - boxes_of(plain), [[-3, -1, -4, 20]] * 15, atol=0.11
    )


def test_resize_factor_shrinks_the_video(tmp_path, go):
    face = make_video(tmp_path / "a.mp4", moving_head(15, 322))
    report = go("--resize_factor", 2, face=face)
    found = frames_of(tmp_path / "out.mp4")[0]
    assert found.size == (162, 162) and len(report["boxes"]) == 15  # 161, made even
    small = cv2.resize(moving_head(1, 322)[0], (161, 161), interpolation=cv2.INTER_AREA)
    assert np.abs(found.rgb()[:80, :161].astype(int) - small[:80]).mean() < 6


def test_crop_cuts_top_bottom_left_right(tmp_path, go, plain, monkeypatch):
    frames = np.full((15, 240, 300, 3), 90, np.uint8)
    frames[:, 40:200, 100:260] = moving_head(15)
    face, shown = make_video(tmp_path / "a.mkv", frames, codec="ffv1"), written_frames(monkeypatch)
    report = go("--crop", 40, 200, 100, 260, face=face)
    assert boxes_of(report) == pytest.approx(boxes_of(plain), abs=2)
    luma, whole = planes(shown[0].picture)[0], planes(frames_of(face)[0].picture)[0]
    np.testing.assert_array_equal(luma[:40], whole[40:80, 100:260])
    go("--crop", 40, -1, 100, -1, face=face)
    assert frames_of(tmp_path / "out.mp4")[0].size == (200, 200)


def test_a_box_is_taken_as_it_is_and_nothing_is_searched(go, swaying_clip, monkeypatch):
    made, shown = searches(monkeypatch), written_frames(monkeypatch)
    report = go("--box", 50, 120, 48, 118, "--pads", 0, 20, 0, 0)
    assert not made and boxes_of(report).tolist() == [[48, 50, 118, 120]] * 15
    for frame, old in zip(shown, frames_of(swaying_clip), strict=False):
        assert inside(changed_region(frame, old), lower_half((48, 50, 118, 120)))


@pytest.mark.parametrize("box", [(0, -1, 0, -1), (158, 160, 158, 160), (100, 101, 3, 4), (0, 1, 0, 160)])
def test_a_box_of_any_size_is_rendered(go, swaying_clip, monkeypatch, box):
    shown = written_frames(monkeypatch)
    assert go("--box", *box)["frames"] == len(shown) == 15
    if box[:2] == (0, -1):
        assert not same(shown[0], frames_of(swaying_clip)[0])


def test_rotate_turns_clockwise(tmp_path, go, plain):
    lying = np.rot90(moving_head(15)[:, :, 8:-8], 1, axes=(1, 2))
    report = go("--rotate", face=make_video(tmp_path / "a.mp4", lying, sample_aspect_ratio=Fraction(4, 3)))
    found = frames_of(tmp_path / "out.mp4")[0]
    assert found.size == (144, 160) and probe(tmp_path / "out.mp4").pixel_aspect == 3 / 4
    np.testing.assert_allclose(boxes_of(report), boxes_of(plain) - [8, 0, 8, 0], atol=2)
    assert np.abs(found.rgb()[40:80].astype(int) - moving_head(1)[0][40:80, 8:-8]).mean() < 6


def test_nosmooth_leaves_the_boxes_as_they_were_found(go, plain):
    raw, smooth = boxes_of(go("--nosmooth")), boxes_of(plain)
    assert 0 < np.abs(raw - smooth).max() < 6
    assert np.abs(np.diff(raw, n=2, axis=0)).mean() > np.abs(np.diff(smooth, n=2, axis=0)).mean()


@pytest.mark.parametrize("flag", ["--batch_size", "--wav2lip_batch_size"])
def test_the_batch_size_changes_nothing(go, flag, monkeypatch):
    shown = written_frames(monkeypatch)
    for size in (1, 7, 4096):
        assert go(flag, size, "--precision", "float32")["frames"] == 15
    for one, seven, all_at_once in zip(shown[:15], shown[15:30], shown[30:], strict=True):
        for other in (seven, all_at_once):
            assert np.abs(one.rgb().astype(int) - other.rgb()).max() <= 2  # of 255: sums have another order


def test_self_is_the_frame_itself_and_best_never_is(go, plain):
    assert go("--identity", "self")["identity_frames"] == list(range(15))
    assert len(plain["identity_frames"]) == 2
    assert go("--identity", "self", "--box", 50, 120, 48, 118)["identity_frames"] == list(range(15))
    assert go("--box", 50, 120, 48, 118)["identity_frames"] == [0, 12]


def test_bf16_and_float32_are_said(go):
    assert [go("--precision", p)["model"]["precision"] for p in ("bf16", "float32")] == ["bfloat16", "float32"]


def test_progress_in_a_pipe_is_a_few_lines_and_none_with_quiet(tmp_path, swaying_clip, voice, narrow_weights, capsys):
    words = command(swaying_clip, voice, tmp_path / "out.mp4", narrow_weights)
    assert inference.main(words) == 0 and capsys.readouterr().err == ""
    words.remove("--quiet")
    assert inference.main(words) == 0
    printed = capsys.readouterr().err
    assert [line.split(":")[0] for line in printed.splitlines()] == ["finding faces", "rendering", "rendering"]
    assert "\r" not in printed and "30/30" in printed.splitlines()[-1]


def test_articulation_changes_the_faces_is_reported_and_1_is_the_default(go, monkeypatch):
    shown = written_frames(monkeypatch)
    for words, articulation in (((), 1), (("--articulation", 1), 1), (("--articulation", 2), 2)):
        assert go(*words)["articulation"] == articulation
    plain, one, two = shown[:15], shown[15:30], shown[30:]
    assert all(same(a, b) for a, b in zip(plain, one, strict=True))
    assert not all(same(a, b) for a, b in zip(plain, two, strict=True))


def test_crf_0_is_lossless(tmp_path, go, monkeypatch):
    shown = written_frames(monkeypatch)
    go("--crf", 0)
    assert all(same(frame, read) for frame, read in zip(shown, frames_of(tmp_path / "out.mp4"), strict=True))


def test_pads_may_not_eat_the_face(tmp_path, swaying_clip, voice, narrow_weights):
    with pytest.raises(InputError, match="--pads 0 -90 0 0 leave nothing of the face in frame 0"):
        args = [
            "--face",
            swaying_clip,
            "--audio",
            voice,
            "--outfile",
            tmp_path / "a.mp4",
            "--quiet",
            "--pads",
            0,
            -90,
            0,
            0,
        ]
        inference.lip_sync(inference.parse([str(word) for word in [*args, "--checkpoint_path", narrow_weights]]))


@pytest.mark.parametrize(
    "words",
    [
        ["--batch_size", "0"],
        ["--resize_factor", "0"],
        ["--fps", "nan"],
        ["--fps", "0"],
        ["--crf", "52"],
        ["--static", "perhaps"],
        ["--crop", "1", "2"],
        ["--box", "a", "b", "c", "d"],
        ["--identity", "worst"],
        ["--detector", "none"],
        ["--articulation", "2.1"],
        ["--articulation", "nan"],
        ["--no_such_flag"],
    ],
)
def test_bad_flags_end_with_2(tmp_path, capsys, words):
    with pytest.raises(SystemExit) as end:
        inference.main([*NEEDED, *words])
    assert end.value.code == 2 and words[0] in capsys.readouterr().err


@pytest.mark.parametrize("left_out", ["--face", "--audio"])
def test_face_and_audio_are_asked_for(capsys, left_out):
    at = NEEDED.index(left_out)
    with pytest.raises(SystemExit) as end:
        inference.main(NEEDED[:at] + NEEDED[at + 2 :])
    assert end.value.code == 2 and left_out in capsys.readouterr().err


def test_weights_of_wav2lip_take_other_pads_when_they_are_given(tmp_path, swaying_clip, voice, plain):
    weights = export_narrow(tmp_path / "w.safetensors", **WEIGHTS["wav2lip"])
    report = run(swaying_clip, voice, tmp_path / "out.mp4", weights, "--pads", 0, 0, 0, 0)
    np.testing.assert_allclose(boxes_of(report), boxes_of(plain), atol=0.11)
