"""Each loss is the number that a hand computes, and its gradient reaches the generated face and nothing else."""

from math import exp, log

import pytest
import torch
import torch.nn.functional as F

from hparams import HParams
from losses import (
    MOST_ADV_WEIGHT,
    a2l_loss,
    adversarial_loss,
    balanced_weight,
    cals_sync_loss,
    cav_loss,
    cluster_loss,
    ctc_loss,
    detail_loss,
    hinge_loss,
    l1_distance,
    lips_loss,
    motion_loss,
    mouth_loss,
    pixel_loss,
    printed_adversarial_loss,
    reading_loss,
    verdict_loss,
)

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


def test_the_sum_over_pixels_is_the_mean_times_their_number():
    """SyncTalklip's eq. 7 as printed, the term "rec"."""
    fake, real = two_frames()
    printed = sum((fake - real)[0, t].abs().sum().item() for t in range(2)) / 2
    assert real[0, 0].numel() * pixel_loss(fake, real).item() == pytest.approx(printed)


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


def test_detail_loss_is_the_sum_of_what_each_halving_loses():
    real = torch.full((1, 1, 3, 4, 4), 0.5)
    fake = real.clone()
    fake[..., ::2, :] += 0.1  # rows of +0.1 and 0: halved they are 0.05 everywhere, which no later level loses
    assert detail_loss(fake, real, levels=1).item() == pytest.approx(0.05)
    assert detail_loss(fake, real, levels=2).item() == pytest.approx(0.05)
    wide = real.clone()
    wide[..., :2, :] += 0.1
    rows = [0.1, 0.1, 0, 0]  # halved 0.1 and 0; twice as large again 0.1, 0.075, 0.025, 0
    finest = sum(abs(row - smooth) for row, smooth in zip(rows, [0.1, 0.075, 0.025, 0], strict=True)) / 4
    assert detail_loss(wide, real, levels=1).item() == pytest.approx(finest)
    assert detail_loss(wide, real, levels=2).item() == pytest.approx(finest + 0.05), "0.1 and 0 about their mean"
    assert detail_loss(real, real, levels=2).item() == 0


