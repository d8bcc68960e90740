"""SyncNet v2 computes what the published one does, its file is read safely, and the compact model sees in windows."""

import collections
import os

import pytest
import torch
from filling import REFERENCE, difference, fill_tensor, fixture, meets, normal, published, uniform
from published_files import refused, wrapped
from test_models import sizes_in, sizes_of
from torch import nn

import checkpoint
from experts.sync import Published, load_sync
from models.layers import narrow
from models.published.experts import convert_syncnet
from models.syncnet import LIPS, MEL, MOUTH, SOUND, CompactSync, SyncNet, distances

torch.set_num_threads(1)
BGR = [2, 1, 0]
fixtures = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")


def narrow_syncnet():
    """SyncNet's state dict by its published names, its layers 32 times narrower."""
    shapes, dim = {}, 1024
    for theirs, table, cin in (("lip", LIPS, 3), ("aud", SOUND, 1)):
        place = 0
        for row in narrow(table, 1 / 32):
            if isinstance(row.layer(1, 1, 1, 1, 0), nn.MaxPool2d):
                place += 1
                continue
            kernel = row.kernel if isinstance(row.kernel, tuple) else (row.kernel, row.kernel)
            frames = () if theirs == "aud" else (5,) if place == 0 else (1,)
            shapes |= {f"netcnn{theirs}.{place}.weight": (row.out, cin, *frames, *kernel)}
            norms = [f"{place + 1}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
            shapes |= {f"netcnn{theirs}.{name}": (row.out,) for name in (f"{place}.bias", *norms)}
            cin, place = row.out, place + 3
        shapes |= {f"netfc{theirs}.0.weight": (cin, cin), f"netfc{theirs}.3.weight": (dim, cin)}
        shapes |= {f"netfc{theirs}.3.bias": (dim,), f"netfc{theirs}.0.bias": (cin,)}
        shapes |= {f"netfc{theirs}.1.{part}": (cin,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {name: fill_tensor(name, shape) for name, shape in shapes.items()}


# The networks


@pytest.mark.parametrize("name, table, shape", [("lips", LIPS, (15, 224, 224)), ("sound", SOUND, (1, 13, 20))])
def test_every_row_of_syncnet_has_the_size_its_table_says(name, table, shape):
    tower = getattr(SyncNet(), name)
    assert sizes_of(tower.blocks, tower, torch.zeros(1, *shape)) == sizes_in(table)


@pytest.mark.parametrize("name, table, shape", [("mouth", MOUTH, (5, 44, 44)), ("mel", MEL, (1, 80, 16))])
def test_every_row_of_the_compact_model_has_the_size_its_table_says(name, table, shape):
    tower = getattr(CompactSync(), name)
    assert sizes_of(tower.blocks, tower, torch.zeros(1, *shape)) == sizes_in(table)


def test_syncnet_has_the_published_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in SyncNet().parameters()) == 13_631_616


@torch.no_grad()
def test_the_compact_model_sees_windows_of_five_frames_and_nothing_else():
    net = CompactSync(dim=8, width=1 / 16).eval()
    roi = torch.rand(2, 9, 1, 88, 88)
    seen = net.embed_video(roi)
    assert seen.shape == (2, 5, 8) and torch.allclose(seen.norm(dim=-1), torch.ones(2, 5))
    assert torch.allclose(net.embed_video(roi[:, 3:8])[:, 0], seen[:, 3], atol=1e-6)
    roi[:, 4] = 0
    changed = (net.embed_video(roi) - seen).abs().amax(-1) > 1e-4
    assert changed.all(), "the fifth frame is in each of the five windows"
    roi[:, :4], seen = 0, net.embed_video(roi)
    assert torch.allclose(net.embed_video(roi)[:, 4], seen[:, 4]), "row 4 begins with the fifth frame"
    heard = net.embed_audio(torch.randn(2, 3, 1, 80, 16))
    assert heard.shape == (2, 3, 8) and torch.allclose(heard.norm(dim=-1), torch.ones(2, 3))


def test_distances_are_of_the_sound_that_comes_later_from_column_to_column():
    seen, heard = torch.arange(4.0)[:, None], 10 * torch.arange(6.0)[:, None]
    found = distances(seen, heard, 2, torch.nan)
    assert found.shape == (4, 5)
    assert found[1].nan_to_num(-1).round().tolist() == [-1, 1, 9, 19, 29]
    assert found[3].round().tolist() == [7, 17, 27, 37, 47]
    assert distances(seen, heard[:4], 2, 0.0)[3].round().tolist() == [7, 17, 27, 3, 3], "published: silence is 0"


# What is published


@fixtures
@pytest.mark.weights
@torch.no_grad()
def test_syncnet_sees_and_hears_as_the_published_one_does(tmp_path):
    torch.save(published("syncnet_v2"), tmp_path / "syncnet_v2.model", _use_new_zipfile_serialization=False)
    sync = load_sync(tmp_path / "syncnet_v2.model")
    net, arrays = sync.net, fixture("syncnet_v2")
    lips, cepstra = uniform(30, (2, 3, 5, 224, 224)).transpose(1, 2)[:, :, BGR], normal(31, (3, 1, 13, 20)) * 5
    lipfeat, audfeat = net.lips.features(255 * lips.flatten(1, 2)), net.sound.features(cepstra)
    found = {"lip": net.embed_video(lips), "aud": net.embed_audio(cepstra), "lipfeat": lipfeat}
    found |= {"netcnnlip": lipfeat[..., None, None, None], "netcnnaud": audfeat[..., None, None]}
    worst = {name: meets(value, arrays, name) for name, value in found.items()}
    assert max(worst.values()) < 1e-5
    print("syncnet_v2", {name: f"{value:.1e}" for name, value in worst.items()})


@fixtures
@pytest.mark.weights
def test_distances_are_the_published_ones():
    arrays = fixture("lse_grid")
    found = distances(normal(95, (20, 32)), normal(96, (20, 32)), 15, 0.0)
    assert difference(found.mean(0), arrays["fn/mdist"]) < 1e-6


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_published_file_is_told_by_its_content(monkeypatch, tmp_path, zipped):
    state = narrow_syncnet()
    small = {"lips": narrow(LIPS, 1 / 32), "sound": narrow(SOUND, 1 / 32)}
    monkeypatch.setattr("experts.sync.SyncNet", lambda: SyncNet(**small))
    path = tmp_path / "any name.pth"
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    counts = {f"{norm}num_batches_tracked": torch.tensor(7) for norm in norms}
    torch.save(collections.OrderedDict(state), path, _use_new_zipfile_serialization=zipped)
    torch.save(state | counts, tmp_path / "counted.pth")
    sync, counted = load_sync(path), load_sync(tmp_path / "counted.pth")
    assert isinstance(sync, Published) and sync.name == "SyncNet v2" and sync.about["kind"] == "SyncNet v2"
    assert len(sync.about["sha256"]) == 64 and not sync.net.training
    faces = torch.rand(2, 5, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(sync.net.embed_video(faces), counted.net.embed_video(faces))


def test_the_first_convolution_sees_frames_in_order_and_colours_turned_round():
    state = narrow_syncnet()
    first = state["netcnnlip.0.weight"]  # (3, 3, 5, 7, 7): out, BGR, frames
    ours = convert_syncnet(state)["lips.blocks.0.0.conv.weight"]
    x = torch.rand(1, 3, 5, 16, 16)  # BGR
    wanted = nn.functional.conv3d(x, first)[:, :, 0]
    found = nn.functional.conv2d(x[:, BGR].transpose(1, 2).flatten(1, 2), ours)
    assert torch.allclose(found, wanted, atol=1e-5)


class Evil:
    """Unpickled by Python's own pickle, it would make a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_sync_model_that_would_run_code_is_refused_and_runs_none(tmp_path, zipped):
    path = tmp_path / "syncnet_v2.model"
    torch.save(narrow_syncnet() | {"more": Evil(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"asks for (posix|os|nt)\.system", read=load_sync)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_sync_model_is_refused_by_name(tmp_path):
    path = tmp_path / "file"
    state = narrow_syncnet()
    cases = {
        "missing: lips.inner.weight": {n: v for n, v in state.items() if n != "netfclip.0.weight"},
        "1 unknown: netcnnlip.99.weight": published_with(state, "netcnnlip.99.weight"),
        "of another shape": state,
        "holds no sync model but entries named a": {"a": torch.ones(1)},
        "holds no sync model but the weights of a discriminator": wrapped({"binary_pred.0.weight": torch.ones(1)}),
    }
    for words, content in cases.items():
        torch.save(content, path)
        refused(path, words, read=load_sync)
    checkpoint.save(path, step=3, generator={})
    refused(path, "holds no sync model but our checkpoint with", read=load_sync)
    path.write_text("<html>")
    refused(path, "is a web page", read=load_sync)
    refused(tmp_path / "none", "no checkpoint at", read=load_sync)


def published_with(state, name):
    """A full-size state dict by the narrow one's names, and one entry more."""
    with torch.device("meta"):
        net = SyncNet()
    whole = {key: value for key, value in net.state_dict().items() if "num_batches" not in key}
    ours = convert_syncnet({key: key_value for key, key_value in state.items()})
    theirs = dict(zip(ours, state, strict=True))
    full = {theirs[key]: torch.zeros(value.shape) for key, value in whole.items()}
    return full | {name: torch.ones(1)}
