"""The evaluation as one command: its rows and files, the same twice, and one clear line for whatever does not fit."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_video, numbered, retell
from drawn_faces import write_data_root
from judged import blurred, still, write_videos

import checkpoint
from errors import InputError
from evaluation import scoring
from evaluation.evaluate import main
from evaluation.rows import BASELINES, Corpus
from evaluation.videos import teachers_of
from hparams import WEIGHTS, ExpertHParams, preset
from models import build_reader

ROOT = Path(__file__).parents[1]
SPLIT = {"test": {"ann/one": 14, "ann/two": 14, "bob/three": 16}}
PICTURES = ["--measures", "visual", "landmarks"]
READ = [*PICTURES, "reading"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_data_root(tmp_path_factory.mktemp("root"), SPLIT)


@pytest.fixture(scope="module")
def soft(root, tmp_path_factory):
    return write_videos(root, "test", tmp_path_factory.mktemp("made") / "soft", blurred)


@pytest.fixture(scope="module")
def frozen(root, tmp_path_factory):
    return write_videos(root, "test", tmp_path_factory.mktemp("made") / "frozen", still, flat=True)


def evaluate(root, out, *words):
    return main(["--real", str(root), "--out", str(out), "--workers", "1", *map(str, words)])


def report(out):
    return json.loads((out / "evaluation.json").read_text(encoding="utf-8"))


def error_of(capsys, root, out, *words):
    """The one line of error of a command that must fail."""
    assert evaluate(root, out, *words) == 1
    err = capsys.readouterr().err
    line = err.strip().splitlines()[-1]
    assert line.startswith("evaluation.evaluate: ") and "Traceback" not in err
    return line


def test_a_method_stands_beside_the_baselines_in_table_and_files(root, soft, tmp_path, capsys):
    assert evaluate(root, tmp_path, "--fake", soft) == 0
    printed = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in printed.splitlines()[2:6]]
    assert rows == [*BASELINES, "soft"]
    found = report(tmp_path)
    numbers = found["splits"]["test"]["rows"]
    assert list(numbers) == rows and numbers["ground truth"]["psnr"]["value"] == 100
    assert 15 < numbers["soft"]["psnr"]["value"] < 45
    assert numbers["soft"]["psnr"]["low"] is None, "two people have no interval"
    assert found["splits"]["test"]["people"] == 2 and found["splits"]["test"]["words"] == 18
    assert set(found["splits"]["test"]["by_person"]) == {"ann", "bob"}
    assert {"wer_1", "wer_2", "wer_3", "cer_1", "words", "sync_c", "sync_d", "lmd"} <= set(numbers["soft"])
    assert set(found["splits"]["test"]["clips"]) == set(SPLIT["test"])
    assert all(len(each["soft"]) == 64 for each in found["splits"]["test"]["sha256"].values())
    assert found["weights"]["reader1"]["sha256"] and found["versions"]["torch"] and found["protocol"]["WER, CER, free"]
    assert found["splits"]["test"]["list"]["sha256"] and found["decoding"]["reader2"]["beam"]
    assert (tmp_path / "evaluation.md").read_text().startswith("| test, 3 clips |")
    assert (tmp_path / "evaluation.csv").read_text().startswith("split,row,clips,psnr,psnr_low")


def test_two_runs_write_the_same_bytes_also_on_two_processes(root, soft, tmp_path):
    for name, workers in (("a", "1"), ("b", "2")):
        assert evaluate(root, tmp_path / name, "--fake", soft, *PICTURES, "--workers", workers) == 0
    for file in ("evaluation.json", "evaluation.csv", "evaluation.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_generator_is_evaluated_without_videos_and_its_leak_is_reported(root, tmp_path, capsys):
    assert evaluate(root, tmp_path, "--generator", *PICTURES) == 0
    found = report(tmp_path)["splits"]["test"]
    name = "reference_warp"  # what weights/ holds
    sounds = [f"{name}, {sound}" for sound in ("other clip's sound", "silence", "room silence", "minute of sound")]
    assert list(found["rows"]) == [*BASELINES, name, *sounds]
    assert f"{name}, minute of sound - {name}" in found["differences"]
    assert set(found["leak"][name]) == {"other clip's sound", "silence"}
    assert found["rest"][name]["silence"]["value"] == found["rows"][f"{name}, silence"]["opening_mean"]["value"]
    assert found["rest"][name]["room"]["value"] == found["rows"][f"{name}, room silence"]["opening_mean"]["value"]
    assert found["rest"][name]["closed"]["value"] == found["rows"]["ground truth"]["opening_closed"]["value"]
    assert found["other"]["ann/one"] != "ann/one" and found["sha256"]["ann/one"][name]
    assert "leak, test" in capsys.readouterr().out


def test_videos_for_silence_and_another_sound_give_the_leak_of_any_method(root, soft, frozen, tmp_path):
    folders = ["--fake", soft, "--fake_silence", frozen, "--fake_other", soft]
    assert evaluate(root, tmp_path, *folders, *PICTURES) == 0
    leak = report(tmp_path)["splits"]["test"]["leak"]["soft"]
    assert leak["silence"]["lip_travel"]["value"] < 0.3  # it copies one frame
    assert leak["other clip's sound"]["lip_travel"]["value"] == pytest.approx(1)


def test_real_videos_may_take_the_place_of_stored_crops(root, soft, tmp_path):
    write_videos(root, "test", tmp_path / "corpus" / "main")
    assert evaluate(root, tmp_path, "--fake", soft, "--videos", tmp_path / "corpus", *PICTURES) == 0
    found = report(tmp_path)
    assert found["protocol"]["real pictures"] == "cut out of the videos"
    rows = found["splits"]["test"]["rows"]
    for measure in ("sharpness", "sharpness_own", "sharpness_in_face_own", "opening_slope", "opening_deviation"):
        assert rows["ground truth"][measure]["value"] == pytest.approx(1)
    assert rows["soft"]["sharpness_own"]["value"] < 1 and "sharpness_own" not in rows["other clip's lips"]


def test_a_generator_articulates_more_on_demand(root, soft, tmp_path, capsys):
    assert evaluate(root, tmp_path, "--generator", "--articulation", 1.5, "--measures", "visual") == 0
    found = report(tmp_path)
    assert "reference_warp, articulation 1.5, silence" in found["splits"]["test"]["rows"]
    assert found["weights"]["generator"]["articulation"] == 1.5
    for words in (["--generator", "--articulation", "2.5"], ["--fake", soft, "--articulation", "1.5"]):
        with pytest.raises(SystemExit) as stopped:
            evaluate(root, tmp_path, *words)
        assert stopped.value.code == 2 and "--articulation" in capsys.readouterr().err


def test_a_clip_whose_source_of_lips_has_no_video_is_left_out_too(root, soft, tmp_path, capsys):
    write_videos(root, "test", tmp_path / "corpus", names=["ann/one", "ann/two"])
    command = "--fake", soft, "--videos", tmp_path / "corpus", "--measures", "visual"
    assert "bob/three: no video" in error_of(capsys, root, tmp_path, *command)
    assert evaluate(root, tmp_path, *command, "--leave_out") == 0
    found = report(tmp_path)["splits"]["test"]
    assert list(found["clips"]) == ["ann/one"] and "bob/three: no video" in found["left_out"]["ann/two"]


def test_a_video_that_lacks_a_frame_is_compared_without_it_in_every_row(root, tmp_path):
    short = write_videos(root, "test", tmp_path / "short", lambda crops, real: crops[:-1])
    assert evaluate(root, tmp_path, "--fake", short, *READ) == 0
    found = report(tmp_path)["splits"]["test"]
    assert found["notes"][0] == "ann/one: its rows are compared on the first 13 of 14 frames"
    assert found["clips"]["ann/one"]["ground truth"]["no_face"][1] == 13


def test_talklip_psnr_is_a_column_of_its_own(root, soft, tmp_path):
    assert evaluate(root, tmp_path, "--fake", soft, "--measures", "visual", "--talklip_psnr") == 0
    numbers = report(tmp_path)["splits"]["test"]["rows"]["soft"]
    assert numbers["psnr_talklip"]["value"] > numbers["psnr"]["value"]


def test_sync_is_measured_in_every_row_against_the_clips_own_sound(root, soft, tmp_path, monkeypatch, capsys):
    heard = []

    class Scorer:
        protocol, about, columns = "mouths", {"sha256": "5e1f"}, {"c": "confidence (mine)", "d": "distance (mine)"}

        def __call__(self, frames, wav, clip):
            heard.append((frames.shape, len(wav)))
            return {"c": frames.mean() / 100, "d": 1.0}

    monkeypatch.setattr(scoring.lse, "scorer", lambda path, protocol, device: Scorer())
    shapes = [Corpus(root, "test").clip(name).size for name in SPLIT["test"]]
    assert evaluate(root, tmp_path, "--fake", soft, "--measures", "sync") == 0
    assert len(heard) == 12 and {shape[1:3] for shape, _ in heard} == {tuple(size) for size in shapes}
    assert "confidence (mine)" in capsys.readouterr().out
    Scorer.protocol = "lrs"
    line = error_of(capsys, root, tmp_path, "--fake", soft, "--measures", "sync")
    assert "give the corpus, --videos DIR" in line


def test_a_judge_that_taught_is_refused(root, tmp_path, capsys):
    """By the report that inference.py writes beside a video, or by the generator's own file."""
    judge = checkpoint.sha256(WEIGHTS["reader1"])
    taught = write_videos(root, "test", tmp_path / "taught")
    for name in SPLIT["test"]:
        (taught / f"{name}.json").write_text(json.dumps({"model": {"taught_by": ["5e1f", judge]}}))
    line = error_of(capsys, root, tmp_path, "--fake", taught, *READ)
    assert "--reader1 has taught taught: what it taught, it cannot judge" in line
    assert teachers_of([taught / f"{name}.mp4" for name in SPLIT["test"]]) == sorted(["5e1f", judge])
    assert teachers_of([taught / "ann" / "one.mp4", taught / "nobody.mp4"]) is None
    scoring.check_judges({"mine": None, "other": ["5e1f"]}, {"reader1": {"sha256": judge}})
    with pytest.raises(InputError, match="--sync has taught mine, theirs: "):
        scoring.check_judges({"mine": ["a"], "theirs": ["a", "b"]}, {"sync": {"sha256": "a"}})


