"""Contents of a file of weights, detected from it; no code of it is run."""

import json
import pickle
import re
import struct
import zipfile
from collections import OrderedDict

import torch
from safetensors import SafetensorError, safe_open

from errors import InputError

RUN = "run checkpoint"
FORMAT = 1  # of our run checkpoints and of our weights
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # torch.save before its zip format
AGAIN = "Download it again: see README, Weights."
MOST_UNPACKED, ROOM = 4, 64 << 20  # times its own size that a file of numbers may unpack to, and bytes beside that
# Which network a bare state dict belongs to, by a part of it that no other one has.
KINDS = (
    ("audio_map.", "TalkLip generator"),
    ("audio_encoder.w2v_model.", "TalkLip generator"),
    ("face_decoder_blocks.", "Wav2Lip generator"),
    ("binary_pred.", "discriminator"),
    ("netcnnaud.", "SyncNet"),
    ("face_encoder.", "sync expert of Wav2Lip"),
    ("encoder.w2v_model.", "lip-reading expert"),
    ("feature_extractor_video.", "pre-trained AV-HuBERT"),
    ("ctc.ctc_lo.", "Conformer lip reader"),
    ("conv3_3_norm_mbox_", "face detector s3fd"),
)


class BrokenFile(InputError):
    """A file that has not come whole: empty, cut off or damaged."""


def kind_of(names):
    """The network that state dict entries of these names belong to, in words, or None."""
    for part, kind in KINDS:
        if any(name.startswith(part) for name in names):
            return kind
    return None


