"""Made-up weights and inputs by the rule of the reference fixtures: the same numbers on every machine."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

REFERENCE = Path(__file__).parents[1].parent / "shared" / "reference"
TOLERANCE = 1e-4
# The originals take a GELU in float32 inside float64 networks, and its last bit is that of the recording machine only
# on processors with AVX-512; the gradients of a deep network make up to a thousandth of it.
IN_FLOAT64 = 1e-6 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 2e-3


def normal(seed, shape):
    """Standard normal numbers, float32."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def uniform(seed, shape):
    """Numbers in [0, 1), float32."""
    return torch.from_numpy(np.random.default_rng(seed).random(shape).astype(np.float32))


def fill_tensor(name, shape):
    """The value of the floating-point state dict entry `name`."""
    rng, last = np.random.default_rng(zlib.crc32(name.encode())), name.split(".")[-1]
    if last in ("running_var", "weight_g") or (last == "weight" and len(shape) <= 1):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) <= 1:
        values = 0.1 * rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, np.float32))


def filled(model):
    """`model` with the rule's weights under its own names."""
    state = model.state_dict()
    model.load_state_dict({k: fill_tensor(k, v.shape) if v.is_floating_point() else v for k, v in state.items()})
    return model


def published(name, prefix=""):
    """The state dict of a published model, filled: names and shapes are those of `keys/NAME.json`."""
    entries = json.loads((REFERENCE / "keys" / f"{name}.json").read_text())["entries"]
    return {
        key.removeprefix(prefix): fill_tensor(key, shape) if dtype.startswith("float") else torch.zeros(shape).long()
        for key, shape, dtype in entries
        if key.startswith(prefix)
    }


def faces(seed, count):
    """(count, 6, 96, 96): pose prior, black in its lower half, and identity."""
    face = uniform(seed, (count, 6, 96, 96))
    face[:, :3, 48:] = 0
    return face


def difference(ours, theirs):
    """The largest difference, relative to the largest value of `theirs`."""
    theirs = torch.as_tensor(theirs, dtype=torch.float64)
    return ((ours.double() - theirs).abs().max() / theirs.abs().max()).item()


def fixture(name):
    """The arrays of a reference fixture, by name."""
    return np.load(REFERENCE / "fixtures" / f"{name}.npz")


def meets(ours, arrays, name):
    """Holds `ours` against everything the fixture tells about the tensor `name`; returns the largest difference."""
    flat = ours.detach().double().flatten()
    assert list(ours.shape) == arrays[f"{name}/shape"].tolist(), name
    peak = arrays[f"{name}/stats"][2]
    stats = torch.tensor([flat.mean(), flat.std(correction=0), flat.abs().max()])
    worst = (stats - torch.from_numpy(arrays[f"{name}/stats"][:3])).abs().max().item() / peak
    strided = flat[:: max(1, flat.numel() // 64)][:64]
    for part, there in ((flat[:64], "head"), (strided, "strided")):
        worst = max(worst, (part - torch.from_numpy(arrays[f"{name}/{there}"]).double()).abs().max().item() / peak)
    if name in arrays:
        worst = max(worst, difference(ours, arrays[name]))
    assert worst < TOLERANCE, f"{name}: {worst:.1e}"
    return worst


def record(blocks):
    """A dict that fills with the output of each named block when the model runs."""
    seen = {}
    for name, block in blocks.items():
        block.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    return seen
