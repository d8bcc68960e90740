"""A generator that warps: only the lower face changes, lips stay lips, and speech reaches the pixels."""

import pytest
import torch
from filling import normal, uniform
from warp_inputs import D, K, faces, knobs, net, parts_of, speech

from faces.shape import SHAPE_SCALE, SIDE
from models.layers import fold_norms
from models.warp import (
    DARKEST,
    HEIGHT,
    INNER,
    LIPS,
    MOST_FLOW,
    WIDTH,
    Layers,
    ReferenceWarp,
    blurred,
    grid,
    inside,
    lower_face,
    resized,
    unlike,
    window,
)

torch.set_num_threads(1)


def mask_of(points, least=0.0):
    """Where more than nothing of a face is redrawn, or `least` of it at least: (N, 1, 128, 128) bool."""
    half = grid(HEIGHT // 2, WIDTH // 2, points).flatten(0, 1)
    mask = resized(lower_face(points, half).unflatten(1, (HEIGHT // 2, WIDTH // 2))[:, None], HEIGHT, WIDTH)
    whole = torch.zeros(len(points), 1, SIDE, SIDE)
    window(whole).copy_(mask)
    return whole >= least if least else whole > 0


# What is redrawn


@torch.no_grad()
def test_nothing_outside_the_lower_face_changes_a_bit():
    shown = faces()
    out = net().generate(**shown, speech=speech())
    assert out.shape == (1, 2, 3, SIDE, SIDE) and 0 <= out.min() and out.max() <= 1
    changed, may = out[0] != shown["face"][0, :, :3], mask_of(shown["points"][0, :, 0])
    assert not (changed & ~may).any()
    assert (changed.any(1, keepdim=True) & may).sum() > 0.8 * may.sum(), "what may be redrawn is"


@torch.no_grad()
def test_the_lower_face_of_the_frame_itself_is_not_looked_at():
    shown, other = faces(), faces()
    hidden = mask_of(shown["points"][0, :, 0], least=1)
    other["face"][0, :, :3] = torch.where(hidden, 1 - shown["face"][0, :, :3], shown["face"][0, :, :3])
    a, b = (net().generate(**each, speech=speech()) for each in (shown, other))
    assert hidden.sum() > 2000 and torch.equal(a, b)
    other["face"][0, :, :3] = 1 - shown["face"][0, :, :3]
    assert not torch.equal(a, net().generate(**other, speech=speech())), "but what is around it is"


@torch.no_grad()
def test_layers_are_bounded_and_their_weights_are_shares():
    shown = faces()
    made = net()
    for head in (made.flow, made.blend):
        head.weight *= 100  # whatever the network says
    layers, plain = made.layers(*parts_of(shown), speech()[0]), net()
    plain.flow.weight.zero_()
    plain.flow.bias.zero_()
    moved = layers.places - plain.layers(*parts_of(shown), speech()[0]).places
    assert 0.9 * MOST_FLOW < moved.abs().max() <= MOST_FLOW + 1e-6
    assert layers.weights.min() >= 0 and DARKEST <= layers.shade.min() and layers.shade.max() <= 1
    torch.testing.assert_close(layers.weights.sum(1), torch.ones(2, HEIGHT // 2, WIDTH // 2))
    sizes = [tuple(each.shape) for each in layers]
    assert sizes == [(2, K, 40, 56, 2), (2, K, 40, 56), (2, 1, HEIGHT, WIDTH), (2, 1, 40, 56)]


@torch.no_grad()
def test_the_reference_whose_mouth_is_as_open_as_it_is_wished_shows_most():
    """Not a mean of all: that opens less than any of them should."""
    shown = faces((0.0, 0.04, 0.1), (0.0, 0.1))
    made = net()
    made.blend.weight.zero_()  # the network has no opinion
    made.blend.bias.zero_()
    layers = made.layers(*parts_of(shown), speech(3)[0], torch.zeros(3, dtype=torch.bool))
    closed, middle, opened = layers.weights.mean((2, 3))
    assert closed[0] > 0.75 and opened[1] > 0.75 and 0.25 < middle[0] < 0.75
    far = unlike(shown["points"][0, :, 0, :LIPS], shown["points"][0, :, 1:, :LIPS], shown["turns"][0])
    assert far[0, 0] < 1e-9 and far[2, 1] < 1e-9 and far[0, 1] > 1
    twice = unlike(shown["points"][0, :, 0, :LIPS], shown["points"][0, :, 1:, :LIPS], 2 * shown["turns"][0])
    torch.testing.assert_close(far, 4 * twice)


@torch.no_grad()
def test_shade_falls_only_between_the_lips_and_adds_no_colour():
    shown = faces((0.1,), (0.02, 0.1))
    made, told = net(), torch.zeros(1, dtype=torch.bool)
    layers = made.layers(*parts_of(shown), speech(1)[0], told)
    places = grid(HEIGHT, WIDTH, shown["points"]).flatten(0, 1)
    away = -inside(shown["points"][0, :, 0, INNER], places)[0]
    shade = layers.shade[0, 0].flatten()
    assert shade[away > 0.08].min() > 0.98 and shade[away < 0].mean() < 0.9
    references = shown["face"][0, :, 3:].unflatten(1, (K, 3))
    light = made.compose(layers._replace(shade=torch.ones_like(layers.shade)), references)
    torch.testing.assert_close(made.compose(layers, references), layers.shade * light, atol=0.02, rtol=0)


# Lips


def lips_that(move, shown):
    """The lips where `outline` says `move`: (40, 2) in the head's axes, in eye distances."""
    made = net()
    with torch.no_grad():
        made.outline.weight.zero_()
        made.outline.bias.copy_(SHAPE_SCALE * move.flatten())
        return made.lips(shown["resting"][0, :1], shown["turns"][0, :1], speech(1)[0])[0]


def test_lips_at_rest_move_as_the_outline_says():
    shown, move = faces(), 0.05 * normal(4, (LIPS, 2))
    move[INNER, 1] = 0
    found = lips_that(move, shown)
    wanted = shown["resting"][0, 0] + move @ shown["turns"][0, 0].T
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_lips_never_pass_through_each_other():
    shown, move = faces(), torch.zeros(LIPS, 2)
    low, high = INNER.start + torch.arange(1, 10), INNER.start + 20 - torch.arange(1, 10)
    move[low, 1], move[high, 1] = -0.2, 0.1  # the lower lip far above the upper one
    found = lips_that(move, shown)
    gaps = found[low, 1] - found[high, 1]
    torch.testing.assert_close(gaps, torch.zeros(9), atol=1e-6, rtol=0)
    wished = shown["resting"][0, 0] + move @ shown["turns"][0, 0].T
    torch.testing.assert_close(found[low] + found[high], wished[low] + wished[high], atol=1e-6, rtol=0)
    rest = [i for i in range(LIPS) if i not in {*low.tolist(), *high.tolist()}]
    torch.testing.assert_close(found[rest], wished[rest], atol=1e-6, rtol=0)


def test_true_lips_are_those_of_the_points_and_told_ones_are_not():
    shown, told = faces(), torch.tensor([[False, True]])
    made = net()
    with torch.no_grad():
        mixed, spoken = (made.generate(**shown, speech=speech(), told=each) for each in (told, None))
        assert torch.equal(mixed[0, 1], spoken[0, 1]) and not torch.equal(mixed[0, 0], spoken[0, 0])
        made.outline.bias += 1
        again = made.generate(**shown, speech=speech(), told=told)
    assert torch.equal(again[0, 0], mixed[0, 0]) and not torch.equal(again[0, 1], mixed[0, 1])


# Speech


def gradients(told):
    """Lengths of the gradient of a picture at speech and at the outline, by the rows that are not the network's."""
    made, said = net(), speech().requires_grad_()
    out = made.generate(**faces(), speech=said, told=torch.full((1, 2), told))
    (out * uniform(5, out.shape)).sum().backward()
    outline = made.outline.weight.grad
    return said.grad.norm(dim=-1), 0.0 if outline is None else outline.norm().item()


def test_speech_reaches_the_pixels_through_the_splines_and_through_the_network():
    at_speech, at_outline = gradients(True)
    assert at_speech.min() > 1e-4 and at_outline > 1e-4
    at_speech, at_outline = gradients(False)
    assert at_speech.min() > 1e-4, "by FiLM"
    assert at_outline == 0


def test_an_untrained_network_hears_nothing_but_the_shape_of_the_lips():
    torch.manual_seed(0)
    made, shown = ReferenceWarp(knobs()).eval(), faces()
    a, b = (made.generate(**shown, speech=speech(seed=s), told=torch.zeros(1, 2).bool()) for s in (1, 2))
    assert torch.equal(a, b)
    with torch.no_grad():
        made.up[0].film.maps.weight.add_(0.1)
    a, b = (made.generate(**shown, speech=speech(seed=s), told=torch.zeros(1, 2).bool()) for s in (1, 2))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("speech, size", [("whisper", 768), ("global", 104)])
def test_padding_does_not_leak_into_a_clip(speech, size):
    made, rows, padding = net(speech=speech), normal(6, (2, 9, size)), torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 5:] = True
    with torch.no_grad():
        together, alone = made.encode_audio(rows, padding), made.encode_audio(rows[1:, :5])
    assert together.shape == (2, 9, D)
    torch.testing.assert_close(together[1, :5], alone[0], atol=1e-6, rtol=0)


# Sizes and formats


@torch.no_grad()
@pytest.mark.parametrize("width, channels", [(1.0, [32, 64, 96, 128]), (0.5, [16, 32, 48, 64]), (1 / 32, [8] * 4)])
def test_a_narrower_network_has_fewer_channels_at_the_same_sizes(width, channels):
    made, sizes = net(width=width, references=3), []
    for block in (made.enter, *made.down, *made.up):
        block.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    shown = faces((0.0,), (0.02, 0.05, 0.1))
    assert made.generate(**shown, speech=speech(1)).shape == (1, 1, 3, SIDE, SIDE)
    shapes = list(zip(channels, (40, 20, 10, 5), (56, 28, 14, 7), strict=True))
    assert sizes == [*shapes, *shapes[-2::-1]]


@torch.no_grad()
def test_a_batch_is_what_its_faces_are_one_by_one():
    made, shown, said = net(), faces((0.0, 0.06, 0.1)), speech(3)
    together = made.generate(**shown, speech=said)
    for i in range(3):
        alone = made.generate(**{name: part[:, i : i + 1] for name, part in shown.items()}, speech=said[:, i : i + 1])
        torch.testing.assert_close(together[:, i : i + 1], alone, atol=2e-3, rtol=0)


@torch.no_grad()
def test_convolutions_in_bfloat16_make_almost_the_same_picture():
    shown, rows = faces(), normal(7, (1, 4, 768))
    plain = net().generate(**shown, speech=net().encode_audio(rows)[:, 2:])
    short = fold_norms(net()).to(torch.bfloat16, memory_format=torch.channels_last)
    for part in (short.speech, short.outline):
        part.float()
    out = short.generate(**shown, speech=short.encode_audio(rows)[:, 2:])
    assert out.dtype == torch.float32 and short.enter.conv.weight.dtype == torch.bfloat16
    assert 0 < (out - plain).abs().mean() < 0.01 and (out - plain).abs().max() < 0.2


# What is put together


def blocks(size, seed=3):
    """A picture of noise with coarse and fine parts: (1, 1, 3, size, size)."""
    fine, coarse = normal(seed, (1, 3, size, size)), normal(seed + 1, (1, 3, size // 16, size // 16))
    return (0.5 + 0.1 * fine + 0.1 * resized(coarse, size, size)).clamp(0, 1)[:, None]


@torch.no_grad()
def test_of_two_references_that_do_not_fit_the_mean_is_as_sharp_as_one():
    """Fine parts are one reference's, coarse ones the mean of both."""
    places = grid(HEIGHT // 2, WIDTH // 2, torch.zeros(1)).expand(1, 2, -1, -1, -1)
    weights = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1).expand(-1, -1, HEIGHT // 2, WIDTH // 2)
    layers = Layers(places, weights, torch.ones(1, 1, HEIGHT, WIDTH), torch.ones(1, 1, HEIGHT // 2, WIDTH // 2))
    both = torch.cat([blocks(SIDE, 3), blocks(SIDE, 5)], 1)
    made, one, other = net(references=2).compose(layers, both), window(both[:, 0]), window(both[:, 1])
    mean = 0.6 * one + 0.4 * other
    detail = lambda maps: (maps - blurred(maps)).square().mean()  # noqa: E731
    assert detail(mean) < 0.6 * detail(one) and detail(made) > 0.85 * detail(one)
    assert (blurred(made) - blurred(mean)).abs().mean() < 0.5 * (blurred(one) - blurred(mean)).abs().mean()
