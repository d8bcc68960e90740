"""Cluster targets are clusters of the sound, or of a model's features; they are found once and kept."""

import shutil

import numpy as np
import pytest
import torch
from conftest import SPOKEN, retell

import audio
from errors import InputError
from experts.clusters import cepstra, cluster, cluster_targets, features
from experts.data import Utterances
from experts.lip_reader import TrainedLipReader
from hparams import ExpertHParams
from media.clip import Clip
from models import build_reader

torch.set_num_threads(1)
SIZES = {"layers": 2, "dim": 32, "ffn": 64, "heads": 2, "decoder_layers": 1, "decoder_ffn": 64, "decoder_heads": 2}
HP = ExpertHParams(width=1 / 16, clusters=5, **SIZES)
FRAMES = {name: frames for split in ("train", "val") for name, (frames, _) in SPOKEN[split].items()}


class SoundOnly:
    """A clip of so many frames of which only the sound is known."""

    def __init__(self, frames, logfbank):
        self.frames, self.logfbank = frames, np.asarray(logfbank, np.float32)

    def __len__(self):
        return self.frames


def splits(root, hp=HP):
    return [Utterances(root, split, hp) for split in ("train", "val")]


def teacher(**knobs):
    hp = ExpertHParams(**({"width": 1 / 16} | SIZES | knobs))
    torch.manual_seed(0)
    return TrainedLipReader(build_reader(hp, 8), hp)


# Of the sound


def test_cepstra_of_a_ramp_are_those_of_a_hand():
    ramp = np.arange(12.0)[:, None] + np.zeros(26)  # every band rises by 1 in 10 ms
    found = cepstra(SoundOnly(3, ramp)).reshape(3, 3, 13)  # frames; cepstra, their differences, those of these
    np.testing.assert_allclose(found[:, 0, 0], 26**0.5 * np.array([1.5, 5.5, 9.5]), rtol=1e-5)
    np.testing.assert_allclose(found[:, 1, 0], 26**0.5, rtol=1e-5)
    np.testing.assert_allclose(found[:, 2, 0], 0, atol=1e-5)
    np.testing.assert_allclose(found[:, :, 1:], 0, atol=1e-5)  # no band is louder than another


@pytest.mark.parametrize("rows, frames", [(48, 12), (45, 12), (60, 12), (30, 12), (3, 1)])
def test_there_is_one_row_of_cepstra_for_each_frame(rows, frames):
    found = cepstra(SoundOnly(frames, np.random.default_rng(0).normal(size=(rows, 26))))
    assert found.shape == (frames, 39) and found.dtype == np.float32
    known = -(-rows // 4)
    if known < frames:  # the sound ends before the picture: its last row stays
        assert (found[known:] == found[known - 1]).all() and not (found[known - 2] == found[known - 1]).all()


def test_a_tone_and_silence_are_different_clusters():
    tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    wav = np.concatenate([np.zeros(16_000), tone, np.zeros(16_000)]).astype(np.int16)
    rows = cepstra(SoundOnly(75, audio.log_filter_banks(wav)))
    clusters = cluster([rows], 2, seed=0)(rows)
    middles = clusters[3:22], clusters[28:47], clusters[53:72]
    assert [len(set(part)) for part in middles] == [1, 1, 1]
    assert middles[0][0] == middles[2][0] != middles[1][0]


# Clusters


def test_equal_features_are_equal_clusters_and_scale_does_not_matter():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (4, 6))
    truth = rng.integers(0, 4, 200)
    rows = (centres[truth] + rng.normal(0, 0.1, (200, 6))).astype(np.float32)
    scale = np.float32([1, 1000, 1e-3, 1, 1, 1])
    for each in (rows, rows * scale):
        predict = cluster([each[:90], each[90:]], 4, seed=0)
        clusters = predict(each)
        assert clusters.dtype == np.int16 and clusters.shape == (200,)
        assert {len(set(clusters[truth == k])) for k in range(4)} == {1} and len(set(clusters)) == 4
        assert np.array_equal(predict(each[::-1]), clusters[::-1])
    again = cluster([rows], 4, seed=0)(rows)
    assert np.array_equal(again, cluster([rows], 4, seed=0)(rows))


def test_fewer_frames_than_clusters_are_refused():
    with pytest.raises(InputError, match="9 frames cannot make 10 clusters: lower --clusters"):
        cluster([np.zeros((4, 3)), np.zeros((5, 3))], 10, seed=0)