def read(path):
    """Contents of a file, and what it says about itself: (state, about). No code of the file is run.

    Our weights come back as a run checkpoint without a run: {"format", "hparams", "generator"}.
    """
    head = peek(path)
    try:
        if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000:
            return read_safetensors(path)
        if head.startswith(b"PK\x03\x04"):
            names = check_unpacked(path, zipfile.ZipFile(path)).namelist()
            if torchscript_root(names):
                return read_torchscript(path), {}
            if not any(name.endswith("/data.pkl") for name in names):
                raise InputError(f"{path} is a zip archive, not a checkpoint: unpack it and give the file inside it.")
        elif not head.startswith(LEGACY_MAGIC):
            raise InputError(f"{path} is not a checkpoint: it begins with {head[:12]!r}. {AGAIN}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a broken or hostile file can fail in any way, and all of them are the file's fault
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise InputError(f"{path} asks for {refused[1]}, which no weights need: its code was not run.") from error
        raise BrokenFile(f"{path} is broken or cut off ({path.stat().st_size} bytes). {AGAIN}") from error
    step = state.get("step", state.get("global_step")) if isinstance(state, dict) else None
    about = {"kind": RUN} if is_ours(state) else {}
    check_format(path, state)
    check_size(path, bytes_of(state))
    return state, about if step is None else about | {"step": step}


def check_unpacked(path, archive):
    """The zip archive at `path`, which is open. Raises InputError, before it is unpacked, for one that swells."""
    check_size(path, sum(member.file_size for member in archive.infolist()))
    return archive


def check_size(path, size):
    """Raises InputError for a file that stands for far more bytes than it has: no weights can be packed so."""
    own = path.stat().st_size
    if size > MOST_UNPACKED * own + ROOM:
        raise InputError(f"{path} unpacks to {size} bytes, it has {own}: no weights do that, it was not read. {AGAIN}")


def bytes_of(state):
    """The bytes that the tensors in nested dicts and lists would take if each was whole, with no element shared."""
    size, seen, left = 0, set(), [state]
    while left:
        part = left.pop()
        if id(part) in seen:  # what is made of itself has no end
            continue
        seen.add(id(part))
        if isinstance(part, torch.Tensor):
            size += part.numel() * part.element_size()
        elif isinstance(part, dict | list | tuple):
            left.extend(part.values() if isinstance(part, dict) else part)
    return size


def peek(path):
    """The first bytes of a file. Raises InputError for what is no file or cannot be weights."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the checkpoint file inside it.")
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}. Train one with train.py, or download one: see README, Weights.")
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise BrokenFile(f"{path} is empty. {AGAIN}")
    if re.match(rb"\s*<(!doctype|html|\?xml|head)", head, re.IGNORECASE):
        raise InputError(f"{path} is a web page, not a checkpoint: the download link led to a page. {AGAIN}")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git-LFS pointer, not the file itself: run `git lfs pull`.")
    return head


def read_safetensors(path):
    """Our weights: the state and what the file's metadata say."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if "hparams" not in metadata:
                raise InputError(f"{path} holds weights of another project: it does not say our knobs (hparams).")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = {name: json.loads(value) for name, value in sorted(metadata.items())}
    except (SafetensorError, ValueError) as error:
        raise BrokenFile(f"{path} is broken or cut off ({path.stat().st_size} bytes). {AGAIN}") from error
    check_format(path, state)
    about = {name: value for name, value in state.items() if name not in ("format", "hparams")}
    return state | {state.get("network", "generator"): weights}, about | {"kind": "weights"}


def is_export(path):
    """Whether a file is weights of ours."""
    try:
        return read_safetensors(path)[1]["kind"] == "weights"
    except InputError:
        return False


def check_format(path, state):
    """Raises InputError for a file of ours that another version of this code wrote."""
    if is_ours(state) and state["format"] != FORMAT:
        raise InputError(f"{path} has format {state['format']}, this code reads {FORMAT}: use the version it is from.")


def is_ours(state):
    """Whether `state` comes from `save` or `export`."""
    return isinstance(state, dict) and "format" in state


def state_dict_of(path, state):
    """The tensors of a published checkpoint by name, without the `module.` that DataParallel adds."""
    inner = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = {
        name.removeprefix("module."): value
        for name, value in (inner.items() if isinstance(inner, dict) else ())
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise InputError(f"{path} holds no weights but {describe(state)}")
    return tensors


def describe(state):
    """Contents of a file in words, for an error."""
    if not isinstance(state, dict):
        return f"a {type(state).__name__}"
    if is_ours(state) and "reader" in state:
        kinds = {"words": "a lip reader of single words", "tokenizer": "a lip reader"}
        return next((kind for fact, kind in kinds.items() if state.get(fact)), "a lip reader's pre-trained encoder")
    if is_ours(state) and "sync" in state:
        return "a sync model"
    if is_ours(state) and state.get("network") == "discriminator":
        return "a discriminator"
    if is_ours(state) and state.get("network") == "whisper":
        return "the encoder of Whisper"
    if is_ours(state):
        return f"our checkpoint with {listing(state)}"
    if {"state", "param_groups"} <= state.keys() or ("optimizer" in state and not state.get("state_dict")):
        return "an optimizer's state only"
    if "cfg" in state and "model" in state:
        return "a fairseq checkpoint (lip-reading expert or AV-HuBERT)"
    inner = state.get("state_dict", state)
    names = [str(name).removeprefix("module.") for name in (inner if isinstance(inner, dict) else state)]
    kind = kind_of(names)
    return f"the weights of a {kind}" if kind else f"entries named {listing(names)}"


def listing(names):
    """The first names and how many follow."""
    names = [str(name) for name in names]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class Bag:
    """Stands for any object of a TorchScript archive: its attributes, none of its code."""

    def __setstate__(self, state):
        self.parts = dict(state)


class ArchiveUnpickler(pickle.Unpickler):
    """Reads the objects of a TorchScript archive: tensors and attribute bags, and refuses everything else."""

    STORAGES = {
        "FloatStorage": torch.float32,
        "DoubleStorage": torch.float64,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "BoolStorage": torch.bool,
    }
    LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")

    def __init__(self, archive, root):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        if module == "__torch__" or module.startswith("__torch__."):
            return Bag
        if module == "torch" and name in self.STORAGES:
            return self.STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if module == "torch.jit._pickle" and name in self.LISTS:
            return list
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid):
        """The numbers that a tensor of the archive refers to, as one flat tensor."""
        _, dtype, key, _, _ = pid
        data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

    @staticmethod
    def tensor(storage, offset, size, stride, *_):
        """Stands for torch's rebuilding of a tensor: a view of its numbers."""
        return storage.as_strided(tuple(size), tuple(stride), offset)


def torchscript_root(names):
    """The top folder of a TorchScript archive with these members, or None where it is not one."""
    roots = [name.removesuffix("/data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    return roots[0] if roots and any(name.startswith(f"{roots[0]}/code/") for name in names) else None


def read_torchscript(path):
    """The state dict of a TorchScript archive: its tensors by their attribute paths. Its code is not run."""
    with zipfile.ZipFile(path) as archive:
        top = ArchiveUnpickler(archive, torchscript_root(archive.namelist())).load()
    found = {}

    def collect(bag, prefix):
        for name, value in bag.parts.items():
            if isinstance(value, torch.Tensor):
                found[prefix + name] = value
            elif isinstance(value, Bag):
                collect(value, f"{prefix}{name}.")

    collect(top, "")
    check_size(path, bytes_of(found))
    return found
