"""How near drawn pictures are to the real ones: PSNR, SSIM and absolute error, of many frames at once."""

from functools import cache

import torch
import torch.nn.functional as F

C1, C2 = 0.01**2, 0.03**2  # of SSIM, for a range of 1
SIGMA, RADIUS = 1.5, 5  # px: its Gaussian window of 11x11
MOST_DB = 100.0  # the PSNR of pictures that are equal
TOGETHER = 4  # frames whose SSIM is computed at once: what fits the processor's cache


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
    return -10 * torch.log10(error.clamp(min=10 ** (-MOST_DB / 10)))


def talklip_psnr(fake, real):
    """What TalkLip's evaluation script prints as PSNR: differences of uint8, squared in uint8, wrap around modulo 256.

    It is never below 24 dB; it stands beside the true one for comparison with published tables, and is named so.
    fake, real: (T, H, W, 3) uint8. Returns (T,) dB, 100 where the wrapped error is 0.
    """
    wrapped = torch.from_numpy((fake - real) ** 2)
    error = wrapped.flatten(1).double().mean(1)
    found = 20 * torch.log10(255 / error.clamp(min=1e-9).sqrt())
    return torch.where(error == 0, MOST_DB, found).float()


@cache
def blurring(px):
    """The (px, px) matrix that blurs a column with SSIM's Gaussian; past the ends the column is mirrored."""
    at = torch.arange(-RADIUS, RADIUS + 1)
    gauss = torch.exp(-(at.double() ** 2) / (2 * SIGMA**2))
    mirrored = F.pad(torch.eye(px, dtype=torch.float64)[:, None], (RADIUS, RADIUS), mode="reflect")
    return F.conv1d(mirrored, (gauss / gauss.sum())[None, None])[:, 0].T.float().contiguous()


def ssim_map(fake, real):
    """Structural similarity at every pixel (Wang et al. 2004, eq. 13), Gaussian window of 11x11, sigma 1.5.

    fake, real: (T, 3, H, W) in [0, 1]. Returns (T, 3, H, W).
    The same numbers as torchmetrics' full image; its convolution takes four to five times as long on a processor.
    """
    down, across = blurring(fake.shape[-2]), blurring(fake.shape[-1]).T
    parts = []
    for a, b in zip(fake.split(TOGETHER), real.split(TOGETHER), strict=True):
        blurred = down @ (torch.cat([a, b, a * a + b * b, a * b]) @ across)
        mean_a, mean_b, squares, product = blurred.chunk(4)
        means, power = mean_a * mean_b, mean_a.square() + mean_b.square()
        similar = (2 * means + C1) * (2 * (product - means) + C2)
        parts.append(similar / ((power + C1) * ((squares - power).clamp(min=0) + C2)))
    return torch.cat(parts)


def ssim(similarity):
    """The SSIM of each picture: the mean of its map, without the rim where the window is not full (as scikit-image).

    similarity: (T, 3, H, W), see `ssim_map`. Returns (T,).
    Differs: torchmetrics takes the mean over the mirrored rim too.
    """
    return similarity[..., RADIUS:-RADIUS, RADIUS:-RADIUS].mean((-1, -2, -3))


def compare(fake, real, mouth, with_talklip=False):
    """Every visual measure of each frame, {measure: (T,) tensor}: dB, SSIM in [-1, 1], L1 as a share of full scale.

    fake, real: (T, H, W, 3) uint8, RGB, face crops.  mouth: (T, 1, H, W), 1 inside the mouth region of the real frame.
    with_talklip: also TalkLip's wrapped PSNR, `psnr_talklip`.
    """
    a, b = (torch.from_numpy(part).permute(0, 3, 1, 2).contiguous().float().div_(255) for part in (fake, real))
    similarity, inside = ssim_map(a, b), mouth.sum((1, 2, 3)).clamp(min=1)
    found = {
        "psnr": psnr(squared_error(a, b)),
        "psnr_mouth": psnr(squared_error(a, b, mouth)),
        "ssim": ssim(similarity),
        "ssim_mouth": (similarity.mean(1, keepdim=True) * mouth).sum((1, 2, 3)) / inside,
        "l1_mouth": ((a - b).abs().mean(1, keepdim=True) * mouth).sum((1, 2, 3)) / inside,
    }
    return found | ({"psnr_talklip": talklip_psnr(fake, real)} if with_talklip else {})