# Of a data root


def test_every_frame_of_every_clip_has_a_cluster(spoken_root, tmp_path):
    clusters = cluster_targets(splits(spoken_root), HP, tmp_path / "clusters.npz")
    assert {name: len(each) for name, each in clusters.items()} == FRAMES
    together = np.concatenate(list(clusters.values()))
    assert together.dtype == np.int16 and set(together) == set(range(5))
    sample = Utterances(spoken_root, "train", HP, clusters=clusters)[1, None]
    assert sample["clusters"].tolist() == clusters["ann/two"].tolist() and sample["clusters"].dtype == torch.int64


def test_validation_clips_do_not_decide_the_clusters(spoken_root, tmp_path):
    root = shutil.copytree(spoken_root, tmp_path / "root")
    before = cluster_targets(splits(root), HP, tmp_path / "before.npz")
    loud = Clip(root / "clips" / "cid" / "one.safetensors").logfbank + np.float32(40)
    retell(root / "clips" / "cid" / "one.safetensors", logfbank=loud)
    after = cluster_targets(splits(root), HP, tmp_path / "after.npz")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"cid/one"}


def test_targets_are_kept_for_the_next_time(spoken_root, tmp_path):
    path = tmp_path / "clusters.npz"
    first = cluster_targets(splits(spoken_root), HP, path)
    assert cluster_targets(splits(spoken_root), HP, tmp_path / "other.npz").keys() == first.keys()
    np.savez(path, **{name: clusters + 10 for name, clusters in first.items()})
    kept = cluster_targets(splits(spoken_root), HP, path, teacher())
    assert all(np.array_equal(kept[name], first[name] + 10) for name in first), "they were made anew"


def test_kept_targets_of_another_data_root_are_refused(spoken_root, tmp_path):
    path = tmp_path / "clusters.npz"
    np.savez(path, **{"ann/one": np.zeros(20, np.int16)})
    with pytest.raises(InputError, match="clusters.npz has no targets of ann/two"):
        cluster_targets(splits(spoken_root), HP, path)


# Of a teacher


@torch.no_grad()
def test_features_are_the_output_of_a_block_for_sound_and_picture(spoken_root):
    reader, sample = teacher(), Utterances(spoken_root, "train", HP)[1, None]
    reader.net.eval()
    last, first = features(reader, sample, 0), features(reader, sample, 1)
    assert last.shape == first.shape == (16, 32) and last.dtype == np.float32
    roi, audio_rows = sample["roi"][None], sample["audio"][None]
    wanted = reader.net.encode(roi, None, audio_rows)[0]
    np.testing.assert_allclose(last, wanted, atol=1e-6)
    np.testing.assert_allclose(
        reader.net.encoder.norm(torch.from_numpy(features(reader, sample, 2))), wanted, atol=1e-5
    )
    assert not np.allclose(first, features(reader, sample, 2), atol=1e-3)
    for changed in (sample | {"roi": 1 - sample["roi"]}, sample | {"audio": -sample["audio"]}):
        assert not np.allclose(features(reader, changed, 0), last, atol=1e-4), "both count"


@pytest.mark.parametrize("depth", [0, 1])
def test_targets_of_a_teacher_are_clusters_of_its_features(spoken_root, tmp_path, depth):
    hp, reader = ExpertHParams(**SIZES, clusters=5, depth=depth), teacher()
    reader.net.train()
    clusters = cluster_targets(splits(spoken_root), hp, tmp_path / "clusters.npz", reader)
    assert {name: len(each) for name, each in clusters.items()} == FRAMES
    clips = splits(spoken_root)[0]
    rows = [features(reader, clips[i, None], depth) for i in range(len(clips))]
    predict = cluster(rows, 5, hp.seed)
    for name, each in zip(clips.names, rows, strict=True):
        assert np.array_equal(clusters[name], predict(each)), name


@pytest.mark.parametrize("knobs, depth", [({"model": "conformer"}, 0), ({}, 3)], ids=["conformer", "too deep"])
def test_a_teacher_without_such_features_is_refused(spoken_root, tmp_path, knobs, depth):
    hp = ExpertHParams(clusters=5, depth=depth)
    with pytest.raises(InputError, match="--teacher has 2 blocks of .* see --depth"):
        cluster_targets(splits(spoken_root), hp, tmp_path / "clusters.npz", teacher(**knobs))
    assert not (tmp_path / "clusters.npz").exists()
