"""The command trains experts from transcripts to weights, resumes to the same bits, and tells faults in a line."""

import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import retell
from expert_runs import HP
from small_runs import flat, metrics

import checkpoint
import train
import train_expert
from evaluation.benchmarks import lip_reader
from experts.clusters import cluster_targets
from experts.data import Utterances
from experts.lip_reader import load_reader, read
from experts.sync import load_sync
from experts.tokenizer import train_tokenizer
from hparams import ExpertHParams

torch.set_num_threads(1)
FLAGS = [f"--{name}={value}" for name, value in asdict(HP).items() if value != getattr(ExpertHParams(), name)]
FLAGS = [flag for flag in FLAGS if flag != "--augment=True"] + ["--augment"]
ROOT = Path(train_expert.__file__).parent


@pytest.fixture
def command(spoken_root, tmp_path):
    """Runs the command on the spoken root, in a folder of runs of its own, and returns its exit code."""

    def run(task, name, *more, root=spoken_root):
        words = [task, "--data_root", root, "--name", name, "--runs", tmp_path, "--workers=0", "--device=cpu", *more]
        return train_expert.main([str(word) for word in words])

    return run


def encoder_of(path):
    state = checkpoint.load(path)["reader"]
    return {name: value for name, value in state.items() if name.startswith("encoder.") and "num_batches" not in name}


# From transcripts to weights


