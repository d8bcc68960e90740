"""A transformer decoder: the next token of a sentence from the tokens before it and an encoder's output."""

import math

import torch
import torch.nn.functional as F
from torch import nn

BEGIN, PAD, END, UNKNOWN = 0, 1, 2, 3  # as in fairseq's dictionaries


def halves(positions, dim):
    """The sinusoids of fairseq: all sines, then all cosines; the first place is number 2, after padding's 1.

    positions: (N,), counted from 0. Returns (N, dim) float32.
    """
    rates = torch.exp(torch.arange(dim // 2, device=positions.device) * (-math.log(10000) / (dim // 2 - 1)))
    angles = (positions[:, None] + 2) * rates  # (N, dim/2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def interleaved(positions, dim):
    """The sinusoids of espnet: sine and cosine of each rate side by side; the first place is number 0.

    positions: (N,), counted from 0. Returns (N, dim) float32.
    """
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10000) / dim))
    angles = positions[:, None] * rates  # (N, dim/2)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


class DecoderBlock(nn.Module):
    """Self-attention, attention to the memory and a feed-forward layer, each behind its norm, added to its input."""

    def __init__(self, dim, ffn, heads, dropout, eps):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(dim, eps)
        self.qkv = nn.Linear(dim, 3 * dim)  # queries, keys, values
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.query = nn.Linear(dim, dim)
        self.keys_values = nn.Linear(dim, 2 * dim)
        self.cross_out = nn.Linear(dim, dim)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.up = nn.Linear(dim, ffn)
        self.down = nn.Linear(ffn, dim)

    def split(self, x, parts):
        """x: (B, N, parts * D). Returns (parts, B, heads, N, D/heads)."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def remember(self, memory):
        """memory: (B, T, D). Returns its keys and values, (2, B, heads, T, D/heads)."""
        return self.split(self.keys_values(memory), 2)

    def forward(self, x, memory, attended):
        """Every place of a sentence at once, each without those after it.

        x: (B, N, D). memory: (2, B, heads, T, D/heads). attended: (B, 1, 1, T) bool or None. Returns (B, N, D).
        """
        dropout = self.dropout if self.training else 0.0
        query, key, value = self.split(self.qkv(self.norm1(x)), 3)  # 3 x (B, heads, N, D/heads)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        x = x + F.dropout(self.out(y.transpose(1, 2).flatten(2)), dropout)  # (B, N, D)
        return self.attend(x, memory, attended)

    def step(self, x, past, memory, attended):
        """The newest place of K sentences a clip.

        x: (B, K, D). past: (2, B, K, heads, n, D/heads), keys and values of the n places before it.
        Returns x, (B, K, D), and past with one place more.
        """
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, 1, -1))  # (B, K, 3, heads, 1, D/heads)
        query, newest = qkv[:, :, 0], qkv[:, :, 1:].movedim(2, 0)
        past = torch.cat([past, newest], dim=4)  # (2, B, K, heads, n + 1, D/heads)
        key, value = past.flatten(1, 2)
        y = F.scaled_dot_product_attention(query.flatten(0, 1), key, value)  # (B*K, heads, 1, D/heads)
        return self.attend(x + self.out(y.reshape(x.shape)), memory, attended), past

    def attend(self, x, memory, attended):
        """The part of a block after self-attention.

        x: (B, N, D), N places of a sentence or the newest place of N sentences.
        """
        dropout = self.dropout if self.training else 0.0
        (query,) = self.split(self.query(self.norm2(x)), 1)  # (B, heads, N, D/heads)
        y = F.scaled_dot_product_attention(query, *memory, attn_mask=attended, dropout_p=dropout)
        x = x + F.dropout(self.cross_out(y.transpose(1, 2).flatten(2)), dropout)  # (B, N, D)
        return x + F.dropout(self.down(self.up(self.norm3(x)).relu()), dropout)


class DecoderState:
    """The state of a step-by-step decoding of B clips, with K sentences a clip. It is never changed in place.

    memory: (2, B, heads, T, D/heads) per block, the keys and values of a clip, which its sentences share.
    attended: (B, 1, 1, T) bool, True where a frame may be attended to, or None.
    past:   (2, B, K, heads, n, D/heads) per block, the keys and values of the n tokens so far.
    """

    def __init__(self, memory, attended, past):
        self.memory, self.attended, self.past = memory, attended, past

    def keep(self, clips, sentences):
        """The state of some of its clips, each with sentences that go on from some of its own.

        clips: (B',) int64, in ascending order. sentences: (B', K') int64, numbers within each clip's K.
        """
        memory, attended = self.memory, self.attended
        if len(clips) < memory[0].shape[1]:
            memory = [each[:, clips] for each in memory]
            attended = None if attended is None else attended[clips]
        return DecoderState(memory, attended, [each[:, clips[:, None], sentences] for each in self.past])


class Decoder(nn.Module):
    """AV-HuBERT's sequence-to-sequence decoder: 6 blocks of 768/3072/4 in the base size, ReLU, norms first.

    `sinusoids` says how places are numbered (`halves` or `interleaved`), `scale` multiplies the token embeddings,
    `tied` scores tokens by their own embeddings instead of a layer of its own.
    """

    def __init__(
        self,
        tokens,
        layers=6,
        dim=768,
        ffn=3072,
        heads=4,
        dropout=0.1,
        sinusoids=halves,
        scale=1.0,
        tied=True,
        eps=1e-5,
    ):
        super().__init__()
        self.dropout, self.sinusoids, self.scale = dropout, sinusoids, scale
        self.embedding = nn.Embedding(tokens, dim)
        self.blocks = nn.ModuleList(DecoderBlock(dim, ffn, heads, dropout, eps) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps)
        self.head = None if tied else nn.Linear(dim, tokens)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def embed(self, tokens, positions):
        """tokens: (B, N) at positions (N,), or (B, K) all at the one of positions (1,). Returns (B, N or K, D)."""
        x = self.embedding(tokens) * self.scale
        return x + self.sinusoids(positions, x.shape[-1]).to(x.dtype)

    def score(self, x):
        """x: (B, N, D), out of the last block. Returns (B, N, V) logits."""
        x = self.norm(x)
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)

    def forward(self, previous, memory, padding=None):
        """Scores the next token at every place of a sentence whose tokens are known (teacher forcing).

        previous: (B, N) int64, the token before each; padding stands at the end.
        memory:   (B, T, D), the encoder's output.
        padding:  (B, T) bool, True after the end of a clip, or None.
        Returns (B, N, V) logits; rows of padding mean nothing.
        """
        positions = torch.arange(previous.shape[1], device=previous.device)
        x = F.dropout(self.embed(previous, positions), self.dropout, self.training)
        attended = None if padding is None else ~padding[:, None, None]  # (B, 1, 1, T)
        for block in self.blocks:
            x = block(x, block.remember(memory), attended)
        return self.score(x)

    def begin(self, memory, padding=None):
        """The `DecoderState` of clips of which no token is known yet: one sentence a clip, to be given its first token.

        memory: (B, T, D). padding: (B, T) bool or None, as in `forward`.
        """
        remembered = [block.remember(memory) for block in self.blocks]
        attended = None if padding is None else ~padding[:, None, None]  # (B, 1, 1, T)
        heads, size = remembered[0].shape[2], remembered[0].shape[4]
        past = memory.new_empty(2, len(memory), 1, heads, 0, size)
        return DecoderState(remembered, attended, [past] * len(self.blocks))

    def step(self, tokens, state):
        """Scores the next token of every sentence after one token more; `forward` without its dropout, place by place.

        tokens: (B, K) int64, the newest token of each of a clip's K sentences.
        Returns (B, K, V) logits and the state after `tokens`.
        """
        position = torch.tensor([state.past[0].shape[4]], device=tokens.device)
        x, past = self.embed(tokens, position), []
        for block, before, memory in zip(self.blocks, state.past, state.memory, strict=True):
            x, known = block.step(x, before, memory, state.attended)
            past.append(known)
        return self.score(x), DecoderState(state.memory, state.attended, past)
