"""PSNR, SSIM and sharpness against hand-made cases, torchmetrics and the published values."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawn_faces import draw_head, head_mesh

from evaluation.visual import (
    compare,
    detail,
    energies,
    psnr,
    regions,
    sharpness,
    squared_error,
    ssim,
    ssim_map,
    talklip_psnr,
)

GOLDEN = Path(__file__).parents[1].parent / "shared" / "reference" / "fixtures" / "metrics.npz"


def noisy(frames=5, px=96, seed=0):
    """Pairs of pictures that differ: two (frames, 3, px, px) tensors of whole grey levels in [0, 1]."""
    torch.manual_seed(seed)
    real = torch.nn.functional.interpolate(torch.rand(frames, 3, px // 8, px // 8), size=px, mode="bilinear")
    fake = (real + 0.1 * torch.randn_like(real)).clamp(0, 1)
    return (fake * 255).round() / 255, (real * 255).round() / 255


def floats(tensor):
    """(T, 3, H, W) -> (T, H, W, 3) float32 array."""
    return np.ascontiguousarray(tensor.permute(0, 2, 3, 1).numpy())


def pictures(tensor):
    """(T, 3, H, W) in [0, 1] -> (T, H, W, 3) uint8."""
    return (tensor * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_psnr_of_a_known_difference_is_the_known_number():
    real = torch.zeros(2, 3, 8, 8)
    fake = torch.full_like(real, 0.1)
    assert psnr(squared_error(fake, real)).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    assert psnr(squared_error(real, real)).tolist() == [100.0, 100.0]


def test_a_mask_leaves_out_what_it_hides():
    real, fake = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    fake[..., :2] = 0.5
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    assert squared_error(fake, real, mask).item() == 0
    assert squared_error(fake, real, 1 - mask).item() == pytest.approx(0.25)


def test_many_frames_at_once_have_torchmetrics_numbers_of_one_frame_at_a_time():
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    fake, real = noisy()
    full = [
        structural_similarity_index_measure(a[None], b[None], data_range=1.0, return_full_image=True)[1]
        for a, b in zip(fake, real, strict=True)
    ]
    found = torch.from_numpy(ssim_map(floats(fake), floats(real))).permute(0, 3, 1, 2)
    assert (found - torch.cat(full)).abs().max() < 1e-3  # of single pixels, in float32
    assert found.mean((1, 2, 3)).tolist() == pytest.approx(torch.cat(full).mean((1, 2, 3)).tolist(), abs=1e-5)
    one_by_one = [peak_signal_noise_ratio(a, b, data_range=1.0).item() for a, b in zip(fake, real, strict=True)]
    assert psnr(squared_error(fake, real)).tolist() == pytest.approx(one_by_one, abs=1e-4)


def test_ssim_of_equal_pictures_is_one_and_of_a_negative_below_zero():
    _, real = noisy()
    assert ssim(ssim_map(floats(real), floats(real))).tolist() == pytest.approx([1.0] * 5, abs=1e-6)
    pattern = ((torch.arange(32)[:, None] + torch.arange(32)) % 2).float().expand(1, 3, 32, 32)
    assert ssim(ssim_map(floats(1 - pattern), floats(pattern))).item() < -0.9


def test_the_mouth_measures_see_the_mouth_alone():
    fake, real = noisy(2)
    mouth = torch.zeros(2, 1, 96, 96)
    mouth[:, :, 60:80, 30:60] = 1
    spoilt = torch.where(mouth == 1, real, fake)
    found = compare(pictures(spoilt), pictures(real), mouth)
    assert found["psnr_mouth"].tolist() == [100.0, 100.0] and found["l1_mouth"].tolist() == [0.0, 0.0]
    assert (found["psnr"] < 40).all() and (found["ssim"] < 0.95).all()
    grey = torch.full((1, 3, 96, 96), 100 / 255)
    shifted = compare(pictures(grey + 51 / 255), pictures(grey), mouth[:1])
    assert shifted["l1_mouth"].item() == pytest.approx(0.2, abs=1e-6)
    assert shifted["psnr_mouth"].item() == pytest.approx(20 * np.log10(5), abs=1e-3)


def test_talklip_psnr_wraps_around():
    real = np.zeros((3, 16, 16, 3), np.uint8)
    fake = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (15, 16, 20)])
    found = talklip_psnr(fake, real).tolist()
    assert found[0] == pytest.approx(20 * np.log10(255 / 15), abs=1e-3)  # 225 fits into 8 bits
    assert found[1] == 100.0  # 256 is 0
    assert found[2] == pytest.approx(20 * np.log10(255 / 12), abs=1e-3)  # 400 is 144
    assert "psnr_talklip" not in compare(fake, real, torch.ones(3, 1, 16, 16))


def test_the_laplacian_energy_of_one_bright_pixel_is_the_known_number():
    picture, middle = np.zeros((5, 5, 3), np.uint8), np.zeros((5, 5), bool)
    picture[2, 2], middle[2, 2] = 10, True
    whole, inside, empty = detail(picture, np.ones_like(middle), middle, np.zeros_like(middle))
    assert whole == pytest.approx(np.sqrt((40**2 + 4 * 10**2) / 25))
    assert (inside, empty) == (40, 0)


def test_mouth_and_rest_share_out_the_face():
    mesh = head_mesh(0.1) * 96 - 0.5
    mouth, rest = regions(mesh, (96, 96))
    assert mouth[73, 48] and not rest[73, 48]  # 0.76 down: between the lips
    assert rest[20, 48] and not mouth[20, 48]
    assert not mouth[2, 2] and not rest[95, 2]  # outside the outline
    assert not (mouth & rest).any()


def test_sharpness_is_the_share_of_the_means_also_against_the_rest_of_each_face():
    found = sharpness([np.array([1.0, 2.0, 2.0, 2.0]), np.array([3.0, 2.0, 4.0, 4.0])])
    assert found == {"sharpness": (2.0, 3.0), "sharpness_in_face": (1.0, 1.0)}
    assert sharpness([np.array([0.0, 0.0, 2.0, 2.0])])["sharpness_in_face"] == (0.0, 1.0)


def sharp(fake, real, mesh):
    """Both ratios of one picture."""
    return [total / weight for total, weight in sharpness([energies(fake, real, mesh)]).values()]


def test_equal_pictures_are_as_sharp_and_blur_makes_them_less_so():
    mesh = head_mesh(0.1)
    real, places = draw_head(mesh), mesh * 96 + 16 - 0.5
    assert sharp(real, real, places) == [1, 1]
    soft = cv2.GaussianBlur(real, (0, 0), 1.5)
    whole, in_face = sharp(soft, real, places)
    assert whole < 0.7 and whole < in_face
    mouth = regions(places, real.shape[:2])[0][..., None]
    assert max(sharp(np.where(mouth, soft, real), real, places)) < 0.8  # a soft mouth in a sharp face
    assert sharp(np.where(mouth, real, soft), real, places)[1] > 1.3  # a sharp one in a soft face


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the fixtures are not here")
@pytest.mark.parametrize("name", ["small", "mid", "large"])
def test_golden_psnr_and_ssim(name):
    golden = np.load(GOLDEN)
    real, fake = golden["a"][None], golden[f"{name}/b"][None]
    found = compare(fake, real, torch.ones(1, 1, 96, 96), with_talklip=True)
    assert found["psnr"].item() == pytest.approx(float(golden[f"{name}/psnr_true_float"]), abs=1e-3)
    assert found["psnr_mouth"].item() == pytest.approx(found["psnr"].item(), abs=1e-4)
    assert found["psnr_talklip"].item() == pytest.approx(float(golden[f"{name}/psnr_official_uint8_wrap"]), abs=1e-3)
    assert found["ssim"].item() == pytest.approx(float(golden[f"{name}/ssim"]), abs=1e-4)


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the fixtures are not here")
def test_golden_measures_of_a_real_clip():
    golden = np.load(GOLDEN)
    capture = cv2.VideoCapture(str(GOLDEN.with_name("bbaf2n.mpg")))
    real, fake = [], []
    for i in range(8):
        square = capture.read()[1][110:270, 78:238]
        x1, y1, x2, y2 = 14 + i % 3, 2 + i % 2, 134 + i % 4, 138 + i % 5
        for part, picture in ((real, square), (fake, cv2.GaussianBlur(square, (5, 5), 1.2))):
            part.append(cv2.resize(picture[y1:y2, x1:x2], (96, 96)))
    found = compare(np.stack(fake), np.stack(real), torch.ones(8, 1, 96, 96), with_talklip=True)
    assert found["psnr"].tolist() == pytest.approx(golden["grid/psnr_true"].tolist(), abs=1e-3)
    assert found["psnr_talklip"].tolist() == pytest.approx(golden["grid/psnr_official"].tolist(), abs=1e-3)
    assert found["ssim"].tolist() == pytest.approx(golden["grid/ssim"].tolist(), abs=1e-4)