def test_from_transcripts_to_a_lip_reader(spoken_root, command, tmp_path, capsys):
    model, weights = tmp_path / "new" / "tokenizer.model", tmp_path / "other" / "new" / "reader.safetensors"
    argv = ["tokenizer", "--data_root", spoken_root, "--out", model, "--size", 30, "--kind", "bpe"]
    assert train_expert.main([str(word) for word in argv]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{model}: 30 tokens, sha256 ") and printed.count("\n") == 1
    assert command("pretrain", "clusters", *FLAGS, "--max_steps=3") == 0
    assert "clusters: pretrain, step 0 of 3" in capsys.readouterr().err
    best = tmp_path / "clusters" / "best.pt"
    frozen = ["--freeze=2", "--max_steps=2", "--tokenizer", model, "--init", best, "--export", weights]
    assert command("finetune", "reader", *FLAGS, *frozen) == 0
    assert capsys.readouterr().out == ""
    assert flat(encoder_of(tmp_path / "reader" / "best.pt")) == flat(encoder_of(best)), "it begins with it, frozen"
    assert [line["step"] for line in metrics(tmp_path / "reader")] == [1, 2, 2]
    assert metrics(tmp_path / "reader")[-1]["valid"].keys() == {"wer", "cer"}
    reader = load_reader(weights)
    assert len(reader.tokenizer) == 30 and reader.hp.max_steps == 2 and not reader.words
    roi = Utterances(spoken_root, "val", reader.hp)[0, None]["roi"][None]
    (sentence,) = read(reader, roi)
    assert isinstance(sentence, str)


def test_a_word_classifier_is_trained_and_exported_with_its_words(command, tmp_path, capsys):
    weights = tmp_path / "words.safetensors"
    assert command("words", "words", *FLAGS, "--model=words", "--export", weights) == 0
    assert [line["valid"]["errors"] <= 1 for line in metrics(tmp_path / "words") if "valid" in line] == [True] * 3
    reader = load_reader(weights)
    assert reader.words == ["bin", "blue", "lay", "now", "red", "set"] and reader.tokenizer is None
    assert reader.net(torch.rand(2, 9, 1, 88, 88)).shape == (2, 6)
    assert "step 0 of 6" in capsys.readouterr().err


def test_a_sync_model_is_trained_and_exported_and_the_log_names_chance(command, tmp_path):
    weights = tmp_path / "sync.safetensors"
    assert command("sync", "sync", *FLAGS, "--model=sync", "--shrink=2", "--export", weights) == 0
    lines = metrics(tmp_path / "sync")
    assert all(line["total"] == line["sync"] and 2 < line["chance"] < 4 for line in lines if "valid" not in line)
    assert [line["valid"].keys() for line in lines if "valid" in line] == [{"errors", "offsets"}] * 3
    assert load_sync(weights).net.embed_video(torch.rand(1, 9, 1, 88, 88)).shape == (1, 5, 32)


def test_a_run_that_was_never_validated_exports_its_last_state(command, tmp_path):
    weights, folder = tmp_path / "words.safetensors", tmp_path / "words"
    words = ["words", "words", *FLAGS, "--model=words", "--export", weights]
    assert command(*words, "--stop=1") == 0
    assert load_reader(weights).about["step"] == 1 and not (folder / "best.pt").exists()
    (folder / "last.pt").rename(folder / "best.pt")  # of a run that was given up
    assert command(*words, "--seed=5", "--stop=1") == 0
    assert load_reader(weights).hp.seed == 5


def test_a_second_iteration_predicts_clusters_of_the_firsts_features(spoken_root, command, tmp_path):
    assert command("pretrain", "first", *FLAGS, "--stop=1") == 0
    teacher = tmp_path / "first" / "last.pt"
    assert command("pretrain", "second", *FLAGS, "--stop=1", "--teacher", teacher, "--depth=1") == 0
    hp = checkpoint.knobs(teacher, checkpoint.load(tmp_path / "second" / "last.pt")["hparams"], ExpertHParams)
    splits = [Utterances(spoken_root, split, hp) for split in ("train", "val")]
    wanted = cluster_targets(splits, hp, tmp_path / "wanted.npz", load_reader(teacher, whole=False))
    with np.load(tmp_path / "second" / "clusters.npz") as second, np.load(tmp_path / "first" / "clusters.npz") as first:
        assert all(np.array_equal(second[name], wanted[name]) for name in wanted)
        assert not all(np.array_equal(second[name], first[name]) for name in wanted)
    kept = (tmp_path / "second" / "clusters.npz").read_bytes()
    teacher.unlink()
    assert command("pretrain", "second", "--stop=2") == 0, "a resumed run needs no teacher"
    assert (tmp_path / "second" / "clusters.npz").read_bytes() == kept


# Resume

RESUMED = {
    "pretrain": ["pretrain", "--save_every=2"],
    "pretrain a conformer": ["pretrain", "--model=conformer"],
    "finetune": ["finetune", "--freeze=2", "--frames_weight=0.3"],
    "finetune a conformer": ["finetune", "--model=conformer", "--ctc_weight=0.2"],
    "words": ["words", "--model=words"],
    "sync": ["sync", "--model=sync", "--shrink=2"],
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_resumed_run_is_the_same_run(command, tmp_path, kind):
    task, *more = RESUMED[kind]
    if "--freeze=2" in more:
        assert command("pretrain", "begin", *FLAGS, "--stop=1") == 0
        more += ["--init", tmp_path / "begin" / "last.pt"]
    assert command(task, "whole", *FLAGS, *more) == 0
    wanted = flat(checkpoint.load(tmp_path / "whole" / "last.pt"))
    assert command(task, "parts", *FLAGS, *more, "--stop=1") == 0
    for stop, flags in ((1, ["--workers=0", "--stop=3"]), (3, ["--workers=1"])):  # the knobs are in the checkpoint
        assert checkpoint.load(tmp_path / "parts" / "last.pt")["step"] == stop
        assert command(task, "parts", *flags) == 0
    found = flat(checkpoint.load(tmp_path / "parts" / "last.pt"))
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if found[key] != wanted[key]] == []
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_finished_run_has_nothing_to_do_and_a_longer_one_goes_on(command, tmp_path, capsys):
    assert command("words", "words", *FLAGS, "--model=words", "--max_steps=2") == 0
    before = (tmp_path / "words" / "last.pt").read_bytes()
    assert command("words", "words") == 0
    assert "step 2 of 2" in capsys.readouterr().err and (tmp_path / "words" / "last.pt").read_bytes() == before
    assert command("words", "words", "--max_steps=3") == 0
    assert [line["step"] for line in metrics(tmp_path / "words") if "valid" not in line] == [1, 2, 3]


def test_targets_of_a_start_that_came_to_nothing_are_made_anew(command, tmp_path):
    (tmp_path / "run").mkdir()
    np.savez(tmp_path / "run" / "clusters.npz", **{"ann/one": np.full(20, 400, np.int16)})
    assert command("pretrain", "run", *FLAGS, "--stop=1") == 0
    with np.load(tmp_path / "run" / "clusters.npz") as clusters:
        assert clusters["ann/one"].max() < 5


# Faults


@pytest.fixture
def told(command, capsys):
    """The last line that the command says of a fault, with which it ends; its exit code is 1."""

    def fault(*words, **root):
        capsys.readouterr()
        assert command(*words, **root) == 1
        said = capsys.readouterr()
        assert said.out == "" and "Traceback" not in said.err
        return said.err.splitlines()[-1]

    return fault


def test_faults_of_a_data_root_are_one_line(spoken_root, told, tmp_path):
    root = shutil.copytree(spoken_root, tmp_path / "root")
    retell(root / "clips" / "ann" / "one.safetensors", text="BIN MAUVE")
    assert "ann/one.safetensors: the tokenizer does not know 'mauve'" in told("finetune", "run", *FLAGS, root=root)
    (root / "tokenizer.model").unlink()
    assert f"no tokenizer at {root}/tokenizer.model: make one" in told("finetune", "run", *FLAGS, root=root)
    (root / "val.txt").write_text("")
    assert "no clips in this split" in told("pretrain", "run", *FLAGS, root=root)
    assert not (tmp_path / "run").exists(), "a refusal leaves nothing behind"


@pytest.mark.parametrize("task", ["tokenizer", "pretrain", "finetune", "words", "sync"])
def test_a_folder_that_is_no_data_root_is_refused_with_the_command_to_type(tmp_path, monkeypatch, capsys, task):
    monkeypatch.chdir(tmp_path)
    more = ["--out", "new/its own.model"] if task == "tokenizer" else ["--name", "my run"]
    then = "--out 'new/its own.model'" if task == "tokenizer" else "--name 'my run'"
    if task == "pretrain":
        more, then = [*more, "--preset", "compact"], f"{then} --preset compact"

    def refusal(root):
        assert train_expert.main([task, "--data_root", root, *more]) == 1
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        return said.err.strip()

    corpus, made = tmp_path / "raw" / "grid", tmp_path / "data" / "grid"
    corpus.mkdir(parents=True)
    again = f"python train_expert.py {task} {then} --data_root"
    assert refusal("raw/grid").endswith(
        "raw/grid has no videos and is no data root: first python preprocess.py --data_root FOLDER_OF_VIDEOS"
        f" --out data/NAME, then {again} data/NAME"
    )
    assert "nowhere does not exist: first python preprocess.py" in refusal("nowhere")
    (corpus / "clip.mp4").touch()
    first = "first python preprocess.py --data_root raw/grid --out data/grid"
    found = refusal("raw/grid")
    assert "raw/grid is a corpus" in found and found.endswith(f"{first}, then {again} data/grid")
    made.mkdir(parents=True)
    (made / "dataset.json").write_text("{}")
    assert refusal("raw/grid").endswith(f"raw/grid is no data root, data/grid is one: {again} data/grid")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "raw"], "nothing is left behind"


