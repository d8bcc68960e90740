"""AV-HuBERT's encoder: a transformer over speech, lip motion or both (TalkLip, supplement sec. 2)."""

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import Pointwise, in_format_of

FILTERS = 104  # size of an audio frame: 26 log filter banks of 4 neighbouring 10 ms steps
POSITION_KERNEL, POSITION_GROUPS = 128, 16
STEM_FRAMES = 5
RESNET = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))  # (channels, stride)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with one learnt ReLU slope per channel; the shortcut follows stride and channels."""

    def __init__(self, cin, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.act1 = nn.PReLU(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.act2 = nn.PReLU(out)
        self.shortcut = nn.Identity()
        if stride != 1 or cin != out:
            self.shortcut = nn.Sequential(Pointwise(cin, out, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        """x: (N, cin, H, W). Returns (N, out, H / stride, W / stride)."""
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.norm2(self.conv2(y)) + self.shortcut(x))


class VideoFrontEnd(nn.Module):
    """One feature vector per frame of a mouth: a convolution over 5 frames, then a ResNet-18 frame by frame.

    `width` scales the channels; `shrink` x `shrink` px are averaged before anything else (compact sizes: 2).
    Differs: the 3-D convolution is a 2-D one whose channels are the 5 frames: the same sums, in less time.
    """

    def __init__(self, dim, width=1.0, shrink=1):
        super().__init__()
        self.shrink = shrink
        rows = [(max(1, round(out * width)), stride) for out, stride in RESNET]
        first = rows[0][0]
        self.stem = nn.Sequential(
            nn.Conv2d(STEM_FRAMES, first, 7, 2, 3, bias=False),
            nn.BatchNorm2d(first),
            nn.PReLU(first),
            nn.MaxPool2d(3, 2, 1),
        )
        widths = [first] + [out for out, _ in rows]
        self.blocks = nn.Sequential(*(ResidualBlock(cin, *row) for cin, row in zip(widths, rows, strict=False)))
        self.proj = nn.Linear(widths[-1], dim)

    def forward(self, video):
        """video: (B, T, 1, 88, 88), grey, normalised. Returns (B, T, D)."""
        return self.features(self.stacks(video).flatten(0, 1)).unflatten(0, video.shape[:2])

    def stacks(self, video):
        """The input of each frame's vector: the frame between its two neighbours on each side.

        video: (B, T, 1, 88, 88). Returns (B, T, 5, 88, 88), averaged by `shrink`; black stands beyond the ends.
        """
        side = STEM_FRAMES // 2
        x = F.avg_pool2d(video[:, :, 0], self.shrink) if self.shrink > 1 else video[:, :, 0]
        x = F.pad(x, (0, 0, 0, 0, side, side))  # (B, T + 4, 88, 88)
        return x.unfold(1, STEM_FRAMES, 1).permute(0, 1, 4, 2, 3)  # (B, T, 5, 88, 88)

    def features(self, stacks):
        """stacks: (N, 5, 88, 88), any frames of `stacks`, each on its own. Returns (N, D)."""
        x = self.stem(in_format_of(self.stem[0].weight, stacks))  # (N, 64, 22, 22)
        return self.proj(self.blocks(x).mean((2, 3)))


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward layer, each behind its layer norm and added to its input."""

    def __init__(self, dim, ffn, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)  # queries, keys, values
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, ffn)
        self.down = nn.Linear(ffn, dim)

    def forward(self, x, attended):
        """x: (B, T, D). attended: (B, 1, 1, T) bool, True where a frame may be attended to, or None for all."""
        dropout = self.dropout if self.training else 0.0
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, D/heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, T, D/heads)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=attended, dropout_p=dropout)
        x = x + F.dropout(self.out(y.transpose(1, 2).flatten(2)), dropout)  # (B, T, D)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), dropout)


class Positions(nn.Module):
    """Position embedding: a convolution over 128 frames, one gain for each of them (weight norm).

    Without the weight norm, and nothing behind it that limits it, Adam lets this sum of 128 frames grow over all else.
    """

    def __init__(self, dim):
        super().__init__()
        direction = torch.randn(dim, dim // POSITION_GROUPS, POSITION_KERNEL) * (4 / (POSITION_KERNEL * dim)) ** 0.5
        self.direction = nn.Parameter(direction)
        self.gain = nn.Parameter(direction.norm(dim=(0, 1), keepdim=True))  # (1, 1, 128)
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        """x: (B, T, D). Returns (B, T, D)."""
        exact = torch.promote_types(self.direction.dtype, torch.float32)
        direction = self.direction.to(exact)
        weight = self.gain.to(exact) * direction / direction.norm(dim=(0, 1), keepdim=True)
        x = F.pad(x.transpose(1, 2), (POSITION_KERNEL // 2, POSITION_KERNEL // 2 - 1))
        return F.gelu(F.conv1d(x, weight.to(self.direction.dtype), self.bias, groups=POSITION_GROUPS)).transpose(1, 2)


class AVHubert(nn.Module):
    """AV-HuBERT's encoder (supplement sec. 2): 12 blocks of 768/3072/12 in the base size.

    `video=False` builds no video front end: the generator's encoder takes sound only.
    `width` and `shrink` are that front end's; `grad_mult` scales the gradient that leaves it (published: 0.1).
    The parts that only pre-training uses (mask embedding, cluster embeddings) are in `ClusterHead`.
    """

    def __init__(
        self,
        layers=12,
        dim=768,
        ffn=3072,
        heads=12,
        dropout=0.1,
        layerdrop=0.05,
        video=False,
        width=1.0,
        shrink=1,
        grad_mult=1.0,
    ):
        super().__init__()
        self.dropout, self.layerdrop, self.grad_mult = dropout, layerdrop, grad_mult
        self.audio = nn.Linear(FILTERS, dim)
        self.video = VideoFrontEnd(dim, width, shrink) if video else None
        self.fusion_norm = nn.LayerNorm(2 * dim)
        self.fusion = nn.Linear(2 * dim, dim)
        self.positions = Positions(dim)
        self.blocks = nn.ModuleList(TransformerBlock(dim, ffn, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def fuse(self, audio=None, video=None, video_features=None):
        """Joins audio and video features into one vector per frame; zeros stand for the modality that is missing.

        audio: (B, T, 104) or None. video: (B, T, 1, 88, 88) or None.  video_features: (B, T, D), the output of the
        video front end, in place of `video`. One of them is given.
        Returns (B, T, D).
        """
        audio = None if audio is None else self.audio(audio)
        video = video_features if video is None else self.video(video)
        if video is not None and self.grad_mult != 1:
            video = video.detach().lerp(video, self.grad_mult)  # the same value, a smaller gradient
        audio = torch.zeros_like(video) if audio is None else audio
        video = torch.zeros_like(audio) if video is None else video
        return self.fusion(self.fusion_norm(torch.cat([audio, video], dim=-1)))

    def forward(self, audio=None, video=None, padding=None, depth=0, video_features=None):
        """Embeds every frame of a clip in the context of the whole clip.

        audio:   (B, T, 104): log filter banks, each frame normalised to mean 0 and variance 1, or None.
        video:   (B, T, 1, 88, 88): the mouth, grey, normalised, or None.
        padding: (B, T) bool, True after the end of a clip, or None; a clip has at least one frame.
        depth:   stops after this block, without the last norm; 0 is all of it.
        video_features: (B, T, D), the output of the video front end, in place of `video`; or None.
        Returns (B, T, D); padded rows mean nothing.
        """
        dropout = self.dropout if self.training else 0.0
        x = F.dropout(self.fuse(audio, video, video_features), dropout)
        attended = None
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0)  # or the positions would reach over the end of the clip
            attended = ~padding[:, None, None]  # (B, 1, 1, T)
        x = F.dropout(x + self.positions(x), dropout)
        for block in self.blocks[: depth or None]:
            if not self.training or torch.rand(()) >= self.layerdrop:
                x = block(x, attended)
        return x if depth else self.norm(x)


class ClusterHead(nn.Module):
    """The mask embedding and the embeddings of the clusters, which only masked pre-training has (seed 003, eq. 3).

    A frame's score for a cluster is the cosine of the two, divided by 0.1 (HuBERT, eq. 3).
    """

    TEMPERATURE, SIZE = 0.1, 256

    def __init__(self, dim, clusters):
        super().__init__()
        self.mask = nn.Parameter(torch.rand(FILTERS))
        self.proj = nn.Linear(dim, self.SIZE)
        self.embeddings = nn.Parameter(torch.rand(clusters, self.SIZE))

    def forward(self, x):
        """x: (B, T, D), the encoder's output. Returns (B, T, clusters) scores."""
        cosine = F.normalize(self.proj(x), dim=-1) @ F.normalize(self.embeddings, dim=-1).T
        return cosine / self.TEMPERATURE


def spans(lengths, share, span):
    """Chooses frames to be masked: spans at random places, which may overlap, `share` of each clip before overlap.

    lengths: (B,) frames of each clip. span: frames. Returns (B, max(lengths)) bool.
    Differs: the published places are drawn without replacement, two at least in each clip.
    """
    longest = int(lengths.max())
    masked = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, length in zip(masked, lengths.tolist(), strict=True):
        count = int(share * length / span + torch.rand(()).item())
        for start in torch.randint(max(length - span, 0) + 1, (count,)).tolist():
            row[start : min(start + span, length)] = True
    return masked.to(lengths.device)


def shuffle_spans(video, masked, lengths):
    """Masks pictures as AV-HuBERT does, by its sec. 3.2: another span of the same clip takes each masked one's place.

    video: (B, T, 1, H, W). masked: (B, T) bool. lengths: (B,) frames of each clip. Returns a new (B, T, 1, H, W).
    """
    source = torch.arange(video.shape[1]).repeat(len(video), 1)
    for frames, row, length in zip(source, masked.cpu(), lengths.tolist(), strict=True):
        edges = torch.diff(F.pad(row.int(), (1, 1)))
        starts, stops = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
        for start, stop in zip(starts, stops, strict=True):
            other = int(torch.randint(length - (stop - start) + 1, ()))
            frames[start:stop] = torch.arange(other, other + stop - start)
    return video[torch.arange(len(video))[:, None], source.to(video.device)]
