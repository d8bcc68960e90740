"""A generator that moves a person's own pixels: it warps references of the same video, and shades between the lips.

In no paper of those that this project implements. Thin-plate splines are Bookstein's (1989), their place in face
generators is that of Zhao & Zhang (CVPR 2022).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from faces.blend import DETAIL, SMOOTH
from faces.landmarks import INNER_LIPS, JAW, OUTER_LIPS
from faces.shape import BOTTOM, LEFT, NOSE, RIGHT, SHAPE_SCALE, SIDE, TOP
from models.avhubert import FILTERS
from models.layers import ConvNorm, FiLM, in_format_of
from models.talklip import TalkLip
from models.whisper import PAIR, SpeechRows

LIPS = len(OUTER_LIPS) + len(INNER_LIPS)  # the first of the points
OUTER, INNER = slice(0, len(OUTER_LIPS)), slice(len(OUTER_LIPS), LIPS)
LOWER, UPPER = INNER.start + torch.arange(1, 10), INNER.start + 20 - torch.arange(1, 10)  # one below the other
CHIN, BASE = slice(LIPS, LIPS + len(JAW)), slice(LIPS + len(JAW), LIPS + len(JAW) + len(NOSE))
HEIGHT, WIDTH = round((BOTTOM - TOP) * SIDE), round((RIGHT - LEFT) * SIDE)  # (80, 112) px
STIFF = 5e-4  # of the splines: points of a mesh that disagree are averaged instead of torn apart
RIM = 0.03  # of the crop, inside the jaw line, over which what is drawn fades in
SOFT = 0.008  # of the crop: the rim of a lip's mask
DARKEST = 0.2  # of its light, what a place between the lips may keep
MOST_FLOW = 0.08  # of the crop, by which the network moves pixels beyond the splines
CHOICE = 5.0  # times the logits of the references' weights: a mean of several is less sharp than one
NEAR = 0.05  # of a typical speaker's eye distance, by which references may be open otherwise; a mean opens too little


class Layers(NamedTuple):
    """What a face is made of, on a grid over the part of the crop that is redrawn.

    places: (N, K, h, w, 2): where each pixel comes from in each reference, the crop as [0, 1] x [0, 1], x before y.
    weights: (N, K, h, w): of each reference; their sum is 1.
    shade: (N, 1, H, W) in [DARKEST, 1]: the light that is left, 1 outside the lips.
    mask: (N, 1, h, w) in [0, 1]: 1 where the face is redrawn.
    """

    places: torch.Tensor
    weights: torch.Tensor
    shade: torch.Tensor
    mask: torch.Tensor


def grid(height, width, like):
    """The places of the pixels of the part that is redrawn, at this size: (height, width, 2), the crop as [0, 1]."""
    y = TOP + (BOTTOM - TOP) * (torch.arange(height).to(like) + 0.5) / height
    x = LEFT + (RIGHT - LEFT) * (torch.arange(width).to(like) + 0.5) / width
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)


def bend(points, places):
    """The kernel of thin-plate splines, r^2 log r, of all pairs: (N, P, 2), (N, Q, 2) -> (N, P, Q)."""
    squares = torch.baddbmm(places.square().sum(-1)[:, None], points, places.mT, alpha=-2)
    squares = (squares + points.square().sum(-1, keepdim=True)).clamp(min=1e-9)
    return 0.5 * squares * squares.log()


def thin_plates(points, others, places):
    """Where `places` of one face lie in other faces, by the smoothest map from its points to theirs (Bookstein 1989).

    points: (N, P, 2).  others: (N, K, P, 2), the same points there.  places: (Q, 2).
    Returns (N, K, Q, 2). Differs: points need not be met: `STIFF` is the weight of the bending.
    """
    n, k, p, _ = others.shape
    device = "cpu" if points.device.type == "mps" else points.device  # which has no 64 bits
    points, others = (each.to(device, torch.float64) for each in (points, others))
    ones = torch.cat([torch.ones_like(points[..., :1]), points], -1)  # (N, P, 3)
    kernel = bend(points, points) + STIFF * torch.eye(p).to(points)
    system = torch.cat([torch.cat([kernel, ones], 2), F.pad(ones.transpose(1, 2), (0, 3))], 1)
    wished = F.pad(others.permute(0, 2, 1, 3).flatten(2), (0, 0, 0, 3))  # (N, P + 3, 2 K)
    found = torch.linalg.solve(system, wished).to(places)
    kind = "cpu" if places.is_meta else places.device.type
    with torch.autocast(kind, enabled=False):  # bfloat16 would misplace pixels by some px
        flat = F.pad(places, (1, 0), value=1.0) @ found[:, p:]
        bent = bend(places.expand(n, -1, 2), points.to(places)) @ found[:, :p]
        return (flat + bent).unflatten(-1, (k, 2)).transpose(1, 2)


def inside(polygon, places):
    """The distance of places from the outline of a polygon, positive inside: (N, P, 2), (Q, 2) -> (N, Q)."""
    edge = polygon.roll(-1, 1) - polygon
    length = edge.square().sum(-1).clamp(min=1e-12).sqrt()[:, None]  # (N, 1, P)
    ahead = edge / length.mT
    aside = torch.stack([ahead[..., 1], -ahead[..., 0]], -1)
    along, off = (places @ axis.mT - (polygon * axis).sum(-1)[:, None] for axis in (ahead, aside))  # (N, Q, P)
    beyond = along - torch.minimum(along.clamp(min=0), length)
    distance = ((beyond.square() + off.square()).amin(-1) + 1e-10).sqrt()
    above = polygon[:, None, :, 1] <= places[:, None, 1]  # (N, Q, P)
    crosses = above != above.roll(-1, 2)
    odd = (crosses & ((off > 0) == (edge[:, None, :, 1] > 0))).sum(-1) % 2 == 1
    return torch.where(odd, distance, -distance)


def lower_face(points, places):
    """1 where a face is redrawn, (N, Q): below the nose, inside the jaw line of the frame; it fades out inside there.

    points: (N, P, 2).  places: (Q, 2).
    """
    base = points[:, BASE][:, len(NOSE) // 2]
    down = points[:, CHIN][:, len(JAW) // 2] - base
    down = F.normalize(down, dim=-1)
    below = ((places[None] - base[:, None]) * down[:, None]).sum(-1)  # of the base of the nose
    return (torch.minimum(inside(points[:, CHIN], places), below) / RIM).clamp(0, 1)


def sample(pictures, places):
    """Pictures (N, K, 3, H, W) at places (N, K, h, w, 2), bilinear: (N, K, 3, h, w); beyond the rim it repeats."""
    flat = F.grid_sample(
        pictures.flatten(0, 1), 2 * places.flatten(0, 1) - 1, padding_mode="border", align_corners=False
    )
    return flat.unflatten(0, pictures.shape[:2])


def blurred(maps):
    """Maps (N, C, H, W) without what is finer than `SMOOTH`: a Gaussian filter."""
    kernel = (-0.5 * (torch.arange(-3, 4).to(maps) / SMOOTH).square()).softmax(0).expand(maps.shape[1], 1, 1, -1)
    maps = F.pad(maps, (3, 3, 3, 3), mode="replicate")
    with torch.autocast("cpu" if maps.is_meta else maps.device.type, enabled=False):
        return F.conv2d(F.conv2d(maps, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))


def resized(maps, height, width):
    """Maps (N, C, h, w) at another size, bilinear."""
    return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)


def unlike(lips, others, turns):
    """How unlike the openings of other lips are, squared, in units of `NEAR`: (N, 40, 2), (N, K, 40, 2) -> (N, K).

    turns: (N, 2, 2), see `faces.shape.HeadShape`. No gradient flows through it: lips are moved to be where they are
    wished, and not to have another reference chosen.
    """
    own, there = ((each[..., LOWER, :] - each[..., UPPER, :]).norm(dim=-1).mean(-1) for each in (lips, others))
    unit = turns[..., 0].norm(dim=-1)[:, None]  # an eye distance, times the person's amplitude
    return ((own[:, None] - there) / (NEAR * unit)).square().detach()


class Up(nn.Module):
    """Features made twice as large and joined with those of the encoder, then speech."""

    def __init__(self, cin, skip, out, speech):
        super().__init__()
        self.join, self.residual = ConvNorm(cin + skip, out, 3, pad=1), ConvNorm(out, out, 3, pad=1, residual=True)
        self.film = FiLM(speech, out)

    def forward(self, x, skip, speech):
        """x: (N, C, H, W).  skip: (N, S, 2H, 2W).  speech: (N, D). Returns (N, out, 2H, 2W)."""
        x = torch.cat([resized(x, *skip.shape[-2:]), skip], 1)
        return self.film(self.residual(self.join(x)), speech)


class ReferenceWarp(nn.Module):
    """Warps references of a person's own video, so that the lips have the shape that the sound tells.

    The shape of the lips is told from speech; thin-plate splines from the points of the wished face to those of the
    references bring these to it; a small network, which knows the speech too, moves them further, chooses among them at
    every pixel, and shades between the lips: it paints nothing of its own. Nothing outside `lower_face` changes. Flows
    and weights are small and smooth, so that they can be applied to the video's own pixels, see `layers`.
    """

    inputs = "face", "points", "resting", "turns", "told"  # parts of a sample that `generate` takes beside speech
    project = TalkLip.project

    def __init__(self, hp):
        super().__init__()
        k, c, d = hp.references, [max(8, round(n * hp.width)) for n in (32, 64, 96, 128)], hp.audio_dim
        self.references, self.speech_size = k, d
        self.speech = SpeechRows(PAIR if hp.speech == "whisper" else FILTERS, d)
        self.outline = nn.Linear(d, 2 * LIPS)
        self.sync = nn.Linear(d, hp.sync_dim or d)
        self.said = nn.Sequential(nn.Linear(d, d), nn.ReLU())
        self.enter = ConvNorm(4 * 3 * (1 + k) + 3, c[0], 3, pad=1)  # pictures of half the size: (40, 56)
        self.down = nn.ModuleList(
            nn.Sequential(ConvNorm(a, b, 3, 2, 1), ConvNorm(b, b, 3, pad=1, residual=True))
            for a, b in zip(c, c[1:], strict=False)
        )
        self.up = nn.ModuleList(Up(b, a, a, d) for a, b in reversed(list(zip(c, c[1:], strict=False))))
        self.flow = nn.Conv2d(c[1], 2 * k, 3, padding=1)  # a quarter of the size, smooth
        self.blend = nn.Conv2d(c[0], k + 4, 3, padding=1)
        for head in (self.flow, self.blend):
            nn.init.normal_(head.weight, std=1e-3)
            nn.init.zeros_(head.bias)

    def encode_audio(self, audio, padding=None):
        """Embeds a clip's speech: (B, L, 768) or (B, L, 104) -> (B, L, D), one row per frame of the clip.

        audio: features of Whisper's encoder, see `audio.pairs`, or with --speech global log filter banks.
        padding: (B, L) bool, True after the end of a clip.
        """
        return self.speech(audio, padding)

    def lips(self, resting, turns, speech):
        """The lips that speech asks for, in the crop: (N, 40, 2).

        resting: (N, 40, 2), the lips at rest.  turns: (N, 2, 2).  speech: (N, D).
        Lips do not pass through each other: where an upper one would lie below the lower, both meet half way.
        """
        moved = self.outline(speech).to(turns).unflatten(-1, (LIPS, 2)) / SHAPE_SCALE @ turns.transpose(1, 2)
        lips = resting + moved
        down = F.normalize(turns[:, None, :, 1], dim=-1)  # (N, 1, 2)
        over = ((lips[:, UPPER] - lips[:, LOWER]) * down).sum(-1, keepdim=True).relu() / 2
        meet = torch.zeros_like(lips)
        meet[:, LOWER], meet[:, UPPER] = over * down, -over * down
        return lips + meet

    def layers(self, face, points, resting, turns, speech, told=None):
        """What each face is made of, see `Layers`; `compose` puts it together at any size.

        Shapes as in `generate`, without T: (N, ...).
        """
        shown, references = face[:, :3], face[:, 3:].unflatten(1, (self.references, 3))
        own, lips = points[:, 0], self.lips(resting, turns, speech)
        if told is not None:
            lips = torch.where(told[:, None, None], lips, own[:, :LIPS])
        h, w = HEIGHT // 2, WIDTH // 2
        half = grid(h, w, own).flatten(0, 1)
        wished = torch.cat([lips, own[:, LIPS:]], 1)
        places = thin_plates(wished, points[:, 1:], half).unflatten(2, (h, w))  # (N, K, h, w, 2)
        mask = lower_face(own, half).unflatten(1, (h, w))[:, None]
        outer, inner = (inside(lips[:, part], half).unflatten(1, (h, w))[:, None] for part in (OUTER, INNER))
        seen = window(shown) * (1 - resized(mask, HEIGHT, WIDTH))
        warped = sample(references, self._fine(places))  # (N, K, 3, H, W)
        maps = torch.cat([mask, (outer / SOFT).sigmoid(), (inner / SOFT).sigmoid()], 1)
        flow, logits, dark = self._network(torch.cat([seen, warped.flatten(1, 2)], 1), maps, speech)
        moved = MOST_FLOW * flow.tanh().unflatten(1, (self.references, 2)).permute(0, 1, 3, 4, 2)
        logits = CHOICE * logits - unlike(lips, points[:, 1:, :LIPS], turns)[..., None, None]
        shade = 1 - (1 - DARKEST) * resized((inner / SOFT).sigmoid(), HEIGHT, WIDTH) * dark.sigmoid()
        return Layers(places + moved, logits.softmax(1), shade, mask)

    def _fine(self, places):
        """Places of half the network's size at its whole size: (N, K, h, w, 2) -> (N, K, H, W, 2)."""
        maps = resized(places.flatten(0, 1).permute(0, 3, 1, 2), HEIGHT, WIDTH)
        return maps.permute(0, 2, 3, 1).unflatten(0, places.shape[:2])

    def _network(self, pictures, maps, speech):
        """(N, 3 + 3K, H, W), (N, 3, h, w), (N, D) -> flow (N, 2K, h, w), logits (N, K, h, w), dark (N, 1, H, W).

        Pictures, maps and speech in; all before tanh, softmax and sigmoid out, float32.
        """
        weight = self.enter.conv.weight
        said = self.said(speech.to(weight.dtype))
        x = torch.cat([F.pixel_unshuffle(pictures, 2), maps], 1).to(weight.dtype)
        x = self.enter(in_format_of(weight, x))
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up in self.up:
            x, coarse = up(x, skips.pop(), said), x  # at the end `coarse` is (N, 64, 20, 28)
        flow = self.flow(coarse)
        found = self.blend(x).float()
        flow = resized(flow.float(), *found.shape[-2:])
        k = self.references
        return flow, found[:, :k], F.pixel_shuffle(found[:, k:], 2)

    def compose(self, layers, references):
        """The redrawn part of faces, at the size of the network: (N, 3, H, W), from references (N, K, 3, S, S)."""
        warped = sample(references, self._fine(layers.places))
        smooth = blurred(warped.flatten(1, 2)).unflatten(1, warped.shape[1:3])
        weights = resized(layers.weights, HEIGHT, WIDTH)[:, :, None]
        sharp = (weights / weights.amax(1, keepdim=True).clamp(min=1e-6)) ** DETAIL
        sharp = sharp / sharp.sum(1, keepdim=True)
        return (layers.shade * (weights * smooth + sharp * (warped - smooth)).sum(1)).clamp(0, 1)

    def generate(self, face, points, resting, turns, speech, told=None):
        """Redraws each face, so that its mouth says the speech.

        face:    (B, T, 3 + 3K, 128, 128) in [0, 1]: the frame's crop, whose lower face is not looked at, then K
                 references, crops of other frames, RGB.
        points:  (B, T, 1 + K, P, 2): of the frame and of the references, in the crop as [0, 1] x [0, 1].
        resting: (B, T, 40, 2): the lips of the frame at rest.
        turns:   (B, T, 2, 2): from the head's axes to the crop's, see `faces.shape.HeadShape`; the person's amplitude
                 is in it.
        speech:  (B, T, D): the row of `encode_audio` for each face.
        told:    (B, T) bool: False where the lips take the shape that they have in `points`, to train with; None: by
                 speech in all.
        Returns (B, T, 3, 128, 128) in [0, 1], RGB.
        """
        shape = face.shape[:2]
        parts = [None if each is None else each.flatten(0, 1) for each in (face, points, resting, turns, speech, told)]
        face, layers = parts[0], self.layers(*parts)
        drawn = self.compose(layers, face[:, 3:].unflatten(1, (self.references, 3)))
        mask = resized(layers.mask, HEIGHT, WIDTH)
        part = mask * drawn + (1 - mask) * window(face[:, :3])
        left, top = round(LEFT * SIDE), round(TOP * SIDE)
        out = face[:, :3].clone()
        out[:, :, top : top + HEIGHT, left : left + WIDTH] = part.to(out.dtype)
        return out.unflatten(0, shape)


def window(pictures):
    """The part of crops (N, C, 128, 128) that is redrawn: (N, C, H, W)."""
    left, top = round(LEFT * SIDE), round(TOP * SIDE)
    return pictures[:, :, top : top + HEIGHT, left : left + WIDTH]