def test_detail_loss_knows_no_brightness_and_pulls_at_every_pixel_that_is_too_smooth():
    real = torch.rand(2, 3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    assert detail_loss(real + 0.2, real).item() == pytest.approx(0, abs=1e-6)
    fake = F.avg_pool2d(real.flatten(0, 1), 3, 1, 1).unflatten(0, (2, 3)).requires_grad_()
    loss = detail_loss(fake, real)
    loss.backward()
    assert (fake.grad != 0).float().mean() > 0.95
    assert detail_loss(fake - 0.1 * fake.grad / fake.grad.norm(), real) < loss


def test_motion_loss_is_the_error_of_changes_inside_the_mask():
    real, mask = torch.zeros(1, 3, 3, 2, 2), torch.zeros(1, 3, 1, 2, 2)
    real[:, 1], real[:, 2] = 0.1, 0.3
    fake = real + 0.4  # too bright, but it moves as it should
    mask[:, :, :, 0] = 1
    assert motion_loss(fake, real, mask).item() == pytest.approx(0, abs=1e-6)
    fake[:, 1, :, 0, 0] += 0.2  # a pixel that trembles: there and back
    assert motion_loss(fake, real, mask).item() == pytest.approx(2 * 0.2 / 4)
    fake[:, 1, :, 1] += 0.2  # outside
    assert motion_loss(fake, real, mask).item() == pytest.approx(2 * 0.2 / 4)
    mask[:, 1] = 0  # that of the later frame of two counts
    assert motion_loss(fake, real, mask).item() == pytest.approx(0.2 / 2)


def test_motion_loss_has_a_gradient_at_the_mouth_alone_and_none_for_one_frame():
    fake, real = two_frames()
    mask = torch.zeros(1, 2, 1, 2, 2)
    mask[:, 1, :, 1] = 1
    motion_loss(fake, real, mask).backward()
    assert torch.equal(fake.grad != 0, mask[:, 1:].bool().expand_as(fake)) and fake.grad.sum().abs() < 1e-6
    fake, real = (each[:, :1].detach().requires_grad_() for each in two_frames())
    loss = motion_loss(fake, real, torch.ones(1, 1, 1, 2, 2))
    loss.backward()
    assert loss.item() == 0 and not fake.grad.any()


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


def test_hinge_loss_asks_for_a_margin_of_1():
    logits = torch.tensor([[-2.0, -0.5, 0.5, 2.0]])
    assert hinge_loss(logits, real=True).item() == pytest.approx((3 + 1.5 + 0.5 + 0) / 4)
    assert hinge_loss(logits, real=False).item() == pytest.approx((0 + 0.5 + 1.5 + 3) / 4)
    assert hinge_loss(logits + 1).item() == -1, "the generator's: higher is better, without end"


def test_each_kind_of_discriminator_has_its_loss():
    logits, (whole, patch) = torch.tensor([[0.25]]), (HParams(discriminator=kind) for kind in ("talklip", "patch"))
    for real in (True, False):
        assert verdict_loss(logits, whole, real) == adversarial_loss(logits, real)
        assert verdict_loss(logits, patch, real) == hinge_loss(logits, real)
    assert verdict_loss(logits, whole) == adversarial_loss(logits, True) and verdict_loss(logits, patch) == -0.25


def test_the_balanced_weight_makes_a_gradient_a_share_of_another():
    for others, adversarial, ratio, wanted in (
        (3.0, 0.5, 0.1, 0.6),
        (3.0, 6.0, 2.0, 1.0),
        (3.0, 1e-6, 0.1, MOST_ADV_WEIGHT),
        (3.0, 0.0, 0.1, MOST_ADV_WEIGHT),
        (0.0, 0.0, 0.1, 0.0),
    ):
        found = balanced_weight(torch.tensor(others), torch.tensor(adversarial), ratio)
        assert found.item() == pytest.approx(wanted), (others, adversarial, ratio)


# SyncTalklip's, printed and stable


def test_the_printed_adversarial_losses_are_eq_8_and_9():
    logits = torch.tensor([[0.0], [2.0]])
    verdicts = [0.5, 1 / (1 + exp(-2))]
    eq_8 = eq_9_real = sum(log(1 - verdict) for verdict in verdicts) / 2
    eq_9_fake = sum(log(verdict) for verdict in verdicts) / 2
    assert printed_adversarial_loss(logits).item() == pytest.approx(eq_8, rel=1e-6)
    assert printed_adversarial_loss(logits, real=True).item() == pytest.approx(eq_9_real, rel=1e-6)
    assert printed_adversarial_loss(logits, real=False).item() == pytest.approx(eq_9_fake, rel=1e-6)
    hp = HParams(adv_form="printed")
    for real in (None, True, False):
        assert verdict_loss(logits, hp, real) == printed_adversarial_loss(logits, real)


def pull(loss, logit):
    """The gradient of a loss at a verdict of these logits."""
    logits = torch.tensor([[logit]], requires_grad=True)
    loss(logits).backward()
    return logits.grad.item()


def test_printed_and_stable_adversarial_losses_pull_the_same_way_and_the_printed_ones_fail_at_the_ends():
    stable, printed = HParams(), HParams(adv_form="printed")
    for real in (None, True, False):
        for logit in (-3.0, 0.0, 3.0):
            both = [pull(lambda x, hp=hp, real=real: verdict_loss(x, hp, real), logit) for hp in (stable, printed)]
            assert both[0] * both[1] > 0, "the signs of eq. 8 and 9 are right for minimisation"
    assert (
        abs(pull(lambda x: verdict_loss(x, printed), -30.0))
        < 1e-12
        < 0.9
        < abs(pull(lambda x: verdict_loss(x, stable), -30.0))
    ), "eq. 8 saturates where the discriminator is sure that a face is generated"
    sure = torch.tensor([[1000.0]])
    assert printed_adversarial_loss(sure, real=True) == -1000 and verdict_loss(sure, stable, True) == 0, "log 0"


def test_eq_10_summed_over_both_networks_cancels_where_the_discriminator_knows_nothing():
    summed = pull(lambda x: printed_adversarial_loss(x) + printed_adversarial_loss(x, real=False), 0.0)
    assert summed == 0 and pull(printed_adversarial_loss, 0.0) == -0.5


def test_l1_distance_is_the_sum_of_absolute_differences_times_a_fixed_number():
    a, b = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.5, 2.0, 1.0, 4.0]])
    assert l1_distance(a, b).tolist() == [2.5 / 4] and l1_distance(a, b, 0.1).tolist() == pytest.approx([0.25])
    assert l1_distance(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def test_a_trained_line_in_place_of_the_fixed_one_runs_below_0():
    distances, line = torch.rand(16, 1), torch.nn.Linear(1, 1)
    optim = torch.optim.SGD(line.parameters(), lr=1.0)
    for _ in range(50):
        loss = line(distances).mean()
        optim.zero_grad()
        loss.backward()
        optim.step()
    assert loss < -10 < 0 <= l1_distance(torch.randn(16, 8), torch.randn(16, 8)).min()


AUDIO = torch.tensor([[0.0, 0.0], [1.0, 0.0], [4.0, 2.0], [9.0, 9.0]])
VIDEO = torch.tensor([[0.0, 1.0], [2.0, 0.0], [4.0, 4.0], [5.0, 5.0]])
OF = torch.tensor([0, 0, 0, 1]), torch.tensor([10, 11, 13, 10])  # clips and frames: the last is alone in its clip


def test_cav_loss_is_eq_12_with_all_generated_frames_of_a_clip():
    own = [1, 1, 2, 8]  # L1 distances of each sound from its own lips
    away = [(2 + 8) / 2, (2 + 7) / 2, (5 + 4) / 2, 0]  # and from those of the other two; the fourth has no others
    printed = sum(own) - sum(away)
    assert cav_loss(AUDIO, VIDEO, VIDEO, *OF, 1.0, 1, summed=True).item() == pytest.approx(printed)
    assert cav_loss(AUDIO, VIDEO, VIDEO, *OF, 1.0, 1).item() == pytest.approx(printed / 4)
    assert cav_loss(AUDIO, VIDEO, VIDEO, *OF, 0.0, 1).item() == pytest.approx(printed / 4 / 2), "1 / D"


def test_frames_that_are_near_are_no_negatives():
    away = [8, 0, 5, 0]  # 10 and 13 are apart by 3, 11 is near both
    wanted = (1 + 1 + 2 + 8 - sum(away)) / 4
    assert cav_loss(AUDIO, VIDEO, VIDEO, *OF, 1.0, 3).item() == pytest.approx(wanted)


def test_a_frame_alone_is_drawn_near_and_divides_by_nothing():
    one = AUDIO[:1].clone().requires_grad_()
    loss = cav_loss(one, VIDEO[:1], VIDEO[:1], torch.tensor([0]), torch.tensor([4]), 1.0, 1)
    loss.backward()
    assert loss.item() == 1 and one.grad.isfinite().all()


def test_negatives_may_be_other_sounds():
    away = [(1 + 6) / 2, (1 + 5) / 2, (6 + 5) / 2, 0]
    wanted = (1 + 1 + 2 + 8 - sum(away)) / 4
    assert cav_loss(AUDIO, VIDEO, AUDIO, *OF, 1.0, 1).item() == pytest.approx(wanted)


def cav_after(steps, video, rate):
    """The L1 contrastive loss after gradient descent on sound, and on lips that come out of `video()`."""
    clips, frames = torch.zeros(6), 4 * torch.arange(6)
    sound = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lips = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for _ in range(steps):
        seen = video(lips)
        loss = cav_loss(sound, seen, seen, clips, frames, 0.0, 3)
        gradients = torch.autograd.grad(loss, (sound, lips))
        with torch.no_grad():
            for each, gradient in zip((sound, lips), gradients, strict=True):
                each -= rate * gradient
    bound = -torch.cdist(seen, seen, p=1).sum().item() / (6 * 5 * 8)
    return loss.item(), bound


def test_cav_loss_has_an_end_behind_a_frozen_norm_and_none_without():
    loss, bound = cav_after(300, lambda x: F.layer_norm(x, (8,)), 1.0)
    assert bound - 1e-4 <= loss < 0 and bound > -2, "values behind a layer norm are about 1"
    free, bound = zip(*(cav_after(steps, lambda x: x, 1.0) for steps in (150, 300)), strict=True)
    assert free[1] < 1.5 * free[0] < -3 and free[1] >= bound[1] - 1e-3, "the triangle's bound moves away with the lips"


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


# Of lip readers


def shares(*rows):
    """Logits whose softmax is these shares, moved by a constant that must not matter: (1, N, V)."""
    return torch.tensor([rows]).log() + 3.0


def test_unit_loss_is_the_cross_entropy_of_frames_by_their_weight():
    scores = shares([0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.8, 0.1, 0.1])
    clusters = torch.tensor([[0, 2, 1, -1]])
    for weights, wanted in (
        ([1.0, 1, 0, 0], (-log(0.5) - log(0.7)) / 2),
        ([1.0, 0.5, 0.5, 9], (-log(0.5) - (log(0.7) + log(0.3)) / 2) / 2),  # the last frame has no unit
        ([0.0, 0, 0, 1], 0.0),
    ):
        assert cluster_loss(scores, clusters, torch.tensor([weights])).item() == pytest.approx(wanted, rel=1e-5)


def test_reading_loss_is_the_cross_entropy_of_the_text():
    logits = shares([0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25])
    for tokens, wanted in (([3, 0, 1], (-log(0.4) - log(0.7)) / 2), ([2, 1, 1], -log(0.3)), ([1, 1, 1], 0.0)):
        assert reading_loss(logits, torch.tensor([tokens]), pad=1).item() == pytest.approx(wanted, rel=1e-5)


def test_label_smoothing_is_that_of_the_published_experts():
    part = [0.1, 0.2, 0.3, 0.4]
    each = 0.1 / 3  # eps / (V - 1): FORMATS.md, section 5
    wanted = (1 - 0.1 - each) * -log(0.3) + each * sum(-log(share) for share in part)
    found = reading_loss(shares(part, part), torch.tensor([[2, 0]]), pad=0, smoothing=0.1)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    logits, tokens = torch.randn(3, 5, 7), torch.randint(1, 7, (3, 5))  # torch spreads over all V tokens
    theirs = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), label_smoothing=0.2 * 7 / 6)
    assert reading_loss(logits, tokens, pad=0, smoothing=0.2).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_ctc_loss_is_minus_the_logarithm_of_all_paths_together():
    even = torch.zeros(1, 4, 2)  # blank or 1, each with 1/2
    for frames, tokens, wanted in (
        (1, [1], -log(1 / 2)),
        (2, [1], -log(3 / 4)),  # 1 1, 1 -, - 1
        (3, [1, 1], -log(1 / 8) / 2),  # 1 - 1
        (4, [1, 1], -log(5 / 16) / 2),  # 1 - 1 1, 1 1 - 1, 1 - - 1, - 1 - 1, 1 - 1 -
        (2, [1, 1], 0.0),  # no path: it adds nothing
    ):
        found = ctc_loss(even, torch.tensor([[*tokens, 0]]), torch.tensor([frames]), torch.tensor([len(tokens)]))
        assert found.item() == pytest.approx(wanted, rel=1e-5), (frames, tokens)


