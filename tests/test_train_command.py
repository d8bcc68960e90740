"""The command as it is typed: without flags, on folders that are no data root, on clips that the expert cannot read."""

import json
from argparse import Namespace
from dataclasses import asdict, replace

import pytest
import torch
from conftest import SPOKEN, retell, write_spoken_root
from small_experts import GUIDED, expert, write_expert
from small_runs import command, flags_of, flat, metrics

import checkpoint
import train
from corpora.data_root import check_data_root
from errors import InputError
from experts.lip_reader import load_reader
from hparams import METHODS, WEIGHTS, preset

torch.set_num_threads(1)
ROW = "compact_talklip_g_c"
FLAGS = flags_of(GUIDED)


@pytest.fixture
def root(tmp_path):
    """A data root of its own, that a test may change."""
    (tmp_path / "root").mkdir()
    return write_spoken_root(tmp_path / "root", SPOKEN)


def silence(root, split):
    """Takes the transcripts of a split away."""
    for name in SPOKEN[split]:
        retell(root / "clips" / f"{name}.safetensors", text="")


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


# Without flags


def test_without_flags_the_compact_g_c_row_is_trained_and_resumed(spoken_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv, folder = ["--data_root", str(spoken_root), "--workers=0", "--device=cpu"], tmp_path / "runs" / ROW
    for stop in (1, 2):
        assert train.main([*argv, f"--stop={stop}"]) == 0
        printed = capsys.readouterr()
        what = f"{ROW} under {WEIGHTS['expert']} (the published size: --preset talklip_g_c --expert FILE)"
        assert f"runs/{ROW}: {what} on 4 clips, step {stop - 1} of 3000\n" in printed.err and not printed.out
        assert "train.txt: steps from --lip_from on are without 2 of 4 clips, the first: " in printed.err
        assert "from step 2000: lip loss x 0.003" in printed.err
        state = checkpoint.load(folder / "last.pt")
        assert state["step"] == stop and state["hparams"] == asdict(preset(ROW))
        assert state["expert"] == checkpoint.sha256(WEIGHTS["expert"])
    assert [line["step"] for line in metrics(folder)] == [1, 2], "every 50 steps, and the last of each session"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [ROW]


def test_a_method_is_a_preset():
    assert METHODS["talklip"] == ROW
    with pytest.raises(SystemExit) as stopped:
        train.main(["--data_root", "nowhere", "--method", "telepathy"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "row, words",
    {
        "compact_talklip_l": "compact_talklip_l (the published size: --preset talklip_l --expert FILE)",
        "compact_base_wo_lip": "compact_base_wo_lip (the published size: --preset base_wo_lip)",
        "compact_l": "compact_l",
        "compact": "compact",
        "talklip_g_c": "talklip_g_c",
    }.items(),
)
def test_the_published_size_is_told_where_there_is_one(row, words):
    assert train.described(Namespace(row=row, preset=row, name="x", expert="e.pt"), None, None) == words


def test_a_run_with_a_name_is_resumed_with_its_own_knobs(spoken_root, tmp_path, capsys):
    path = write_expert(tmp_path / "expert.pt", spoken_root)
    assert command(spoken_root, tmp_path, *FLAGS, "--stop=1", "--expert", path) == 0
    assert f"tiny: talklip_g under {path} on 4 clips, step 0 of 8" in capsys.readouterr().err
    assert command(spoken_root, tmp_path, "--stop=1", "--expert", path) == 0
    assert f"tiny: its own knobs under {path} on 4 clips, step 1 of 8" in capsys.readouterr().err


# Folders that are no data root


FIRST = "first python preprocess.py --data_root"
OTHERS = "FOLDER_OF_VIDEOS --out data/NAME, then python train.py --data_root data/NAME"


@pytest.mark.parametrize(
    "folder, made, words",
    [
        ("lrs2", ["lrs2/main"], f"lrs2 is a corpus (lrs2) that is not preprocessed yet: {FIRST} lrs2 --out data/lrs2, "
         "then python train.py --data_root data/lrs2"),
        ("my lrs3", ["my lrs3/trainval"], f"{FIRST} 'my lrs3' --out 'data/my lrs3', "
         "then python train.py --data_root 'data/my lrs3'"),
        ("data/lrs2", ["data/lrs2/main"], f"{FIRST} data/lrs2 --out data/lrs2_root, "
         "then python train.py --data_root data/lrs2_root"),
        ("lrs2", ["lrs2/main", "data/lrs2/dataset.json"], "lrs2 is no data root, data/lrs2 is one: "
         "python train.py --data_root data/lrs2"),
        ("empty", ["empty/a"], f"empty has no videos and is no data root: {FIRST} {OTHERS}"),
        ("gone", [], f"gone does not exist: {FIRST} {OTHERS}"),
        ("notes.txt", ["notes.txt"], f"notes.txt is no folder: {FIRST} {OTHERS}"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_root_is_answered_with_the_command(folder, made, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name for name in made):
        (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text("{}")
    assert train.main(["--data_root", folder]) == 1
    printed = capsys.readouterr()
    assert printed.err.endswith(f"{words}\n") and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "runs").exists()


def test_the_command_names_the_script_that_asked(tmp_path):
    (tmp_path / "grid" / "trainval").mkdir(parents=True)
    with pytest.raises(InputError, match="then python train_expert.py finetune --data_root data/grid$"):
        check_data_root(tmp_path / "grid", "train_expert.py finetune")


@pytest.mark.parametrize(
    "flags", [["--expert=nowhere.pt"], ["--export={}/file/x.pt"], ["--init=nowhere.pt"], ["--sync_dim=64"]]
)
def test_a_refusal_leaves_no_run_folder(spoken_root, tmp_path, capsys, flags):
    (tmp_path / "file").write_text("no folder")
    path = write_expert(tmp_path / "expert.pt", spoken_root)
    flags = [flag.format(tmp_path) for flag in flags]
    assert command(spoken_root, tmp_path / "runs", *FLAGS, "--expert", path, *flags) == 1
    assert last_line(capsys) and not (tmp_path / "runs").exists()


# Clips that the expert cannot read


@pytest.mark.parametrize(
    "changes, flags, count, words",
    [
        ({"ann/one": ""}, [], 1, "ann/one.safetensors: '' has no words"),
        ({"ann/one": "SET ÄÖÜ", "bob/one": "?!"}, [], 2, "ann/one.safetensors: the tokenizer does not know 'äöü'"),
        ({}, ["--lip_window=16"], 2, "ann/two.safetensors: a clip of 16 frames is too short for windows of 16"),
    ],
    ids=["no transcript", "unknown characters", "too short"],
)
def test_clips_that_the_expert_cannot_read_are_left_out_of_its_steps(
    root, tmp_path, capsys, changes, flags, count, words
):
    for name, text in changes.items():
        retell(root / "clips" / f"{name}.safetensors", text=text)
    path = write_expert(tmp_path / "expert.pt", root)
    flags = [*FLAGS, "--expert", path, "--lip_from=1", *flags]
    assert command(root, tmp_path, *flags, "--stop=3") == 0
    said = capsys.readouterr().err
    assert (
        f"{root / 'train.txt'}: steps from --lip_from on are without {count} of 4 clips, the first: " in said
        and words in said
    )
    assert ["lip" in line for line in metrics(tmp_path / "tiny")] == [False, True, True]


def test_what_is_left_out_is_left_out_of_guided_steps_alone(root):
    silence(root, "train")
    retell(root / "clips" / "bob" / "one.safetensors", text="BIN RED NOW")
    retell(root / "clips" / "cid" / "one.safetensors", text="")
    clips, guided, valid = train.clips_of(Namespace(data_root=root, faces=None), GUIDED, expert(root))
    assert clips.names == list(SPOKEN["train"]) and len(clips.paths) == 4
    assert guided.names == ["bob/one"] and guided.speakers == {"bob": [0]} and valid.names == ["ann/three"]
    assert [path.stem for path in guided.paths] == ["one"] and len(guided[7]["roi"]) == 24


def test_an_expert_that_is_asked_for_and_reads_no_clip_is_refused(root, tmp_path, capsys):
    path = write_expert(tmp_path / "expert.pt", root)
    silence(root, "train")
    assert command(root, tmp_path, *FLAGS, "--expert", path, "--stop=1") == 1
    assert "train.txt: none of its clips can be used: " in last_line(capsys) and not (tmp_path / "tiny").exists()


def test_validation_is_of_pixels_where_the_expert_reads_none_of_it(root, tmp_path, capsys):
    path = write_expert(tmp_path / "expert.pt", root)
    silence(root, "val")
    assert command(root, tmp_path, *FLAGS, "--expert", path) == 0
    assert "val.txt: the expert reads none of its 2 clips, the first: " in capsys.readouterr().err
    lines = metrics(tmp_path / "tiny")
    assert any("lip" in line for line in lines)
    assert [line["valid"].keys() for line in lines if "valid" in line][-1] == {"l1", "mouth"}


def test_the_bare_command_trains_without_the_expert_where_it_reads_no_clip(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    silence(root, "train")
    argv = ["--data_root", str(root), "--workers=0", "--device=cpu", "--width=0.0625", "--batch_size=2"]
    for stop in (1, 2):
        assert train.main([*argv, f"--stop={stop}"]) == 0
        said = capsys.readouterr().err
        assert f"the expert reads none of its clips: trained as {ROW}_unguided\n" in said
        assert f"runs/{ROW}_unguided: " in said and f"step {stop - 1} of 3000" in said and "lip loss" not in said
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"{ROW}_unguided"]
    state = checkpoint.load(tmp_path / "runs" / f"{ROW}_unguided" / "last.pt")
    assert state["expert"] is None and state["hparams"]["lip_weight"] == state["hparams"]["contrastive_weight"] == 0
    theirs = load_reader(WEIGHTS["expert"]).net.encoder.state_dict()  # what the audio encoder began with, and kept
    assert all(torch.equal(value, theirs[name]) for name, value in audio_encoder(state).items())


def audio_encoder(state):
    """The weights of a run's audio encoder, by their names in the encoder."""
    return {k.removeprefix("speech."): v for k, v in state["generator"].items() if k.startswith("speech.")}


def test_an_roi_that_no_clip_has_is_refused(spoken_root, tmp_path, capsys):
    path = write_expert(tmp_path / "expert.pt", spoken_root)
    assert command(spoken_root, tmp_path, *FLAGS, "--expert", path, "--roi=lrs2", "--stop=1") == 1
    said = capsys.readouterr().err
    assert "360x288 px: --roi lrs2 is for LRS2's 160x160, say --roi aligned" in said


# Resuming


def test_a_run_is_not_resumed_on_other_clips(root, tmp_path, capsys):
    flags = ["--expert", write_expert(tmp_path / "expert.pt", root), "--stop=1"]
    assert command(root, tmp_path, *FLAGS, *flags) == 0
    names = (root / "train.txt").read_text()
    (root / "train.txt").write_text(names.replace("bob/two\n", ""))
    assert command(root, tmp_path, *flags) == 1
    last = tmp_path / "tiny" / "last.pt"
    assert f"not the clips that {last} was begun with: give the same, or another --name" in last_line(capsys)
    (root / "train.txt").write_text(names)
    assert command(root, tmp_path, *flags) == 0


def as_older(path, progress=True):
    """Rewrites the checkpoint of a run as versions before this one had it."""
    state = torch.load(path, weights_only=True)
    plateaus, guard = state.pop("plateaus"), state.pop("guard")
    state.pop("clips")
    stages = {"audio_from": GUIDED.audio_from, "lip_from": GUIDED.lip_from}  # as given, also where plateaus find them
    state["hparams"] = {"method": "talklip", **state["hparams"], **stages}
    torch.save(state | ({"progress": plateaus | guard} if progress else {}), path)


@pytest.mark.parametrize("patience", [0, 1])
def test_a_run_of_an_older_version_is_resumed_as_the_same_run(spoken_root, tmp_path, patience):
    hp = replace(GUIDED, patience=patience, valid_every=1 if patience else 4, lr=0.0 if patience else 1e-3)
    flags = ["--expert", write_expert(tmp_path / "expert.pt", spoken_root)]
    for runs in (tmp_path / "new", tmp_path / "old"):
        assert command(spoken_root, runs, *flags_of(hp), *flags, "--stop=4") == 0
        if runs.name == "old":
            as_older(runs / "tiny" / "last.pt")
        assert command(spoken_root, runs, *flags, "--stop=7") == 0
    new, old = (flat(checkpoint.load(tmp_path / name / "tiny" / "last.pt")) for name in ("new", "old"))
    assert new.keys() == old.keys() and [name for name in new if new[name] != old[name]] == []
    assert metrics(tmp_path / "new" / "tiny") == metrics(tmp_path / "old" / "tiny")


def test_a_run_from_before_plateaus_is_resumed(spoken_root, tmp_path):
    flags = ["--expert", write_expert(tmp_path / "expert.pt", spoken_root)]
    assert command(spoken_root, tmp_path, *FLAGS, *flags, "--stop=1") == 0
    last = tmp_path / "tiny" / "last.pt"
    as_older(last, progress=False)
    assert command(spoken_root, tmp_path, *flags, "--stop=2") == 0
    state = checkpoint.load(last)
    assert state["step"] == 2 and state["plateaus"]["starts"] == {} and state["guard"]["steps"]["l1"] == 1
    assert json.loads((tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
