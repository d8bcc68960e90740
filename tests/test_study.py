"""A rating study is made of videos: blinded, muted where lips are read, equal for all; what cannot be is refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import buzz, make_video, numbered

from evaluation.study import __main__
from evaluation.study.stimuli import copy
from media.video import probe, read_frames

ROOT = Path(__file__).parents[1]
CLIPS = ("ann/one", "ann/two", "bob/one")


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    """Two folders of short talking videos of the same clips, called as those of `spoken_root`."""
    root = tmp_path_factory.mktemp("methods")
    for shade, method in enumerate(("genuine", "invented")):
        for k, clip in enumerate(CLIPS):
            path = root / method / f"{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            make_video(path, numbered(10)[:, :, :, ::-1] // 2 + 60 * shade + 10 * k, audio=buzz(0.4))
    return root


def named(root, *names):
    return [f"{name}={root / name}" for name in names or ("genuine", "invented")]


def make(out, *args):
    return __main__.main(["make", "--out", str(out), *map(str, args)])


@pytest.fixture(scope="module")
def made(methods, spoken_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "study"
    assert make(out, *named(methods), "--clips", 2, "--words_from", spoken_root, "--seed", 5) == 0
    return out


def key_of(out):
    return json.loads((out / "key.json").read_text())


def test_raters_get_no_name_of_a_method_a_clip_or_a_word(made):
    page, key = (made / "for_raters" / "index.html").read_text(), key_of(made)
    secret = {*key["methods"], *key["clips"], *(str(folder) for folder in key["methods"].values())}
    secret |= {word for text in key["words"].values() for word in text.split()} | {str(key["seed"]), "ann", "bob"}
    data = re.search(r'id="study">(.*)</script>', page)[1]
    assert not [name for name in secret if re.search(rf"\b{re.escape(name)}\b", data)]
    assert not (made / "for_raters" / "key.json").exists()
    files = {path.name for path in (made / "for_raters" / "videos").iterdir()}
    assert files == {f"{name}.mp4" for name in key["items"]} and all(name in data for name in key["items"])


def test_every_method_shows_the_same_clips_once_with_sound_and_once_without(made):
    key = key_of(made)
    for method in key["methods"]:
        own = [(item["part"], item["clip"]) for item in key["items"].values() if item["method"] == method]
        assert sorted(own) == sorted((part, clip) for part in ("rate", "read") for clip in key["clips"])
    for name, item in key["items"].items():
        with av.open(str(made / "for_raters" / "videos" / f"{name}.mp4")) as container:
            assert [stream.type for stream in container.streams] == ["video"] + ["audio"] * (item["part"] == "rate")


def test_copies_have_the_pictures_of_the_original_bit_for_bit(made, methods):
    key = key_of(made)
    for name, item in key["items"].items():
        source = methods / item["method"] / f"{item['clip']}.mp4"
        copied = made / "for_raters" / "videos" / f"{name}.mp4"
        for a, b in zip(read_frames(source), read_frames(copied), strict=True):
            assert np.array_equal(a.picture.to_ndarray(), b.picture.to_ndarray())


def test_the_same_seed_makes_the_same_study_and_another_another(methods, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert make(tmp_path / name, *named(methods), "--clips", 2, "--seed", seed) == 0
    a, b, c = (key_of(tmp_path / name) for name in "abc")
    assert a == b and a["study"] != c["study"] and a["items"].keys() != c["items"].keys()
    assert (tmp_path / "a/for_raters/index.html").read_bytes() == (tmp_path / "b/for_raters/index.html").read_bytes()


def test_without_a_seed_names_cannot_be_foreseen(methods, tmp_path):
    for name in "ab":
        assert make(tmp_path / name, *named(methods), "--clips", 3) == 0
    assert not key_of(tmp_path / "a")["items"].keys() & key_of(tmp_path / "b")["items"].keys()


def test_what_would_reveal_the_method_is_left_behind(tmp_path):
    source = make_video(tmp_path / "source.mp4", numbered(5), audio=buzz(0.2))
    with av.open(str(source)) as inn, av.open(str(tmp_path / "named.mp4"), "w") as out:
        out.metadata.update(comment="synthetic: made by TalkLip", title="ours")
        streams = {stream: out.add_stream_from_template(stream) for stream in inn.streams}
        for packet in inn.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream]
                out.mux(packet)
    for sound in (True, False):
        assert copy(tmp_path / "named.mp4", tmp_path / "copy.mp4", sound) is False
        for secret in (b"TalkLip", b"ours", b"x264"):
            assert secret in (tmp_path / "named.mp4").read_bytes()
            assert secret not in (tmp_path / "copy.mp4").read_bytes()
        assert b"may be synthetic media" in (tmp_path / "copy.mp4").read_bytes()


def test_a_turned_video_stays_upright(tmp_path):
    source = make_video(tmp_path / "turned.mp4", numbered(5), rotation=90)
    copy(source, tmp_path / "copy.mp4", sound=False)
    assert (probe(tmp_path / "copy.mp4").width, probe(tmp_path / "copy.mp4").rotation) == (48, probe(source).rotation)


def test_a_format_that_browsers_do_not_play_is_coded_again(tmp_path):
    source = make_video(tmp_path / "old.mkv", numbered(8), codec="mpeg4", audio=buzz(0.3))
    for name, sound in (("loud", True), ("mute", False)):
        assert copy(source, tmp_path / f"{name}.mp4", sound) is True
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            assert container.streams.video[0].codec.canonical_name == "h264"
            assert len(container.streams.audio) == sound and sum(1 for _ in container.decode(video=0)) == 8


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda d: (d / "invented/ann/one.mp4").unlink(), "1 only in genuine (ann/one). Say which to use: --list"),
        (lambda d: shutil.copy(d / "genuine/ann/one.mp4", d / "genuine/more.mp4"), "1 only in genuine (more)"),
        (lambda d: shutil.rmtree(d / "invented"), "there is no folder"),
        (lambda d: [path.unlink() for path in (d / "invented").rglob("*.mp4")], "holds no video"),
        (lambda d: make_video(d / "invented/ann/one.mp4", numbered(10)), "has no sound track"),
        (
            lambda d: make_video(d / "invented/ann/one.mp4", numbered(10, 96, 96), audio=buzz(0.4)),
            "ann/one: invented is 96x96, genuine is 64x48",
        ),
        (
            lambda d: make_video(d / "invented/ann/one.mp4", numbered(20), audio=buzz(0.8)),
            "ann/one: invented lasts 0.80 s, genuine 0.40 s",
        ),
        (lambda d: (d / "invented/ann/one.mp4").write_bytes(b"x" * 5000), "cannot be read as a media file"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused_in_one_line(methods, tmp_path, capsys, spoil, words):
    shutil.copytree(methods, tmp_path / "m")
    spoil(tmp_path / "m")
    assert make(tmp_path / "out", *named(tmp_path / "m"), "--clips", 3) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]  # nothing half made stays


def test_flags_that_make_no_study_are_refused_in_one_line(methods, spoken_root, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("ann/one\nann/nine\n")
    (tmp_path / "here").mkdir()
    own = named(methods)
    for args, words in (
        ([own[0]], "two or more"),
        ([own[0], own[0]], "two methods are called 'genuine'"),
        ([own[0], "ours"], "write NAME=FOLDER"),
        ([*own, "--clips", 4], "every method has only 3"),
        ([*own, "--clips", 0], "--clips 0 must be at least 1"),
        ([*own, "--seed", -1], "--seed -1 must be at least 0"),
        ([*own, "--clips", 1, "--list", tmp_path / "list.txt"], "lacks ann/nine"),
        ([*own, "--clips", 1, "--list", tmp_path / "none.txt"], "cannot be read as a list"),
        ([*own, "--clips", 1, "--words_from", tmp_path / "here"], "its lists lack"),
    ):
        assert make(tmp_path / "out", *args) == 1
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert make(tmp_path / "here", *own) == 1
    assert "never overwritten" in capsys.readouterr().err


def test_a_list_chooses_among_clips_that_not_all_methods_have(methods, tmp_path):
    shutil.copytree(methods, tmp_path / "m")
    (tmp_path / "m" / "invented" / "ann" / "one.mp4").unlink()
    (tmp_path / "m" / "genuine" / "two words.mp4").write_bytes((methods / "genuine/ann/one.mp4").read_bytes())
    (tmp_path / "m" / "invented" / "two words.mp4").write_bytes((methods / "invented/ann/one.mp4").read_bytes())
    (tmp_path / "list.txt").write_text("ann/two\nbob/one NF_00001\ntwo words\n")
    assert make(tmp_path / "out", *named(tmp_path / "m"), "--list", tmp_path / "list.txt") == 0
    assert sorted(key_of(tmp_path / "out")["clips"]) == ["ann/two", "bob/one", "two words"]


def test_layouts_of_a_corpus_and_of_flat_folders_fit_together(methods, tmp_path):
    shutil.copytree(methods / "genuine", tmp_path / "corpus" / "main")
    (tmp_path / "flat").mkdir()
    for clip in ("ann/one", "ann/two"):
        shutil.copy(methods / "invented" / f"{clip}.mp4", tmp_path / "flat")
    (tmp_path / "list.txt").write_text("ann/one\nann/two\n")
    assert make(tmp_path / "out", *named(tmp_path, "corpus", "flat"), "--list", tmp_path / "list.txt") == 0
    assert sorted(key_of(tmp_path / "out")["clips"]) == ["ann/one", "ann/two"]


def test_one_flat_video_is_never_two_clips(methods, tmp_path, capsys):
    shutil.copytree(methods / "genuine", tmp_path / "a")
    shutil.copy(tmp_path / "a" / "ann" / "one.mp4", tmp_path / "a" / "bob" / "one.mp4")
    (tmp_path / "b").mkdir()
    shutil.copy(methods / "invented" / "ann" / "one.mp4", tmp_path / "b")
    (tmp_path / "list.txt").write_text("ann/one\nbob/one\n")
    assert make(tmp_path / "out", *named(tmp_path, "a", "b"), "--list", tmp_path / "list.txt") == 1
    assert "lacks ann/one, bob/one" in capsys.readouterr().err


def test_a_title_cannot_break_the_page(methods, tmp_path):
    title = "</script><script>alert(1)</script>"
    assert make(tmp_path / "out", *named(methods), "--clips", 1, "--title", title, "--note", title) == 0
    page = (tmp_path / "out" / "for_raters" / "index.html").read_text()
    assert "alert(1)</script>" not in page and page.count("</script>") == 2


def test_it_runs_as_a_module():
    command = ["-m", "evaluation.study"]
    for args, code, words in (
        (["--help"], 0, "NAME=FOLDER"),
        (["read", "--key", "x", "--answers", "y"], 1, "x cannot"),
    ):
        args = ["make", *args] if args == ["--help"] else args
        done = subprocess.run([sys.executable, *command, *args], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == code and words in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_help_loads_nothing_slow():
    slow = "('torch', 'numpy', 'av', 'scipy', 'cv2')"
    spy = f"import sys, evaluation.study.__main__\nprint([n for n in {slow} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", spy], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"
