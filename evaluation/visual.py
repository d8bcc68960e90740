"""Visual measures of generated pictures against the real ones: PSNR, SSIM, absolute error, and sharpness."""

import cv2
import numpy as np
import torch

from faces.landmarks import mouth_region

C1, C2 = 0.01**2, 0.03**2  # of SSIM, for a range of 1
SIGMA, RADIUS = 1.5, 5  # px: its Gaussian window of 11x11
MOST_DB = 100.0  # the PSNR of pictures that are equal
LEAST_DETAIL = 1e-3  # grey levels: a face of less is flat


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
    """PSNR as TalkLip's evaluation script prints it: differences of uint8, squared in uint8, wrap around modulo 256.

    It is never below 24 dB; it stands beside the true one for comparison with published tables, and is named so.
    fake, real: (T, H, W, 3) uint8. Returns (T,) dB, 100 where the wrapped error is 0.
    """
    error = ((fake - real) ** 2).reshape(len(fake), -1).mean(1)
    return np.where(error == 0, MOST_DB, 20 * np.log10(255 / np.sqrt(error.clip(min=1e-9))))


def blurred(picture):
    """A picture under SSIM's Gaussian window, mirrored at its rim. picture: (H, W, 3) float32."""
    side = 2 * RADIUS + 1
    return cv2.GaussianBlur(picture, (side, side), SIGMA, borderType=cv2.BORDER_REFLECT_101)


def ssim_map(fake, real):
    """Structural similarity at every pixel (Wang et al. 2004, eq. 13), Gaussian window of 11x11, sigma 1.5.

    fake, real: (T, H, W, 3) float32 arrays in [0, 1]. Returns (T, H, W, 3).
    The same numbers as torchmetrics' full image, whose convolution takes several times as long on a processor.
    """
    maps = np.empty_like(fake)
    for a, b, out in zip(fake, real, maps, strict=True):  # a frame's parts fit the processor's cache, a clip's do not
        mean_a, mean_b, squares, product = map(blurred, (a, b, a * a + b * b, a * b))
        means, power = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
        similar = (2 * means + C1) * (2 * (product - means) + C2)
        np.divide(similar, (power + C1) * (np.maximum(squares - power, 0) + C2), out=out)
    return maps


def ssim(similarity):
    """The SSIM of each picture: the mean of its map, without the rim where the window is not full (as scikit-image).

    similarity: (T, H, W, 3), see `ssim_map`. Returns (T,).
    Differs: torchmetrics takes the mean over the mirrored rim too.
    """
    return similarity[:, RADIUS:-RADIUS, RADIUS:-RADIUS].mean((1, 2, 3))


def compare(fake, real, mouth, with_talklip=False):
    """Every visual measure of each frame, {measure: (T,) array}: dB, SSIM in [-1, 1], L1 as a share of full scale.

    fake, real: (T, H, W, 3) uint8, RGB, face crops.  mouth: (T, 1, H, W), 1 inside the mouth region of the real frame.
    with_talklip: also TalkLip's wrapped PSNR, `psnr_talklip`.
    """
    a, b = (part.astype(np.float32) / 255 for part in (fake, real))
    similarity = ssim_map(a, b)
    x, y = (torch.from_numpy(part).permute(0, 3, 1, 2) for part in (a, b))
    inside = mouth[:, 0].numpy()
    area = inside.sum((1, 2)).clip(min=1)
    found = {
        "psnr": psnr(squared_error(x, y)).numpy(),
        "psnr_mouth": psnr(squared_error(x, y, mouth)).numpy(),
        "ssim": ssim(similarity),
        "ssim_mouth": (similarity.mean(-1) * inside).sum((1, 2)) / area,
        "l1_mouth": (np.abs(a - b).mean(-1) * inside).sum((1, 2)) / area,
    }
    return found | ({"psnr_talklip": talklip_psnr(fake, real)} if with_talklip else {})


def regions(mesh, size):
    """The mouth region of a face, and the rest of the face inside the mesh's outline: two (H, W) bool masks.

    mesh: (468, 2) px of a picture of (H, W) = `size`, pixel centres whole numbers.
    """
    mouth, face = np.zeros(size, bool), np.zeros(size, np.uint8)
    x1, y1, x2, y2 = mouth_region(mesh).round().astype(int)
    mouth[max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)] = True
    cv2.fillConvexPoly(face, cv2.convexHull(mesh.round().astype(np.int32)), 1)
    return mouth, (face > 0) & ~mouth


def detail(picture, *masks):
    """The Laplacian energy of a picture inside each mask: the root of the mean square, in grey levels; 0 where empty.

    picture: (H, W, 3) uint8, RGB.  masks: (H, W) bool. Returns a list of floats.
    """
    energy = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F) ** 2  # 4 neighbours less 4 times it
    return [float(np.sqrt(energy[mask].mean())) if mask.any() else 0.0 for mask in masks]


def energies(fake, real, mesh):
    """The Laplacian energy of a generated and a real frame: of mouth and rest of the face, of mouth and rest: (4,).

    fake, real: (H, W, 3) uint8, RGB, any size.  mesh: (468, 2) of the real face, px of the pictures.
    """
    masks = regions(mesh, real.shape[:2])
    return np.array([*detail(fake, *masks), *detail(real, *masks)])


def sharpness(energies):
    """The sharpness of a clip's mouth against the real one's: {measure: (sum, weight)}, see `bootstrap.estimate`.

    energies: T of them, see `energies`.
    `sharpness`: Laplacian energy of the mouth.  `sharpness_in_face`: that by the energy of the rest of the same face;
    over 1, the mouth is too sharp for the face that it is in.
    """
    mouth, rest, real_mouth, real_rest = np.stack(energies).T
    shares = mouth / rest.clip(min=LEAST_DETAIL), real_mouth / real_rest.clip(min=LEAST_DETAIL)
    return {
        "sharpness": (float(mouth.mean()), float(real_mouth.mean())),
        "sharpness_in_face": (float(shares[0].mean()), float(shares[1].mean())),
    }
