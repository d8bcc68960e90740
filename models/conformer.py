"""The Conformer lip reader (Ma et al. 2021, End-to-end audio-visual speech recognition with Conformers)."""

import torch
import torch.nn.functional as F
from torch import nn

from models.decoder import interleaved
from models.layers import Pointwise

SPAN = 5  # frames of the first convolution
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # (channels, stride) of the ResNet-18
HIDDEN = -1e4  # score of a padded frame; finite, so that a clip of nothing but padding stays a number
EPS = 1e-12  # of the layer norms; the batch norms of the front end have the values below
FRONT_NORM = {"eps": 1e-3, "momentum": 0.01}


class Stage(nn.Module):
    """Two residual blocks with their norms inside (He et al. 2016b); a norm and ReLU close the stage."""

    def __init__(self, cin, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out, **FRONT_NORM)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out, **FRONT_NORM)
        self.conv3 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out, **FRONT_NORM)
        self.conv4 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm4 = nn.BatchNorm2d(out, **FRONT_NORM)
        same = stride == 1 and cin == out
        self.shortcut = nn.Identity() if same else Pointwise(cin, out, stride)

    def forward(self, x):
        """x: (N, cin, H, W), not negative. Returns (N, out, H / stride, W / stride), not negative."""
        total = self.conv2(self.norm1(self.conv1(x)).relu()) + self.shortcut(x)
        y = self.norm2(total).relu()
        total = self.conv4(self.norm3(self.conv3(y)).relu()) + total  # not + y: the sum goes past the norm
        return self.norm4(total).relu()


class FeedForward(nn.Module):
    """The feed-forward module (Gulati et al. 2020, sec. 2.3): layer norm, wider, Swish, back."""

    def __init__(self, dim, ffn, dropout):
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim, EPS)
        self.up = nn.Linear(dim, ffn)
        self.down = nn.Linear(ffn, dim)

    def forward(self, x):
        """x: (B, T, D). Returns (B, T, D), to be added to x."""
        y = F.dropout(F.silu(self.up(self.norm(x))), self.dropout, self.training)
        return F.dropout(self.down(y), self.dropout, self.training)


def by_frame(scores):
    """Puts scores by distance into columns by frame: row i, column j is the score of distance i - j.

    scores: (..., T, 2T - 1) of the distances T - 1, ..., 1 - T. Returns (..., T, T).
    """
    length = scores.shape[-2]
    flat = F.pad(scores, (0, 1)).flatten(-2)  # rows of 2T, read as rows of 2T - 1: each starts one column later
    return flat[..., length - 1 : -1].unflatten(-1, (length, 2 * length - 1))[..., :length]


