"""Training on many processes, as torchrun starts them; without it there is one, and nothing here does anything."""

import os
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

LONGEST_WAIT = timedelta(hours=12)  # of the others while the first clusters a corpus or validates


def join(device):
    """Joins the processes that torchrun started. Returns the device of this one: under CUDA, its own of the machine."""
    if "RANK" not in os.environ:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    return device


def rank():
    """The number of this process, from 0, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def shared(net):
    """`net`, or around it what gives every process the mean of all gradients. Parts that a step leaves out are fine."""
    if not dist.is_initialized():
        return net
    return DistributedDataParallel(net, find_unused_parameters=True)


@contextmanager
def first_alone():
    """Lets the first process through alone, to write what the others then find."""
    number, _ = rank()
    if number:
        dist.barrier()
    try:
        yield
    finally:
        if dist.is_initialized() and not number:
            dist.barrier()


def leave():
    """Ends what `join` began, once every process has come here."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
