"""Reads and writes networks: our run checkpoints, our weights, and what the authors of TalkLip and Wav2Lip publish."""

import hashlib
import json
import struct
from contextlib import suppress
from dataclasses import asdict, fields
from math import inf
from pathlib import Path

import safetensors.torch
import torch

import distributed
from errors import InputError
from hparams import WEIGHTS, HParams
from media.files import doubled, replacing
from models import build_discriminator, build_generator
from models.layers import without_weights
from models.published.archive import (
    AGAIN,
    FORMAT,
    RUN,
    BrokenFile,
    describe,
    is_ours,
    kind_of,
    listing,
    read,
    state_dict_of,
)
from models.published.generators import convert_discriminator, convert_talklip, convert_wav2lip
from models.whisper import Sizes, WhisperEncoder

RENAMED, RETIRED = {"units": "clusters"}, {"method"}  # knobs of older files that have another name now, or none
PROGRESS = {"plateaus": ("starts", "least", "stale", "over"), "guard": ("brake", "rollbacks", "means", "lows", "steps")}
DEPTHS, SIZES = ("layers", "blocks"), ("dim", "ffn", "heads", "width")  # what names of knobs end with that build
WRITER = ("inline_container", "iostream", "PytorchStreamWriter")  # in torch's words for a file that cannot be written
BEFORE = "previous.pt"  # the checkpoint before a run's last one
UNTRACKED = "num_batches_tracked"  # counts of batch norm that nothing here needs


def save(path, before=None, **state):
    """Writes `state` whole or not at all: a run killed in the middle still has its last good checkpoint.

    before: where the checkpoint that it replaces is kept. Raises InputError where there is no room.
    """
    try:
        with replacing(path, before) as partial:
            torch.save({"format": FORMAT, **state}, partial)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in WRITER):
            raise
        why = error.strerror if isinstance(error, OSError) else "the disk is full, or has a fault"  # torch does not say
        raise InputError(f"{path} cannot be written ({why}); what was saved before is kept") from error


def latest(last):
    """The state from which a run goes on whose checkpoint is `last`, or None where there is none.

    A checkpoint that did not come whole is put aside and said, and the one before it, or the best one, takes its place.
    Raises InputError where none of them can be read.
    """
    if not last.is_file():
        return None
    try:
        return load(last)
    except BrokenFile as error:
        fault = error
    for path in (last.with_name(BEFORE), last.with_name("best.pt")):
        with suppress(BrokenFile):
            if path.is_file():
                state, aside = load(path), last.with_suffix(".broken")
                doubled(last, aside)
                doubled(path, last)
                distributed.say(f"{last} is broken or cut off: put aside as {aside.name}; {path.name} takes its place")
                return state
    anew = "no earlier checkpoint is there: remove it to begin anew, or give another --name"
    raise InputError(f"{last} is broken or cut off ({last.stat().st_size} bytes), and {anew}") from fault


def load(path):
    """The state that `save` wrote. Raises InputError for anything else."""
    state, about = read(Path(path))
    if about.get("kind") != RUN:
        raise InputError(f"{path} is no checkpoint of a run ({describe(state)}). Give last.pt or best.pt of train.py.")
    return upgraded(state)


def upgraded(state):
    """The state of a run as this version names its parts. Older versions had plateaus and guard in one, `progress`, or
    nothing of them, and an expert's optimizer as `optimizer`."""
    old, new = state.get("progress", {}), dict(state)
    for part, names in PROGRESS.items():
        new.setdefault(part, {name: old[name] for name in names if name in old})
    if "optimizer" in new:
        new["expert_optimizer"] = new.pop("optimizer")
    return new


def export(path, net, hp, **facts):
    """Writes a network's weights alone, in 16 bits, with its knobs and `facts` about it (anything JSON can hold).

    One that is no generator has its kind among them, such as network="discriminator".
    Whole or not at all. Raises InputError if a weight is not finite in 16 bits.
    """
    weights = {}
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            weights[name] = value.detach().cpu().half().contiguous()
            if not weights[name].isfinite().all():
                raise InputError(f"{name} is not finite in 16 bits: was the training stable?")
    about = {"format": str(FORMAT), "hparams": json.dumps(asdict(hp))}
    about |= {name: json.dumps(fact) for name, fact in facts.items()}
    with replacing(path) as partial:
        partial.write_bytes(in_order(safetensors.torch.save(weights, about)))


