"""Sentences become the same tokens everywhere, come back as they were, and what cannot be said is refused."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawn_faces import SPLITS
from sentencepiece import SentencePieceTrainer

from errors import InputError
from experts.tokenizer import KINDS, Tokenizer, train_tokenizer, transcripts
from models.decoder import BEGIN, END, PAD, UNKNOWN

ROOT = Path(__file__).parents[1]
SENTENCES = [
    "BIN BLUE AT F TWO NOW",
    "SET WHITE WITH P NINE PLEASE",
    "LAY RED BY Z ZERO AGAIN",
    "PLACE GREEN IN K SOON",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES, 40)


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_come_back_in_lower_case(kind):
    tokenizer = train_tokenizer(SENTENCES, 60, kind)
    for sentence in SENTENCES:
        ids = tokenizer.encode(sentence)
        assert ids[-1] == END and not {BEGIN, PAD, END, UNKNOWN} & set(ids[:-1]) and max(ids) < len(tokenizer)
        assert tokenizer.decode(ids) == sentence.lower()


def test_special_ids_are_those_of_fairseq(tokenizer):
    assert (BEGIN, PAD, END, UNKNOWN) == (0, 1, 2, 3)
    assert tokenizer.symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert len(tokenizer.symbols) == len(set(tokenizer.symbols)) == len(tokenizer) <= 40


def test_case_and_spaces_make_no_difference(tokenizer):
    assert tokenizer.encode("  bin\tBlue at  F two\nnow ") == tokenizer.encode(SENTENCES[0])


def test_decoding_stops_at_the_end_and_drops_special_ids(tokenizer):
    ids = tokenizer.encode("bin blue")
    assert tokenizer.decode([BEGIN, *ids, *ids[:3], END]) == "bin blue"
    assert tokenizer.decode(torch.tensor([PAD, *ids[:-1], UNKNOWN, PAD])) == "bin blue"
    assert tokenizer.decode([]) == tokenizer.decode([END]) == ""


def test_a_character_that_the_model_does_not_know_is_named_with_its_sentence(tokenizer):
    with pytest.raises(InputError, match="does not know '7' in 'bin blue 7'"):
        tokenizer.encode("BIN BLUE 7")
    assert tokenizer.encode("BIN BLUE 7", strict=False)[-2:] == [UNKNOWN, END]
    with pytest.raises(InputError, match="does not know 'purple' in 'bin purple'"):
        train_tokenizer(SENTENCES, 60, "word").encode("bin purple")


@pytest.mark.parametrize("text", ["", "  \n", "- ' ?"])
def test_a_sentence_without_words_is_refused(text, tokenizer):
    with pytest.raises(InputError, match="has no words"):
        tokenizer.encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_sentences_give_the_same_model(kind):
    first, second = (train_tokenizer(SENTENCES, 40, kind) for _ in range(2))
    assert first.model == second.model and first.sha256 == second.sha256 and len(first.sha256) == 64
    assert train_tokenizer(SENTENCES[:3], 40, kind).sha256 != first.sha256


def test_a_tokenizer_is_made_again_from_its_model(tokenizer):
    for again in (Tokenizer(tokenizer.model), pickle.loads(pickle.dumps(tokenizer))):
        assert again.sha256 == tokenizer.sha256 and again.encode(SENTENCES[1]) == tokenizer.encode(SENTENCES[1])


def test_bytes_that_are_no_model_are_refused(tokenizer):
    for model, words in ((b"", "empty"), (b"hello", "not a sentencepiece"), (tokenizer.model[:-100], "cut off")):
        with pytest.raises(InputError, match=words):
            Tokenizer(model)


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    with (tmp_path / "model").open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES), model_writer=file, vocab_size=40, hard_vocab_limit=False, minloglevel=5
        )
    with pytest.raises(InputError, match="special ids .*'pad_id': -1.*'pad_id': 1"):
        Tokenizer((tmp_path / "model").read_bytes())


def test_what_no_tokenizer_can_be_learnt_from_is_refused():
    for texts, size, kind, words in (
        ([], 40, "unigram", "none of 0 transcripts"),
        (["", " - "], 40, "unigram", "none of 2 transcripts"),
        (SENTENCES, 10, "unigram", "10 pieces: Vocabulary size is smaller"),
        (SENTENCES, 4, "char", "no room"),
        (SENTENCES, 40, "syllable", "choose one of unigram"),
    ):
        with pytest.raises(InputError, match=words) as error:
            train_tokenizer(texts, size, kind)
        assert "\n" not in str(error.value)


def test_training_writes_nothing_and_importing_loads_no_sentencepiece():
    code = (
        "import sys, experts.tokenizer as tokenizer\n"
        "assert 'sentencepiece' not in sys.modules\n"
        f"print(len(tokenizer.train_tokenizer({SENTENCES!r}, 5000)) < 100)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_transcripts_are_those_of_a_split_in_its_order(data_root):
    for split, clips in SPLITS.items():
        assert transcripts(data_root, split) == ["BIN BLUE AT F TWO NOW"] * len(clips)
    with pytest.raises(InputError, match="no clips in this split"):
        transcripts(data_root, "nowhere")
