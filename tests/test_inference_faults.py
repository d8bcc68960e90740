"""Bad input ends inference.py in one line, strange names are just names, and Ctrl-C leaves nothing behind."""

import io
import os
import runpy
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from conftest import begun, buzz, make_video, make_wav
from portraits import ROOT, command, head, moving_head, run

import inference
import renderer
from hparams import HParams
from media.sound import read_audio
from media.video import read_frames
from models.talklip import Discriminator

BOX = ("--box", 50, 120, 50, 116)
GREY = np.full((160, 160, 3), 128, np.uint8)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def place(tmp_path, swaying_clip, voice, narrow_weights):
    """A folder with what a run needs, and an empty folder `out` for its result; also the current folder."""
    for name, path in {"face.mp4": swaying_clip, "voice.wav": voice, "w.safetensors": narrow_weights}.items():
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture
def refused(place, capsys):
    """Runs the command, and holds that it ends with code 1 and one line, that no file appeared or changed."""

    def go(*flags, words, **changed):
        files = {"face": "face.mp4", "audio": "voice.wav", "outfile": "out/out.mp4", "weights": "w.safetensors"}
        paths = {name: place / path for name, path in (files | changed).items()}
        before = {path: path.is_file() and path.read_bytes() for path in place.rglob("*")}
        code = inference.main(command(paths["face"], paths["audio"], paths["outfile"], paths["weights"], *flags))
        after = {path: path.is_file() and path.read_bytes() for path in place.rglob("*")}
        printed = capsys.readouterr()
        assert (code, printed.out) == (1, "") and before == after
        assert printed.err.startswith("inference.py: ") and printed.err.endswith("\n") and printed.err.count("\n") == 1
        assert words in printed.err, printed.err
        return printed.err

    return go


