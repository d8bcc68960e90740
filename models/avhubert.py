"""AV-HuBERT's encoder: a transformer over speech, lip motion or both (TalkLip, supplement sec. 2)."""

import torch
import torch.nn.functional as F
from torch import nn

FILTERS = 104  # size of an audio frame: 26 log filter banks of 4 neighbouring 10 ms steps
POSITION_KERNEL, POSITION_GROUPS = 128, 16
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
            self.shortcut = nn.Sequential(nn.Conv2d(cin, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        """x: (N, cin, H, W). Returns (N, out, H / stride, W / stride)."""
        y = self.act1(self.norm1(self.conv1(x)))
        return self.act2(self.norm2(self.conv2(y)) + self.shortcut(x))


class VideoFrontEnd(nn.Module):
    """One feature vector per frame of a mouth: a convolution over 5 frames, then a ResNet-18 frame by frame."""

    def __init__(self, dim):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(1, 64, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm3d(64),
            nn.PReLU(64),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        widths = [64] + [out for out, _ in RESNET]
        self.blocks = nn.Sequential(*(ResidualBlock(cin, *row) for cin, row in zip(widths, RESNET, strict=False)))
        self.proj = nn.Linear(widths[-1], dim)

    def forward(self, video):
        """video: (B, T, 1, 88, 88), grey, normalised. Returns (B, T, D)."""
        x = self.stem(video.transpose(1, 2)).transpose(1, 2)  # (B, T, 64, 22, 22)
        x = self.blocks(x.flatten(0, 1)).mean((2, 3))  # (B*T, 512)
        return self.proj(x).unflatten(0, video.shape[:2])


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

    def forward(self, x, heard):
        """x: (B, T, D). heard: (B, 1, 1, T) bool, True where a frame may be attended to, or None for all."""
        dropout = self.dropout if self.training else 0.0
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, D/heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, T, D/heads)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=heard, dropout_p=dropout)
        x = x + F.dropout(self.out(y.transpose(1, 2).flatten(2)), dropout)  # (B, T, D)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), dropout)


class AVHubert(nn.Module):
    """AV-HuBERT's encoder (supplement sec. 2): 12 blocks of 768/3072/12 in the base size.

    `video=False` builds no video front end: the generator's encoder never sees a mouth.
    Differs: the weight norm of the positional convolution is multiplied out: `positions.weight` is its product.
    The parts that only pre-training uses (mask embedding, unit embeddings) are not built.
    """

    def __init__(self, layers=12, dim=768, ffn=3072, heads=12, dropout=0.1, layerdrop=0.05, video=False):
        super().__init__()
        self.dropout, self.layerdrop = dropout, layerdrop
        self.audio = nn.Linear(FILTERS, dim)
        self.video = VideoFrontEnd(dim) if video else None
        self.fusion_norm = nn.LayerNorm(2 * dim)
        self.fusion = nn.Linear(2 * dim, dim)
        self.positions = nn.Conv1d(dim, dim, POSITION_KERNEL, padding=POSITION_KERNEL // 2, groups=POSITION_GROUPS)
        self.blocks = nn.ModuleList(TransformerBlock(dim, ffn, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions.weight, std=(4 / (POSITION_KERNEL * dim)) ** 0.5)
        nn.init.zeros_(self.positions.bias)

    def fuse(self, audio=None, video=None):
        """Joins what is heard and what is seen into one vector per frame; zeros stand for the one that is missing.

        audio: (B, T, 104) or None. video: (B, T, 1, 88, 88) or None; one of them is given.
        Returns (B, T, D).
        """
        heard = None if audio is None else self.audio(audio)
        seen = None if video is None else self.video(video)
        heard = torch.zeros_like(seen) if heard is None else heard
        seen = torch.zeros_like(heard) if seen is None else seen
        return self.fusion(self.fusion_norm(torch.cat([heard, seen], dim=-1)))

    def forward(self, audio=None, video=None, padding=None):
        """Embeds every frame of a clip in the light of the whole clip.

        audio:   (B, T, 104): log filter banks, each frame normalised to mean 0 and variance 1, or None.
        video:   (B, T, 1, 88, 88): the mouth, grey, normalised, or None.
        padding: (B, T) bool, True after the end of a clip, or None; a clip has at least one frame.
        Returns (B, T, D); padded rows mean nothing.
        """
        dropout = self.dropout if self.training else 0.0
        x = F.dropout(self.fuse(audio, video), dropout)
        heard = None
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0)  # or the positions would look over the end of the clip
            heard = ~padding[:, None, None]  # (B, 1, 1, T)
        positions = self.positions(x.transpose(1, 2))[..., : x.shape[1]]  # an even kernel gives one frame too many
        x = F.dropout(x + F.gelu(positions).transpose(1, 2), dropout)
        for block in self.blocks:
            if not self.training or torch.rand(()) >= self.layerdrop:
                x = block(x, heard)
        return self.norm(x)