def test_a_refusal_leaves_no_folder_of_a_run(spoken_root, command, told, tmp_path):
    assert command("pretrain", "other", *FLAGS, "--dim=48", "--stop=1") == 0
    page = tmp_path / "page"
    page.write_text("<html>")
    for more in (
        ["--clusters=90"],
        ["--init", page],
        ["--init", tmp_path / "other" / "last.pt"],
        ["--teacher", page],
        ["--teacher", tmp_path / "other" / "last.pt", "--depth=3"],
        ["--longest=3"],
        ["--device=nonsense"],
    ):
        told("pretrain", "run", *FLAGS, *more)
        assert not (tmp_path / "run").exists(), more


def test_faults_of_files_and_flags_are_one_line(command, told, tmp_path):
    page, other = tmp_path / "page", tmp_path / "other.model"
    page.write_text("<html>")
    assert command("pretrain", "clusters", *FLAGS, "--stop=1") == 0
    last = tmp_path / "clusters" / "last.pt"
    fine = ["finetune", "reader", *FLAGS]
    assert "72 frames cannot make 90 clusters: lower --clusters" in told("pretrain", "many", *FLAGS, "--clusters=90")
    assert "page is a web page, not a checkpoint" in told(*fine, "--init", page)
    assert "page" in told(*fine, "--tokenizer", page)
    assert "encoder of another size" in told(*fine, "--init", last, "--dim=48")
    assert "no checkpoint at" in told("pretrain", "second", *FLAGS, "--teacher", tmp_path / "nothing.pt")
    assert "give --init, or --freeze 0" in told(*fine, "--freeze=3")
    assert "--ctc_weight 0.1: --model avhubert has no CTC layer" in told(*fine, "--ctc_weight=0.1")
    assert "words cannot train --model avhubert" in told("words", "words", *FLAGS)
    assert "clusters/last.pt is a run of pretrain: give another --name" in told("words", "clusters", "--model=words")
    assert "clusters/last.pt does not fit these flags" in told("pretrain", "clusters", "--dim=48")
    assert command(*fine, "--stop=1") == 0
    other.write_bytes(train_tokenizer(["bin blue set red lay now please"], 40, "word").model)
    assert f"not the tokenizer that {tmp_path}/reader/last.pt was begun with" in told(
        "finetune", "reader", "--tokenizer", other
    )
    assert "--device nonsense does not work here" in told("finetune", "reader", "--device=nonsense")