def test_ctc_loss_is_the_mean_of_its_clips_and_takes_another_blank():
    logits = torch.cat([shares([0.2, 0.3, 0.5], [0.6, 0.3, 0.1]), shares([0.1, 0.8, 0.1], [0.3, 0.3, 0.4])])
    frames, lengths = torch.tensor([1, 2]), torch.tensor([1, 2])
    wanted = (-log(0.5) - log(0.8 * 0.4) / 2) / 2
    assert ctc_loss(logits, torch.tensor([[2, 9], [1, 2]]), frames, lengths).item() == pytest.approx(wanted, rel=1e-5)
    other = ctc_loss(logits.roll(-1, -1), torch.tensor([[1, 9], [0, 1]]), frames, lengths, blank=2)
    assert other.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("loss", ["unit", "reading", "ctc"])
def test_gradients_come_from_what_counts_and_from_nothing_else(loss):
    logits, tokens = torch.randn(1, 4, 3, requires_grad=True), torch.tensor([[2, 2, 1, 1]])
    {
        "unit": lambda: cluster_loss(logits, tokens, torch.tensor([[1.0, 1, 0, 0]])),
        "reading": lambda: reading_loss(logits, tokens, pad=1, smoothing=0.1),
        "ctc": lambda: ctc_loss(logits, tokens, torch.tensor([2]), torch.tensor([1])),
    }[loss]().backward()
    assert logits.grad[0, :2].abs().min() > 0 and not logits.grad[0, 2:].any()