class RelativeAttention(nn.Module):
    """Self-attention by the distance of two frames instead of their positions (Dai et al. 2019, sec. 3.3)."""

    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(dim, EPS)
        self.qkv = nn.Linear(dim, 3 * dim)  # queries, keys, values
        self.distance = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, dim // heads))  # u of the paper
        self.distance_bias = nn.Parameter(torch.zeros(heads, dim // heads))  # v of the paper
        self.out = nn.Linear(dim, dim)

    def forward(self, x, distances, padding):
        """x: (B, T, D). distances: (2T - 1, D), of T - 1 to 1 - T. padding: (B, T) bool or None. Returns (B, T, D)."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, D/heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, T, D/heads)
        far = self.distance(distances).unflatten(-1, (self.heads, -1)).permute(1, 2, 0)  # (heads, D/heads, 2T - 1)
        scores = by_frame((query + self.distance_bias[:, None]) @ far) * key.shape[-1] ** -0.5  # (B, heads, T, T)
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, None], HIDDEN)
        query, dropout = query + self.content_bias[:, None], self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=scores, dropout_p=dropout)
        return F.dropout(self.out(y.transpose(1, 2).flatten(2)), dropout)


class Convolution(nn.Module):
    """The convolution module (Gulati et al. 2020, sec. 2.2): a gate, then one filter over time per channel."""

    def __init__(self, dim, kernel, dropout):
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(dim, EPS)
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x, padding):
        """x: (B, T, D). padding: (B, T) bool or None. Returns (B, T, D), to be added to x."""
        y = F.glu(self.gate(self.norm(x)))
        if padding is not None:
            y = y.masked_fill(padding[..., None], 0)  # or the filters would reach over the end of the clip
        y = F.silu(self.batch_norm(self.depthwise(y.transpose(1, 2)))).transpose(1, 2)  # (B, T, D)
        return F.dropout(self.out(y), self.dropout, self.training)


class ConformerBlock(nn.Module):
    """Attention and convolution between two halves of a feed-forward layer (Gulati et al. 2020, eq. 1)."""

    def __init__(self, dim, ffn, heads, kernel, dropout):
        super().__init__()
        self.ffn1 = FeedForward(dim, ffn, dropout)
        self.attention = RelativeAttention(dim, heads, dropout)
        self.convolution = Convolution(dim, kernel, dropout)
        self.ffn2 = FeedForward(dim, ffn, dropout)
        self.norm = nn.LayerNorm(dim, EPS)

    def forward(self, x, distances, padding):
        """x: (B, T, D). distances: (2T - 1, D). padding: (B, T) bool or None. Returns (B, T, D)."""
        x = x + self.ffn1(x) / 2
        x = x + self.attention(x, distances, padding)
        x = x + self.convolution(x, padding)
        x = x + self.ffn2(x) / 2
        return self.norm(x)


class Conformer(nn.Module):
    """The encoder (Ma et al. 2021, sec. 3): a ResNet-18 frame by frame, then 12 Conformer blocks of 256/2048/4.

    `width` scales the channels of the ResNet, `shrink` averages pixels before it (see `avhubert.VideoFrontEnd`);
    `kernel`, odd, is the length of the Conformer's filters in frames.
    Differs: the first convolution, over time too, has the frames around each one as its channels: the same numbers,
    but every weight has 4 axes at most, so that the model can be kept in channels_last.
    Padded frames are zeros to the convolutions over time; published, they reach over the end of shorter clips.
    Clips too short for their sentence are not lengthened; published, zeros go around their features.
    """

    def __init__(self, layers=12, dim=256, ffn=2048, heads=4, kernel=31, dropout=0.1, width=1.0, shrink=1):
        super().__init__()
        self.dropout, self.shrink = dropout, shrink
        rows = [(max(1, round(out * width)), stride) for out, stride in STAGES]
        first, last = rows[0][0], rows[-1][0]
        self.stem = nn.Sequential(
            nn.Conv2d(SPAN, first, 7, 2, 3, bias=False),
            nn.BatchNorm2d(first, **FRONT_NORM),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        widths = [first] + [out for out, _ in rows]
        self.stages = nn.Sequential(*(Stage(cin, *row) for cin, row in zip(widths, rows, strict=False)))
        self.proj = nn.Linear(last, dim)
        self.proj_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(ConformerBlock(dim, ffn, heads, kernel, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, EPS)

    def embed(self, video, padding=None):
        """Visual features of every frame, before the Conformer: (B, T, 512), zeros where padded.

        Arguments are those of `forward`. Padded frames are left out, also of batch norm's statistics.
        """
        if padding is None:
            padding = torch.zeros(video.shape[:2], dtype=torch.bool, device=video.device)
        video = video.squeeze(2).masked_fill(padding[..., None, None], 0)  # (B, T, H, W)
        video = F.avg_pool2d(video, self.shrink) if self.shrink > 1 else video
        around = F.pad(video, (0, 0, 0, 0, SPAN // 2, SPAN // 2)).unfold(1, SPAN, 1)  # (B, T, H, W, 5)
        rows = self.stages(self.stem(around.movedim(-1, 2)[~padding])).mean((2, 3))  # (frames not padded, 512)
        features = rows.new_zeros(*padding.shape, rows.shape[-1])
        features[~padding] = rows
        return features

    def encode(self, features, padding=None):
        """features: (B, T, 512), of `embed`. padding: (B, T) bool or None. Returns (B, T, D)."""
        x = self.proj_norm(self.proj(features))  # (B, T, D)
        length, dim = x.shape[1:]
        distances = interleaved(torch.arange(length - 1, -length, -1, device=x.device), dim).to(x.dtype)
        x = F.dropout(x * dim**0.5, self.dropout, self.training)
        distances = F.dropout(distances, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, distances, padding)
        return self.norm(x)

    def forward(self, video, padding=None):
        """Embeds every frame of a clip in the context of the whole clip.

        video:   (B, T, 1, H, W), the mouth: grey in [0, 1], then (grey - 0.4161) / 0.1688; published, the middle
                 112x112 px of a face of 224x224, but any size will do.
        padding: (B, T) bool, True after the end of a clip, or None.
        Returns (B, T, D); padded rows mean nothing.
        """
        return self.encode(self.embed(video, padding), padding)
