"""CALS (ICASSP 2024): the sync model whose visual features are lip-motion units, Audio-to-Lip, and Lip-to-Face."""

import torch
import torch.nn.functional as F
from torch import nn

from audio import BANDS, JOINED
from models.avhubert import Positions, TransformerBlock, spans
from models.layers import ConvNorm, Row
from models.talklip import Generator
from models.wav2lip import COMPACT_LOWER_FACES, Wav2LipSync

# The poster has no layer table: these are Wav2Lip's, for CALS' faces and mel; embeddings may have values below 0.
# fmt: off
LOWER_FACES = (  # F_v, in: (15, 64, 128), the lower half of five faces of 128 px in colour as channels
    #              out  k       s  p  res       size
    Row(ConvNorm,   32, 7,      1, 3,   0, (64, 128)),
    Row(ConvNorm,   64, 5, (1, 2), 1,   2,  (62, 63)),
    Row(ConvNorm,  128, 3,      2, 1,   3,  (31, 32)),
    Row(ConvNorm,  256, 3,      2, 1,   2,        16),
    Row(ConvNorm,  512, 3,      2, 1,   2,         8),
    Row(ConvNorm,  512, 3,      2, 1,   0,         4),
    Row(ConvNorm,  512, 4,      1, 0,   0,         1),
    Row(nn.Conv2d, 512, 1,      1, 0,   0,         1),
)
SOUND = (  # F_a, in: (1, 80, 20), a mel window of 100 steps a second
    #              out       k       s  p  res      size
    Row(ConvNorm,   32,      3,      1, 1,   2, (80, 20)),
    Row(ConvNorm,   64,      3, (3, 1), 1,   2, (27, 20)),
    Row(ConvNorm,  128,      3,      3, 1,   2,   (9, 7)),
    Row(ConvNorm,  256,      3, (3, 2), 1,   2,   (3, 4)),
    Row(ConvNorm,  512, (3, 4),      1, 0,   0,        1),
    Row(nn.Conv2d, 512,      1,      1, 0,   0,        1),
)
COMPACT_FACES = (*COMPACT_LOWER_FACES, Row(nn.Conv2d, 128, 1, 1, 0, 0, 1))  # compact F_v, in: (15, 48, 96)
COMPACT_SOUND = (  # compact F_a, in: (1, 80, 20)
    #              out       k       s  p  res      size
    Row(ConvNorm,   32,      3, (3, 1), 1,   1, (27, 20)),
    Row(ConvNorm,   64,      3,      3, 1,   1,   (9, 7)),
    Row(ConvNorm,  128,      3, (3, 2), 1,   1,   (3, 4)),
    Row(ConvNorm,  256, (3, 4),      1, 0,   0,        1),
    Row(nn.Conv2d, 128,      1,      1, 0,   0,        1),
)
# fmt: on
TABLES = {  # family of sync models: tables of faces and sound
    "cals_sync": (LOWER_FACES, SOUND),
    "compact_cals_sync": (COMPACT_FACES, COMPACT_SOUND),
}


class CalsSync(Wav2LipSync):
    """The sync model: F_v embeds the lower half of five faces, F_a the 0.2 s of sound of their time.

    Embeddings have length 1. That of the frames t - 2 to t + 2 is the lip-motion unit z_t of frame t.
    """

    def __init__(self, width=1.0, faces=LOWER_FACES, sound=SOUND):
        super().__init__(width, faces, sound)
        self.dim = faces[-1].out


class AudioToLip(nn.Module):
    """Audio-to-Lip, f_theta: translates the sound of a whole utterance to lip-motion units, 25 a second.

    Four mel steps of 10 ms, those of a frame, make one row; transformer blocks as AV-HuBERT's relate it to all others.
    units: the size of a lip-motion unit.
    """

    def __init__(self, layers, dim, ffn, heads, dropout, units):
        super().__init__()
        self.dropout = dropout
        self.mask = nn.Parameter(torch.zeros(BANDS))  # stands for a mel step that is not heard
        self.enter = nn.Linear(JOINED * BANDS, dim)
        self.positions = Positions(dim)
        self.blocks = nn.ModuleList(TransformerBlock(dim, ffn, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.leave = nn.Linear(dim, units)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def corrupt(self, audio, masked):
        """The corruption r(A, M): rows (B, L, 320) in which the mask stands for the mel steps `masked`, (B, 4 L) bool.

        It comes before all else, so nothing that is computed depends on what the masked steps hold.
        """
        steps = audio.unflatten(-1, (JOINED, BANDS))  # (B, L, 4, 80)
        hidden = masked.unflatten(1, (-1, JOINED))[..., None]
        return torch.where(hidden, self.mask.to(audio.dtype), steps).flatten(2)

    def forward(self, audio, padding=None, masked=None):
        """Predicts the lip-motion unit of each frame from all of the utterance's sound, or from what is left of it.

        audio:   (B, L, 320): `audio.mel_rows`.
        padding: (B, L) bool, True after the end of an utterance, or None.
        masked:  (B, 4 L) bool, mel steps that are not heard, or None.
        Returns (B, L, D); padded rows mean nothing.
        """
        dropout = self.dropout if self.training else 0.0
        x = F.dropout(self.enter(audio if masked is None else self.corrupt(audio, masked)), dropout)
        attended = None
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0)  # or the positions would reach over the end of the clip
            attended = ~padding[:, None, None]  # (B, 1, 1, L)
        x = F.dropout(x + self.positions(x), dropout)
        for block in self.blocks:
            x = block(x, attended)
        return self.leave(self.norm(x))


def mask_spans(padding, share, span):
    """Chooses spans of mel steps to be masked, at random: (B, 4 L) bool.

    padding: (B, L) bool, True after the end of an utterance.  share, span: see `avhubert.spans`, in mel steps.
    """
    return spans(JOINED * (~padding).sum(1), share, span)


def masked_units(masked):
    """The units of which no sound is heard: all four mel steps of theirs are masked. (B, 4 L) -> (B, L) bool."""
    return masked.unflatten(1, (-1, JOINED)).all(-1)


class Cals(Generator):
    """CALS' generator: Lip-to-Face, f_phi, over TalkLip's tables; its `speech` is Audio-to-Lip, f_theta.

    In place of the embedding of 0.2 s of sound, the decoder takes a frame's lip-motion unit e_t, of uncorrupted sound.
    """

    def __init__(self, hp, tables=None):
        super().__init__(hp, tables)
        sizes = hp.audio_layers, hp.audio_dim, hp.audio_ffn, hp.audio_heads, hp.audio_dropout
        self.speech, self.speech_size = AudioToLip(*sizes, hp.sync_dim), hp.sync_dim
        self.audio_map = nn.Linear(hp.sync_dim, self.decoder[0][0].conv.in_channels)

    def generate(self, face, speech):
        """As `Generator.generate`, of units (B, T, D).

        Units have length 1. The decoder gets them with numbers of size 1, as of a layer norm: as they are it hardly
        hears them, and lips stay still for as long as its first layer takes to grow.
        """
        return super().generate(face, self.speech_size**0.5 * speech)