def in_order(data):
    """A safetensors file with its header sorted: the library writes metadata in a new order each time."""
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors after it stay aligned
    return struct.pack("<Q", len(header)) + header + data[end:]


def load_generator(path):
    """A generator from any file that holds one; what it is, is told by its content.

    path: our weights (.safetensors), our run checkpoint (its averaged weights where it has them), a published TalkLip
    or Wav2Lip checkpoint, or a TorchScript archive of Wav2Lip.
    Returns (generator in eval mode, float32, RGB; its hparams; about: a dict with `kind`, `sha256` and what else the
    file tells, such as `step`; `taught_by`: the SHA-256 of its experts, or None).
    Raises InputError, which says what was found and what to do.
    """
    path = Path(path)
    state, about = read(path)
    if is_ours(state):
        weights = state.get("ema") or state.get("generator")
        if not weights or "hparams" not in state:
            raise InputError(f"{path} holds no generator but {describe(state)}. Give last.pt or best.pt of train.py.")
        weights, hp = with_gain(weights), knobs(path, state["hparams"], weights=weights)
        about["taught_by"] = state.get("taught_by")
    else:
        published = state_dict_of(path, state)
        about["kind"] = kind = kind_of(published)
        if kind not in ("TalkLip generator", "Wav2Lip generator"):
            raise InputError(f"{path} holds no generator but {describe(state)}. Give one of TalkLip or Wav2Lip.")
        weights, hp = (convert_talklip if kind == "TalkLip generator" else convert_wav2lip)(published)
    # The transformer of the others imports torch._dynamo anyhow, by what else it does to its weights.
    with without_weights() if hp.model == "warp" else torch.device("meta"):
        generator = build_generator(hp)
    return fill(path, generator, weights), hp, about | {"sha256": sha256(path)}


def teachers(begun, facts):
    """The SHA-256 of all experts of a generator, of which none can judge it: a list, or None where that is not known.

    begun: what is said of the run or the generator that it began with.  facts: of this run.
    """
    before, own = begun.get("taught_by"), {facts["expert"], facts["sync_expert"]} - {None}
    return None if before is None else sorted(own | set(before))


def with_gain(weights):
    """A generator's weights; older files of ours have its positions' convolution whole, not as a direction with gains.

    Its gains are its own norms, so that it stays the same function.
    """
    old, place = "speech.positions.weight", "speech.positions."
    if old not in weights:
        return weights
    direction = weights[old].float()
    split = {place + "direction": direction, place + "gain": direction.norm(dim=(0, 1), keepdim=True)}
    return {name: value for name, value in weights.items() if name != old} | split


def load_discriminator(path):
    """The discriminator of a file of ours or of a published one: (discriminator in eval mode, hparams, about)."""
    path = Path(path)
    state, about = read(path)
    if is_ours(state):
        published, found = {}, "discriminator" in state and "hparams" in state
    else:
        published = state_dict_of(path, state)
        about["kind"] = kind_of(published)
        found = about["kind"] == "discriminator"
    if not found:
        raise InputError(f"{path} holds no discriminator but {describe(state)}")
    if published:
        weights, hp = convert_discriminator(published)
    else:
        weights, hp = state["discriminator"], knobs(path, state["hparams"], weights=state["discriminator"])
    with without_weights():
        discriminator = build_discriminator(hp)
    return fill(path, discriminator, weights), hp, about | {"sha256": sha256(path)}


def load_whisper(path=None):
    """Whisper's encoder, the one in weights/ where no file is named: (encoder in eval mode, float32; its sizes; about).

    Raises InputError for a file that holds none.
    """
    path = Path(path or WEIGHTS["whisper"])
    state, about = read(path)
    if not (is_ours(state) and "whisper" in state and "hparams" in state):
        raise InputError(f"{path} holds no encoder of Whisper but {describe(state)}. See tests/make_whisper.py.")
    sizes = knobs(path, state["hparams"], Sizes, state["whisper"])
    with without_weights():
        encoder = WhisperEncoder(sizes)
    return fill(path, encoder, state["whisper"]), sizes, about | {"sha256": sha256(path)}


