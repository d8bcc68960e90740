"""Recall of lips by their sound is what a hand counts, chance is what chance finds, and the command says both."""

import json

import pytest
import torch
from small_experts import write_expert

from evaluation import alignment
from evaluation.alignment import MEASURES, centred, distances, features_of, main, measure, recall
from experts.data import Utterances
from experts.lip_reader import load_reader
from hparams import ExpertHParams
from models import build_reader


def found(apart, frames=None):
    """{measure: sounds that find their lips}."""
    apart = torch.as_tensor(apart, dtype=torch.float32)
    hits = recall(apart, torch.arange(len(apart)) if frames is None else torch.as_tensor(frames))
    assert hits.keys() == MEASURES.keys()
    return {name: hit for name, (hit, _) in hits.items()}


def test_recall_counts_the_sounds_whose_own_lips_are_among_the_nearest():
    apart = 10.0 * torch.ones(8, 8)
    apart[:, 0] = 5.0  # the lips of frame 0 are near to all
    apart[3, 3] = 1.0  # nearest
    apart[6, 6], apart[6, 1:5] = 4.0, 3.0  # the fifth
    apart[7, 7], apart[7, 1:6] = 4.0, 3.0  # the sixth
    assert found(apart) == {
        "rank 1": 2,  # frames 0 and 3
        "rank 5": 3,  # and 6
        "rank 1, within 1 frame": 3,  # 0 and 3, and 1, whose nearest lips are those of frame 0
        "rank 5, within 1 frame": 4,  # and 6
    }


def test_features_that_are_all_alike_find_nothing():
    assert set(found(torch.zeros(12, 12)).values()) == {0}
    assert set(found(1 - torch.eye(12)).values()) == {12}


def test_a_frame_beside_is_one_beside_in_time_and_not_in_the_list():
    apart = torch.tensor([[2.0, 1.0, 3.0], [3.0, 1.0, 3.0], [3.0, 3.0, 1.0]])
    assert found(apart, [10, 11, 12])["rank 1, within 1 frame"] == 3
    assert found(apart, [10, 14, 18])["rank 1, within 1 frame"] == 2


def test_chance_is_what_random_distances_find():
    torch.manual_seed(0)
    frames, total = torch.tensor([0, 1, 2, 3, 7, 8, 20, 21, 22, 30]), dict.fromkeys(MEASURES, 0)
    for _ in range(400):
        for name, (hits, chance) in recall(torch.rand(10, 10), frames).items():
            total[name] += hits - chance
    assert all(abs(each) / 4000 < 0.02 for each in total.values()), total
    chance = {name: by for name, (_, by) in recall(torch.rand(10, 10), frames).items()}
    assert chance["rank 1"] == pytest.approx(1) and chance["rank 5"] == pytest.approx(5)
    assert chance["rank 1, within 1 frame"] == pytest.approx((2 + 3 + 3 + 2 + 2 + 2 + 2 + 3 + 2 + 1) / 10)
    few = recall(torch.rand(3, 3), torch.arange(3))
    assert few["rank 5"] == (3, 3), "of three frames every one is among the first five"


def test_distances_are_those_of_eq_1_and_of_l1_from_each_sound_to_all_lips():
    sound, lips = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    assert distances(sound, lips, "L1").tolist() == [[2, 1], [5, 2]]
    cosines = distances(sound, lips, "cosine").flatten().tolist()
    assert cosines == pytest.approx([-1, -(0.5**0.5), 0, -(0.5**0.5)])


def test_centred_features_know_no_constant_offset():
    torch.manual_seed(0)
    lips = [torch.randn(9, 6), torch.randn(7, 6)]
    pairs = [(each + torch.tensor([50.0, 0, 0, -9, 0, 0]), each) for each in lips]
    places = torch.arange(9)
    assert recall(distances(*pairs[0], "cosine"), places)["rank 1"][0] < 5
    for metric in ("cosine", "L1"):
        for pair, count in zip(centred(pairs), (9, 7), strict=True):
            assert recall(distances(*pair, metric), places[:count])["rank 1"][0] == count


def test_features_are_of_one_modality_each_and_behind_the_convolution(spoken_root, tmp_path):
    path = write_expert(tmp_path / "conv.pt", spoken_root, align_weight=1.0, align_kernel=3)
    reader = load_reader(path, whole=False)
    clips = Utterances(spoken_root, "val", reader.hp)
    sound, lips = features_of(reader, clips)[1]
    sample, net = clips[1, None], reader.net
    with torch.no_grad():
        heard = net.neighbours(net.encoder(audio=sample["audio"][None]))[0]
        seen = net.neighbours(net.encoder(video=net.normalised(sample["roi"][None])))[0]
    torch.testing.assert_close((sound, lips), (heard, seen))
    scores = measure(reader, clips)
    assert [n for _, _, n, _ in scores["all frames"]["L1", False]["rank 1"]] == [14, 18]
    spoken = [int(clips.load(i)[0].in_words.sum()) for i in range(2)]
    assert [n for _, _, n, _ in scores["frames in words"]["L1", True]["rank 5"]] == spoken


def test_the_command_prints_a_table_a_split_and_writes_every_clip(spoken_root, tmp_path, capsys):
    plain = write_expert(tmp_path / "plain.pt", spoken_root)
    aligned = write_expert(tmp_path / "aligned.pt", spoken_root, align_weight=1.0, align_kernel=3)
    report = tmp_path / "report.json"
    flags = ["--data_root", str(spoken_root), "--device", "cpu", "--json", str(report)]
    assert main([*flags, "--experts", str(plain), str(aligned)]) == 0
    out = capsys.readouterr().out
    assert "| val, 2 clips, all frames | distance | rank 1, % |" in out and "val, 2 clips, frames in words" in out
    assert "| chance | | 6.2" in out, "of 14 frames and of 18: 2 / 32"
    for line in ("| plain | cosine |", "| aligned | L1, centred |", "aligned - plain, L1, rank 1: "):
        assert out.count(line) == 2
    found = json.loads(report.read_text())
    assert found["splits"]["val"]["plain"]["all frames"]["L1"]["rank 1"][0][2] == 14
    assert found["experts"]["aligned"]["sha256"] in out


def test_a_split_without_word_times_has_a_table_of_all_frames_alone(spoken_root, tmp_path, capsys):
    flags = ["--data_root", str(spoken_root), "--splits", "silent", "--device", "cpu"]
    assert main([*flags, "--experts", str(write_expert(tmp_path / "plain.pt", spoken_root))]) == 0
    out = capsys.readouterr().out
    assert "silent, 1 clips, all frames" in out and "in words" not in out


def test_an_expert_that_takes_no_sound_is_refused(spoken_root, monkeypatch, capsys):
    hp = ExpertHParams(model="conformer", width=1 / 16, layers=1, dim=32, ffn=32, heads=2, decoder_heads=2)
    reader = type("Reader", (), {"hp": hp, "net": build_reader(hp, None)})()
    monkeypatch.setattr(alignment, "load_reader", lambda path, whole: reader)
    assert main(["--data_root", str(spoken_root), "--experts", "some.pt"]) == 1
    assert "--experts some.pt is a conformer, which takes no sound" in capsys.readouterr().err
