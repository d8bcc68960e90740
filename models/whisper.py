"""Whisper's encoder: speech features that know many voices (Radford et al. 2022, sec. 2.2)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audio import RATE, WHISPER_RATE, pairs, whisper_mel
from models.avhubert import TransformerBlock
from models.decoder import halves

HOP = RATE // WHISPER_RATE  # samples from one row of features to the next
PAIR = 2 * 384  # features of a frame: two rows of tiny.en
WINDOW_S = 2  # seconds that are heard at once


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder (table 1); the defaults are tiny.en's."""

    mels: int = 80
    layers: int = 4
    dim: int = 384
    heads: int = 6


class WhisperEncoder(nn.Module):
    """Two convolutions, the second of stride 2, sinusoids for the places, pre-norm transformer blocks, a last norm."""

    def __init__(self, sizes=Sizes()):  # noqa: B008 (frozen)
        super().__init__()
        self.conv1 = nn.Conv1d(sizes.mels, sizes.dim, 3, padding=1)
        self.conv2 = nn.Conv1d(sizes.dim, sizes.dim, 3, stride=2, padding=1)
        blocks = (TransformerBlock(sizes.dim, 4 * sizes.dim, sizes.heads, dropout=0) for _ in range(sizes.layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(sizes.dim)

    def forward(self, mel):
        """Embeds every 20 ms of a sound in the light of all of it.

        mel: (B, 80, S), of `audio.whisper_mel`, S <= 3000, as published always 3000: 30 s, silence after shorter sound.
        Returns (B, S / 2, 384), rounded up; row k is centred on mel step 2 k: 0.02 k seconds.
        """
        x = F.gelu(self.conv1(mel))
        x = F.gelu(self.conv2(x)).transpose(1, 2)  # (B, S/2, D)
        places = torch.arange(x.shape[1], device=x.device) - 2  # fairseq counts them from 2, Whisper from 0
        x = x + halves(places, x.shape[2]).to(x.dtype)
        for block in self.blocks:
            x = block(x, None)
        return self.norm(x)


class SpeechRows(nn.Module):
    """Embeds stored speech features in the light of the whole clip: a recurrent network, both ways."""

    def __init__(self, size, dim):
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(size, elementwise_affine=False), nn.Linear(size, dim), nn.ReLU())
        self.rows = nn.GRU(dim, dim // 2, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, rows, padding=None):
        """rows: (B, L, size).  padding: (B, L) bool, True after the end of a clip, or None. Returns (B, L, dim)."""
        x = self.enter(rows)
        if padding is None:
            return self.rows(x)[0]
        lengths = (~padding).sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.rows(packed)[0], batch_first=True, total_length=rows.shape[1])
        return x


def embed(encoder, wav, window_s=WINDOW_S):
    """The features of a sound of any length, 50 rows a second: row k is centred on 0.02 k seconds (`audio.rows_at`).

    wav:      (samples,) int16 at 16 kHz. Its level is kept, but see `whisper_mel`.
    window_s: seconds that are heard at once, at most 30. Windows begin half a window apart, and a row is the mean of
              those that hear it, weighted by a sine squared that is least at their ends: no seams, and no row from an
              edge but the sound's own.
    Returns (rows, 384) float32, on the encoder's device, a row for each 320 samples begun, one at least.
    Differs: published is one window of 30 s, filled up with zeros. What a row is depends on all of its window and on
    its place in there: a model that has heard clips of 3 s does not know the same words in 30 s of running speech.
    """
    return torch.cat(list(embedded(encoder, wav, window_s)))


@torch.no_grad()
def embedded(encoder, wav, window_s=WINDOW_S):
    """Yields the rows of `embed` in their order, (n, 384), as soon as no later window hears them."""
    like = encoder.norm.weight
    rows = row_count(wav)
    window = min(rows, round(window_s * WHISPER_RATE))
    weight = ((torch.arange(window, device=like.device)[:, None] + 0.5) * math.pi / window).sin().square()
    total, weights = weight.new_zeros(window, len(like)), weight.new_zeros(window, 1)
    starts = [*range(0, rows - window, max(1, window // 2)), rows - window]
    for start, following in zip(starts, [*starts[1:], rows], strict=True):
        part = wav[start * HOP : (start + window) * HOP]
        mel = torch.from_numpy(whisper_mel(np.pad(part, (0, window * HOP - len(part)))))[None].to(like)
        total, weights, done = total + weight * encoder(mel)[0], weights + weight, following - start
        yield total[:done] / weights[:done]
        total, weights = (F.pad(each[done:], (0, 0, 0, done)) for each in (total, weights))


def paired(parts):
    """The rows of `audio.pairs` of features that come in parts, (n, 384) tensors: yields (m, 768) float32, numpy."""
    rest = np.zeros((0, PAIR // 2), np.float32)
    for part in parts:
        rest = np.concatenate([rest, part.cpu().numpy()])
        if even := len(rest) // 2 * 2:
            yield pairs(rest[:even])
        rest = rest[even:]
    if len(rest):
        yield pairs(rest)


def row_count(wav):
    """The number of rows that `embed` makes of a sound."""
    return max(1, -(-len(wav) // HOP))
