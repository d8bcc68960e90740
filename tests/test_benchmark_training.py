"""The benchmark of training: its plain and its fast way take the same step, and its table is whole."""

from dataclasses import replace

import pytest
import torch
from small_experts import EXPERT, GUIDED

from evaluation.benchmarks.training import made_up, main, stepper

torch.set_num_threads(1)
HP = replace(GUIDED, lip_from=0, audio_from=0, audio_dropout=0.0, audio_layerdrop=0.0, windows=0)


def test_both_ways_take_the_same_step():
    batch, found = made_up(2, 75, 25, HP), []
    assert batch["face"].shape == (5, 5, 6, 96, 96) and batch["roi"].shape == (2, 75, 1, 88, 88)
    for clip in range(2):
        frames = batch["frames"][batch["clip"] == clip].flatten().tolist()
        assert len(frames) == len(set(frames)) and max(frames) < 75
    for plain in (True, False):
        losses = stepper(HP, EXPERT, "cpu", plain)(batch)
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[0].keys() == found[1].keys() >= {"l1", "adv", "lip", "contrastive", "d_fake"}
    for name in found[0].keys() - {"grad_norm"}:
        assert found[1][name] == pytest.approx(found[0][name], rel=0.05), name


def test_a_local_audio_encoder_is_timed_too():
    hp = replace(HP, speech="local", sync_dim=32)
    losses = stepper(hp, EXPERT, "cpu", plain=False)(made_up(1, 40, 5, hp))
    assert {"lip", "contrastive"} <= losses.keys()


@pytest.mark.parametrize("only", [[], ["--only", "train"]])
def test_the_table_has_the_ways_that_were_asked_for(capsys, monkeypatch, only):
    monkeypatch.setattr("evaluation.benchmarks.training.preset", lambda name, kind=None: EXPERT if kind else HP)
    assert main(["--clips", "1", "--faces", "5", "--rounds", "1", *only]) == 0
    printed = capsys.readouterr().out
    assert "1 clips of 75 frames, 5 generated, cpu" in printed and "train.py with --amp" in printed
    assert ("float32, expert" in printed) is ("times as fast" in printed) is (not only)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--clips", "0"], "--clips 0 must be at least 1"),
        (["--faces", "3"], "--faces 3: from 5 to 120 fit into 2 clips"),
        (["--faces", "125"], "--faces 125: from 5 to 120"),
    ],
)
def test_odd_flags_are_refused_in_one_line(capsys, argv, words):
    assert main(argv) == 1
    assert words in capsys.readouterr().err
