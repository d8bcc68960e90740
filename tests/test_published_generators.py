"""Published files come in under our names and in our colours, and no code of a file is ever run."""

import argparse
import io
import os
import pickle
import zipfile

import pytest
import torch
from filling import fill_tensor
from published_files import (
    WIDTH,
    as_modules,
    drawn,
    published_discriminator,
    published_talklip,
    published_wav2lip,
    refused,
    wrapped,
)

import checkpoint
from models import build_generator

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_published_wav2lip_is_read_in_both_pickle_formats(prefix, zipped, tmp_path):
    path = tmp_path / "wav2lip_gan.pth"
    torch.save(wrapped(published_wav2lip(), prefix), path, _use_new_zipfile_serialization=zipped)
    generator, hp, about = checkpoint.load_generator(path)
    assert (hp.model, hp.speech, hp.width) == ("wav2lip", "local", WIDTH)
    assert about["kind"] == "Wav2Lip generator" and about["step"] == 42
    assert drawn(generator, hp).shape == (1, 2, 3, 96, 96)


def test_a_torchscript_archive_gives_the_same_generator_as_the_plain_file(tmp_path):
    state = published_wav2lip()
    torch.save(wrapped(state), tmp_path / "plain.pth")
    torch.jit.script(as_modules(state)).save(tmp_path / "archive.pt")
    plain, hp, _ = checkpoint.load_generator(tmp_path / "plain.pth")
    archive, found, about = checkpoint.load_generator(tmp_path / "archive.pt")
    assert found == hp and about["kind"] == "Wav2Lip generator"
    assert torch.equal(drawn(plain, hp), drawn(archive, hp))


def test_published_talklip_tells_its_sizes_and_drops_what_is_not_built(tmp_path):
    torch.save(wrapped(published_talklip()), tmp_path / "g.pth")
    generator, hp, about = checkpoint.load_generator(tmp_path / "g.pth")
    assert (hp.speech, hp.audio_layers, hp.audio_dim, hp.audio_ffn, hp.width) == ("global", 2, 64, 128, WIDTH)
    assert about["kind"] == "TalkLip generator" and generator.speech.video is None
    local = published_wav2lip()
    local = {name.replace("audio_encoder.", "audio_encoder.audio_encoder."): value for name, value in local.items()}
    linears = {"audio_map": (32, 32), "sync_net.Linearaudio": (32, 32)}
    for name, shape in linears.items():
        local |= {f"{name}.weight": fill_tensor(name, shape), f"{name}.bias": fill_tensor(name, shape[:1])}
    torch.save(wrapped(local), tmp_path / "l.pth")
    assert checkpoint.load_generator(tmp_path / "l.pth")[1].speech == "local"


def test_published_colours_are_turned_round_and_nothing_else_is(tmp_path):
    """The same weights under our names without the turn draw the same picture of flipped colours, flipped."""
    state = published_wav2lip()
    torch.save(wrapped(state), tmp_path / "w.pth")
    generator, hp, _ = checkpoint.load_generator(tmp_path / "w.pth")
    bgr = build_generator(hp).eval()
    weights = generator.state_dict()
    weights["encoder.0.0.conv.weight"] = state["face_encoder_blocks.0.0.conv_block.0.weight"]
    weights["to_rgb.1.0.weight"] = state["output_block.1.weight"]
    weights["to_rgb.1.0.bias"] = state["output_block.1.bias"]
    bgr.load_state_dict(weights)
    ours, theirs = drawn(generator, hp), drawn(bgr, hp, [2, 1, 0, 5, 4, 3])
    assert torch.allclose(ours, theirs.flip(2), atol=1e-6)
    assert not torch.allclose(ours, theirs, atol=1e-3)


@torch.no_grad()
def test_a_published_discriminator_is_read_and_its_colours_turned_round(tmp_path):
    state = published_discriminator()
    torch.save(wrapped(state), tmp_path / "disc.pth")
    judge, hp, about = checkpoint.load_discriminator(tmp_path / "disc.pth")
    assert hp.width == WIDTH and about["kind"] == "discriminator"
    first = state["face_encoder_blocks.0.0.conv_block.0.weight"]
    assert torch.equal(judge.blocks[0][0].conv.weight, first[:, [2, 1, 0]])
    assert judge(torch.rand(1, 2, 3, 96, 96)).shape == (2, 1)


# Files that would run code


class Evil:
    """Unpickled by Python's own pickle, it would make a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(zipped, tmp_path):
    state = wrapped(published_wav2lip()) | {"optimizer": Evil(tmp_path / "ran")}
    torch.save(state, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "evil.pth", r"asks for (posix|os|nt)\.system")
    torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "args.pth", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "args.pth", "asks for argparse.Namespace")
    assert not (tmp_path / "ran").exists()


def test_a_torchscript_archive_that_would_run_code_is_refused_and_runs_none(tmp_path):
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
        archive.writestr("m/code/__torch__.py", "raise SystemExit")
        archive.writestr("m/constants.pkl", pickle.dumps(()))
    refused(path, r"asks for (posix|os|nt)\.system")
    assert not (tmp_path / "ran").exists()


def test_a_bare_pickle_is_refused_before_it_is_opened(tmp_path):
    buffer = io.BytesIO()
    pickle.dump(Evil(tmp_path / "ran"), buffer)
    (tmp_path / "x.pkl").write_bytes(buffer.getvalue())
    refused(tmp_path / "x.pkl", "not a checkpoint")
    assert not (tmp_path / "ran").exists()
