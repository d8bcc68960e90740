"""The six rows are trained for equal steps, what they share once, and each is as if it had been trained alone."""

import json
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from small_experts import NARROW, write_expert

import checkpoint
import train
from checkpoint import sha256
from errors import InputError
from evaluation import ablation
from evaluation.ablation import OTHER_ROWS, ROWS, at_once, parting, trunks

torch.set_num_threads(1)
SHORT = {"max_steps": 4, "lip_from": 2, "adv_from": 1, "batch_size": 2, "lip_window": 4}
SHORT |= NARROW | {"warmup": 1, "valid_every": 2, "valid_clips": 1, "log_every": 1}


def flags(**knobs):
    return [f"--{name}={value}" for name, value in (SHORT | knobs).items()] + ["--no-amp"]


def flat(state, prefix=""):
    """Every tensor and number in nested dicts and lists, by its path; tensors as bytes."""
    if isinstance(state, (dict, list)):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, each in pairs for k, v in flat(each, f"{prefix}/{name}").items()}
    return {prefix: state.numpy().tobytes() if isinstance(state, torch.Tensor) else state}


def test_rows_that_differ_in_the_expert_alone_share_their_first_steps():
    assert trunks(ROWS, {"adv_from": 1000}) == {
        "base_wo_lip_gan": "base_wo_lip_gan",
        "base_wo_lip": "base_wo_lip",
        "talklip_l": "base_wo_lip",
        "talklip_l_c": "base_wo_lip",
        "talklip_g": "talklip_g",
        "talklip_g_c": "talklip_g",
    }
    assert parting(ROWS, {}) == 2000
    late = trunks(ROWS, {})
    assert set(late.values()) == {"base_wo_lip_gan", "talklip_g"}, "the discriminator has not joined either"
    assert trunks(("talklip_l_c", "base_wo_lip"), {})["base_wo_lip"] == "talklip_l_c"
    rows = [row for row in OTHER_ROWS if row.startswith("synctalklip")]
    shared = trunks(rows, {})
    assert set(shared.values()) == {"synctalklip"}, "all rows of a command are under its one expert"
    assert trunks(("talklip_g_c", "synctalklip_wo_avsyncnet"), {})["synctalklip_wo_avsyncnet"] == "talklip_g_c"


@pytest.mark.parametrize(
    "rows, step",
    [
        (("wav2lip", "wav2lip_gan"), 2500),
        (("cals_a2l", "cals_a2l_av", "cals_a2l_av_vv"), 2500),
        (("warp", "warp_wo_expert", "warp_wo_adv"), 1000),
        (("base_wo_lip", "base_wo_lip_gan"), 2500),
    ],
)
def test_rows_of_other_papers_share_what_comes_before_they_part(rows, step):
    assert parting(rows, {}) == step and set(trunks(rows, {}).values()) == {rows[0]}


def test_rows_that_are_the_same_have_no_trunk():
    assert parting(("talklip_g",), {}) == 0 and trunks(("talklip_g",), {}) == {"talklip_g": "talklip_g"}
    assert trunks(("cals_baseline", "cals_a2l"), {})["cals_a2l"] == "cals_a2l"


def test_a_row_that_resumes_from_a_trunk_is_the_row_trained_alone(spoken_root, tmp_path, monkeypatch):
    path, called = write_expert(tmp_path / "expert.pt", spoken_root), []

    def in_this_process(_, command):
        called.append(command)
        assert command[0] == "train.py"
        assert train.main(command[1:]) == 0

    monkeypatch.setattr(ablation, "call", in_this_process)
    rows = ["base_wo_lip", "talklip_l", "talklip_g", "talklip_g_c"]
    argv = ["--data_root", str(spoken_root), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    argv += ["--device=cpu", "--workers=0", f"--expert={path}", *flags()]
    assert ablation.main([*argv, "--rows", *rows]) == 0
    assert len(called) == 2 + 4
    for row in ("talklip_l", "talklip_g_c"):
        shared = checkpoint.load(tmp_path / "runs" / row / "last.pt")
        alone = ["--data_root", str(spoken_root), "--runs", str(tmp_path), "--name", row, "--device=cpu", "--workers=0"]
        assert train.main([*alone, "--preset", f"compact_{row}", f"--expert={path}", "--seed=0", *flags()]) == 0
        wanted, found = flat(checkpoint.load(tmp_path / row / "last.pt")), flat(shared)
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if found[name] != wanted[name]] == []
    for row in rows:
        about = checkpoint.load_generator(tmp_path / "out" / f"{row}.safetensors")[2]
        assert about["step"] == 4
        assert about["taught_by"] == ([] if row == "base_wo_lip" else [sha256(path)]), "also after a trunk without it"
    before = (tmp_path / "runs" / "talklip_l" / "last.pt").stat().st_mtime_ns
    assert ablation.main([*argv, "--rows", "talklip_l", "base_wo_lip"]) == 0, "again: nothing is left to do"
    assert (tmp_path / "runs" / "talklip_l" / "last.pt").stat().st_mtime_ns == before