def broken_media(folder, clip):
    """Files that are no video: {name: words of the fault}."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is a shopping list, not a film\n" * 50)
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])  # its moov is at the end
    (folder / "folder.mp4").mkdir()
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n")
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    return {
        "missing.mp4": "there is no such file",
        "folder.mp4": "is a folder",
        "empty.mp4": "is empty",
        "text.mp4": "cannot be read as a media file",
        "cut.mp4": "cannot be read as a media file",
        "list.mp4": "cannot be read as a media file",  # a play list may not open other files
        "noise.mp4": "cannot be read as a media file",
        "none/x.mp4": "there is no such file",
        "x" * 300 + ".mp4": "File name too long",
    }


def test_a_broken_face_or_audio_is_reported_in_one_line(place, refused):
    for name, words in broken_media(place, place / "face.mp4").items():
        assert name in refused(words=words, face=name)
        assert name in refused(words=words, audio=name)


def test_a_sound_is_no_face_and_a_silent_video_is_no_audio(place, refused):
    make_video(place / "silent.mp4", moving_head(3))
    cv2.imwrite(str(place / "a.png"), GREY)
    refused(face="voice.wav", words="it is a sound file")
    refused(audio="silent.mp4", words="has no sound track")
    refused(audio="a.png", words="has no sound track")


def test_a_video_without_any_face_is_reported(place, refused):
    make_video(place / "grey.mp4", np.stack([GREY] * 20))
    assert "--box" in refused(face="grey.mp4", words="no face in any frame, of 15 searched")


def test_static_needs_a_face_in_the_first_frame(place, refused):
    make_video(place / "late.mp4", np.concatenate([GREY[None], moving_head(9)]))
    refused("--static", face="late.mp4", words="no face in any frame, of 1 searched")
    run(place / "late.mp4", place / "voice.wav", place / "out.mp4", place / "w.safetensors")


def test_a_place_that_cannot_be_written_to_is_reported_before_the_work(place, refused, monkeypatch):
    monkeypatch.setattr(renderer, "load", None)  # none of these gets as far
    refused(outfile="none/out.mp4", words="does not exist or cannot be written to")
    refused(outfile="face.mp4/out.mp4", words="does not exist or cannot be written to")
    refused(outfile="out", words="is a folder")
    refused(outfile="", words="is a folder")
    refused(outfile="out/out.txt", words="written as one of .mp4, .m4v, .mov, .mkv")
    refused(outfile="out/out", words="written as one of")
    refused(outfile="out/" + "x" * 300 + ".mp4", words="File name too long")
    refused("--report", place / "none" / "a.json", words="does not exist or cannot be written to")
    refused("--report", place / "out" / "out.mp4", words="both the video and its report")
    refused(outfile="out/out.json", words="both the video and its report")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(words="cannot be written to")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_reported(place, refused):
    (place / "out").chmod(0o500)
    refused(words="cannot be written to")


def test_an_input_is_never_overwritten(place, refused, monkeypatch):
    (place / "link.mp4").symlink_to(place / "face.mp4")
    (place / "hard.mp4").hardlink_to(place / "voice.wav")
    make_wav(place / "sound.json", buzz(0.2))
    refused(outfile="face.mp4", words="would be overwritten")
    refused(outfile="out/../face.mp4", words="would be overwritten")
    refused(outfile="link.mp4", words="would be overwritten")
    refused(face="link.mp4", outfile="face.mp4", words="would be overwritten")
    refused(outfile="hard.mp4", words="--audio")
    refused(audio="sound.json", outfile="sound.mp4", words="sound.json would be overwritten")
    monkeypatch.chdir(place)
    refused("--report", "voice.wav", words="--audio")


def test_only_earlier_outputs_are_replaced(place, refused, monkeypatch):
    monkeypatch.setattr(renderer, "load", None)  # none of these gets as far
    (place / "out" / "holiday.json").write_text('{"my own": "annotations"}')
    refused(outfile="out/holiday.mp4", words="holiday.json is there and no earlier output of this command")
    refused("--report", place / "w.safetensors", words="--checkpoint_path")
    refused("--report", place / "face.mp4", words="--face")
    (place / "own.mp4").write_bytes((place / "face.mp4").read_bytes())
    refused(outfile="own.mp4", words="own.mp4 is there and no earlier output of this command")
    (place / "list.mp4").write_text("a shopping list")
    refused(outfile="list.mp4", words="no earlier output")
    monkeypatch.undo()
    words = place / "face.mp4", place / "voice.wav", place / "out" / "a.mkv", place / "w.safetensors"
    (place / "out" / "a.mkv").touch()
    assert run(*words, *BOX)["frames"] == run(*words, *BOX)["frames"] == 15


def test_a_wrong_checkpoint_is_reported_in_one_line(place, refused):
    (place / "page.pth").write_text("<!DOCTYPE html><html><body>Quota exceeded</body></html>")
    (place / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 435807851\n")
    (place / "cut.safetensors").write_bytes((place / "w.safetensors").read_bytes()[:9000])
    (place / "empty.pth").touch()
    torch.save({"state_dict": Discriminator(HParams(width=1 / 16)).state_dict()}, place / "other.pth")
    torch.save({"optimizer": {"state": {}, "param_groups": []}}, place / "optimizer.pth")
    faults = {
        "missing.pth": "no checkpoint at",
        "out": "is a folder",
        "page.pth": "is a web page",
        "lfs.pth": "Git-LFS pointer",
        "cut.safetensors": "broken or cut off",
        "empty.pth": "is empty",
        "other.pth": "holds no generator",
        "optimizer.pth": "optimizer",
        "face.mp4": "is not a checkpoint",
    }
    for name, words in faults.items():
        assert name in refused(weights=name, words=words)


@pytest.mark.parametrize("flag", ["--crop", "--box"])
@pytest.mark.parametrize("region", [(0, 161, 0, 160), (0, 160, -5, 160), (80, 80, 0, 160), (90, 20, 0, 160)])
def test_a_region_outside_the_frame_is_refused(refused, flag, region):
    refused(flag, *region, words=f"{flag} {' '.join(map(str, region))} does not fit the frame of 160x160 px")


def test_a_device_that_is_not_there_is_reported(refused):
    refused("--device", "no_such_device", words="--device no_such_device does not work here")


STRANGE = ["a b", 'it\'s; "q" $(id)', "two\nlines", "Zoë 声 🎬", "-i", "--face", "x:y %d", "~", "#?&*[0-9]"]


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names_are_just_names(place, monkeypatch, capsys, name):
    (place / f"{name}.mp4").write_bytes((place / "face.mp4").read_bytes())
    (place / f"{name}.wav").write_bytes((place / "voice.wav").read_bytes())
    monkeypatch.chdir(place)
    run(f"{name}.mp4", f"{name}.wav", f"{name}.mkv", place / "w.safetensors", *BOX)
    assert len(list(read_frames(place / f"{name}.mkv"))) == 15 and (place / f"{name}.json").exists()
    capsys.readouterr()
    assert inference.main(command(f"{name}.none", f"{name}.wav", "out/a.mp4", "w.safetensors")) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and " ".join(f"{name}.none".split()) in printed


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_name_that_is_not_unicode_is_just_a_name(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "face.mp4").rename(os.fsdecode(b"caf\xe9.mp4"))
    words = command(os.fsdecode(b"caf\xe9.mp4"), "voice.wav", os.fsdecode(b"out/\xff.mp4"), "w.safetensors", *BOX)
    monkeypatch.setattr(sys, "argv", ["inference.py", *words])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))  # strict, as a terminal is
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "inference.py"), run_name="__main__")
    assert end.value.code == 0 and len(names(place / "out")) == 2


def test_a_flag_without_its_file_is_a_bad_flag(capsys):
    for words in (["--face", "--audio", "y.wav"], ["--face", "x.mp4", "--audio"]):
        with pytest.raises(SystemExit) as end:
            inference.main(words)
        assert end.value.code == 2


@pytest.mark.parametrize("part", ["render", "put_back"])  # on the main thread, and on the one that writes
def test_ctrl_c_leaves_nothing_behind(place, monkeypatch, capsys, part):
    def stop(*_):
        assert any(name.endswith(".partial.mp4") for name in names(place / "out")), "it was being written"
        raise KeyboardInterrupt

    monkeypatch.setattr(renderer.FaceRenderer, part, stop)
    words = command(place / "face.mp4", place / "voice.wav", place / "out" / "a.mp4", place / "w.safetensors", *BOX)
    assert inference.main(words) == 130
    assert names(place / "out") == []
    assert capsys.readouterr().err == "inference.py: stopped; nothing was written\n"


def test_a_bug_keeps_its_traceback_and_leaves_nothing_behind(place, monkeypatch):
    monkeypatch.setattr(renderer.FaceRenderer, "put_back", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(place / "face.mp4", place / "voice.wav", place / "out" / "a.mp4", place / "w.safetensors", *BOX)
    assert names(place / "out") == []


def test_a_real_ctrl_c_stops_a_real_run(place):
    cv2.imwrite(str(place / "a.png"), head()[..., ::-1])
    make_wav(place / "long.wav", np.tile(buzz(1), 100))
    words = command("a.png", "long.wav", "out/a.mp4", "w.safetensors", *BOX)
    work = begun([ROOT / "inference.py", *words], cwd=place, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 200  # on a busy machine its imports alone take a minute
        while not names(place / "out") and work.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert names(place / "out"), "it began to write"
        work.send_signal(signal.SIGINT)
        assert work.wait(60) == 130
    finally:
        work.kill()
    assert work.stderr.read() == b"inference.py: stopped; nothing was written\n" and names(place / "out") == []


def test_a_full_disk_is_reported_in_one_line(refused):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        refused(*BOX, words="out.mp4 cannot be written: File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_sound_of_the_face_itself_is_allowed(place):
    run(place / "face.mp4", place / "face.mp4", place / "out" / "a.mp4", place / "w.safetensors", *BOX)
    assert len(read_audio(place / "out" / "a.mp4")) > 16_000
