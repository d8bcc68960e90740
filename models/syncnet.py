"""Sync models, which embed lips and sound: SyncNet (ACCV 2016 workshops) as published, and a compact one."""

import torch
import torch.nn.functional as F
from torch import nn

from hparams import SYNC_WINDOW
from models.layers import ConvNorm, Row, build, in_format_of, narrow

WINDOW = SYNC_WINDOW  # frames of a window: 0.2 s at 25 fps


class Pool(nn.MaxPool2d):
    """A maximum over places, as a row of a layer table: its channels stay."""

    def __init__(self, cin, out, kernel, stride, pad):
        super().__init__(kernel, stride, pad)


# fmt: off
LIPS = (  # SyncNet v2, in: (15, 224, 224), five frames of colour as channels
    #             out  k  s  p  res   size
    Row(ConvNorm,  96, 7, 2, 0,   0,  109),
    Row(Pool,      96, 3, 2, 0,   0,   54),
    Row(ConvNorm, 256, 5, 2, 1,   0,   26),
    Row(Pool,     256, 3, 2, 1,   0,   13),
    Row(ConvNorm, 256, 3, 1, 1,   0,   13),
    Row(ConvNorm, 256, 3, 1, 1,   0,   13),
    Row(ConvNorm, 256, 3, 1, 1,   0,   13),
    Row(Pool,     256, 3, 2, 0,   0,    6),
    Row(ConvNorm, 512, 6, 1, 0,   0,    1),
)
SOUND = (  # SyncNet v2, in: (1, 13, 20), cepstra of 0.2 s
    #             out       k       s  p  res      size
    Row(ConvNorm,  64,      3,      1, 1,   0, (13, 20)),
    Row(Pool,      64,      1,      1, 0,   0, (13, 20)),
    Row(ConvNorm, 192,      3,      1, 1,   0, (13, 20)),
    Row(Pool,     192,      3, (1, 2), 0,   0,  (11, 9)),
    Row(ConvNorm, 384,      3,      1, 1,   0,  (11, 9)),
    Row(ConvNorm, 256,      3,      1, 1,   0,  (11, 9)),
    Row(ConvNorm, 256,      3,      1, 1,   0,  (11, 9)),
    Row(Pool,     256,      3,      2, 0,   0,   (5, 4)),
    Row(ConvNorm, 512, (5, 4),      1, 0,   0,        1),
)

MOUTH = (  # compact sync model, in: (5, 44, 44), five grey frames as channels
    #             out  k  s  p  res  size
    Row(ConvNorm,  32, 5, 2, 2,   0,   22),
    Row(ConvNorm,  64, 3, 2, 1,   1,   11),
    Row(ConvNorm, 128, 3, 2, 1,   1,    6),
    Row(ConvNorm, 256, 3, 2, 1,   1,    3),
    Row(ConvNorm, 256, 3, 1, 0,   0,    1),
)
MEL = (  # compact sync model, in: (1, 80, 16), a mel window
    #             out  k       s  p  res      size
    Row(ConvNorm,  32, 3, (3, 1), 1,   1, (27, 16)),
    Row(ConvNorm,  64, 3,      3, 1,   1,   (9, 6)),
    Row(ConvNorm, 128, 3, (3, 2), 1,   1,        3),
    Row(ConvNorm, 256, 3,      1, 0,   0,        1),
)
# fmt: on


class Tower(nn.Module):
    """One of the two networks: a layer table that ends at size 1, then two linear layers with batch norm between."""

    def __init__(self, table, cin, dim):
        super().__init__()
        out = table[-1].out
        self.blocks = build(table, cin)
        self.inner, self.norm, self.outer = nn.Linear(out, out), nn.BatchNorm1d(out), nn.Linear(out, dim)

    def features(self, x):
        """x: (N, cin, H, W), as the table says. Returns (N, out), the output of the convolutions."""
        x = in_format_of(self.blocks[0][0].conv.weight, x)
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)

    def forward(self, x):
        """x: (N, cin, H, W), as the table says. Returns (N, dim)."""
        return self.outer(self.norm(self.inner(self.features(x))).relu())


class SyncNet(nn.Module):
    """SyncNet v2 as it is published: the network behind LSE-C and LSE-D (Wav2Lip, sec. 4.2).

    Differs: the 3-D convolutions are 2-D ones, as only the first has more than one frame: the 5 are its channels.
    """

    def __init__(self, dim=1024, lips=LIPS, sound=SOUND):
        super().__init__()
        self.lips, self.sound = Tower(lips, 3 * WINDOW, dim), Tower(sound, 1, dim)

    def embed_video(self, faces):
        """faces: (N, 5, 3, 224, 224) in [0, 1], RGB: windows of five frames. Returns (N, 1024)."""
        return self.lips(255 * faces.flatten(1, 2))  # (N, 15, 224, 224)

    def embed_audio(self, cepstra):
        """cepstra: (N, 1, 13, 20): of the 0.2 s of each window, 100 columns a second. Returns (N, 1024)."""
        return self.sound(cepstra)


class CompactSync(nn.Module):
    """A small sync model over mouth ROI and mel windows; its embeddings have length 1.

    shrink: px of the mouth ROI that are averaged before the table, in height and width.
    normal: (mean, standard deviation) of the grey values.
    """

    def __init__(self, dim=128, width=1.0, shrink=2, normal=(0.421, 0.165), mouth=MOUTH, mel=MEL):
        super().__init__()
        self.shrink, self.normal = shrink, normal
        self.mouth, self.mel = Tower(narrow(mouth, width), WINDOW, dim), Tower(narrow(mel, width), 1, dim)

    def embed_video(self, roi):
        """Embeds every window of five frames of a clip.

        roi: (B, T, 1, 88, 88) grey in [0, 1], see `mouth.cut`; T is 5 at least.
        Returns (B, T - 4, D): row t is of the frames t to t + 4.
        """
        mean, deviation = self.normal
        x = F.avg_pool2d(((roi - mean) / deviation)[:, :, 0], self.shrink)  # (B, T, 44, 44)
        x = x.unfold(1, WINDOW, 1).permute(0, 1, 4, 2, 3)  # (B, T - 4, 5, 44, 44)
        return F.normalize(self.mouth(x.flatten(0, 1)).float(), dim=-1).unflatten(0, x.shape[:2])

    def embed_audio(self, mels):
        """mels: (B, N, 1, 80, 16): the 0.2 s of sound of each window, see `audio.mel_windows`. Returns (B, N, D)."""
        return F.normalize(self.mel(mels.flatten(0, 1)).float(), dim=-1).unflatten(0, mels.shape[:2])


def distances(video, sound, vshift, beyond):
    """Distances of each video window from the sound windows before, at and after its time.

    video: (N, D).  sound: (M, D): sound window m begins with frame m.  vshift: frames that are tried to each side.
    beyond: the embedding's value where there is no sound: 0 as published, or NaN.
    Returns (N, 2 * vshift + 1): column k is of the sound that begins k - vshift frames later than the video.
    """
    sound = F.pad(sound, (0, 0, vshift, max(len(video) + vshift - len(sound), 0)), value=beyond)
    columns = [F.pairwise_distance(video, sound[k : k + len(video)]) for k in range(2 * vshift + 1)]
    return torch.stack(columns, dim=1)
