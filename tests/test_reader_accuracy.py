"""The reading table: its rows, its numbers on readers whose answers are known, and what it says of bad input."""

import json

import pytest
import torch
from small_experts import write_expert
from torch import nn

from data import collate
from errors import InputError
from evaluation import reader_accuracy
from evaluation.reader_accuracy import differences, main, read_split, score_words, table, teacher_forced
from experts.data import Utterances, Words
from experts.lip_reader import TrainedLipReader
from experts.tokenizer import Tokenizer
from hparams import ExpertHParams
from models.decoder import END

HP = ExpertHParams(beam=2, frames=0)


class Oracle(nn.Module):
    """Reads the same sentence off every mouth, whatever tokens it is given before."""

    def __init__(self, tokens, size):
        super().__init__()
        self.tokens, self.size = [*tokens, END], size

    @property
    def decoder(self):
        return self

    def encode(self, roi, padding=None):
        return torch.zeros(len(roi), roi.shape[1], 1)

    def scores(self, places, lead):
        best = torch.tensor([self.tokens[min(place, len(self.tokens) - 1)] for place in places])
        return (8.0 * nn.functional.one_hot(best, self.size)).expand(*lead, -1, -1)

    def forward(self, roi, previous, padding=None):
        return self.scores(range(previous.shape[1]), previous.shape[:1])

    def begin(self, memory, padding):
        return Place(0)

    def step(self, tokens, state):
        return self.scores([state.number], tokens.shape)[:, :, 0], Place(state.number + 1)


class Place:
    """The number of tokens that an `Oracle` has written."""

    def __init__(self, number):
        self.number = number

    def keep(self, clips, sentences):
        return self


@pytest.fixture
def oracle(spoken_root):
    def speaking(sentence):
        tokenizer = Tokenizer((spoken_root / "tokenizer.model").read_bytes())
        net = Oracle(tokenizer.encode(sentence)[:-1], len(tokenizer))
        return TrainedLipReader(net, HP, tokenizer, about={"name": "oracle"})

    return speaking


def test_a_reader_that_always_says_the_same_is_right_where_that_is_said(oracle, spoken_root):
    reader = oracle("set blue")
    said, free, forced = read_split(reader, Utterances(spoken_root, "val", HP, reader.tokenizer), 0)
    assert said == ["set blue", "lay now"]
    assert free == forced == ["set blue", "set blue"]


def test_other_lips_are_those_of_another_clip(spoken_root):
    seen = []

    class Watching(Oracle):
        def encode(self, roi, padding=None):
            seen.append([int(n) for n in (~padding).sum(1)])
            return super().encode(roi, padding)

    tokenizer = Tokenizer((spoken_root / "tokenizer.model").read_bytes())
    reader = TrainedLipReader(Watching([4], len(tokenizer)), HP, tokenizer)
    clips = Utterances(spoken_root, "val", HP, tokenizer)
    read_split(reader, clips, 0)
    read_split(reader, clips, 1)
    assert seen == [[14, 18], [18, 14]]  # frames of the two clips


def test_teacher_forced_sentences_are_cut_to_the_true_number_of_tokens(oracle, spoken_root):
    reader = oracle("set blue now lay")
    clips = Utterances(spoken_root, "val", HP, reader.tokenizer)
    assert teacher_forced(reader, collate([clips[0, None], clips[1, None]])) == ["set blue", "set blue"]
    assert teacher_forced(oracle("set"), collate([clips[0, None]])) == ["set"]


def test_word_accuracy_counts_each_word_once(spoken_root):
    words = Words(spoken_root, "val", HP)

    class Guess(nn.Module):
        def forward(self, roi, padding, inside):
            return nn.functional.one_hot(torch.full((len(roi),), words.vocabulary.index("now")), 4).float()

    rates, mistakes = score_words(TrainedLipReader(Guess(), HP, words=words.vocabulary), spoken_root, "val")
    assert rates == {"ground truth": {"word_accuracy": 0.25}}  # set, blue, lay, now
    assert mistakes == {"set as now": 1, "blue as now": 1, "lay as now": 1}


def test_the_command_prints_a_table_and_writes_every_sentence(oracle, spoken_root, tmp_path, monkeypatch, capsys):
    reader = oracle("set blue")
    reader.about = {"sha256": "5e1f", "kind": "weights"}
    monkeypatch.setattr(reader_accuracy, "load_reader", lambda path, roi: reader)
    report, strips = tmp_path / "report.json", tmp_path / "strips"
    command = ["--data_root", str(spoken_root), "--splits", "val", "--readers", "some/oracle.safetensors"]
    assert main([*command, "--json", str(report), "--strips", str(strips), "--beam", "3"]) == 0
    out = capsys.readouterr().out
    assert "| oracle | ground truth | 50.0% |" in out
    assert "oracle: sha256 5e1f, beam 3, length penalty 1" in out
    found = json.loads(report.read_text())
    assert found["readers"]["oracle"]["beam"] == 3
    rates = found["splits"]["val"]["oracle"]["rates"]
    assert rates["ground truth"]["wer"] == rates["ground truth"]["wer_teacher_forced"] == 0.5
    assert rates["other clip's lips"]["wer"] == 0.5  # it does not look at lips at all
    assert found["splits"]["val"]["oracle"]["details"][1] == {"said": "lay now", "read": "set blue"}
    assert (strips / "val_oracle.png").is_file()


def test_readers_see_the_roi_that_was_asked_for(spoken_root, tmp_path, capsys):
    command = ["--data_root", str(spoken_root), "--splits", "val", "--device", "cpu"]
    command += ["--readers", str(write_expert(tmp_path / "expert.pt", spoken_root))]
    assert main([*command, "--roi", "aligned"]) == 0
    assert main([*command, "--roi", "lrs2"]) == 1
    assert "--roi lrs2 is for LRS2's 160x160" in capsys.readouterr().err


def test_token_accuracy_is_never_called_wer():
    text = table("val", {"x": {"ground truth": {"wer": 0.1, "cer": 0.05, "wer_teacher_forced": 0.2}}})
    assert "| WER | CER | WER, teacher forced | words right |" in text
    assert "| x | ground truth | 10.0% | 5.0% | 20.0% |  |" in text


def test_the_wer_of_readers_differs_clip_by_clip():
    said = ["set blue", "lay now", "bin red", "set red"]
    first = [{"said": text, "read": text} for text in said[:3]] + [{"said": said[3], "read": "set blue"}]
    other = [{"said": text, "read": "set red"} for text in said]  # wrong in 1, 2, 1 and 0 of 2 words
    rates = {"ground truth": {"wer": 0.0, "cer": 0.0, "wer_teacher_forced": 0.0}}
    words = ({"ground truth": {"word_accuracy": 0.5}}, {})
    (line,) = differences({"first": (rates, first), "words": words, "other": (rates, other)})
    assert line.startswith("other - first: WER +37.5% [") and line.endswith("]")
    assert differences({"words": words, "first": (rates, first)}) == []


def test_a_transcript_with_a_character_unknown_to_the_reader_is_reported_by_clip(oracle, spoken_root, tmp_path):
    import shutil

    from conftest import retell

    root = tmp_path / "root"
    shutil.copytree(spoken_root, root)
    retell(root / "clips" / "cid" / "one.safetensors", text="LAY NÖW")
    with pytest.raises(InputError, match=r"cid/one\.safetensors.*'nöw'"):
        Utterances(root, "val", HP, oracle("set blue").tokenizer)