def test_the_sync_model_of_a_file_scores_all_rows(root, soft, tmp_path):
    hp = replace(preset("compact_sync", ExpertHParams), width=1 / 16, dim=16)
    torch.manual_seed(0)
    checkpoint.export(tmp_path / "mine.safetensors", build_reader(hp, None), hp, network="sync")
    command = "--fake", soft, "--measures", "sync", "--sync", tmp_path / "mine.safetensors"
    assert evaluate(root, tmp_path, *command) == 0
    found = report(tmp_path)
    rows = found["splits"]["test"]["rows"]
    assert all(np.isfinite(rows[row][f"sync_{part}"]["value"]) for row in rows for part in "cd")
    assert rows["ground truth"]["sync_d"] != rows["other clip's lips"]["sync_d"]
    assert found["weights"]["sync"]["protocol"] == "mouths" and "LSE" not in (tmp_path / "evaluation.md").read_text()


def test_a_missing_clip_fails_unless_it_may_be_left_out_and_is_then_listed(root, soft, tmp_path, capsys):
    some = tmp_path / "some"
    shutil.copytree(soft, some)
    (some / "ann" / "two.mp4").rename(some / "ann" / "two_final.mp4")
    line = error_of(capsys, root, tmp_path, "--fake", some, *PICTURES)
    assert "1 of its videos are no clip of test: ann/two_final.mp4" in line
    (some / "ann" / "two_final.mp4").unlink()
    line = error_of(capsys, root, tmp_path, "--fake", some, *PICTURES)
    assert "1 of 3 clips of test.txt cannot be compared: ann/two: no video" in line and "--leave_out" in line
    assert evaluate(root, tmp_path, "--fake", some, *PICTURES, "--leave_out") == 0
    found = report(tmp_path)["splits"]["test"]
    assert set(found["clips"]) == {"ann/one", "bob/three"} and "no video" in found["left_out"]["ann/two"]
    assert all(set(each) == {*BASELINES, "some"} for each in found["clips"].values())
    assert "Left out of every row, 1:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "frames, words",
    [
        (lambda: numbered(14, 80, 90), "90x80 px, the real clip has 360x288"),
        (lambda: numbered(30, 288, 360), "30 frames, the real clip has 14"),
    ],
)
def test_a_video_of_another_size_or_length_is_refused(root, soft, tmp_path, capsys, frames, words):
    odd = tmp_path / "odd"
    shutil.copytree(soft, odd)
    make_video(odd / "ann" / "one.mp4", frames())
    line = error_of(capsys, root, tmp_path, "--fake", odd, *PICTURES)
    assert "ann/one" in line and words in line


