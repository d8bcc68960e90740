"""A run of a generator that warps: every loss trains it, in both stages, and a resumed run is the same run."""

from dataclasses import replace

import cv2
import pytest
from small_experts import expert
from small_runs import CPU, flat, go, metrics
from warp_inputs import knobs

import checkpoint
from hparams import preset
from train import build

LOSSES = {"l1", "mouth", "detail", "motion", "lips", "adv", "lip", "contrastive"}
WEIGHTS = {f"{name}_weight": getattr(preset("warp"), f"{name}_weight") for name in LOSSES}
RUN = {"batch_size": 2, "window": 2, "windows": 1, "max_steps": 4, "adv_from": 1, "lip_from": 2, "lr": 1e-3}
RUN |= {"log_every": 1, "save_every": 100, "valid_every": 4, "valid_clips": 2, "audio_from": 0, "roi": "own"}
HOW = {"discriminator": "patch", "adv_ratio": 0.2, "augment": 0.5, "freeze_norms": True, "lip_sum": False, "ema": 0.9}
HP = replace(knobs(sync_dim=32), **WEIGHTS, **RUN, **HOW, adv_lr=5e-4, adv_beta1=0.25, seed=3)


@pytest.fixture(scope="module")
def run(spoken_root, tmp_path_factory):
    """A run of two steps and two more under the expert, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return go(spoken_root, folder, 4, HP, expert(spoken_root)), folder


def test_every_loss_that_has_a_weight_is_logged_from_its_stage_on(run):
    state, folder = run
    steps, valid = ([line for line in metrics(folder) if ("valid" in line) == which] for which in (False, True))
    told = [LOSSES & line.keys() for line in steps]
    late = {"lip", "contrastive", "motion"}
    assert told == [LOSSES - late - {"adv"}, LOSSES - late, LOSSES, LOSSES]
    assert all(line[name] != 0 for line, names in zip(steps, told, strict=True) for name in names)
    assert valid[-1]["valid"].keys() >= {"l1", "mouth", "lip", "token_error"}
    strip = cv2.imread(str(folder / "samples" / "0000004.png"))
    assert strip.shape == (2 * 128, 8 * 128, 3), "two clips; identity, face, generated, real, twice"


def test_every_part_of_the_generator_learns(run):
    before, after = (dict(state.nets["generator"].named_parameters()) for state in (build(HP, CPU), run[0]))
    still = {name for name, weight in after.items() if weight.equal(before[name])}
    assert not still and "lips" not in run[0].nets, "its own outline tells the shape of the lips"
    rates = {name: optim.param_groups[0]["lr"] for name, optim in run[0].optims.items()}
    assert rates["discriminator"] == pytest.approx(rates["generator"] / 2)
    decays = {name: optim.param_groups[0]["betas"][0] for name, optim in run[0].optims.items()}
    assert decays == {"generator": HP.beta1, "discriminator": 0.25}


def test_a_resumed_run_is_the_same_run(run, spoken_root, tmp_path):
    wanted = flat(checkpoint.load(run[1] / "last.pt"))
    go(spoken_root, tmp_path, 3, HP, expert(spoken_root))
    go(spoken_root, tmp_path, 4, HP, expert(spoken_root), path=tmp_path / "last.pt")
    found = flat(checkpoint.load(tmp_path / "last.pt"))
    assert found.keys() == wanted.keys() and [name for name in wanted if found[name] != wanted[name]] == []
    assert metrics(tmp_path) == metrics(run[1])
