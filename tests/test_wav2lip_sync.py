"""Wav2Lip's sync expert: its tables, the published file, its windows of faces and sound, its losses, its training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_faces import write_data_root
from filling import REFERENCE, fixture, meets, normal, published, uniform
from published_files import conv, refused, wrapped
from small_experts import sync_hparams, write_sync_expert
from small_runs import metrics
from test_models import sizes_in, sizes_of
from torch import nn

import train_expert
from audio import mel_windows
from checkpoint import fill, load
from data import collate
from errors import InputError
from experts.faces import FaceWindows
from experts.sync import load_network, load_sync, mismatches
from hparams import WEIGHTS, ExpertHParams, preset
from losses import SURE, matching_loss, pair_loss
from media.clip import Clip
from models.layers import narrow
from models.published.experts import convert_wav2lip_sync
from models.wav2lip import LOWER_FACES, SOUND, SYNC_TABLES, Wav2LipSync

torch.set_num_threads(1)
BGR = [3 * frame + channel for frame in range(5) for channel in (2, 1, 0)]
PAIRS = replace(preset("wav2lip_sync", ExpertHParams), width=1 / 16, max_frames=20)
fixtures = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")


# The network


@pytest.mark.parametrize("family", SYNC_TABLES)
@pytest.mark.parametrize("name, shape", [("faces", (15, 48, 96)), ("sound", (1, 80, 16))])
def test_every_row_has_the_size_its_table_says(family, name, shape):
    tables = dict(zip(("faces", "sound"), SYNC_TABLES[family], strict=True))
    blocks = getattr(Wav2LipSync(1 / 16, **tables), name)
    assert sizes_of(blocks, nn.Sequential(*blocks), torch.zeros(2, *shape)) == sizes_in(narrow(tables[name], 1 / 16))


def test_it_has_the_published_number_of_parameters_and_the_compact_one_a_sixth():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in Wav2LipSync(1, *tables).parameters()) for tables in SYNC_TABLES.values()]
    assert counts[0] == 16_435_072 and round(counts[0] / counts[1]) == 6
    assert all(faces[-1].out == sound[-1].out for faces, sound in SYNC_TABLES.values())


@torch.no_grad()
def test_it_sees_the_lower_half_of_five_faces_and_its_cosines_are_probabilities():
    net, faces = Wav2LipSync(1 / 16).eval(), torch.rand(2, 9, 3, 96, 96)
    seen = net.embed_video(faces)
    assert seen.shape == (2, 5, 32) and torch.allclose(seen.norm(dim=-1), torch.ones(2, 5)) and seen.min() >= 0
    joined = faces[0, 3:8, :, 48:].reshape(1, 15, 48, 96)
    assert torch.allclose(net.embed_windows(joined)[0], seen[0, 3], atol=1e-6), (
        "frames behind each other, colours within"
    )
    faces[:, :, :, :48] = 0
    assert torch.equal(net.embed_video(faces), seen)
    heard = net.embed_audio(torch.randn(2, 3, 1, 80, 16))
    assert heard.shape == (2, 3, 32) and torch.allclose(heard.norm(dim=-1), torch.ones(2, 3)) and heard.min() >= 0


# What is published


@pytest.mark.weights
@fixtures
@torch.no_grad()
def test_it_computes_what_the_published_one_does():
    with torch.device("meta"):
        net = Wav2LipSync()
    net = fill("fixture", net, convert_wav2lip_sync(published("wav2lip_syncnet_color")))
    arrays = fixture("wav2lip_syncnet_color")
    seen = net.embed_windows(uniform(44, (4, 15, 48, 96))[:, BGR])
    heard = net.embed_audio(normal(40, (4, 1, 80, 16))[None])[0]
    found = {"face_emb": seen, "audio_emb": heard, "cos": (seen * heard).sum(1)}
    print("wav2lip_syncnet_color", {name: meets(ours, arrays, name) for name, ours in found.items()})


def narrow_published():
    """Its state dict by the published names, at a sixteenth of the width."""
    state = {}
    for part, table, cin in (("face_encoder", LOWER_FACES, 15), ("audio_encoder", SOUND, 1)):
        number = 0
        for row in table:
            for place in range(row.res + 1):
                out = round(row.out / 16)
                state |= conv(f"{part}.{number}", cin, out, 3 if place else row.kernel)
                cin, number = out, number + 1
    return state


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_the_published_file_is_told_by_its_content(tmp_path, zipped):
    path, state = tmp_path / "lipsync_expert.pth", narrow_published()
    torch.save(wrapped(state, "module."), path, _use_new_zipfile_serialization=zipped)
    net, hp, about = load_network(path)
    assert (hp.model, hp.sync_loss, hp.width) == ("wav2lip_sync", "pairs", 1 / 16)
    assert about["kind"] == "sync expert of Wav2Lip" and about["step"] == 42 and len(about["sha256"]) == 64
    theirs = state["face_encoder.0.conv_block.0.weight"]
    assert torch.equal(net.faces[0][0].conv.weight, theirs[:, BGR]), "B, G, R of each frame become R, G, B"
    assert torch.equal(net.sound[1][2].norm.running_var, state["audio_encoder.5.conv_block.1.running_var"])
    refused(path, "sync expert of Wav2Lip: it teaches", read=load_sync)
    state.pop("audio_encoder.13.conv_block.0.bias")
    torch.save(wrapped(state), path)
    refused(path, "1 missing: sound.5.0.conv.bias", read=load_network)


# The losses


def unit(*rows):
    """Rows of length 1."""
    return nn.functional.normalize(torch.tensor(rows), dim=-1)


def test_pair_loss_is_the_known_number():
    video, audio = unit([1.0, 0.0], [3.0, 4.0]), unit([4.0, 3.0], [1.0, 0.0])  # cosines 0.8 and 0.6
    wanted = -(math.log(0.8) + math.log(1 - 0.6)) / 2
    assert pair_loss(video, audio, torch.tensor([True, False])).item() == pytest.approx(wanted)
    assert pair_loss(video, audio, torch.ones(2, dtype=torch.bool)).item() == pytest.approx(-math.log(0.48) / 2)
    assert pair_loss(video[:0], audio[:0], torch.ones(0, dtype=torch.bool)).item() == 0
    with torch.autocast("cpu", torch.bfloat16):
        loss = pair_loss(video.bfloat16(), audio.bfloat16(), torch.tensor([True, False]))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(wanted, rel=0.02)


def test_pair_loss_is_clamped_where_its_gradient_would_be_endless():
    video, audio = unit([1.0, 0.0], [1.0, 0.0]).requires_grad_(), unit([0.0, 1.0], [1.0, 0.0])
    loss = pair_loss(video, audio, torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(SURE), rel=0.02) and video.grad.isfinite().all()


def test_more_sounds_are_more_to_choose_from_for_the_lips_alone():
    video, audio, others = unit([1.0, 0.0], [0.0, 1.0]), unit([3.0, 4.0], [0.0, 1.0]), unit([4.0, 3.0])
    towards = torch.tensor([[0.6, 0.0, 0.8], [0.8, 1.0, 0.6]]) / 0.5  # of lips to sounds
    back = towards[:, :2].T
    wanted = (torch.logsumexp(towards, 1) - towards.diagonal() + torch.logsumexp(back, 1) - back.diagonal()).mean() / 2
    assert matching_loss(video, audio, 0.5, others).item() == pytest.approx(wanted.item())
    assert matching_loss(video, audio, 0.5, others[:0]).item() == pytest.approx(matching_loss(video, audio, 0.5).item())
    assert matching_loss(video[:0], audio[:0], 0.5, others).item() == 0


# Its samples


def test_windows_of_faces_are_the_faces_a_generator_makes(data_root):
    clips, again = (FaceWindows(data_root, "train", sync_hparams()) for _ in range(2))
    whole, clip = clips[0, None], Clip(clips.paths[0])
    assert whole["roi"].shape[1:] == (3, 96, 96) and len(whole["mel"]) == len(whole["roi"]) - 4
    middle = torch.from_numpy(clip.picture(4)[16:112, 16:112].copy()).permute(2, 0, 1) / 255
    assert torch.allclose(whole["roi"][4], middle, atol=1e-6)
    assert all(torch.equal(clips[1, 5][name], again[1, 5][name]) for name in whole)
    altered = [clips[0, draw]["roi"] for draw in range(8)]
    assert all(each.shape == (25, 3, 96, 96) and 0 <= each.min() and each.max() <= 1 for each in altered)
    assert len({each.numpy().tobytes() for each in altered}) == 8


def test_half_of_the_pairs_have_another_sound_of_their_clip(data_root):
    clips = FaceWindows(data_root, "train", PAIRS)
    assert clips.lengths == [5] * len(clips) and "paired" not in clips[0, None]
    faces, windows = clips[0, None]["roi"], torch.from_numpy(mel_windows(Clip(clips.paths[0]).mel, np.arange(26) / 25))
    found = []
    for draw in range(60):
        sample = clips[0, draw]
        heard = next(t for t in range(26) if torch.equal(sample["mel"][0], windows[t]))
        found.append(torch.equal(sample["roi"], faces[heard : heard + 5]))
        assert sample["paired"].tolist() == found[-1:]
    assert 18 < sum(found) < 42


def test_pairs_need_five_frames_and_two_places_for_them(tmp_path):
    root = write_data_root(tmp_path, {"train": {"ann/one": 4}, "val": {"ann/two": 5}})
    with pytest.raises(InputError, match="ann/one.* needs 5 frames"):
        FaceWindows(root, "train", PAIRS)
    with pytest.raises(InputError, match="ann/two.* its sound ends after 5 frames"):
        FaceWindows(root, "val", PAIRS)[0, 0]


# Its training


def command(root, runs, name, *more):
    """The exit code of train_expert.py sync for a tiny run."""
    argv = ["sync", "--data_root", root, "--name", name, "--runs", runs, "--workers=0", "--device=cpu", *more]
    return train_expert.main([str(word) for word in argv])


SMALL = ["--width=0.0625", "--max_steps=4", "--log_every=1", "--save_every=100", "--valid_every=2", "--no-amp"]


@pytest.mark.parametrize("name", ["wav2lip_sync", "compact_wav2lip_sync"])
def test_it_is_trained_resumed_exactly_and_exported(data_root, tmp_path, name):
    flags, weights = [f"--preset={name}", *SMALL, "--max_frames=40"], tmp_path / "teacher.safetensors"
    assert command(data_root, tmp_path, "whole", *flags) == 0
    assert command(data_root, tmp_path, "parts", *flags, "--stop=3") == 0
    assert command(data_root, tmp_path, "parts", "--export", weights) == 0
    whole, parts = (load(tmp_path / run / "last.pt") for run in ("whole", "parts"))
    assert all(torch.equal(value, parts["sync"][key]) for key, value in whole["sync"].items())
    lines = metrics(tmp_path / "whole")
    chances = {line["chance"] for line in lines if "chance" in line}
    assert chances == {round(math.log(2), 6)} if name == "wav2lip_sync" else min(chances) > math.log(2)
    assert [line["valid"].keys() for line in lines if "valid" in line] == [{"errors", "offsets"}] * 2
    net, hp, _ = load_network(weights)
    assert (hp.model, hp.sync_loss) == (name, "pairs" if name == "wav2lip_sync" else "matching")
    assert mismatches(net, FaceWindows(data_root, "val", hp), 1, "cpu")["errors"] <= 1


def test_it_learns_to_tell_sounds_apart(data_root, tmp_path):
    flags = ["--preset=compact_wav2lip_sync", *SMALL, "--max_steps=30", "--no-augment", "--lr=3e-3", "--width=0.125"]
    assert command(data_root, tmp_path, "learns", *flags) == 0
    losses = [line["sync"] for line in metrics(tmp_path / "learns") if "sync" in line]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_another_family_is_refused(data_root, tmp_path, capsys):
    for flags, words in (
        (["--model=avhubert"], "sync cannot train --model avhubert"),
        (["--model=sync", "--shrink=2", "--sync_loss=pairs"], "--sync_loss pairs: cosines of --model sync"),
    ):
        assert command(data_root, tmp_path, "x", *flags) == 1
        assert words in capsys.readouterr().err.splitlines()[-1]
    assert train_expert.main(["words", "--data_root", str(data_root), "--name=x", "--model=wav2lip_sync"]) == 1
    assert "words cannot train --model wav2lip_sync" in capsys.readouterr().err


def test_a_batch_of_pairs_is_judged_without_its_padding(data_root):
    clips = FaceWindows(data_root, "train", replace(PAIRS, frames=12))
    objective = train_expert.Synchrony(Wav2LipSync(1 / 16).eval(), PAIRS)
    batch = collate([clips[0, 1], clips[3, 1]])
    wanted = objective(batch)["sync"].item()
    video, audio = objective.sync.embed_video(batch["roi"]), objective.sync.embed_audio(batch["mel"])
    cosines, told = (video * audio).sum(-1).clamp(SURE, 1 - SURE), batch["paired"]
    known = torch.where(told, cosines, 1 - cosines).log()
    assert wanted == pytest.approx(-known.mean().item(), rel=1e-5)


def test_teachers_have_another_seed_and_another_size_than_the_judge():
    judge, teacher = preset("compact_sync", ExpertHParams), preset("compact_wav2lip_sync", ExpertHParams)
    assert teacher.seed != judge.seed and teacher.model != judge.model
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in train_expert.build_reader(hp, None).parameters()) for hp in (judge, teacher)]
    assert sizes[0] != sizes[1] and WEIGHTS["sync"].name == "sync_compact.safetensors"


def test_a_file_of_ours_teaches_and_judges_none(tmp_path):
    path = write_sync_expert(tmp_path / "teacher.safetensors")
    refused(path, "sync expert of Wav2Lip: it teaches", read=load_sync)
