"""Beam search: the most probable sentences of a network that scores one token after another."""

from typing import NamedTuple

import torch


class Hypothesis(NamedTuple):
    """One sentence that the search found, down to and with its end token."""

    tokens: list[int]
    score: float  # sum of `scores` / number of tokens ** penalty, in nats
    scores: list[float]  # log probability of each token


def choices(logits, length, longest, end, pad):
    """Log probabilities of the token at place `length` (from 1), -inf where it must not stand.

    logits: (B, K, V). longest: (B,) int64. Padding never stands; `end` not at place 1, nothing else after `longest`.
    """
    logs = logits.float().log_softmax(-1)
    token = torch.arange(logs.shape[-1], device=logs.device)
    barred = (token == pad) | ((token == end) & (length == 1))  # (V,)
    barred = barred | ((token != end) & (length > longest[:, None]))  # (B, V)
    return logs.masked_fill(barred[:, None], -torch.inf)


def extend(tokens, scores, logs, beam):
    """The best 2 * beam sentences of each clip that are one token longer.

    tokens: (B, K, n + 1), from the first `end` on. scores: (B, K, n). logs: (B, K, V) of the next token.
    Returns tokens, (B, C, n + 2), scores, (B, C, n + 1), and which of the K each goes on from, (B, C); the best first.
    """
    sums = (scores.sum(2, keepdim=True) + logs).flatten(1)  # (B, K*V)
    best = sums.topk(min(2 * beam, sums.shape[1])).indices  # (B, C)
    parents, newest = best // logs.shape[2], best % logs.shape[2]
    latest = logs.flatten(1).gather(1, best)
    clips = torch.arange(len(best), device=best.device)[:, None]
    tokens = torch.cat([tokens[clips, parents], newest[..., None]], dim=2)
    return tokens, torch.cat([scores[clips, parents], latest[..., None]], dim=2), parents


def record(found, clips, over, tokens, scores, beam, penalty):
    """Adds the sentences (B, K) that are `over`, the best first, to what is `found` of their clips: `beam` at most."""
    rows, places = over.nonzero(as_tuple=True)
    ended = zip(clips[rows].tolist(), tokens[rows, places, 1:].tolist(), scores[rows, places].tolist(), strict=True)
    for clip, words, logs in ended:
        if len(found[clip]) < beam:
            found[clip].append(Hypothesis(words, sum(logs) / len(words) ** penalty, logs))


@torch.no_grad()
def beam_search(step, state, longest, beam=5, penalty=1.0, end=2, pad=1):
    """Searches the best sentences of B clips side by side, by the rules of fairseq's generator.

    A sentence follows on an `end` token and is over with the next one, which can't be its first and must come when
    `longest` tokens stand before it. Of all continuations of a clip's sentences the best 2 * beam are considered:
    those among the first `beam` that end are found, the best `beam` that don't end go on. A clip with `beam` found
    sentences is done and costs nothing more. `beam` is at most the size of the vocabulary less one.

    step:    function of tokens (B, K) int64, the newest of each clip's K sentences (at first K is 1), and the state
             before them; returns (B, K, V), logits or log probabilities of the next token, and the state after them.
    state:   the state before the first token. `state.keep(clips, sentences)` must be the state of the clips (B',)
             alone, with sentences that go on from those numbered (B', K') of each.
    longest: (B,) int64, at least 1: tokens before the end token, on the device of the search.
    penalty: the power of a sentence's length that divides its score: the larger, the longer the winners.
    Returns a list of `Hypothesis` per clip, the best first.
    Differs: there the longest clip of a batch sets `longest` for all.
    """
    limits = longest.tolist()
    if min(limits) < 1:
        raise ValueError(f"longest must be at least 1 for every clip, is {limits}")
    found = [[] for _ in limits]
    clips = torch.arange(len(limits), device=longest.device)  # those that are not done
    tokens = torch.full((len(limits), 1, 1), end, device=longest.device)  # (B, K, n + 1)
    scores = torch.zeros(len(limits), 1, 0, device=longest.device)  # (B, K, n)
    for length in range(1, max(limits) + 2):
        logits, state = step(tokens[:, :, -1], state)
        beam = min(beam, logits.shape[-1] - 1)
        logs = choices(logits, length, longest[clips], end, pad)  # (B, K, V)
        tokens, scores, parents = extend(tokens, scores, logs, beam)  # (B, C, n + 1), (B, C, n), (B, C)
        over = (tokens[:, :, -1] == end) & scores.sum(2).isfinite()
        record(found, clips, over[:, :beam], tokens, scores, beam, penalty)
        open_rows = [i for i, c in enumerate(clips.tolist()) if len(found[c]) < beam and length <= limits[c]]
        if not open_rows:
            break
        rows = torch.tensor(open_rows, device=longest.device)
        going = over[rows].int().argsort(dim=1, stable=True)[:, :beam]  # the first that do not end
        clips, tokens, scores = clips[rows], tokens[rows[:, None], going], scores[rows[:, None], going]
        state = state.keep(rows, parents[rows[:, None], going])
    return [sorted(each, key=lambda hypothesis: -hypothesis.score) for each in found]