def fill(path, model, weights):
    """Puts `weights` into `model`, which is on the meta device: all of them, and nothing else.

    Returns the model, float32, in eval mode. Raises InputError that names what is missing, odd, of another shape, or
    not finite.
    """
    weights = {name.removeprefix("module."): value for name, value in weights.items() if UNTRACKED not in name}
    weights = {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}
    wanted = {name: value for name, value in model.state_dict().items() if UNTRACKED not in name}
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    faults = {
        "missing": [name for name in wanted if name not in shapes],
        "unknown": [name for name in shapes if name not in wanted],
        "of another shape": [
            f"{name} {shapes[name]} instead of {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in shapes and shapes[name] != tuple(value.shape)
        ],
    }
    found = [f"{len(names)} {fault}: {listing(names)}" for fault, names in faults.items() if names]
    if found:
        raise InputError(f"{path}: its weights do not fit {type(model).__name__}: {'; '.join(found)}")
    counts = [name for name in model.state_dict() if UNTRACKED in name]
    weights = {name: value.detach().float().contiguous() for name, value in weights.items()}
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        why = "an overflow in 16 bits or a damaged copy"
        raise InputError(f"{path}: {len(broken)} of its weights are not finite, {why}: {listing(broken)}. {AGAIN}")
    model.load_state_dict(weights | {name: torch.zeros((), dtype=torch.int64) for name in counts}, assign=True)
    return model.eval()


def begin_with(nets, weights, why):
    """Gives networks the weights of a trained one. Raises InputError that begins with `why` if the size is another."""
    try:
        for net in nets:
            net.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{why}: give the --preset that fits") from error


def begin_with_faces(nets, weights, why):
    """Gives generators a trained one's weights but for its audio encoder, and what is of another size behind that.

    Raises InputError that begins with `why` if what draws is of another size.
    """
    for net in nets:
        own = net.state_dict()
        fits = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
        fits = {name: value for name, value in fits.items() if not name.startswith("speech.")}
        if missing := [k for k in own if k not in fits and k.split(".")[0] not in ("speech", "audio_map", "sync")]:
            raise InputError(f"{why} ({missing[0]}): give the --preset that fits")
        net.load_state_dict(own | fits)


def knobs(path, stored, kind=HParams, weights=None):
    """The knobs of a file. Raises InputError for a knob that this version does not know, or of another type.

    kind: `HParams` for a generator, `ExpertHParams` for a lip reader.
    weights: {name: tensor} that the knobs are of: those of a far larger network, which would be built, are refused.
    """
    if not isinstance(stored, dict):
        raise InputError(f"{path} is broken: its knobs (hparams) are {str(stored)[:40]!r}. {AGAIN}")
    known = {f.name: f.type for f in fields(kind)}
    stored = {RENAMED.get(name, name): value for name, value in stored.items() if name not in RETIRED}
    for name, value in stored.items():
        if name not in known:
            raise InputError(f"{path} has a knob that this code does not know: {name}. Use the version it is from.")
        if not (type(value) is known[name] or (known[name] is float and type(value) is int)):
            raise InputError(f"{path}: its knob {name} is {value!r}, not a {known[name].__name__}")
    hp = kind(**stored)
    if weights is None:
        return hp
    longest = max((n for part in weights.values() for n in getattr(part, "shape", ())), default=0)
    for f in fields(kind):
        words, value = f.name.split("_"), getattr(hp, f.name)
        most = len(weights) if words[-1] in DEPTHS else longest if words[-1] in SIZES else inf
        if f.type is int and value > max(most, f.default if isinstance(f.default, int) else 0):
            smaller = f"its {len(weights)} tensors are of a smaller network"
            raise InputError(f"{path}: its knob {f.name} is {value}, {smaller}")
    return hp


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
