"""A corpus becomes a data root, bad clips are left out with a reason, and any run resumes where others stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from corpus_clips import BAD, LISTS, portrait, write_clip, write_corpus, write_lists

import preprocess
import workers as workers_module
from corpora.corpus import RawClip
from corpora.data_root import DataRoot
from corpora.extract import Extractor
from data import Clips
from errors import InputError
from hparams import HParams
from media.clip import SUFFIX, Clip

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "weights" / "words_compact.safetensors"


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(
        workers_module, "local", lambda make, items, workers: (job(item) for job in [make()] for item in items)
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A root in LRS2's layout with two good clips and five bad ones."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def flags(root, out, *more):
    return ["--data_root", str(root), "--out", str(out), "--workers=1", "--max_skipped=1", *more]


def run(root, out, *more):
    """What the command prints, as JSON."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert preprocess.main(flags(root, out, *more)) == 0
    return json.loads(printed.getvalue())


def counts(printed):
    return tuple(printed[name] for name in ("clips", "done_now", "skipped"))


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    """The data root that the real command, with a worker process of its own, makes of the corpus."""
    out = tmp_path_factory.mktemp("out") / "new" / "folder"
    return out, run(corpus, out)


def files(out):
    """What a finished root holds, clips apart."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.suffix != SUFFIX)


def test_what_is_made_can_be_trained_on(made):
    out, _ = made
    about = {"format": 2, "fps": 25, "face_px": 96, "crop_px": 128, "corpus": "lrs2"}
    about |= {"detector": "blazeface", "sync": None}
    assert json.loads((out / "dataset.json").read_text()) == about
    clips = Clips(out, "train", HParams(window=3, windows=2))
    sample = clips[0]
    assert clips.names == ["ann/one"] and sample["target"].shape == (6, 3, 96, 96)
    assert sample["mouth"].flatten(1).sum(1).min() > 300


def test_bad_clips_are_left_out_with_a_reason(made):
    out, printed = made
    assert counts(printed) == (7, 2, 5) and printed["times_real_time"] > 0 and printed["seconds"] == 0.96
    reasons = dict(line.split("\t") for line in (out / "skipped.txt").read_text().splitlines())
    assert sorted(reasons) == BAD
    assert "no face in any of 12 frames" in reasons["bob/blank"] and "is empty" in reasons["bob/empty"]
    assert "no such file" in reasons["bob/gone"] and "no sound track" in reasons["bob/mute"]
    assert "garbled.txt" in reasons["bob/garbled"] and "0,25" in reasons["bob/garbled"]
    assert [(out / f"{split}.txt").read_text() for split in LISTS] == ["ann/one\n", "ann/two\n", "ann/one\n"]
    lists = ["dataset.json", "skipped.txt", "test.txt", "train.txt", "val.txt"]
    assert files(out) == sorted([*(f"clips/{name}.skipped" for name in BAD), *lists])


def test_a_second_run_does_only_what_is_left(corpus, tmp_path, in_this_process):
    assert counts(run(corpus, tmp_path)) == (7, 2, 5)
    kept, lost = (tmp_path / "clips" / "ann" / f"{name}{SUFFIX}" for name in ("one", "two"))
    before, lists = kept.stat().st_mtime_ns, [(tmp_path / f"{split}.txt").read_text() for split in LISTS]
    lost.unlink()
    assert counts(run(corpus, tmp_path)) == (7, 1, 5) and lost.is_file()
    assert counts(run(corpus, tmp_path)) == (7, 0, 5) and kept.stat().st_mtime_ns == before
    assert [(tmp_path / f"{split}.txt").read_text() for split in LISTS] == lists


def test_a_clip_that_was_left_out_is_tried_again_when_it_changes(tmp_path, in_this_process):
    root = write_corpus(tmp_path / "corpus")
    assert counts(run(root, tmp_path / "out")) == (7, 2, 5)
    write_clip(root / "main" / "bob" / "mute.mp4")
    assert counts(run(root, tmp_path / "out")) == (7, 1, 4)
    assert "bob/mute" in (tmp_path / "out" / "train.txt").read_text()
    assert "bob/mute" not in (tmp_path / "out" / "skipped.txt").read_text()
    assert not (tmp_path / "out" / "clips" / "bob" / "mute.skipped").exists()


def test_parts_done_apart_make_the_whole(corpus, made, tmp_path, in_this_process):
    for part in ("2/3", "1/3", "3/3"):
        assert run(corpus, tmp_path, "--shard", part)["clips"] in (2, 3)
    for name in ("train.txt", "val.txt", "test.txt", "skipped.txt"):
        assert (tmp_path / name).read_text() == (made[0] / name).read_text()
    assert files(tmp_path) == files(made[0])


def command(root, out, *more):
    return [sys.executable, str(ROOT / "preprocess.py"), *flags(root, out, *more)]


def test_a_run_that_is_killed_resumes_and_leaves_no_half_clip(tmp_path):
    root, out = tmp_path / "corpus", tmp_path / "out"
    names = [f"ann/{k:02}" for k in range(8)]
    write_clip(root / "main" / "ann" / "00.mp4", portrait(count=25))
    for name in names[1:]:
        for suffix in (".mp4", ".txt"):
            (root / "main" / f"{name}{suffix}").symlink_to(root / "main" / "ann" / f"00{suffix}")
    write_lists(root, {"train": " ".join(names[:6]), "val": " ".join(names[6:])})
    process = subprocess.Popen(command(root, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stored = out / "clips" / "ann"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (stored.is_dir() and any(stored.glob(f"*{SUFFIX}"))):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in stored.glob(f"*{SUFFIX}")}
    assert 1 <= len(before) < 8, "it was killed in the middle"
    for name in before:
        assert len(Clip(stored / name)) == 25, "what is there is whole"
    done = subprocess.run(command(root, out), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    left = {path.name: path.stat().st_mtime_ns for path in stored.glob(f"*{SUFFIX}")}
    assert len(left) == 8 and before.items() <= left.items(), "what was there is as it was"
    assert printed["clips"] == 8 and printed["done_now"] <= 8 - len(before)
    assert (out / "train.txt").read_text().split() == names[:6]


def test_two_runs_on_one_root_do_not_disturb_each_other(corpus, made, tmp_path):
    both = [subprocess.Popen(command(corpus, tmp_path), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(each["done_now"] for each in printed) >= 2
    assert files(tmp_path) == files(made[0])
    for name in ("train.txt", "val.txt", "test.txt", "skipped.txt"):
        assert (tmp_path / name).read_text() == (made[0] / name).read_text()


def refused(capsys, root, out, *more):
    """The one line on stderr with which the command stops."""
    assert preprocess.main(["--data_root", str(root), "--out", str(out), "--workers=1", *more]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_too_many_bad_clips_stop_it(corpus, tmp_path, capsys, in_this_process):
    line = refused(capsys, corpus, tmp_path)
    assert "of 7 clips could not be used" in line and "skipped.txt" in line and "--max_skipped 0.2" in line
    skipped = (tmp_path / "skipped.txt").read_text().splitlines()
    assert 2 <= len(skipped) <= 5, "it stopped at the second bad clip of seven"
    assert "5 of 7" in refused(capsys, corpus, tmp_path, "--max_skipped=0.6")
    assert counts(run(corpus, tmp_path))[2] == 5


def test_only_the_splits_that_are_asked_for(corpus, tmp_path, in_this_process, capsys):
    assert counts(run(corpus, tmp_path, "--splits", "val")) == (1, 1, 0)
    assert files(tmp_path) == ["dataset.json", "skipped.txt", "val.txt"]
    assert "this corpus has test, train, val" in refused(capsys, corpus, tmp_path, "--splits", "pretrain")


def test_lists_of_the_users_own_are_not_overwritten(corpus, tmp_path, capsys):
    (tmp_path / "test.txt").write_text("a/1 NF\n")
    assert "has lists of its own (test.txt)" in refused(capsys, corpus, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test.txt"]


def test_a_clip_that_ends_its_process_is_left_alone_the_third_time(corpus, tmp_path, in_this_process, monkeypatch):
    work = Extractor.__call__

    def dies(self, raw):
        if raw.name == "ann/two":
            self.root.begin(raw)  # and ends without a result
            raise InputError("a worker process died")
        return work(self, raw)

    monkeypatch.setattr(Extractor, "__call__", dies)
    for _ in range(2):
        assert preprocess.main(flags(corpus, tmp_path)) == 1
    assert run(corpus, tmp_path)["skipped"] == 6
    assert "ann/two\tit ended the process that read it, 2 times" in (tmp_path / "skipped.txt").read_text()


def test_a_run_that_is_killed_over_and_over_blames_no_clip(corpus, tmp_path):
    raw = RawClip("ann/one", corpus / "main" / "ann" / "one.mp4")
    for _ in range(3):
        killed = DataRoot(tmp_path, {})
        killed.begin(raw)
        assert killed.reason(raw) is None
    for times in (1, 2):
        dies = DataRoot(tmp_path, {})
        dies.begin(raw)
        dies.count_deaths([raw])
        assert bool(dies.reason(raw)) == (times == 2)


def test_a_clip_that_the_user_stopped_is_tried_again(corpus, tmp_path, in_this_process, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("corpora.extract.extract", stopped)
        for _ in range(3):
            assert preprocess.main(flags(corpus, tmp_path)) == 130
    assert not list(tmp_path.rglob("*.skipped")) and counts(run(corpus, tmp_path)) == (7, 2, 5)


def test_a_full_disk_is_reported_in_one_line(corpus, tmp_path, in_this_process, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("corpora.extract.write_clip", full)
    assert "cannot be written: No space left on device" in refused(capsys, corpus, tmp_path, "--max_skipped=1")


def test_clips_that_are_not_there_count_as_skipped(tmp_path, in_this_process, capsys):
    write_clip(tmp_path / "in" / "a" / "good.mp4")
    write_lists(tmp_path / "in", {"train": "a/good a/gone a/lost", "val": "a/good"})
    assert "2 of 3 clips could not be used, 2 of them: there is no such video" in refused(
        capsys, tmp_path / "in", tmp_path / "out"
    )
    assert run(tmp_path / "in", tmp_path / "out")["skipped"] == 2


def test_refused_names_are_listed_in_one_line_each(tmp_path, in_this_process):
    write_clip(tmp_path / "in" / "good.mp4", text="Hello")
    write_clip(tmp_path / "in" / "two\nlines.mp4")
    run(tmp_path / "in", tmp_path / "out")
    lines = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("two\\nlines\tits name has a line break")
    assert (tmp_path / "out" / "train.txt").read_text() == "good\n"


def test_wrong_flags_are_reported_in_one_line(corpus, tmp_path, capsys):
    assert "at least 1" in refused(capsys, corpus, tmp_path, "--workers=0")
    assert "--out" in refused(capsys, corpus, corpus / "main" / "..")
    assert (corpus / "train.txt").read_text().startswith("ann/one\n")
    for part in ("0/2", "3/2", "x", "1/0", "1"):
        assert "from 1/N to N/N" in refused(capsys, corpus, tmp_path, "--shard", part)
    assert "0 to 15 frames" in refused(capsys, corpus, tmp_path, "--max_offset=16")
    assert "holds no sync model" in refused(capsys, corpus, tmp_path, "--sync_model", str(WEIGHTS))
    assert "a share" in refused(capsys, corpus, tmp_path, "--max_skipped=2")
    assert preprocess.main(["--data_root", str(corpus)]) == 1
    assert "or --check, a data root" in capsys.readouterr().err
    assert "no such folder" in refused(capsys, tmp_path / "gone", tmp_path / "out")


def test_a_root_of_another_corpus_or_size_is_left_alone(made, corpus, tmp_path, capsys):
    out, _ = made
    assert "was made with face_px 96, this run has 128" in refused(capsys, corpus, out, "--face_px=128")
    write_clip(tmp_path / "in" / "good.mp4")
    assert "was made with corpus lrs2, this run has folder" in refused(capsys, tmp_path / "in", out)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset.json").write_text("{")
    assert "dataset.json is broken" in refused(capsys, corpus, tmp_path / "out")


def test_a_missing_detector_is_reported_in_one_line(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "face detector is missing" in refused(capsys, corpus, tmp_path / "out")


def test_training_reads_no_media(data_root):
    """A process that trains has no use for the decoder and the sound packages: they cost seconds and memory."""
    spy = (
        "import sys, train, data, hparams\n"
        f"data.Clips({str(data_root)!r}, 'train', hparams.HParams(window=2, windows=1))[0]\n"
        "print([name for name in ('av', 'librosa', 'python_speech_features', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", spy], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")