def test_a_row_that_fails_stops_the_command_in_one_line(spoken_root, tmp_path, capfd):
    argv = ["--data_root", str(spoken_root), "--runs", str(tmp_path / "r"), "--out", str(tmp_path / "o")]
    argv += ["--init_faces", str(tmp_path / "none.safetensors"), "--device=cpu", "--rows", "talklip_g", *flags()]
    assert ablation.main(argv) == 1
    lines = capfd.readouterr().err.splitlines()
    assert f"{tmp_path / 'none.safetensors'}" in lines[-2], "the row begins with what is given"
    assert lines[-1].endswith("train.py ended with 1, see above; the same command resumes from there")


def test_rows_generate_the_clips_of_the_splits_and_are_compared(spoken_root, tmp_path, monkeypatch, capsys):
    corpus, out, called = tmp_path / "corpus", tmp_path / "out", []
    clips = (spoken_root / "val.txt").read_text().split()
    rows = {row: out / f"{row}.safetensors" for row in ("talklip_l", "talklip_g")}

    def call(_, command):
        called.append(command)
        if "--outfile" in command:
            flags = dict(zip(command[1::2], command[2::2], strict=False))
            about = {"model": {"sha256": sha256(flags["--checkpoint_path"])}}
            Path(flags["--outfile"]).with_suffix(".json").write_text(json.dumps(about))

    def train_rows(args):
        out.mkdir(exist_ok=True)
        for path in rows.values():
            path.write_text(path.name)
        return rows

    monkeypatch.setattr(ablation, "call", call)
    monkeypatch.setattr(ablation, "train_rows", train_rows)
    argv = ["--data_root", spoken_root, "--corpus", corpus, "--runs", tmp_path / "runs", "--out", out, "--jobs", 2]
    argv = [*map(str, argv), "--splits", "val", "--device", "cpu", "--rows", *rows]
    assert ablation.main(argv) == 1
    assert "corpus: there is no such folder" in capsys.readouterr().err and not called
    for clip in [*clips[1:], "someone/else"]:
        (corpus / "main" / clip).parent.mkdir(parents=True, exist_ok=True)
        (corpus / "main" / f"{clip}.mp4").touch()
    if len(clips) > 1:
        assert ablation.main(argv) == 1
        assert f"no video of {clips[0]}. --corpus is" in capsys.readouterr().err and not called
    (corpus / "main" / clips[0]).parent.mkdir(parents=True, exist_ok=True)
    (corpus / "main" / f"{clips[0]}.mp4").touch()
    assert ablation.main(argv) == 0
    *made, evaluated = called
    wanted = {(str(rows[row]), str(out / "videos" / row / f"{clip}.mp4")) for row in rows for clip in clips}
    assert {(command[command.index("--checkpoint_path") + 1], command[6]) for command in made} == wanted
    assert len(made) == len(wanted) and all(command[-2:] == ["--device", "cpu"] for command in made)
    compared = evaluated[evaluated.index("--compare") + 1 : evaluated.index("--out")]
    assert compared == [str(out / "videos" / row) for row in rows]
    called.clear()
    assert ablation.main(argv) == 0 and called == [evaluated], "what has been generated is not generated again"
    rows["talklip_g"] = tmp_path / "other"
    called.clear()
    assert ablation.main(argv) == 0 and len(called) == len(clips) + 1, "but by other weights it is"


def test_runs_begun_with_other_knobs_are_not_taken_for_these(spoken_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "train_rows", lambda args: {})
    argv = ["--data_root", str(spoken_root), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert ablation.main([*argv, "--max_steps=9"]) == 0 and ablation.main([*argv, "--max_steps=9", "--seed=0"]) == 0
    for more, words in ((["--max_steps=9", "--seed=1"], "seed 0"), ([], "max_steps 9"), (["--lr=1"], "lr not given")):
        assert ablation.main([*argv, *more]) == 1
        assert f"begun with {words}" in capsys.readouterr().err
    for name in ("expert", "init_faces"):
        assert ablation.main([*argv, "--max_steps=9", f"--{name}=other.pt"]) == 1
        assert f"begun with {name} not given" in capsys.readouterr().err
    for flag, words in (("--jobs=0", "--jobs 0 must be"), ("--patience=3", "leave their stages at different steps")):
        assert ablation.main([*argv, flag]) == 1 and words in capsys.readouterr().err


def test_cores_are_shared_among_the_jobs(monkeypatch):
    seen = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("evaluation.ablation.processors", lambda: 16)
    run = lambda *_, env, **__: seen.append(env) or Namespace(returncode=0)  # noqa: E731
    monkeypatch.setattr("evaluation.ablation.subprocess.run", run)
    for jobs in (1, 5, 99):
        ablation.call(Namespace(jobs=jobs), ["train.py"])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    ablation.call(Namespace(jobs=1), ["train.py"])
    assert [env["OMP_NUM_THREADS"] for env in seen] == ["16", "3", "1", "7"]


def test_a_command_that_fails_is_named(monkeypatch):
    monkeypatch.setattr("evaluation.ablation.subprocess.run", lambda *_, **__: Namespace(returncode=3))
    for command, name in (
        (["train.py", "--x"], "train.py"),
        (["-m", "evaluation.evaluate", "--x"], "evaluation.evaluate"),
    ):
        with pytest.raises(InputError, match=f"^{name} ended with 3"):
            ablation.call(Namespace(jobs=1), command)


def test_after_a_failure_nothing_else_begins():
    begun = []

    def do(item):
        begun.append(item)
        time.sleep(0.1)
        raise InputError("broken")

    with pytest.raises(InputError, match="broken"):
        at_once(1, do, range(9))
    assert len(begun) < 9