BEFORE = {  # faults that are told before anything is done
    "--workers -1 must be at least 0": ["--workers=-1"],
    "--stop -1 must be at least 0": ["--stop=-1"],
    "is a folder: name a file in it": ["--export", "{}"],
    "file is no folder that can be written to": ["--export", "{}/file/reader.safetensors"],
    "corpus/own.txt is there and no earlier output": ["--export", "{}/corpus/own.txt"],
    "Not a directory": ["--runs", "{}/file"],
    "multiple of 16": ["--model=avhubert", "--dim=40"],
    "words cannot train --model sync": ["--model=sync", "--shrink=2"],
}


@pytest.mark.parametrize("words", BEFORE)
def test_faults_of_flags_are_told_before_the_training(told, tmp_path, words):
    (tmp_path / "file").touch()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "own.txt").write_text("my own")
    more = [flag.format(tmp_path) for flag in BEFORE[words]]
    assert words in told("words", "run", *FLAGS, "--model=words", *more)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_tokenizer_is_not_written_over_a_folder(spoken_root, tmp_path, capsys):
    argv = ["tokenizer", "--data_root", str(spoken_root), "--size=30", "--kind=bpe", "--out", str(tmp_path)]
    assert train_expert.main(argv) == 1
    assert f"--out {tmp_path} is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "task, flag",
    [("pretrain", "export"), ("pretrain", "tokenizer"), ("finetune", "teacher")]
    + [("words", flag) for flag in ("teacher", "tokenizer")]
    + [("sync", flag) for flag in ("teacher", "tokenizer", "init")],
)
def test_a_task_has_no_flag_that_it_would_not_heed(command, capsys, task, flag):
    with pytest.raises(SystemExit) as stopped:
        command(task, "run", f"--{flag}=file")
    assert stopped.value.code == 2 and f"unrecognized arguments: --{flag}" in capsys.readouterr().err


def test_broken_targets_are_to_be_removed(command, told, tmp_path):
    assert command("pretrain", "run", *FLAGS, "--stop=1") == 0
    clusters = tmp_path / "run" / "clusters.npz"
    whole = clusters.read_bytes()
    for broken in (b"", b"no clusters at all", whole[: len(whole) // 2]):
        clusters.write_bytes(broken)
        assert f"{clusters} is broken" in (said := told("pretrain", "run")) and "remove it" in said
    clusters.unlink()
    assert command("pretrain", "run", "--stop=2") == 0
    assert clusters.read_bytes() == whole


def test_garbage_in_the_log_is_dropped(command, tmp_path):
    words = ["words", "words", *FLAGS, "--model=words"]
    assert command(*words, "--stop=1") == 0
    with (tmp_path / "words" / "metrics.jsonl").open("ab") as log:
        log.write(b'\xff\x00}\n[1]\n{}\n{"step": "x"}\n{"step": 1, "to')
    assert command(*words, "--stop=2") == 0
    assert [line["step"] for line in metrics(tmp_path / "words") if "valid" not in line] == [1, 2]


@pytest.mark.parametrize("flag", ["clips", "rounds"])
def test_the_speed_of_nothing_is_not_measured(capsys, flag):
    assert lip_reader.main([f"--{flag}=0"]) == 1
    assert f"--{flag} 0 must be at least 1" in capsys.readouterr().err


def test_the_speed_of_beam_search_is_not_that_of_a_word_classifier(capsys):
    with pytest.raises(SystemExit) as stopped:
        lip_reader.main(["--preset=compact_words"])
    assert stopped.value.code == 2 and "invalid choice" in capsys.readouterr().err


def test_help_answers_without_packages_that_only_work_needs():
    slow = ("av", "jiwer", "librosa", "python_speech_features", "scipy", "sentencepiece", "sklearn")
    spy = f"import sys, train_expert\nprint([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", spy], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_a_folder_of_a_readers_run_is_no_generators(data_root, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "last.pt", hparams=asdict(HP), step=3, reader={}, task="pretrain")
    assert train.main(["--data_root", str(data_root), "--runs", str(tmp_path), "--name=run", "--device=cpu"]) == 1
    assert "run/last.pt is a run of train_expert.py: give another --name" in capsys.readouterr().err


def test_a_folder_of_a_generators_run_is_not_overwritten(told, tmp_path):
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "last.pt", hparams={"speech": "local"}, step=3)
    assert "run/last.pt is a run of train.py: give another --name" in told("finetune", "run", *FLAGS)