def test_frames_without_a_face_are_noted_and_a_clip_without_any_fails(root, tmp_path, capsys):
    def fades(crops, real):
        gone = crops.copy()
        gone[-4:] = 110
        return gone

    assert evaluate(root, tmp_path, "--fake", write_videos(root, "test", tmp_path / "fades", fades), *PICTURES) == 0
    found = report(tmp_path)["splits"]["test"]
    if found["clips"]["ann/one"]["ground truth"]["no_face"][0]:
        pytest.skip("the network does not take made-up heads for faces")
    assert "ann/one: fades: no face in 4 of 14 frames, the first is 10" in found["notes"]
    assert found["rows"]["fades"]["no_face"]["value"] == pytest.approx(12 / 44)
    gone = write_videos(root, "test", tmp_path / "gone", lambda crops, real: np.full_like(crops, 110))
    assert "gone: no face in any of 14 frames" in error_of(capsys, root, tmp_path, "--fake", gone, *PICTURES)


def test_an_empty_transcript_and_text_of_another_training_are_refused(tmp_path, capsys):
    (tmp_path / "root").mkdir()
    root = write_data_root(tmp_path / "root", SPLIT)
    fakes = write_videos(root, "test", tmp_path / "fakes")
    place = Corpus(root, "test").place["ann/two"]
    retell(place, text="")
    line = error_of(capsys, root, tmp_path, "--fake", fakes, *READ)
    assert "ann/two: its transcript is empty" in line
    retell(place, text="LIPS WITHOUT GRID'S WORDS")
    assert "ann/two: --reader1 was trained on other text" in error_of(capsys, root, tmp_path, "--fake", fakes, *READ)
    assert evaluate(root, tmp_path, "--fake", fakes, *PICTURES) == 0  # nobody reads