def test_a2l_loss_is_the_squared_error_of_masked_units():
    units, masked = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]]), torch.tensor([[True, False, True]])
    predicted = torch.tensor([[[0.5, 0.5], [9.0, 9.0], [0.6, -0.2]]], requires_grad=True)
    assert a2l_loss(predicted, units, masked, summed=True).item() == pytest.approx(0.25 + 0.25 + 1.0)
    mean = a2l_loss(predicted, units, masked)
    assert mean.item() == pytest.approx(1.5 / (2 * 2), rel=1e-6)
    mean.backward()
    assert predicted.grad[0, 1].tolist() == [0, 0] and predicted.grad[0, 2].tolist() == pytest.approx([0, -0.5])
    for summed in (False, True):
        assert a2l_loss(predicted, units, torch.zeros_like(masked), summed).item() == 0
    assert a2l_loss(predicted.bfloat16(), units, masked).dtype == torch.float32


def alike(count, cosine):
    """So many vectors of length 1, each pair of which has this cosine: (N, N)."""
    return torch.linalg.cholesky((1 - cosine) * torch.eye(count, dtype=torch.float64) + cosine).float()


def apart(count):
    """The clips and the frames of rows that are all of other clips."""
    return torch.arange(count), torch.zeros(count, dtype=torch.long)


