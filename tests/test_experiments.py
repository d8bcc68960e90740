"""The experiments: every compact row once a seed, listed or run, resumed where they stopped, and no row forgotten."""

import contextlib
import importlib
import io
import re
from argparse import Namespace

import pytest

from evaluation import experiments
from evaluation.ablation import OTHER_ROWS, ROWS
from evaluation.experiments import GROUPS, PAPERS, TEACHERS, main, rows_of, step_seconds, training_hours
from hparams import preset

TINY = ["--papers", "wav2lip", "cals", "--splits", "val", "--seeds", "0", "1"]


@pytest.fixture
def argv(spoken_root, tmp_path):
    places = {"data_root": spoken_root, "runs": tmp_path / "r", "out": tmp_path / "o"}
    return [word for name, path in places.items() for word in (f"--{name}", str(path))] + TINY


@pytest.fixture
def called(monkeypatch):
    """The commands that were run; those whose words hold one of `fails` end with 3."""
    commands, fails = [], set()

    def run(command, cwd):
        commands.append(command[1:])
        return Namespace(returncode=3 if fails & set(command) else 0)

    monkeypatch.setattr(experiments.subprocess, "run", run)
    return commands, fails


def test_every_row_of_every_paper_is_in_a_table():
    rows = [row for group in GROUPS.values() for row in group.rows]
    assert sorted(rows) == sorted({*ROWS, *OTHER_ROWS}) and len(rows) == len(set(rows))
    assert sorted(row for paper in PAPERS for _, row in rows_of(paper)) == sorted(rows)
    assert all(against in [row for _, row in rows_of(paper)] for paper, (_, against) in PAPERS.items())
    assert {name for group in GROUPS.values() for name in group[1:] if name} == set(TEACHERS)


def test_rows_get_the_experts_that_they_ask_for():
    for group in GROUPS.values():
        for row in group.rows:
            hp = experiments.knobs_of(row, {})
            assert hp.needs_sync_expert == bool(group.sync_expert), row
            assert (hp.supervisor in ("avsyncnet", "conv")) == bool(group.expert), row


def test_hours_count_what_rows_share_once():
    alone = [training_hours((row,), {}) for row in ("wav2lip", "wav2lip_gan")]
    assert max(alone) < training_hours(("wav2lip", "wav2lip_gan"), {}) < sum(alone) / 1.5
    assert step_seconds(preset("compact_talklip_l"), 0) == pytest.approx(32 / 23)
    assert step_seconds(preset("compact_talklip_l"), 2999) == pytest.approx(32 / 23 + 0.8)


def test_a_dry_run_lists_the_commands_and_runs_none(argv, called, capsys):
    assert main([*argv, "--dry", "--max_steps=4600"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert called[0] == [] and lines[0] == "| what | hours | command |"
    assert [line.split(" | ")[0] for line in lines[2:6]] == [
        "| expert wav2lip_sync",
        "| expert cals_sync",
        "| seed 0, wav2lip: rows 2",
        "| seed 0, cals_baseline: rows 1",
    ]
    assert "--seed=1 --max_steps=4600" in out and "22 commands, about" in lines[-1]


def test_what_is_done_is_not_done_again_unless_its_command_changes(argv, called, capsys):
    commands, fails = called
    fails.add("evaluation.evaluate")
    assert main(argv) == 1
    assert "seed 0, table of wav2lip ended with 3" in capsys.readouterr().err
    count = len(commands)
    assert [command[0] for command in commands[:2]] == ["train_expert.py"] * 2
    fails.clear()
    commands.clear()
    assert main(argv) == 0
    assert len(commands) == 22 - count + 1 and commands[0][1] == "evaluation.evaluate"
    commands.clear()
    assert main(argv) == 0 and commands == []
    assert main([*argv, "--lr=0.1"]) == 0
    assert {command[1] for command in commands} == {"evaluation.ablation"} and len(commands) == 6
    main([*argv, "--lr=0.1", "--dry"])
    out = capsys.readouterr().out
    assert "about 0 hours left" in out and out.count("| done in 0.00 |") == 22


def test_the_commands_are_ones_that_there_are(argv, called):
    """Every word that begins with -- is a flag of the script that it is given to."""
    commands, _ = called
    begin = ["--init_faces", "faces.safetensors", "--init_discriminator", "d.safetensors"]
    assert main([*argv, "--papers", *PAPERS, *begin]) == 0
    rows = [command for command in commands if "evaluation.ablation" in command]
    assert rows and all(flag in command for command in rows for flag in begin[::2])
    helps = {}
    for command in commands:
        script = command[1] if command[0] == "-m" else command[0].removesuffix(".py")
        task = command[2] if script in ("evaluation.figures", "evaluation.context") else command[1]
        key = (script, task if script in ("evaluation.figures", "evaluation.context", "train_expert") else "")
        if key not in helps:
            helps[key] = flags_of(*key)
        unknown = {word.split("=")[0] for word in command if word.startswith("--")} - helps[key]
        assert not unknown, (key, unknown)


def flags_of(script, task):
    """The flags of a script, or of a task of it."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        importlib.import_module(script).main([*([task] if task else []), "--help"])
    return set(re.findall(r"--[a-z][\w-]*", text.getvalue()))


def test_wrong_flags_are_one_line(argv, capsys):
    assert main([*argv, "--jobs", "0"]) == 1 and "--jobs must be at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*argv, "--seed=3"])
    assert "say --seeds" in capsys.readouterr().err
