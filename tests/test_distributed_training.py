"""Two processes train a generator under an expert as one process does on their batches joined."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from small_experts import CALS, GUIDED, expert, reader, sync_expert, write_expert
from small_runs import CPU, flags_of, gradients, stilled

import checkpoint
import distributed
import train
from data import GuidedClips, collate

ROOT = Path(__file__).parents[1]
STILL = {
    "lr": 0.0,
    "ema": 0.0,
    "audio_dropout": 0.0,
    "audio_layerdrop": 0.0,
    "lip_from": 0,
    "audio_from": 0,
    "audio_train_layers": 0,
}
CASES = {
    "sound": replace(GUIDED, **STILL),
    "faithful": replace(GUIDED, **STILL, faithful=True, lip_sum=True),
    "local": replace(GUIDED, **STILL | {"speech": "local"}, sync_dim=32),
    "sync": replace(GUIDED, **STILL, window=5, sync_weight=0.1),
    "cals": replace(CALS, **STILL, a2l_trains=True, clip_norm=0.0),
}


def samples(root, hp):
    """Two clips of unlike length, with one and with two windows."""
    return [
        GuidedClips(root, "train", replace(hp, windows=n), reader(root).tokenizer, "aligned", 100)[draw]
        for draw, n in ((0, 1), (1, 2))
    ]


@cache
def narrow_sync_expert(model="compact_wav2lip_sync"):
    """One whose batch norms learn in one process alone: to be made before others join."""
    return sync_expert(model=model)


def step(root, hp, mine):
    """One step on the samples `mine`, in float64: its losses, gradients and the statistics of a batch norm."""
    state, teacher = stilled(train.build(hp, CPU), 9), expert(root, faithful=hp.faithful)
    kinds = ("compact_cals_sync",) if hp.model == "cals" else ()
    sync_teacher = narrow_sync_expert(*kinds) if hp.synced else None
    for net in (*state.nets.values(), teacher.net, *([sync_teacher.net] if sync_teacher else [])):
        net.double()
    batch = collate(mine, hp.window).items()
    batch = {name: part.double() if part.is_floating_point() else part for name, part in batch}
    losses = train.train_step(state, [batch], teacher, sync_teacher)
    norm = state.nets["generator"].encoder[1][0].norm
    statistics = {"mean": norm.running_mean, "var": norm.running_var}
    return {"losses": losses, "gradients": gradients(state.nets), "norm": statistics}


def share(number, port, root, folder):
    """What one of two processes does."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    narrow_sync_expert()
    narrow_sync_expert("compact_cals_sync")
    distributed.join(CPU)
    found = {name: step(root, hp, samples(root, hp)[number : number + 1]) for name, hp in CASES.items()}
    torch.save(found, folder / f"{number}.pt")
    distributed.leave()


@pytest.fixture(scope="module")
def shared(spoken_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    mp.spawn(share, (29_911 + os.getpid() % 400, spoken_root, folder), nprocs=2)
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_take_the_step_of_one(spoken_root, shared, name):
    hp = CASES[name]
    alone = step(spoken_root, hp, samples(spoken_root, hp))
    for found in (each[name] for each in shared):
        for part in ("losses", "gradients", "norm"):
            assert found[part].keys() == alone[part].keys()
            if name == "faithful" and part != "norm":  # its counter-examples are drawn anew: not the same ones
                continue
            for key, wanted in alone[part].items():
                scale = wanted.abs().max().clamp(min=1e-6)
                torch.testing.assert_close(
                    found[part][key] / scale, wanted / scale, atol=1e-6, rtol=1e-6, msg=str(key), check_dtype=False
                )


def test_their_counter_examples_are_the_same_in_both(shared):
    first, second = (each["faithful"] for each in shared)
    for part in ("losses", "gradients"):
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())


def test_torchrun_trains_a_generator_with_two_processes(spoken_root, tmp_path):
    hp = replace(GUIDED, max_steps=6, patience=1, valid_every=1, lr=1e-4, save_every=2)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "train.py"), "--data_root", str(spoken_root), "--name", "two", "--runs", str(tmp_path)]
    command += ["--workers", "0", "--device", "cpu", "--expert", str(write_expert(tmp_path / "e.pt", spoken_root))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*command, *flags_of(hp)], env=environment, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "valid" not in line] == [1, 2, 3, 4, 5, 6]
    assert checkpoint.load(tmp_path / "two" / "last.pt")["step"] == 6
    assert ran.stderr.count("step 0 of 6") == 1
