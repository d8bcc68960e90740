"""Devices, and training on many processes, as torchrun starts them; without it there is one."""

import os
import sys
from contextlib import contextmanager
from datetime import timedelta

import cv2
import torch
import torch.distributed as dist

from errors import InputError

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


def one_thread(_worker=None):
    """Lets this process compute on one thread, so that numbers do not depend on how many processes share the work."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@contextmanager
def one_core_left():
    """Computes on one thread less than before, so that a core is left for reading and writing; afterwards as before."""
    taken = int(torch.get_num_threads() > 1)
    torch.set_num_threads(torch.get_num_threads() - taken)
    try:
        yield
    finally:  # by the difference: of two streams, the first to begin may be the first to end
        torch.set_num_threads(torch.get_num_threads() + taken)


def rank():
    """The number of this process, from 0, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


class Total(torch.autograd.Function):
    """The sum of a tensor over all processes; the gradient that comes back is summed as well."""

    @staticmethod
    def forward(ctx, x):
        """x: the same shape in every process."""
        whole = x.detach().clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx, gradient):
        """gradient: that of this process's loss."""
        return Total.forward(None, gradient.contiguous())


class Gathered(torch.autograd.Function):
    """The rows of all processes behind each other. A process's own rows get the gradient that every process has.

    That is the gradient of a loss of all rows, which is the same in every process: each gives that of its own rows,
    times the number of processes, because the mean over processes is taken of it.
    """

    @staticmethod
    def forward(ctx, x):
        """x: (N, ...), N may differ between processes."""
        number, world = rank()
        sizes = [torch.zeros((), dtype=torch.long, device=x.device) for _ in range(world)]
        dist.all_gather(sizes, torch.tensor(len(x), device=x.device))
        sizes = [int(size) for size in sizes]
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.first, ctx.count = sum(sizes[:number]), len(x)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient):
        """gradient: of all rows, by this process's loss."""
        return dist.get_world_size() * gradient[ctx.first : ctx.first + ctx.count]


def total(x):
    """The sum of a tensor over all processes, through which gradients flow."""
    return Total.apply(x) if dist.is_initialized() else x


def gathered(x):
    """The rows (N, ...) of all processes, for a loss that every process takes of all of them, see `Gathered`."""
    return Gathered.apply(x) if dist.is_initialized() else x


def from_first(x):
    """The first process's tensor, in every process."""
    if dist.is_initialized():
        dist.broadcast(x, 0)
    return x


@torch.no_grad()
def share_gradients(weights):
    """Gives every process the mean of all gradients; a weight that no process has a gradient of keeps none."""
    weights = [each for each in weights if each.requires_grad]
    if not dist.is_initialized() or not weights:
        return
    used = torch.tensor([float(each.grad is not None) for each in weights], device=weights[0].device)
    dist.all_reduce(used)
    waiting = []
    for each, by in zip(weights, used.tolist(), strict=True):
        if by:
            each.grad = torch.zeros_like(each) if each.grad is None else each.grad
            each.grad /= dist.get_world_size()
            waiting.append(dist.all_reduce(each.grad, async_op=True))
    for work in waiting:
        work.wait()


def means(losses):
    """{name: scalar} of all processes: the mean of each."""
    if not dist.is_initialized():
        return losses
    numbers = torch.stack([loss.detach().float() for loss in losses.values()])
    return dict(zip(losses, total(numbers) / dist.get_world_size(), strict=True))


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


def within_memory(work, batch):
    """What `work` makes of a batch, a list; where a GPU has too little memory for it, of half after half of it.

    Raises InputError where it has too little for one item.
    """
    try:
        return work(batch)
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise InputError("the GPU has too little memory for one frame: give --device cpu") from error
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    return within_memory(work, batch[:middle]) + within_memory(work, batch[middle:])


def say(line):
    """Writes a line to stderr, from the first process alone."""
    if not rank()[0]:
        print(line, file=sys.stderr, flush=True)


def leave():
    """Ends what `join` began, once every process has come here."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def device_of(name):
    """The name of a device that computes: `name` itself, for None a GPU where there is one, else the processor.

    Raises InputError if this machine has no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:  # the latter: this torch is built without it
        raise InputError(f"--device {name} does not work here: {str(error).splitlines()[0]}") from error
    return name


def has_bf16(device):
    """Whether a device computes in bfloat16 itself, so that it is faster there than float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and torch.cpu._is_avx512_bf16_supported()


def autocast(device, wanted):
    """The autocast of the knob `amp`, `wanted`: bfloat16 where the device computes in it, else float32.

    A processor that has to imitate it is about eight times slower than in float32.
    """
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bool(wanted and has_bf16(device)))
