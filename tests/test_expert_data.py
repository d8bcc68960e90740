"""A draw of a clip is always the same sample with all that is said in it; batches are filled and resumed exactly."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SPOKEN, retell

import audio
from data import collate
from errors import InputError
from experts.data import Batches, Utterances, Words, places
from experts.tokenizer import Tokenizer
from hparams import ExpertHParams
from media.clip import Clip, encoded, joined
from models.decoder import END, PAD

torch.set_num_threads(1)
HP = ExpertHParams(frames_weight=0.5)
LOUD = replace(HP, augment=True, frames=10)
LENGTHS = [frames for frames, _ in SPOKEN["train"].values()]


@pytest.fixture(scope="module")
def tokenizer(spoken_root):
    return Tokenizer((spoken_root / "tokenizer.model").read_bytes())


@pytest.fixture
def root(spoken_root, tmp_path):
    """A copy that may be written to."""
    return shutil.copytree(spoken_root, tmp_path / "root")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def frame_numbers(clips):
    """Cluster targets that are the numbers of the frames."""
    return {name: np.arange(length) for name, length in zip(clips.names, LENGTHS, strict=True)}


# Samples


@pytest.mark.parametrize("hp", [LOUD, replace(LOUD, augment=False)], ids=["augmented", "cut"])
def test_the_same_draw_is_the_same_sample(spoken_root, tokenizer, hp):
    first, again = (Utterances(spoken_root, "train", hp, tokenizer) for _ in range(2))
    again.room = 0  # nothing is kept: every clip is decoded anew
    for at in ((2, 5), (0, 0), (2, 41)):
        assert same(first[at], again[at]), at
    assert same(first[2, 5], again[2, 5]), "what was drawn before must not matter"
    assert len(first.kept) == 2 and not again.kept


def test_other_draws_and_other_seeds_are_other_samples(spoken_root):
    clips, other = (Utterances(spoken_root, "train", replace(LOUD, seed=seed)) for seed in (0, 1))
    drawn = [clips[2, draw]["roi"] for draw in range(6)] + [other[2, 0]["roi"]]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    for roi in drawn:
        assert roi.shape == (10, 1, 88, 88) or len(roi) == 24  # its words take 15 frames
        assert 0 <= roi.min() and roi.max() <= 1


def test_without_a_draw_the_clip_is_whole_and_unaltered(spoken_root, tokenizer):
    altered, plain = (Utterances(spoken_root, "train", hp, tokenizer) for hp in (LOUD, HP))
    for i, length in enumerate(LENGTHS):
        sample, clip = altered[i, None], Clip(plain.paths[i])
        assert same(sample, altered[i, None]) and same(sample, plain[i, None]) and same(sample, plain[i, 3])
        shapes = {name: tuple(part.shape) for name, part in sample.items()}
        assert shapes == {
            "roi": (length, 1, 88, 88),
            "audio": (length, 104),
            "tokens": (len(clip.text.split()) + 1,),
            "said": (length,),
        }
        assert tokenizer.decode(sample["tokens"]) == clip.text.lower() and sample["tokens"][-1] == END
        assert np.array_equal(sample["audio"], audio.stack(clip.logfbank)[:length])


def test_the_mouth_is_in_the_middle_of_what_is_seen(spoken_root):
    clips = Utterances(spoken_root, "train", HP)
    for i, skin in enumerate((190, 190, 115, 115)):  # grey of ann's and bob's
        dark = clips[i, None]["roi"][..., :72, :] < skin / 255 - 0.1  # below is what is below the chin
        middle = dark.nonzero().float().mean(0)[2:]  # row and column
        assert 0.1 < dark.float().mean() < 0.4 and (middle - 43.5).abs().max() < 2, "px"


def test_frames_of_lrs2_are_seen_in_their_middle(root):
    path, hp = root / "clips" / "ann" / "one.safetensors", replace(HP, roi="lrs2")
    with pytest.raises(InputError, match="ann/one.*frames of 360x288 px.*--roi aligned"):
        Utterances(root, "train", hp)[0, None]
    middles = np.random.default_rng(0).integers(0, 256, (20, 12, 12), np.uint8).repeat(8, 1).repeat(8, 2)
    joined_middles, ends = joined([encoded(middle) for middle in middles])
    retell(path, size=[160, 160], middles=joined_middles, middle_ends=ends)
    seen = Clip(path).middles()[:, 4:92, 4:92] / np.float32(255)
    torch.testing.assert_close(
        Utterances(root, "train", hp)[0, None]["roi"][:, 0], torch.from_numpy(seen), atol=1e-4, rtol=0
    )


def test_a_window_shows_hears_and_says_the_same_frames(spoken_root, tokenizer):
    hp = replace(HP, frames=17)  # cut, but not altered
    clips = Utterances(spoken_root, "train", hp, tokenizer)
    clips.clusters, firsts = frame_numbers(clips), set()
    whole = clips[2, None]
    for draw in range(12):
        sample = clips[2, draw]
        first = int(sample["clusters"][0])
        firsts.add(first)
        assert torch.equal(sample["tokens"], whole["tokens"])
        for name in ("roi", "audio", "said", "clusters"):
            assert torch.equal(sample[name], whole[name][first : first + 17]), name
    assert firsts == {3, 4}  # words in frames 4 to 18, and one frame more


@pytest.mark.parametrize(
    "length, words, frames, found",
    [
        (24, (4, 19), 17, (3, 4)),
        (24, (4, 19), 15, None),  # the words take longer than the window
        (24, (4, 19), 24, None),
        (24, (4, 19), 0, None),
        (24, None, 17, (0, 7)),
        (12, (1, 12), 11, (1, 1)),  # the last word ends with the clip
        (30, (2, 8), 10, (0, 2)),
        (30, (22, 26), 10, (17, 20)),
    ],
)
def test_a_window_holds_all_words(length, words, frames, found):
    times = np.array([words] if words else [], np.float64).reshape(-1, 2) / 25
    assert places(length, times, frames) == found


def test_what_is_said_is_told_frame_by_frame(spoken_root, tokenizer):
    clips = Utterances(spoken_root, "train", HP, tokenizer)
    tokens = {word: tokenizer.encode(word)[0] for word in ("bin", "blue", "lay")}
    wanted = [END] * 3 + [tokens["bin"]] * 4 + [END] + [tokens["blue"]] * 4 + [END] * 8
    assert clips[0, None]["said"].tolist() == wanted
    wanted = [END] + [tokens["lay"]] * 4 + [END] + [tokens["blue"]] * 6
    assert clips[3, None]["said"].tolist() == wanted
    assert Utterances(spoken_root, "silent", HP, tokenizer)[0, None]["said"].tolist() == [PAD] * 12


def test_a_fraction_is_the_same_clips_for_every_seed(spoken_root):
    whole = Utterances(spoken_root, "train", HP)
    half = [Utterances(spoken_root, "train", replace(HP, fraction=0.5, seed=seed)) for seed in (0, 1)]
    assert half[0].names == half[1].names and len(half[0]) == 2 and set(half[0].names) < set(whole.names)
    assert half[0].lengths == [whole.lengths[whole.names.index(name)] for name in half[0].names]
    assert same(half[0][1, 9], whole[whole.names.index(half[0].names[1]), 9])
    few = replace(HP, fraction=0.01)
    assert len(Utterances(spoken_root, "train", few)) == 1 and len(Utterances(spoken_root, "val", few)) == 2


# Words


def test_words_are_cut_by_their_times(spoken_root):
    words, hp = Words(spoken_root, "train", replace(HP, context=2)), replace(HP, context=0)
    assert words.vocabulary == ["bin", "blue", "lay", "now", "red", "set"]
    assert len(words) == 9 and words.lengths == [8, 8, 8, 9, 9, 9, 8, 7, 8]  # clips end where they end
    names = [words.vocabulary[words[i, None]["word"]] for i in range(9)]
    assert names == ["bin", "blue", "set", "red", "bin", "red", "now", "lay", "blue"]
    whole, bare = Utterances(spoken_root, "train", HP), Words(spoken_root, "train", hp)
    for i, (clip, first, last) in enumerate([(0, 3, 7), (0, 8, 12), (1, 2, 6), (1, 6, 11), (2, 4, 9)]):
        seen = whole[clip, None]["roi"]
        assert torch.equal(bare[i, None]["roi"], seen[first:last])
        assert torch.equal(words[i, None]["roi"], seen[max(first - 2, 0) : last + 2])


def test_augmented_words_begin_and_end_a_frame_earlier_or_later(spoken_root):
    words = Words(spoken_root, "train", replace(HP, context=1, augment=True))
    clip, seen = Clip(words.paths[2]), set()
    for draw in range(60):
        frames = words.frames(len(clip), clip.times[1], words.rng(draw))
        assert np.array_equal(frames, np.arange(frames[0], frames[-1] + 1))
        seen.add((int(frames[0]), int(frames[-1])))
        assert len(words[5, draw]["roi"]) == len(frames) <= words.lengths[5]
    assert seen == {(first, last) for first in (7, 8, 9) for last in (13, 14, 15)}


def test_a_word_classifier_is_tested_on_the_words_it_was_taught(spoken_root):
    taught = Words(spoken_root, "train", HP).vocabulary
    assert Words(spoken_root, "val", HP, taught).vocabulary == taught
    with pytest.raises(InputError, match="val.txt has the word 'blue', which the classifier was not taught"):
        Words(spoken_root, "val", HP, ["bin", "lay", "now", "set"])
    with pytest.raises(InputError, match="no clip of silent.txt has word times"):
        Words(spoken_root, "silent", HP)


# What cannot be used


def test_clips_that_cannot_be_used_are_named_in_one_line(root, tokenizer):
    path = root / "clips" / "ann" / "two.safetensors"

    def refused(words, hp=HP):
        with pytest.raises(InputError, match=words) as fault:
            Utterances(root, "train", hp, tokenizer)
        assert "\n" not in str(fault.value)
        return str(fault.value)

    assert "bob/one.safetensors" in refused("24 frames, the reader takes 20: .* --longest", replace(HP, longest=20))
    for arrays, words in (
        ({"text": ""}, "has no words"),
        ({"text": "SET PURPLE"}, "does not know 'purple'"),
        ({"text": "SET RED", "words": ["SET", "ROSE"]}, "does not know 'rose'"),
    ):
        retell(path, **arrays)
        assert str(path) in refused(words)
    Utterances(root, "train", HP)  # who needs no transcript asks for none
    path.write_bytes(path.read_bytes()[:-400])
    assert str(path) in refused("is broken")
    path.write_bytes(b"")
    assert str(path) in refused("is broken")


# Batches


def batches(lengths, start=0, stop=40, **knobs):
    return list(Batches(lengths, replace(HP, **knobs), start, stop))


SOME = np.random.default_rng(0).integers(5, 90, 37).tolist()


@pytest.mark.parametrize("max_frames", [90, 200, 1000])
def test_every_clip_comes_once_an_epoch_and_no_batch_is_too_large(max_frames):
    hp = replace(HP, max_frames=max_frames)
    orders = []
    for epoch in range(3):
        found = Batches(SOME, hp, 0, 1).epoch(epoch)
        assert sorted(i for batch in found for i in batch) == list(range(37))
        assert all(len(batch) * max(SOME[i] for i in batch) <= max_frames for batch in found)
        orders.append(found)
    assert orders[0] != orders[1] != orders[2] and orders[0] == Batches(SOME, hp, 5, 9).epoch(0)
    assert len(orders[0]) <= 1.5 * sum(SOME) / max_frames + 2, "batches are filled"


def test_clips_of_like_length_come_together():
    found = Batches(SOME, replace(HP, max_frames=300), 0, 1).epoch(0)
    padded = sum(len(batch) * max(SOME[i] for i in batch) for batch in found)
    assert padded < 1.15 * sum(SOME)


def test_no_batch_of_samples_is_too_large(spoken_root):
    for hp in (replace(LOUD, max_frames=40), replace(HP, frames=10, max_frames=40)):
        clips = Utterances(spoken_root, "train", hp)
        assert clips.lengths == [10, 10, 24, 12], "windows of 10, but where the words take longer"
        words = Words(spoken_root, "train", replace(hp, context=2))
        for data in (clips, words):
            for batch in Batches(data.lengths, hp, 0, 12):
                assert collate([data[at] for at in batch])["roi_padding"].numel() <= 40


def test_a_clip_longer_than_a_batch_comes_alone():
    assert sorted(map(sorted, Batches([50, 5, 60, 6], replace(HP, max_frames=30), 0, 1).epoch(0))) == [[0], [1, 3], [2]]


def test_batches_are_the_same_after_a_resume():
    whole = batches(SOME, max_frames=200)
    assert whole == batches(SOME, max_frames=200) and len(whole) == 40
    for cut in (1, 7, 23, 39):
        assert batches(SOME, 0, cut, max_frames=200) + batches(SOME, cut, max_frames=200) == whole
    assert whole != batches(SOME, max_frames=200, seed=1)


def test_no_draw_comes_twice():
    draws = [at for batch in batches(SOME, max_frames=200) for at in batch]
    assert len(set(draws)) == len(draws) > 3 * 37
    assert len({draw for _, draw in draws}) == len(draws)


def test_processes_share_the_batches_of_a_step():
    alone = batches(SOME, 0, 12, max_frames=200)
    parts = [list(Batches(SOME, replace(HP, max_frames=200), 0, 4, rank, 3)) for rank in range(3)]
    assert [parts[i % 3][i // 3] for i in range(12)] == alone


def test_short_clips_are_padded(spoken_root, tokenizer):
    clips = Utterances(spoken_root, "train", HP, tokenizer)
    clips.clusters = frame_numbers(clips)
    batch = collate([clips[i, None] for i in (3, 2)])
    assert batch["lengths"].tolist() == [12, 24] and batch["roi_padding"].sum(1).tolist() == [12, 0]
    assert batch["roi_padding"][0, 12:].all() and batch["roi"].shape == (2, 24, 1, 88, 88)
    assert not batch["roi"][0, 12:].any() and not batch["audio"][0, 12:].any()
    assert (batch["clusters"][0, 12:] == -1).all() and (batch["said"][0, 12:] == PAD).all()
    lay, blue, *_ = batch["tokens"][0].tolist()
    assert batch["tokens"][0].tolist() == [lay, blue, END, PAD] and batch["previous"][0].tolist() == [
        END,
        lay,
        blue,
        PAD,
    ]
    assert batch["previous"][1].tolist() == [END, *batch["tokens"][1, :3].tolist()]
    words = Words(spoken_root, "train", HP)
    batch = collate([words[i, None] for i in (4, 0)])
    assert batch["word"].tolist() == [0, 0] and batch["lengths"].tolist() == [
        len(words[i, None]["roi"]) for i in (4, 0)
    ]
