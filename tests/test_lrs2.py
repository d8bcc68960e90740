"""The whole path on a made LRS2: its tree and lists, the published expert and generator in their own containers."""

import json

import fairseq_files
import pytest
import torch
from corpus_clips import write_clip, write_lists
from portraits import moving_head
from published_files import published_discriminator, published_talklip, wrapped

import checkpoint
import preprocess
import train
from data import Clips
from hparams import HParams
from media.clip import Clip

torch.set_num_threads(1)
IDS = {"train": ["6330311066473698535/00011", "6330311066473698535/00014"], "val": ["5535415699068794046/00001"]}
NARROW = "--width=0.0625 --audio_layers=2 --audio_dim=32 --audio_ffn=64 --audio_heads=4".split()
SHORT = "--batch_size=2 --audio_from=1 --audio_train_layers=1 --lip_from=2 --max_steps=4 --log_every=1 --valid_every=2"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root made by preprocess.py of three clips of 160x160 px in LRS2's layout."""
    raw, out = tmp_path_factory.mktemp("lrs2"), tmp_path_factory.mktemp("lrs2_root")
    texts = fairseq_files.SENTENCES
    for (name, frames), text in zip(((n, 26 + i) for i, n in enumerate(sum(IDS.values(), []))), texts, strict=False):
        write_clip(raw / "main" / f"{name}.mp4", moving_head(frames), text=f"Text:  {text}\nConf:  4\n")
    write_lists(raw, {split: " ".join(names) for split, names in IDS.items()})
    assert preprocess.main(["--data_root", str(raw), "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Small files in the published containers: {expert, generator, discriminator}."""
    folder = tmp_path_factory.mktemp("published")
    files = {name: folder / f"{name}.pth" for name in ("expert", "generator", "discriminator")}
    fairseq_files.write(files["expert"], dtype=torch.float16)
    torch.save(wrapped(published_talklip(dim=32, ffn=64)), files["generator"])
    torch.save(wrapped(published_discriminator()), files["discriminator"])
    return files


def test_frames_of_lrs2_keep_their_middle(root):
    clips = Clips(root, "train", HParams())
    assert sorted(clips.names) == sorted(IDS["train"])
    assert Clip(clips.paths[0]).middles().shape[1:] == (96, 96)


@pytest.mark.parametrize("more", [[], ["--faithful", "--amp"]], ids=["sound", "faithful"])
def test_talklip_is_trained_from_published_files(root, published, tmp_path, capsys, more):
    argv = ["--data_root", root, "--name", "lrs2", "--runs", tmp_path, "--workers=0", "--device=cpu"]
    argv += ["--method", "talklip", "--preset", "talklip_g_c", *NARROW, *SHORT.split(), *more]
    argv += ["--expert", published["expert"], "--init", published["generator"]]
    argv += ["--init_discriminator", published["discriminator"], "--export", tmp_path / "g_c.safetensors"]
    assert train.main([str(word) for word in argv]) == 0
    assert "lip loss x 1e-05 (sum over tokens), contrastive loss x 0.001" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "lrs2" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "valid" not in line]
    assert [{"lip", "contrastive"} <= line.keys() for line in steps] == [False, False, True, True]
    tokens = 2 * 6  # at least, of two sentences of six words
    assert all(line["lip"] > tokens for line in steps[2:]), "a sum"
    begun = checkpoint.load_generator(published["generator"])[0].state_dict()
    trained, hp, about = checkpoint.load_generator(tmp_path / "g_c.safetensors")
    assert (about["step"], hp.roi, hp.contrastive_weight) == (4, "lrs2", 1e-3)
    moved = {n for n, value in trained.state_dict().items() if not torch.equal(value, begun[n].half().float())}
    assert {"sync.weight", "audio_map.weight", "speech.blocks.1.up.weight"} <= moved
    assert not any(name.startswith(("speech.blocks.0", "speech.audio", "speech.fusion")) for name in moved)
    judge = checkpoint.load_discriminator(tmp_path / "lrs2" / "last.pt")[0].state_dict()
    old = checkpoint.load_discriminator(published["discriminator"])[0].state_dict()
    assert all((value - old[name]).abs().max() < 1e-3 for name, value in judge.items()), "four steps from where it was"


def test_the_audio_encoder_begins_as_the_published_experts(root, published, tmp_path):
    argv = ["--data_root", root, "--name", "lrs2", "--runs", tmp_path, "--workers=0", "--device=cpu", "--stop=1"]
    argv += ["--preset", "talklip_g", *NARROW, *SHORT.split(), "--expert", published["expert"]]
    assert train.main([str(word) for word in argv]) == 0
    generator = checkpoint.load_generator(tmp_path / "lrs2" / "last.pt")[0]
    theirs = fairseq_files.weights(dtype=torch.float16)["encoder.w2v_model.post_extract_proj.weight"]
    assert torch.equal(generator.speech.fusion.weight, theirs.float())
