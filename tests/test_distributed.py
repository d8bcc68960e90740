"""Many processes train as one: gradients are shared, batches are not, and torchrun starts the real command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

import checkpoint
import distributed
from errors import InputError
from experts.data import Batches
from hparams import ExpertHParams

ROOT = Path(__file__).parents[1]


class Halves(nn.Module):
    """Two layers, of which each process uses its own."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(3, 1, bias=False) for _ in range(2))

    def forward(self, x, part):
        """x: (N, 3). Returns a scalar."""
        return self.parts[part](x).sum()


def share(number, port, folder):
    """What one of two processes does."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.join(torch.device("cpu"))
    torch.manual_seed(0)
    net = Halves()
    with distributed.first_alone():
        first = not (folder / "turn").exists()
        (folder / "turn").touch()
    net(torch.full((2, 3), 1.0 + number), number).backward()
    distributed.share_gradients(net.parameters())
    gradients = [part.weight.grad for part in net.parts]
    torch.save({"rank": distributed.rank(), "first": first, "gradients": gradients}, folder / f"{number}.pt")
    distributed.leave()


def test_every_process_gets_the_mean_of_all_gradients(tmp_path):
    mp.spawn(share, (29_511 + os.getpid() % 400, tmp_path), nprocs=2)
    a, b = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    assert (a["rank"], b["rank"]) == ((0, 2), (1, 2))
    assert (a["first"], b["first"]) == (True, False)
    for one, other in zip(a["gradients"], b["gradients"], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(a["gradients"][0], torch.full((1, 3), 1.0))  # 2 rows of 1, by two processes
    assert torch.equal(a["gradients"][1], torch.full((1, 3), 2.0))


def test_processes_share_the_batches_of_a_step():
    hp, lengths = ExpertHParams(max_frames=40), [10] * 12
    alone = list(Batches(lengths, hp, 0, 8))
    first, second = (list(Batches(lengths, hp, 0, 4, rank, 2)) for rank in range(2))
    assert [batch for step in zip(first, second, strict=True) for batch in step] == alone


def test_without_torchrun_there_is_one_process():
    net = nn.Linear(2, 2)
    net(torch.ones(1, 2)).sum().backward()
    gradient = net.weight.grad.clone()
    distributed.share_gradients(net.parameters())
    assert distributed.rank() == (0, 1) and torch.equal(net.weight.grad, gradient)
    assert distributed.means({"loss": gradient})["loss"] is gradient


def test_torchrun_trains_with_two_processes(spoken_root, tmp_path):
    small = "--layers 1 --dim 16 --ffn 16 --heads 1 --decoder_layers 1 --decoder_ffn 16 --decoder_heads 1".split()
    small += (
        "--width 0.03125 --shrink 4 --clusters 3 --max_frames 40 --max_steps 2 --log_every 1 --valid_every 9".split()
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "train_expert.py"), "pretrain", "--data_root", str(spoken_root), "--name", "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["--runs", str(tmp_path), "--workers", "0", "--device", "cpu", *small]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [step for step in steps if step] == [1, 2, 2]  # the last is validated
    assert checkpoint.load(tmp_path / "two" / "last.pt")["step"] == 2


def test_a_batch_that_memory_is_too_short_for_is_done_in_halves():
    sizes = []

    def work(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * item for item in batch]

    assert distributed.within_memory(work, list(range(10))) == list(range(0, 20, 2))
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    with pytest.raises(InputError, match="too little memory for one frame"):
        distributed.within_memory(lambda batch: work(batch * 9), [1, 2])
