"""Scores on made-up pictures whose answer is known, and the commands that print them."""

import json

import pytest
import torch

import checkpoint
from evaluation import crops, speed
from evaluation.visual import psnr, squared_error
from hparams import HParams
from models import build_generator

NARROW = HParams(width=1 / 16, audio_layers=1, audio_dim=32, audio_ffn=64, audio_heads=4)


def test_psnr_of_a_known_difference_is_the_known_number():
    real = torch.zeros(2, 3, 8, 8)
    fake = torch.full_like(real, 0.1)
    assert psnr(squared_error(fake, real)).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    assert psnr(squared_error(real, real)).tolist() == [100.0, 100.0]


def test_a_mask_leaves_out_what_it_hides():
    real, fake = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    fake[..., :2] = 0.5
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    assert squared_error(fake, real, mask).item() == 0
    assert squared_error(fake, real, 1 - mask).item() == pytest.approx(0.25)


def test_crops_prints_the_honest_rows_beside_the_generator(data_root, tmp_path, capsys):
    torch.manual_seed(0)
    weights = tmp_path / "narrow.safetensors"
    checkpoint.export(weights, build_generator(NARROW), NARROW)
    args = ["--data_root", data_root, "--checkpoint_path", weights, "--splits", "train", "--step", "10"]
    assert crops.main([str(a) for a in [*args, "--strips", tmp_path / "strips", "--json", tmp_path / "all.json"]]) == 0
    printed, scores = capsys.readouterr().out, json.loads((tmp_path / "all.json").read_text())
    assert [line.split("|")[1].strip() for line in printed.splitlines()[2:5]] == list(scores["train"])
    assert scores["train"]["identity frame copied"]["psnr_mouth"] > scores["train"]["drawn, right sound"]["psnr_mouth"]
    assert scores["model"]["sha256"] and (tmp_path / "strips" / "train.png").stat().st_size > 1000


def test_a_clip_is_never_its_own_other_clip(data_root, tmp_path, capsys):
    weights = tmp_path / "narrow.safetensors"
    checkpoint.export(weights, build_generator(NARROW), NARROW)
    args = ["--data_root", str(data_root), "--checkpoint_path", str(weights), "--splits", "train", "--other"]
    for other in ("0", str(len((data_root / "train.txt").read_text().split()))):
        assert crops.main([*args, other]) == 1
        assert "own sound" in capsys.readouterr().err
    assert crops.main([*args, "1", "--step", "20"]) == 0


def test_crops_tells_a_missing_data_root_in_one_line(tmp_path, capsys):
    weights = tmp_path / "narrow.safetensors"
    checkpoint.export(weights, build_generator(NARROW), NARROW)
    assert crops.main(["--data_root", str(tmp_path), "--checkpoint_path", str(weights)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_folded_half_precision_network_is_timed_beside_the_plain_one(monkeypatch, capsys):
    monkeypatch.setattr(speed, "preset", lambda name: NARROW)
    monkeypatch.setattr(speed.frames_a_second, "__defaults__", (0.01,))
    assert speed.main(["--preset", "compact", "--rounds", "1"]) == 0
    assert "frames/s" in capsys.readouterr().out


def test_the_made_clip_is_as_long_as_asked(tmp_path):
    from audio import read_audio
    from video import probe

    face, sound = speed.make_clip(tmp_path, 1)
    found = probe(face)
    assert (found.width, found.height, found.frames) == (1280, 720, 25)
    assert len(read_audio(sound)) == pytest.approx(16_000, abs=2)