def test_a_clip_is_never_its_own_other_clip(root, soft, tmp_path, capsys):
    for other in ("0", "3", "-6"):
        assert "its own other clip" in error_of(capsys, root, tmp_path, "--fake", soft, f"--other={other}", *PICTURES)
    (tmp_path / "root").mkdir()
    alone = write_data_root(tmp_path / "root", {"test": {"ann/one": 14}})
    line = error_of(capsys, alone, tmp_path, "--fake", write_videos(alone, "test", tmp_path / "fakes"), *PICTURES)
    assert "test.txt has one clip" in line


def test_a_generator_and_a_folder_of_one_name_are_not_mixed(root, soft, tmp_path, capsys):
    line = error_of(capsys, root, tmp_path, "--fake", soft, "--generator", tmp_path / "soft.safetensors", *PICTURES)
    assert "two rows would be called 'soft'" in line


def test_a_clip_without_word_times_is_noted(tmp_path):
    (tmp_path / "root").mkdir()
    root = write_data_root(tmp_path / "root", SPLIT)
    retell(Corpus(root, "test").place["ann/two"], word_times=np.zeros((0, 2), np.float32), words=[])
    fakes = write_videos(root, "test", tmp_path / "fakes")
    assert evaluate(root, tmp_path, "--fake", fakes, "--measures", "reading") == 0
    found = report(tmp_path)["splits"]["test"]
    assert found["notes"] == ["ann/two: its transcript has no word times: it does not count in words right"]
    assert found["clips"]["ann/two"]["fakes"]["words"] == [0, 0]


def test_the_papers_numbers_stand_below_with_what_sets_them_apart(root, soft, tmp_path, capsys):
    assert evaluate(root, tmp_path, "--fake", soft, "--measures", "visual", "--published", "LRS2") == 0
    printed = capsys.readouterr().out
    assert printed.index("set: LRS2") > printed.index("| soft |") and "not comparable" in printed
    assert "not comparable" in (tmp_path / "evaluation.md").read_text()
    assert "LRS9" in error_of(capsys, root, tmp_path, "--fake", soft, "--measures", "visual", "--published", "LRS9")


def test_nothing_to_evaluate_is_a_wrong_command(root, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate(root, tmp_path)
    assert stopped.value.code == 2 and "nothing to evaluate" in capsys.readouterr().err


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "evaluation.evaluate", "--real", "nowhere", "--fake", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert (
        done.stderr == "evaluation.evaluate: nowhere: not a data root (no dataset.json). Make one with preprocess.py.\n"
    )
