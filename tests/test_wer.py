"""The evaluation lip readers on crops: errors counted by clip, the mouth where training saw it, unknown text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import retell
from drawn_faces import write_data_root

from errors import InputError
from evaluation.rows import TRUTH, Corpus
from evaluation.wer import EVALUATION_READERS, EvaluationReaders, count_errors, lip_cosines, mouths, words_right
from experts.data import Utterances, Words
from experts.lip_reader import TrainedLipReader, error_rates
from hparams import ExpertHParams
from media.clip import Clip

GOLDEN = Path(__file__).parents[1].parent / "shared" / "reference" / "fixtures" / "metrics.npz"


@pytest.fixture(scope="module")
def readers():
    return EvaluationReaders(EVALUATION_READERS)


def test_errors_of_a_sentence_are_counted_in_words_and_characters():
    assert count_errors("BIN blue  now", "bin red now") == (1, 3, 4, 12)
    assert count_errors("set", "") == (1, 1, 3, 3)
    assert count_errors("a b", "x a b c") == (2, 2, 4, 3)


def test_counts_of_clips_add_up_to_the_rates_of_the_corpus():
    said, read = ["bin blue at f", "set red", "now"], ["bin red at", "set red soon", "now"]
    counts = np.array([count_errors(a, b) for a, b in zip(said, read, strict=True)]).sum(0)
    assert error_rates(said, read) == pytest.approx({"wer": counts[0] / counts[1], "cer": counts[2] / counts[3]})


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the fixtures are not here")
def test_golden_error_rates_of_teacher_forced_sentences():
    """A hypothesis is cut to its reference's length, a final end (39) dropped; symbol 1 is the space, -1 is padding."""

    def spelled(symbols):
        return "".join(" " if symbol == 1 else chr(97 + symbol) for symbol in symbols)

    golden, counts = np.load(GOLDEN), np.zeros(4)
    for read, said in zip(golden["asr/hat"], golden["asr/ys"], strict=True):
        said = said[said != -1]
        read = read[: len(said)]
        counts += count_errors(spelled(said), spelled(read[:-1] if read[-1] == 39 else read))
    assert (counts[2] / counts[3], counts[0] / counts[1]) == pytest.approx(golden["asr/cer_wer"])


def test_the_mouth_of_a_crop_is_the_one_that_readers_were_trained_on(data_root):
    real = Corpus(data_root, "val").real("cid/one")
    seen = mouths(real.crops, real.clip, real.margin, "aligned")
    trained = Utterances(data_root, "val", ExpertHParams(frames=0))
    same = trained[trained.names.index("cid/one"), None]["roi"]
    assert seen.shape == same.shape and (seen - same).abs().mean() < 0.02


def test_rows_of_a_clip_are_read_together_and_counted_apart(readers, data_root):
    real = Corpus(data_root, "val").real("cid/one")
    rows = {"truth": real.crops, "blank": np.full_like(real.crops, 90)}
    scores, sentences = readers(rows, real.clip, real.margin)
    assert set(scores) == set(sentences) == set(rows)
    for row in rows:
        assert set(scores[row]) == {"wer_1", "cer_1", "wer_2", "wer_3", "cer_3", "words"}
        assert scores[row]["wer_1"][1] == 6 and scores[row]["wer_2"][1] == 1 and scores[row]["words"][1] == 2
        assert scores[row]["wer_3"][0] == count_errors(real.clip.text, sentences[row]["reader2"])[0]
    alone = readers({"blank": rows["blank"]}, real.clip, real.margin)
    assert alone[1]["blank"] == sentences["blank"]


def test_lips_are_alike_for_a_reader_as_far_as_its_features_are():
    torch.manual_seed(0)
    real, other = torch.randn(2, 9, 16)
    common = 5 * torch.randn(16)  # what all mouths of a person have in common
    found = lip_cosines(torch.stack([real, 2 * real - real.mean(0), other - other.mean(0)]) + common, true=0)
    assert found[:2].tolist() == pytest.approx([1, 1], abs=1e-4) and abs(found[2]) < 0.3


def test_the_real_row_has_a_lip_cosine_of_1(readers, data_root):
    real = Corpus(data_root, "val").real("cid/one")
    scores, _ = readers({TRUTH: real.crops, "blank": np.full_like(real.crops, 90)}, real.clip, real.margin)
    assert scores[TRUTH]["lip_cosine"] == (pytest.approx(1, abs=1e-4), 1)
    assert scores["blank"]["lip_cosine"][0] < 0.9


def test_words_are_cut_out_at_their_times(spoken_root):
    words = Words(spoken_root, "val", ExpertHParams(frames=0))
    seen = []

    class Guess(torch.nn.Module):
        def forward(self, roi, padding, inside):
            seen.append(inside.sum(1).tolist())
            right = torch.tensor([words.vocabulary.index(word) for word in ("lay", "blue")])
            return torch.nn.functional.one_hot(right, len(words.vocabulary)).float()

    reader = TrainedLipReader(Guess(), ExpertHParams(), words=words.vocabulary)
    real = Corpus(spoken_root, "val").real("cid/one")  # LAY 3 to 8, NOW 9 to 16
    rois = mouths(real.crops, real.clip, real.margin, "aligned")[None]
    assert words_right(reader, rois, real.clip) == [(1, 2)]
    assert seen == [[5, 7]]


@pytest.mark.parametrize("box, fits", [((30, 25, 130, 135), True), ((5, 5, 65, 65), False)])
def test_the_middle_of_an_lrs2_frame_is_read_only_where_the_crop_holds_it(box, fits):
    class Header:
        path, size, boxes = "x", [160, 160], np.tile(np.array(box, np.float32), (4, 1))

    crops = np.random.default_rng(0).integers(0, 255, (4, 128, 128, 3)).astype(np.uint8)
    if fits:
        assert mouths(crops, Header, 1 / 6, "lrs2").shape == (4, 1, 88, 88)
    else:
        with pytest.raises(InputError, match="reach beyond the crop"):
            mouths(crops, Header, 1 / 6, "lrs2")


def test_readers_under_the_wrong_flag_are_refused():
    with pytest.raises(InputError, match="reads single words: give it under another flag"):
        EvaluationReaders({"reader1": EVALUATION_READERS["words"]})
    with pytest.raises(InputError, match="reads sentences"):
        EvaluationReaders({"words": EVALUATION_READERS["reader1"]})


@pytest.mark.parametrize(
    "text, words, fault",
    [
        ("", [], "its transcript is empty"),
        ("BIN GRÜN NOW", [], "--reader1 was trained on other text: .*grün"),
        ("BIN BLUE AT F TWO NOW", ["BIN", "TEAPOT"], "--words was trained on other text: it has no word 'TEAPOT'"),
    ],
)
def test_clips_that_cannot_be_read_have_a_fault(readers, tmp_path, text, words, fault):
    import re

    root = write_data_root(tmp_path, {"val": {"ann/one": 12}})
    path = Corpus(root, "val").place["ann/one"]
    times = np.array([[0.1, 0.2]] * len(words), np.float32).reshape(-1, 2)
    retell(path, text=text, words=words, word_times=times)
    assert re.search(fault, readers.fault(Clip(path)))


def test_a_clip_with_the_text_of_training_has_no_fault(readers, data_root):
    assert readers.fault(Corpus(data_root, "val").clip("cid/one")) is None
