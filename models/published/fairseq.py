"""Reads fairseq's checkpoints: AV-HuBERT and the lip-reading expert as they are published. No code of a file is run."""

import pickle
import re
import struct
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from errors import InputError
from models.published.archive import AGAIN, LEGACY_MAGIC, ArchiveUnpickler, check_unpacked, listing, peek

# Objects that may stand in a file. They come back inert: their attributes, and none of their code.
INERT = re.compile(
    r"(fairseq|omegaconf|numpy)\.[\w.]+|argparse\.Namespace|sentencepiece\.SentencePieceProcessor|typing\.Any"
    r"|(__builtin__|builtins)\.(bool|dict|float|int|list|long|object|set|str|tuple)"
)
WRAPPED = ("_content", "_val", "model_proto")  # where containers and nodes of omegaconf and sentencepiece hold theirs


class Fairseq(NamedTuple):
    """Contents of a fairseq checkpoint, as plain data.

    model: tensors by their published names, float32.  config: `cfg`, nested, or the flat `args` of older files.
    task: the task's state; dictionaries are dicts of their attributes, the tokenizer is {"sp": sentencepiece proto}.
    step: number of updates, or None where the file does not say.
    """

    model: dict
    config: dict
    task: dict
    step: int | None


class Inert:
    """Stands for an object of another project: `state` is what it was to be filled with."""

    name, state = "", None

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        self.state = state


class Mapping(dict):
    """Stands for the dictionaries of `collections`: their entries, without factories and attributes."""

    def __init__(self, *_):
        super().__init__()

    def __setstate__(self, state):
        pass


class Stored(NamedTuple):
    """A tensor that is still in the file."""

    dtype: torch.dtype
    key: str
    offset: int
    size: tuple
    stride: tuple

    def read(self, numbers):
        """The tensor, float32 if it is of floating point. numbers: gives the bytes of a key."""
        data = bytearray(numbers(self.key))
        flat = torch.frombuffer(data, dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)
        tensor = flat.as_strided(self.size, self.stride, self.offset)
        return tensor.to(torch.float32 if self.dtype.is_floating_point else self.dtype, copy=True).contiguous()


class FairseqUnpickler(ArchiveUnpickler):
    """Reads the objects of a fairseq checkpoint, its tensors as `Stored`, and refuses what it does not know."""

    STORAGES = ArchiveUnpickler.STORAGES | {"ByteStorage": torch.uint8, "CharStorage": torch.int8}

    def __init__(self, file):
        pickle.Unpickler.__init__(self, file)  # the parent's would look for it in an archive
        self.dtypes = {}

    def find_class(self, module, name):
        stand_ins = {
            "collections.OrderedDict": Mapping,
            "collections.defaultdict": Mapping,
            "torch.Size": tuple,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "_codecs.encode": lambda text, _: text.encode("latin1"),  # how old pickles hold bytes
            "__builtin__.bytes": lambda *_: b"",
        }
        full = f"{module}.{name}"
        if full in stand_ins:
            return stand_ins[full]
        if INERT.fullmatch(full):
            return type(name.rpartition(".")[2], (Inert,), {"name": full})
        return super().find_class(module, name)

    def persistent_load(self, pid):
        """The place of a tensor's numbers: (dtype, key)."""
        _, dtype, key, _, _ = pid[:5]
        self.dtypes[key] = dtype
        return dtype, key

    @staticmethod
    def tensor(storage, offset, size, stride, *_):
        """Stands for torch's rebuilding of a tensor: nothing is read yet."""
        return Stored(*storage, offset, tuple(size), tuple(stride))


def is_fairseq(path):
    """Whether a file is a checkpoint of fairseq, by what it holds; none of its tensors is read."""
    try:
        with opened(Path(path)) as (state, _):
            return "model" in state and ("cfg" in state or "args" in state)
    except InputError:  # something else, or broken: whoever reads it next says which
        return False


def read_fairseq(path):
    """A fairseq checkpoint, or a task state alone (task_state.pt of TalkLip), as `Fairseq`. No code of it is run.

    Raises InputError, which says what was found and what to do.
    """
    path = Path(path)
    with opened(path) as (state, numbers):
        weights = state.get("model") if isinstance(state.get("model"), dict) else {}
        model = {str(name): each.read(numbers) for name, each in weights.items() if isinstance(each, Stored)}
        if model:
            config = plain(state.get("cfg")) or plain(state.get("args")) or {}
            return Fairseq(model, config, plain(state.get("task_state")) or {}, updates(state))
        if "target_dictionary" in state:
            return Fairseq({}, {}, plain(state), None)
    raise InputError(f"{path} holds no weights as fairseq writes them but {listing(state)}. Give AV-HuBERT's file.")


@contextmanager
def opened(path):
    """The objects of a file as a dict, tensors as `Stored`, and a function that gives the bytes of a storage.

    Raises InputError for a file that is none of torch's, and for all that goes wrong while it is open.
    """
    head = peek(path)
    unpack = unpack_zip if head.startswith(b"PK\x03\x04") else unpack_legacy if head.startswith(LEGACY_MAGIC) else None
    if unpack is None:
        raise InputError(f"{path} is no fairseq checkpoint: it begins with {head[:12]!r}. {AGAIN}")
    try:
        with path.open("rb") as file:
            state, numbers = unpack(file)
            yield state if isinstance(state, dict) else {type(state).__name__: state}, numbers
    except InputError:
        raise
    except Exception as error:  # a broken or hostile file can fail in any way, and all of them are the file's fault
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise InputError(f"{path} asks for {refused[1]}, which no weights need: its code was not run.") from error
        raise InputError(f"{path} is broken or cut off ({path.stat().st_size} bytes). {AGAIN}") from error


def unpack_zip(file):
    """The objects of a file as torch writes them since 1.6, and a function that gives the bytes of a storage."""
    archive = check_unpacked(Path(file.name), zipfile.ZipFile(file))
    root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
    return FairseqUnpickler(archive.open(f"{root}/data.pkl")).load(), lambda key: archive.read(f"{root}/data/{key}")


def unpack_legacy(file):
    """The objects of a file as torch wrote them before 1.6, and a function that gives the bytes of a storage."""
    for _ in ("magic number", "protocol", "machine"):
        FairseqUnpickler(file).load()
    objects = FairseqUnpickler(file)
    state, keys, places = objects.load(), FairseqUnpickler(file).load(), {}
    first = file.tell()

    def numbers(key):
        if not places:  # found when first asked for: they lie behind each other through the whole file
            file.seek(first)
            for each in keys:
                (count,) = struct.unpack("<q", file.read(8))
                places[each] = file.tell(), count * objects.dtypes[each].itemsize
                file.seek(sum(places[each]))
        start, size = places[key]
        file.seek(start)
        return file.read(size)

    return state, numbers


def plain(value):
    """Settings without the objects that held them: dicts, lists, strings, bytes and numbers."""
    if isinstance(value, Inert) and isinstance(value.state, dict | bytes):
        wraps = isinstance(value.state, dict) and value.name.startswith(("omegaconf.", "sentencepiece."))
        return plain(
            next((value.state[name] for name in WRAPPED if name in value.state), None) if wraps else value.state
        )
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, Stored):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise pickle.UnpicklingError(f"GLOBAL {getattr(value, 'name', type(value).__name__)}")


def updates(state):
    """The number of updates that a checkpoint's model has had, or None."""
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    count = last.get("num_updates") if isinstance(last, dict) else None
    return count if isinstance(count, int) else None
