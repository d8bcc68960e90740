"""Each loss is the number that a hand computes, and its gradient reaches the generated face and nothing else."""

from math import exp, log

import pytest
import torch

from losses import adversarial_loss, lips_loss, mouth_loss, pixel_loss

torch.set_num_threads(1)


def two_frames():
    """(1, 2, 3, 2, 2): real is 0.5; drawn is off by 0.1 in all of frame 0 and by 0.4 in one pixel of frame 1."""
    real = torch.full((1, 2, 3, 2, 2), 0.5)
    fake = real.clone()
    fake[:, 0] += 0.1
    fake[:, 1, :, 1, 0] -= 0.4
    return fake.requires_grad_(), real


def test_pixel_loss_is_the_mean_absolute_error():
    fake, real = two_frames()
    assert pixel_loss(fake, real).item() == pytest.approx((4 * 0.1 + 1 * 0.4) / 8)
    assert pixel_loss(real, real).item() == 0


def test_mouth_loss_is_the_mean_absolute_error_inside_the_mask():
    fake, real = two_frames()
    mask = torch.zeros(1, 2, 1, 2, 2)
    mask[:, 0, :, 0], mask[:, 1, :, 1] = 1, 1  # upper row of frame 0, lower row of frame 1
    assert mouth_loss(fake, real, mask).item() == pytest.approx((2 * 0.1 + 1 * 0.4) / 4)
    assert mouth_loss(fake, real, torch.ones_like(mask)).item() == pytest.approx(pixel_loss(fake, real).item())


def test_mouth_loss_pulls_only_inside_the_mask():
    fake, real = two_frames()
    mask = torch.zeros(1, 2, 1, 2, 2)
    mask[:, 0, :, 0, 0] = 1
    mouth_loss(fake, real, mask).backward()
    assert torch.equal(fake.grad != 0, mask.bool().expand_as(fake))
    assert fake.grad[0, 0, :, 0, 0].tolist() == pytest.approx([1 / 3] * 3)


def test_an_empty_mouth_mask_adds_nothing():
    fake, real = two_frames()
    loss = mouth_loss(fake, real, torch.zeros(1, 2, 1, 2, 2))
    loss.backward()
    assert loss.item() == 0 and fake.grad.abs().max() == 0


def test_adversarial_loss_is_binary_cross_entropy_in_nats():
    logits = torch.tensor([[0.0], [2.0]])
    real = (log(2) + log(1 + exp(-2))) / 2
    fake = (log(2) + log(1 + exp(2))) / 2
    assert adversarial_loss(logits, real=True).item() == pytest.approx(real, rel=1e-6)
    assert adversarial_loss(logits, real=False).item() == pytest.approx(fake, rel=1e-6)


def test_adversarial_loss_has_a_gradient_however_sure_the_discriminator_is():
    logits = torch.tensor([[-200.0]], requires_grad=True)
    loss = adversarial_loss(logits, real=True)
    loss.backward()
    assert loss.item() == 200 and logits.grad.item() == -1


def test_lips_loss_is_the_smooth_absolute_error_of_the_frames_that_are_there():
    heard, lips = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    lips[0, 0], lips[0, 1, 0] = 3.0, 0.5  # smooth L1: 3 - 0.5 and 0.5 * 0.5²
    lips[1, 1:] = 100.0
    padding = torch.tensor([[False, False, False], [False, True, True]])
    assert lips_loss(heard, lips, padding).item() == pytest.approx((2.5 + 0.125 / 2) / 4)
    assert lips_loss(lips, lips, padding).item() == 0


@pytest.mark.parametrize("loss", ["pixel", "mouth", "adversarial"])
def test_gradients_reach_the_generated_face(loss):
    fake, real = two_frames()
    judge = torch.nn.Linear(12, 1)
    value = {
        "pixel": lambda: pixel_loss(fake, real),
        "mouth": lambda: mouth_loss(fake, real, torch.ones(1, 2, 1, 2, 2)),
        "adversarial": lambda: adversarial_loss(judge(fake.flatten(0, 1).flatten(1)), real=True),
    }[loss]()
    value.backward()
    assert value.dim() == 0 and fake.grad.abs().sum() > 0 and real.grad is None
