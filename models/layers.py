"""The blocks that every convolutional model here is made of, and tables of them."""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

import distributed


class _Undrawn(TorchFunctionMode):
    """Leaves out whatever draws random numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, module = getattr(func, "__name__", ""), getattr(func, "__module__", "")
        if name in ("rand", "randn"):
            return torch.empty(*args, **kwargs, device="meta")
        if name in ("normal_", "uniform_") or module == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_weights():
    """Around building a network that is then filled from a file: on the meta device, and no random number is drawn.

    On that device torch draws them by way of torch._dynamo, whose import takes a second.
    """
    with torch.device("meta"), _Undrawn():
        yield


class Norm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes together: they train as one process on the joined batch would.

    torch's SyncBatchNorm does the same on a GPU only.
    """

    def forward(self, x):
        """x: (N, C, H, W), N may differ between processes. Returns the same shape."""
        if not self.training or distributed.rank()[1] == 1:
            return super().forward(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        count = distributed.total(exact.new_tensor(x.numel() / x.shape[1]))
        mean = distributed.total(exact.sum((0, 2, 3))) / count
        centred = exact - mean[:, None, None]
        variance = distributed.total((centred**2).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class ConvNorm(nn.Module):
    """A convolution, batch norm, the input added if `residual`, ReLU."""

    def __init__(self, cin, out, kernel, stride=1, pad=0, residual=False):
        super().__init__()
        self.conv = nn.Conv2d(cin, out, kernel, stride, pad)
        self.norm = Norm(out)
        self.residual = residual

    def forward(self, x):
        """x: (N, cin, H, W). Returns (N, out, H', W'), not negative."""
        y = self.norm(self.conv(x))
        return (y + x if self.residual else y).relu()


class UpNorm(nn.Module):
    """A transposed convolution that makes its input `stride` times larger, batch norm, ReLU."""

    def __init__(self, cin, out, kernel, stride, pad):
        super().__init__()
        self.conv = nn.ConvTranspose2d(cin, out, kernel, stride, pad, output_padding=stride - 1)
        self.norm = Norm(out)

    def forward(self, x):
        """x: (N, cin, H, W). Returns (N, out, stride * H, stride * W), not negative; from 1x1, a 3x3 with stride 1."""
        return self.norm(self.conv(x)).relu()


class Pointwise(nn.Conv2d):
    """A 1x1 convolution of every `step`-th pixel, without bias: what a ResNet's shortcut takes.

    The pixels are chosen first, which gives the same sums. As a strided convolution, its gradient in oneDNN writes past
    its buffer on processors with AVX2 and no AVX-512, where the input has less than 8 channels (torch 2.13).
    """

    def __init__(self, cin, out, step):
        super().__init__(cin, out, 1, bias=False)
        self.step = step

    def forward(self, x):
        """x: (N, cin, H, W). Returns (N, out, H / step, W / step), rounded up."""
        return super().forward(x[..., :: self.step, :: self.step])


def begin(conv, activation, slope=0.0):
    """Gives a convolution before an activation the weights to begin with that keep the size of its input: Kaiming's."""
    nn.init.kaiming_normal_(conv.weight, a=slope, nonlinearity=activation)
    nn.init.zeros_(conv.bias)


class ConvLeaky(nn.Module):
    """A convolution and a leaky ReLU, without norm: what discriminators are made of.

    Without norm, what goes through many of them keeps its size only if the weights begin with the right one (He et al.
    2015): torch's default makes it smaller by more than half each time, and 14 of them give one verdict on all faces.
    """

    SLOPE = 0.01

    def __init__(self, cin, out, kernel, stride, pad):
        super().__init__()
        self.conv = nn.Conv2d(cin, out, kernel, stride, pad)
        self.act = nn.LeakyReLU(self.SLOPE)
        begin(self.conv, "leaky_relu", self.SLOPE)

    def forward(self, x):
        """x: (N, cin, H, W). Returns (N, out, H', W')."""
        return self.act(self.conv(x))


class Row(NamedTuple):
    """One line of a layer table: a layer, then `res` residual 3x3 convolutions at the same size.

    Where height and width differ, `kernel`, `stride` and `size` are (height, width).
    """

    layer: type  # ConvNorm, UpNorm, ConvLeaky; a bare nn.Conv2d is an output: colours or a score
    out: int  # channels
    kernel: int | tuple[int, int]
    stride: int | tuple[int, int]
    pad: int
    res: int
    size: int | tuple[int, int]  # of the output. Nothing is built from it; a test holds it against the network


def build(table, cin, skips=None):
    """One block per row of `table`; the block after row i is also fed `skips[i]` channels from elsewhere."""
    blocks = nn.ModuleList()
    for i, row in enumerate(table):
        lead = row.layer(cin, row.out, row.kernel, row.stride, row.pad)
        residuals = (ConvNorm(row.out, row.out, 3, pad=1, residual=True) for _ in range(row.res))
        blocks.append(nn.Sequential(lead, *residuals))
        cin = row.out + (skips[i] if skips else 0)
    return blocks


def narrow(table, width):
    """`table` with `width` times its channels; rows that are an output (a bare nn.Conv2d) keep theirs."""
    return tuple(row if row.layer is nn.Conv2d else row._replace(out=max(1, round(row.out * width))) for row in table)


def skip_channels(table, size):
    """Channels of the features that `table` makes of a square input of `size` px: the last row's of each size."""
    channels = {}
    for row in table:
        size = (size + 2 * row.pad - row.kernel) // row.stride + 1
        channels[size] = row.out
    return list(channels.values())


def in_format_of(weight, x):
    """`x` (N, C, H, W) in the memory format of the convolution weight `weight`: channels_last, or as it is."""
    if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    return x


def fold_norms(model):
    """`model`, in eval mode, with every batch norm multiplied into the convolution before it: same outputs, faster.

    Changes the model in place and returns it; it can't be trained any more.
    """
    for module in model.modules():
        if isinstance(module, (ConvNorm, UpNorm)):
            transposed = isinstance(module, UpNorm)
            module.conv = fuse_conv_bn_eval(module.conv, module.norm, transposed)
            module.norm = nn.Identity()
    return model


class FiLM(nn.Module):
    """Scales and shifts features by speech (Perez et al. 2018); at first it changes nothing."""

    def __init__(self, speech, channels):
        super().__init__()
        self.maps = nn.Linear(speech, 2 * channels)
        nn.init.zeros_(self.maps.weight)
        nn.init.zeros_(self.maps.bias)

    def forward(self, x, speech):
        """x: (N, C, H, W).  speech: (N, D). Returns the shape of x."""
        gain, shift = self.maps(speech).chunk(2, -1)
        return x * (1 + gain[..., None, None]) + shift[..., None, None]