def test_the_printed_sync_loss_is_nearly_flat_and_a_temperature_mends_it():
    lips = alike(32, 0.9)
    for temperature, wanted in ((1.0, log(1 + 31 * exp(-0.1))), (0.07, log(1 + 31 * exp(-0.1 / 0.07)))):
        assert cals_sync_loss(lips, lips, *apart(32), temperature, 5).item() == pytest.approx(wanted, rel=1e-4)
    found = [round(cals_sync_loss(lips, lips, *apart(32), each, 5).item(), 2) for each in (1.0, 0.07)]
    assert found == [3.37, 2.13] and round(log(32), 2) == 3.47


def test_generated_lips_look_for_their_own_and_not_the_other_way_round():
    lips = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.6, 0.8]], requires_grad=True)  # any length: cosines
    own = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 3.0]])
    cosines = [[1.0, 0.6, 0.0], [0.0, 0.8, 1.0], [0.6, 1.0, 0.8]]
    wanted = sum(log(sum(exp(c / 0.5) for c in row)) - row[i] / 0.5 for i, row in enumerate(cosines)) / 3
    loss = cals_sync_loss(lips, own, *apart(3), 0.5, 5)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert lips.grad.any()
    with torch.autocast("cpu", torch.bfloat16):
        assert cals_sync_loss(lips, own, *apart(3), 0.5, 5).item() == pytest.approx(wanted, rel=1e-5)
    assert cals_sync_loss(lips[:0], own[:0], *apart(0), 0.5, 5).item() == 0


def test_neighbouring_frames_of_a_clip_are_no_negatives():
    lips, own = torch.eye(4), torch.eye(4) + 0.1
    clips, frames = torch.tensor([0, 0, 0, 1]), torch.tensor([10, 14, 15, 10])
    cosine = F.normalize(lips, dim=-1) @ F.normalize(own, dim=-1).T
    kept = [[0, 2, 3], [1, 3], [0, 2, 3], [0, 1, 2, 3]]  # 4 frames apart is too near, 5 is not
    each = [cosine[i, columns].logsumexp(0) - cosine[i, i] for i, columns in enumerate(kept)]
    assert cals_sync_loss(lips, own, clips, frames, 1.0, 5).item() == pytest.approx(torch.stack(each).mean().item())
    assert cals_sync_loss(lips, own, torch.zeros(4), torch.zeros(4), 1.0, 5).item() == pytest.approx(0, abs=1e-6)
