"""Files come back as they were written, and what is no checkpoint of ours or theirs is refused in one line."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from filling import difference, filled
from make_golden import narrow_hparams
from published_files import as_modules, drawn, published_talklip, published_wav2lip, refused, wrapped
from safetensors.torch import save_file
from small_experts import EXPERT, reader, write_expert

import checkpoint
from errors import InputError
from experts.lip_reader import load_reader
from hparams import ExpertHParams, preset
from models import build_generator
from models.layers import without_weights
from models.published.archive import LEGACY_MAGIC, bytes_of
from models.published.fairseq import read_fairseq
from models.talklip import Discriminator

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


def test_a_run_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, step=3, hparams={"seed": 1}, generator={"a": torch.arange(3)})
    state = checkpoint.load(path)
    assert state["step"] == 3 and torch.equal(state["generator"]["a"], torch.arange(3))
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_save_that_fails_leaves_the_last_good_file(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, step=3)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(path, step=4, broken=lambda: None)
    assert checkpoint.load(path)["step"] == 3


def test_a_full_disk_is_said_and_leaves_the_last_good_file(tmp_path):
    import resource

    path, limits = tmp_path / "last.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint.save(path, step=3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        with pytest.raises(InputError, match="last.pt cannot be written .*what was saved before is kept"):
            checkpoint.save(path, tmp_path / checkpoint.BEFORE, step=4, generator={"a": torch.zeros(9000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load(path)["step"] == 3 and os.listdir(tmp_path) == ["last.pt"]


def test_a_checkpoint_that_was_cut_off_is_replaced_by_the_one_before_or_the_best(tmp_path, capsys):
    last, before, best = (tmp_path / name for name in ("last.pt", checkpoint.BEFORE, "best.pt"))
    assert checkpoint.latest(last) is None
    checkpoint.save(best, step=1)
    for step in (2, 3, 4):
        checkpoint.save(last, before, step=step)
    assert checkpoint.latest(last)["step"] == 4 and checkpoint.load(before)["step"] == 3
    last.write_bytes(last.read_bytes()[:-300])
    assert checkpoint.latest(last)["step"] == 3 and (tmp_path / "last.broken").exists()
    assert "last.pt is broken or cut off: put aside as last.broken; previous.pt takes" in capsys.readouterr().err
    assert checkpoint.latest(last)["step"] == 3 and not capsys.readouterr().err, "a run killed before it saved"
    checkpoint.save(last, before, step=4)
    assert checkpoint.load(before)["step"] == 3, "what was broken does not take its place"
    for path in (last, before):
        path.write_bytes(b"")
    assert checkpoint.latest(last)["step"] == 1 and "best.pt takes its place" in capsys.readouterr().err
    last.unlink()
    assert checkpoint.latest(last) is None, "who takes it away begins anew"
    last.write_bytes(b"")
    best.unlink()
    with pytest.raises(InputError, match="last.pt is broken or cut off .0 bytes., and no earlier checkpoint"):
        checkpoint.latest(last)
    torch.save({"format": 99}, last)
    with pytest.raises(InputError, match="format 99"):
        checkpoint.latest(last)


@pytest.mark.parametrize("name", ["talklip_g", "talklip_l", "wav2lip"])
def test_exported_weights_draw_the_same_in_16_bits(name, tmp_path):
    hp, path = narrow_hparams(name), tmp_path / "small.safetensors"
    generator = filled(build_generator(hp)).eval()
    checkpoint.export(path, generator, hp, step=12, data={"name": "made up"})
    loaded, found, about = checkpoint.load_generator(path)
    assert found == hp and about["step"] == 12 and about["data"] == {"name": "made up"} and len(about["sha256"]) == 64
    assert about["kind"] == "weights" and not loaded.training
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in loaded.parameters())
    assert difference(drawn(loaded, hp), drawn(generator, hp)) < 0.02
    assert path.stat().st_size < 2.5 * sum(p.numel() for p in generator.parameters())


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    hp = narrow_hparams("wav2lip")
    generator = build_generator(hp)
    generator.to_rgb[1][0].bias.data[0] = 1e6
    with pytest.raises(InputError, match="^to_rgb.1.0.bias is not finite"):
        checkpoint.export(tmp_path / "x.safetensors", generator, hp)
    assert not list(tmp_path.iterdir())


def test_the_averaged_generator_of_a_run_is_the_one_that_is_loaded(tmp_path):
    hp = narrow_hparams("talklip_g")
    generator, mean, judge = build_generator(hp), filled(build_generator(hp)).eval(), filled(Discriminator(hp)).eval()
    state = {"generator": generator.state_dict(), "ema": mean.state_dict(), "discriminator": judge.state_dict()}
    checkpoint.save(tmp_path / "last.pt", hparams=asdict(hp), step=5, **state)
    loaded, found, about = checkpoint.load_generator(tmp_path / "last.pt")
    assert found == hp and about["step"] == 5 and about["kind"] == "run checkpoint"
    assert torch.equal(drawn(loaded, hp), drawn(mean, hp))
    again = checkpoint.load_discriminator(tmp_path / "last.pt")[0]
    assert torch.equal(again.blocks[0][0].conv.weight, judge.blocks[0][0].conv.weight)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_from_before_the_positions_had_a_gain_draw_the_same(suffix, tmp_path):
    hp, path = narrow_hparams("talklip_g"), tmp_path / f"old.{suffix}"
    generator = filled(build_generator(hp)).eval()
    old, where = generator.state_dict(), "speech.positions."
    direction, gain = old.pop(where + "direction"), old.pop(where + "gain")
    old[where + "weight"] = gain * direction / direction.norm(dim=(0, 1), keepdim=True)
    if suffix == "pt":
        checkpoint.save(path, hparams=asdict(hp), generator=old)
    else:
        save_file(old, path, {"format": "1", "hparams": json.dumps(asdict(hp))})
    loaded = checkpoint.load_generator(path)[0]
    assert difference(drawn(loaded, hp), drawn(generator, hp)) < 1e-4
    assert loaded.state_dict().keys() == generator.state_dict().keys()


# Files of older versions


def test_the_progress_of_an_older_run_is_told_apart(tmp_path):
    plateaus = {"starts": {"lip_from": 9}, "least": 0.5, "stale": 1, "over": False}
    guard = {"brake": 0.5, "rollbacks": 1, "means": {"l1": torch.tensor(0.1)}, "lows": {"l1": 0.1}, "steps": {"l1": 9}}
    checkpoint.save(tmp_path / "old.pt", step=3, progress=plateaus | guard)
    state = checkpoint.load(tmp_path / "old.pt")
    assert state["plateaus"] == plateaus and state["guard"] == guard
    checkpoint.save(tmp_path / "older.pt", step=3)
    state = checkpoint.load(tmp_path / "older.pt")
    assert (state["plateaus"], state["guard"], state["step"]) == ({}, {}, 3)
    checkpoint.save(tmp_path / "new.pt", step=3, plateaus=plateaus, guard=guard)
    assert flatly(checkpoint.load(tmp_path / "new.pt")) == {"step": 3, "plateaus": plateaus, "guard": guard}


def flatly(state):
    """A checkpoint without the number of its format."""
    return {name: value for name, value in state.items() if name != "format"}


def test_the_optimizer_of_an_older_expert_is_found(tmp_path):
    checkpoint.save(tmp_path / "expert.pt", step=3, task="finetune", optimizer={"param_groups": [1]})
    state = checkpoint.load(tmp_path / "expert.pt")
    assert state["expert_optimizer"] == {"param_groups": [1]} and "optimizer" not in state


def test_knobs_of_older_files_have_other_names_or_none(tmp_path):
    hp = narrow_hparams("talklip_g")
    assert checkpoint.knobs("x.pt", {"method": "talklip", **asdict(hp)}) == hp
    old = {"units" if name == "clusters" else name: value for name, value in asdict(ExpertHParams()).items()}
    found = checkpoint.knobs("x.pt", old | {"units": 50}, ExpertHParams)
    assert found == ExpertHParams(clusters=50)
    for knobs in (old, {name: value for name, value in old.items() if name not in ("beta1", "rollbacks")}):
        assert checkpoint.knobs("x.pt", knobs, ExpertHParams) == ExpertHParams()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_generator_of_an_older_version_draws_the_same(suffix, tmp_path):
    hp, path = narrow_hparams("talklip_g"), tmp_path / f"old.{suffix}"
    generator, knobs = filled(build_generator(hp)).eval(), {"method": "talklip", **asdict(hp)}
    if suffix == "pt":
        parts = {"progress": {"starts": {}}, "generator_optimizer": {}, "generator": generator.state_dict()}
        checkpoint.save(path, hparams=knobs, step=7, **parts)
    else:
        save_file(generator.state_dict(), path, {"format": "1", "hparams": json.dumps(knobs), "step": "7"})
    loaded, found, about = checkpoint.load_generator(path)
    assert found == hp and about["step"] == 7 and difference(drawn(loaded, hp), drawn(generator, hp)) < 1e-5
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in generator.state_dict().items())


def test_a_lip_reader_of_an_older_version_is_the_same(spoken_root, tmp_path):
    path = write_expert(tmp_path / "expert.pt", spoken_root)
    state = flatly(torch.load(path, weights_only=True))
    units = state["hparams"].pop("clusters")
    checkpoint.save(path, **state | {"hparams": state["hparams"] | {"units": units}, "optimizer": {}})
    found = load_reader(path)
    assert found.hp == EXPERT
    wanted = reader(spoken_root).net.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in found.net.state_dict().items())


# Refusals, one line each


def test_files_that_are_no_checkpoints_are_refused_by_what_they_are(tmp_path):
    refused(tmp_path / "absent.pt", "no checkpoint at .*Train one")
    refused(tmp_path, "is a folder")
    contents = {
        "is empty": b"",
        "is a web page": b"\n<!DOCTYPE html><html><body>Google Drive - Quota exceeded</body></html>",
        "Git-LFS pointer.*git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "not a checkpoint": b"\x00\x00\x00\x18ftypmp42 a video of somebody",
        "broken or cut off": LEGACY_MAGIC + b"nothing more",
    }
    for words, content in contents.items():
        path = tmp_path / "file.pth"
        path.write_bytes(content)
        for read in (checkpoint.load_generator, checkpoint.load_discriminator, checkpoint.load):
            refused(path, words, read)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/readme.txt", "hello")
    refused(path, "unpack it")


def test_files_that_were_cut_off_are_refused(tmp_path):
    hp = narrow_hparams("wav2lip")
    generator = build_generator(hp)
    checkpoint.save(tmp_path / "run.pt", hparams=asdict(hp), generator=generator.state_dict())
    checkpoint.export(tmp_path / "small.safetensors", generator, hp)
    torch.save(wrapped(published_wav2lip()), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(as_modules(published_wav2lip())).save(tmp_path / "archive.pt")
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        for share in (0.02, 0.5, 0.99):
            path.write_bytes(whole[: int(len(whole) * share)])
            refused(path, "broken or cut off")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_that_are_not_finite_are_refused_by_name(suffix, tmp_path):
    hp, path = narrow_hparams("wav2lip"), tmp_path / f"x.{suffix}"
    state = build_generator(hp).state_dict()
    state["to_rgb.1.0.bias"][0], state["encoder.0.0.conv.weight"][0, 0] = float("nan"), float("inf")
    if suffix == "pt":
        checkpoint.save(path, hparams=asdict(hp), generator=state)
    else:
        save_file(state, path, {"format": "1", "hparams": json.dumps(asdict(hp))})
    refused(path, "2 of its weights are not finite.*encoder.0.0.conv.weight, to_rgb.1.0.bias")


def swelling(path, how):
    """Writes a file of some 100 KB that stands for gigabytes."""
    some = torch.zeros(1)
    if how == "deflated":
        torch.save({"state_dict": {"a": some}}, path)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/9", bytes(100_000_000))
    elif how == "strided":
        torch.save({"state_dict": {"face_decoder_blocks.0.0.conv_block.0.bias": some.expand(10**9)}}, path)
    elif how == "scripted":
        torch.jit.script(as_modules(published_wav2lip())).save(path)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/99", bytes(100_000_000))
    else:
        torch.save({"cfg": {}, "model": {"encoder.w2v_model.a": some}}, path)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/9", bytes(100_000_000))


@pytest.mark.parametrize("how", ["deflated", "strided", "scripted", "fairseq"])
def test_files_that_unpack_to_far_more_are_refused_before_they_are_read(how, tmp_path, monkeypatch):
    swelling(tmp_path / "x.pth", how)
    if how != "strided":
        monkeypatch.setattr(torch, "load", None)
    refused(tmp_path / "x.pth", r"unpacks to \d+ bytes, it has \d+", read_fairseq if how == "fairseq" else load_reader)
    if how != "fairseq":
        refused(tmp_path / "x.pth", r"unpacks to \d+ bytes, it has \d+")


def test_a_state_that_is_made_of_itself_has_an_end():
    state = [torch.zeros(2)]
    for _ in range(60):
        state = [state, state]
    state.append(state)
    assert bytes_of(state) == 8


CLAIMS = {"audio_layers": 100_000, "audio_dim": 10**9, "audio_ffn": 10**9}


@pytest.mark.parametrize("name, value", CLAIMS.items())
def test_knobs_of_a_far_larger_network_are_refused_before_it_is_built(name, value, tmp_path, monkeypatch):
    hp, path = narrow_hparams("talklip_g"), tmp_path / "x.pt"
    knobs, weights = asdict(hp) | {"audio_heads": 4, name: value}, build_generator(hp).state_dict()
    checkpoint.save(path, hparams=knobs, generator=weights)
    monkeypatch.setattr(checkpoint, "build_generator", None)
    refused(path, f"its knob {name} is {value}, its {len(weights)} tensors are of a smaller network")
    knobs = asdict(EXPERT) | {"layers": 100_000}
    checkpoint.save(path, hparams=knobs, reader=weights, words=None, tokenizer=None)
    refused(path, "its knob layers is 100000", partial(load_reader, whole=False))


OTHERS = {
    "weights of a lip-reading expert": {"state_dict": {"encoder.w2v_model.mask_emb": torch.zeros(1)}},
    "fairseq checkpoint": {"args": None, "cfg": {"a": 1}, "model": {"encoder.w2v_model.mask_emb": torch.zeros(1)}},
    "weights of a SyncNet": {"netcnnaud.0.weight": torch.zeros(1)},
    "sync expert of Wav2Lip": {"state_dict": {"face_encoder.0.conv_block.0.weight": torch.zeros(1)}},
    "weights of a discriminator": {"state_dict": {"binary_pred.0.weight": torch.zeros(1)}},
    "face detector s3fd": {"conv3_3_norm_mbox_loc.weight": torch.zeros(1)},
    "optimizer's state only": {"state": {}, "param_groups": []},
    "entries named fc.weight, fc.bias": {"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)},
    "a list": [1, 2, 3],
    "entries named a": {"a": "b"},
}


@pytest.mark.parametrize("words", OTHERS)
def test_checkpoints_of_other_models_are_named(words, tmp_path):
    torch.save(OTHERS[words], tmp_path / "other.pth")
    refused(tmp_path / "other.pth", words)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    hp = narrow_hparams("wav2lip")
    generator = filled(build_generator(hp))
    for number in range(8):
        checkpoint.export(tmp_path / f"{number}.safetensors", generator, hp, step=3, made_of="a", note="b", more="c")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    loaded, found, about = checkpoint.load_generator(tmp_path / "0.safetensors")
    assert found == hp and (about["step"], about["note"]) == (3, "b")
    assert torch.equal(loaded.to_rgb[1][0].weight, generator.to_rgb[1][0].weight.half().float())


def test_a_generator_is_no_discriminator_and_no_run(tmp_path):
    torch.save(wrapped(published_wav2lip()), tmp_path / "w.pth")
    refused(
        tmp_path / "w.pth", "no discriminator but the weights of a Wav2Lip generator", checkpoint.load_discriminator
    )
    refused(tmp_path / "w.pth", "no checkpoint of a run", checkpoint.load)
    hp = narrow_hparams("wav2lip")
    checkpoint.export(tmp_path / "w.safetensors", build_generator(hp), hp)
    refused(tmp_path / "w.safetensors", "no discriminator", checkpoint.load_discriminator)
    refused(tmp_path / "w.safetensors", "no checkpoint of a run", checkpoint.load)


@pytest.mark.parametrize(
    "words, facts",
    {
        "a lip reader. Give": {"words": None, "tokenizer": "AAAA"},
        "a lip reader of single words": {"words": ["bin"], "tokenizer": None},
        "a lip reader's pre-trained encoder": {"task": "pretrain"},
    }.items(),
)
def test_a_lip_reader_is_named_where_a_generator_is_wanted(words, facts, tmp_path):
    checkpoint.save(tmp_path / "best.pt", hparams={}, reader={"a": torch.zeros(1)}, **facts)
    refused(tmp_path / "best.pt", f"holds no generator but {words}")
    checkpoint.export(tmp_path / "r.safetensors", torch.nn.Linear(1, 1), preset("wav2lip"), network="reader", **facts)
    refused(tmp_path / "r.safetensors", f"holds no generator but {words}")


def test_missing_misshapen_and_unknown_weights_are_named(tmp_path):
    state = published_wav2lip()
    del state["output_block.1.bias"]
    state["face_decoder_blocks.3.0.conv_block.0.bias"] = torch.zeros(5)
    state["attention.weight"] = torch.zeros(1)
    torch.save(wrapped(state), tmp_path / "w.pth")
    refused(tmp_path / "w.pth", r"1 missing: to_rgb.1.0.bias; .*unknown: attention.weight; .*\(5,\) instead of \(24,\)")
    talklip = published_talklip()
    del talklip["audio_encoder.w2v_model.encoder.layers.1.self_attn.k_proj.weight"]
    torch.save(wrapped(talklip), tmp_path / "g.pth")
    refused(tmp_path / "g.pth", "missing: speech.blocks.1.qkv.weight")
    torch.save(wrapped({"face_decoder_blocks.0.0.conv_block.0.bias": torch.zeros(32)}), tmp_path / "few.pth")
    refused(tmp_path / "few.pth", "missing: encoder.0.0.conv.weight, .* more")


def test_other_formats_and_unknown_knobs_are_refused(tmp_path):
    hp, path, some = narrow_hparams("wav2lip"), tmp_path / "x.pt", {"a": torch.zeros(1)}
    for changed, words in (
        ({"format": 99, "hparams": asdict(hp)}, "format 99, this code reads 1"),
        ({"format": 1, "hparams": asdict(hp) | {"colour": 1}, "generator": some}, "does not know: colour"),
        ({"format": 1, "hparams": asdict(hp) | {"width": "wide"}, "ema": some}, "knob width is 'wide', not a float"),
        ({"format": 1, "hparams": asdict(hp)}, "holds no generator"),
    ):
        torch.save(changed, path)
        refused(path, words)
    torch.save({"format": 99, "step": 1}, path)
    refused(path, "format 99", checkpoint.load)


def test_safetensors_of_other_projects_and_formats_are_refused(tmp_path):
    path, weights = tmp_path / "x.safetensors", {"a": torch.zeros(2)}
    save_file(weights, path, {"format": "pt"})
    refused(path, "another project")
    save_file(weights, path, {"format": "7", "hparams": json.dumps(asdict(preset("wav2lip")))})
    refused(path, "format 7, this code reads 1")
    save_file(weights, path, {"format": "1", "hparams": "{not json"})
    refused(path, "broken")
    save_file(weights, path, {"format": "1", "hparams": "[1, 2]"})
    refused(path, r"broken: its knobs \(hparams\) are '\[1, 2\]'")
    save_file(weights, path, {"format": "1", "hparams": "{}", "network": '"other"', "b": "1", "a": "2"})
    refused(path, "our checkpoint with a, b, format and 3 more")
    save_file(weights, path, {"format": "1", "hparams": json.dumps(asdict(replace(preset("wav2lip"), width=0.1)))})
    refused(path, "missing")


def test_the_default_generator_is_loaded_without_what_training_needs():
    """Drawing weights that a file then replaces imports torch._dynamo; hearing by librosa imports numba: seconds."""
    code = """
import sys, numpy
from hparams import WEIGHTS
from renderer import SpeechTrack, load
generator, hp, _ = load(WEIGHTS["generator"], "cpu", "float32")
SpeechTrack(generator, hp, numpy.zeros(16000, numpy.int16))
print(sorted({"torch._dynamo", "librosa", "numba"} & sys.modules.keys()))
"""
    root = os.path.dirname(checkpoint.__file__)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_a_network_without_weights_has_the_shapes_of_one_with_them():
    for name in ("warp", "compact_talklip_g_c", "wav2lip"):
        with without_weights():
            empty = build_generator(preset(name)).state_dict()
        whole = build_generator(preset(name)).state_dict()
        assert {key: value.shape for key, value in empty.items()} == {key: value.shape for key, value in whole.items()}
        assert all(value.is_meta for value in empty.values())
