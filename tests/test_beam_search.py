"""Beam search: the published search's sentences on a table, one worked out by hand, and the same ones in a batch."""

from math import log

import pytest
import torch
from filling import REFERENCE, filled, fixture, normal

from experts.beam_search import beam_search
from models.decoder import Decoder

torch.set_num_threads(1)
SETTINGS = ["b1_lp1.0_a1.0", "b4_lp0.0_a1.0", "b4_lp1.0_a1.0", "b4_lp2.0_a0.5", "b50_lp1.0_a1.0"]
A, PAD, END, B = range(4)
CHANCES = torch.zeros(4, 4)  # [token, next token]
CHANCES[END, [A, B]] = torch.tensor([0.6, 0.4])
CHANCES[A, [END, A, B]] = torch.tensor([0.35, 0.25, 0.4])
CHANCES[B, [END, B]] = torch.tensor([0.8, 0.2])


class Table:
    """The state of a search whose next token hangs on the token before it alone: (B, V, V) logits."""

    def __init__(self, logits):
        self.logits = logits

    def keep(self, clips, sentences):
        """The rows of the clips that go on; there is no past to be kept."""
        return Table(self.logits[clips])

    @staticmethod
    def step(tokens, table):
        """tokens: (B, K). Returns (B, K, V) logits and the table."""
        return table.logits[torch.arange(len(tokens))[:, None], tokens], table


def search(logits, longest, *args, **kwargs):
    return beam_search(Table.step, Table(logits), torch.tensor(longest), *args, **kwargs)


@pytest.mark.weights
@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_search_finds_what_the_published_one_finds(setting):
    arrays = fixture("beam_search_toy")
    beam, penalty, longest = (float(part.lstrip("blpa")) for part in setting.split("_"))
    found = search(torch.from_numpy(arrays["table"]), [int(8 * longest)] * 2, int(beam), penalty)
    for clip, hypotheses in enumerate(found):
        assert len(hypotheses) == arrays[f"{setting}/{clip}/n"]
        for rank, hypothesis in enumerate(hypotheses[:5]):
            there = f"{setting}/{clip}/{rank}"
            assert hypothesis.tokens == arrays[f"{there}/tokens"].tolist()
            assert hypothesis.score == pytest.approx(arrays[f"{there}/score"].item(), rel=1e-6)
            assert hypothesis.scores == pytest.approx(arrays[f"{there}/pos"].tolist(), abs=2e-6)


def test_a_beam_of_one_follows_the_best_token_to_the_forced_end():
    ((best,),) = search(CHANCES.log()[None], [2], beam=1)
    assert best.tokens == [A, B, END]
    assert best.scores == pytest.approx([log(0.6), log(0.4), log(0.8)])
    assert best.score == pytest.approx(log(0.6 * 0.4 * 0.8) / 3)


@pytest.mark.parametrize("penalty, order", [(0, ["short", "long"]), (1, ["long", "short"])])
def test_a_beam_of_two_passes_over_an_end_that_is_third(penalty, order):
    """After two tokens: B END 0.32, A B 0.24, A END 0.21, A A 0.15; after three: A B END 0.192, A A END 0.0525."""
    (found,) = search(CHANCES.log()[None], [2], beam=2, penalty=penalty)
    tokens = {"short": [B, END], "long": [A, B, END]}
    scores = {"short": log(0.32) / 2**penalty, "long": log(0.192) / 3**penalty}
    assert [each.tokens for each in found] == [tokens[name] for name in order]
    assert [each.score for each in found] == pytest.approx([scores[name] for name in order])


def shapes_of_steps(logits, longest, beam):
    """What a search found, and the shape (B, K) of the tokens of each of its steps."""
    shapes = []

    def step(tokens, table):
        shapes.append(tuple(tokens.shape))
        return Table.step(tokens, table)

    return beam_search(step, Table(logits), torch.tensor(longest), beam), shapes


def test_clips_that_are_done_cost_nothing():
    eager, patient = torch.zeros(2, 6, 6)
    eager[:, END], patient[:, END] = 9, -9
    found, shapes = shapes_of_steps(torch.stack([eager, patient]), [5, 4], beam=2)
    assert [len(each) for each in found] == [2, 2]
    assert shapes == [(2, 1), (2, 2), (1, 2), (1, 2), (1, 2)]


def test_a_clip_at_its_longest_is_done_even_with_fewer_sentences_than_the_beam():
    """Only A END and B END have one token before their end."""
    found, shapes = shapes_of_steps(CHANCES.log().expand(2, 4, 4), [1, 3], beam=3)
    assert sorted(each.tokens for each in found[0]) == [[A, END], [B, END]]
    assert shapes[:3] == [(2, 1), (2, 3), (1, 3)]


def test_a_batch_is_read_as_its_clips_one_by_one():
    """Each with its own frames, padding and longest sentence."""
    decoder, lengths = filled(Decoder(9, layers=2, dim=16, ffn=32, heads=2)).eval(), torch.tensor([9, 3, 6])
    memory, padding = 2 * normal(5, (3, 9, 16)), torch.arange(9) >= lengths[:, None]
    together = beam_search(decoder.step, decoder.begin(memory, padding), lengths, beam=4)
    for clip, longest in enumerate(lengths):
        state = decoder.begin(memory[clip : clip + 1, :longest])
        (alone,) = beam_search(decoder.step, state, longest[None], beam=4)
        assert [each.tokens for each in together[clip]] == [each.tokens for each in alone]
        assert [each.score for each in together[clip]] == pytest.approx([each.score for each in alone], rel=1e-5)


def test_no_sentence_has_padding_or_is_empty_or_too_long():
    found = search(normal(6, (5, 9, 9)), [1, 2, 3, 4, 5], beam=8)
    for longest, hypotheses in enumerate(found, start=1):
        assert hypotheses == sorted(hypotheses, key=lambda each: -each.score)
        for tokens, _, _ in hypotheses:
            assert PAD not in tokens and tokens.index(END) == len(tokens) - 1
            assert 2 <= len(tokens) <= longest + 1


def test_a_clip_without_frames_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        search(CHANCES.log()[None], [0])
