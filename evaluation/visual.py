"""How near a drawn picture is to the real one."""

import torch


def squared_error(fake, real, mask=None):
    """Mean squared error of each picture, over the pixels where `mask` is 1 if one is given.

    fake, real: (..., 3, H, W) in [0, 1]. mask: (..., 1, H, W).
    Returns (...,) in units of full scale squared.
    """
    error = (fake - real).square().mean(-3, keepdim=True)
    mask = torch.ones_like(error) if mask is None else mask
    return (error * mask).sum((-1, -2, -3)) / mask.sum((-1, -2, -3)).clamp(min=1)


def psnr(error):
    """Peak signal-to-noise ratio of pictures with this mean squared error, in dB, peak 1; 100 dB without error."""
    return -10 * torch.log10(error.clamp(min=1e-10))
