"""Reads fairseq's checkpoints: AV-HuBERT and the lip-reading expert as they are published. No code of a file is run."""

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch

from checkpoint import AGAIN, LEGACY_MAGIC, listing, peek
from hparams import InputError
from published import ArchiveUnpickler, length, under
from text import Tokenizer

# Objects that may stand in a file. They come back inert: their attributes, and none of their code.
INERT = re.compile(
    r"(fairseq|omegaconf|numpy)\.[\w.]+|argparse\.Namespace|sentencepiece\.SentencePieceProcessor|typing\.Any"
    r"|(__builtin__|builtins)\.(bool|dict|float|int|list|long|object|set|str|tuple)"
)
WRAPPED = ("_content", "_val", "model_proto")  # where containers and nodes of omegaconf and sentencepiece hold theirs
FINE_TUNED = "encoder.w2v_model."  # what the names of AV-HuBERT begin with where a decoder stands beside it
# Our name: (name in the config, value of the published code where the config is silent).
ENCODER = {
    "encoder_layers": ("encoder_layers", 12),
    "encoder_dim": ("encoder_embed_dim", 768),
    "encoder_ffn": ("encoder_ffn_embed_dim", 3072),
    "encoder_heads": ("encoder_attention_heads", 12),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "input_dropout": ("dropout_input", 0.0),
    "layerdrop": ("encoder_layerdrop", 0.0),
    "grad_mult": ("feature_grad_mult", 1.0),
}
DECODER = {
    "decoder_layers": ("decoder_layers", 6),
    "decoder_dim": ("decoder_embed_dim", 768),
    "decoder_ffn": ("decoder_ffn_embed_dim", 3072),
    "decoder_heads": ("decoder_attention_heads", 4),
    "decoder_dropout": ("decoder_dropout", 0.0),
    "decoder_attention_dropout": ("decoder_attention_dropout", 0.0),
    "decoder_activation_dropout": ("decoder_activation_dropout", 0.0),
}
CRITERION = {"label_smoothing": ("label_smoothing", 0.0)}
# What our networks are and tensors do not show: a config that says otherwise is of another network.
ENCODER_FIXED = {"layer_norm_first": True, "activation_fn": "gelu"}
DECODER_FIXED = {"decoder_normalize_before": True, "no_token_positional_embeddings": False, "no_scale_embedding": True}


class Fairseq(NamedTuple):
    """What a fairseq checkpoint holds, as plain data.

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
        """Where the numbers of a tensor are: (dtype, key)."""
        _, dtype, key, _, _ = pid[:5]
        self.dtypes[key] = dtype
        return dtype, key

    @staticmethod
    def tensor(storage, offset, size, stride, *_):
        """Stands for torch's rebuilding of a tensor: nothing is read yet."""
        return Stored(*storage, offset, tuple(size), tuple(stride))


def read_fairseq(path):
    """A fairseq checkpoint, or a task state alone (task_state.pt of TalkLip), as `Fairseq`. No code of it is run.

    Raises InputError, which says what was found and what to do.
    """
    path = Path(path)
    head = peek(path)
    unpack = unpack_zip if head.startswith(b"PK\x03\x04") else unpack_legacy if head.startswith(LEGACY_MAGIC) else None
    if unpack is None:
        raise InputError(f"{path} is no fairseq checkpoint: it begins with {head[:12]!r}. {AGAIN}")
    try:
        with path.open("rb") as file:
            state, numbers = unpack(file)
            state = state if isinstance(state, dict) else {type(state).__name__: state}
            weights = state.get("model") if isinstance(state.get("model"), dict) else {}
            model = {str(name): each.read(numbers) for name, each in weights.items() if isinstance(each, Stored)}
        if model:
            config = plain(state.get("cfg")) or plain(state.get("args")) or {}
            return Fairseq(model, config, plain(state.get("task_state")) or {}, updates(state))
        if "target_dictionary" in state:
            return Fairseq({}, {}, plain(state), None)
    except Exception as error:  # a broken or hostile file can fail in any way, and all of them are the file's fault
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise InputError(f"{path} asks for {refused[1]}, which no weights need: its code was not run.") from error
        raise InputError(f"{path} is broken or cut off ({path.stat().st_size} bytes). {AGAIN}") from error
    raise InputError(f"{path} holds no weights as fairseq writes them but {listing(state)}. Give AV-HuBERT's file.")


def unpack_zip(file):
    """The objects of a file as torch writes them since 1.6, and a function that gives the bytes of a storage."""
    archive = zipfile.ZipFile(file)
    root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("/data.pkl")
    return FairseqUnpickler(archive.open(f"{root}/data.pkl")).load(), lambda key: archive.read(f"{root}/data/{key}")


def unpack_legacy(file):
    """The objects of a file as torch wrote them before 1.6, and a function that gives the bytes of a storage."""
    for _ in ("magic number", "protocol", "machine"):
        FairseqUnpickler(file).load()
    objects = FairseqUnpickler(file)
    state = objects.load()
    places = {}
    for key in FairseqUnpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        places[key] = file.tell(), count * objects.dtypes[key].itemsize
        file.seek(sum(places[key]))

    def numbers(key):
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


def sizes_of(config, model):
    """The sizes of a network and how it was trained, from its config, held against its weights.

    config, model: of `Fairseq`. Returns a dict with the names of ENCODER, and for a fine-tuned model also those of
    DECODER and CRITERION and `tokens`, the size of the vocabulary.
    Raises InputError where config and weights, or config and our networks, contradict each other.
    """
    fine_tuned = any(name.startswith(FINE_TUNED) for name in model)
    if not fine_tuned and "feature_extractor_audio.proj.weight" not in model:
        raise InputError(f"no AV-HuBERT with or without a decoder, but weights named {listing(model)}: give its file")
    main = section(config, "model")
    encoder = section(section(main, "w2v_args", {}), "model") if fine_tuned else main
    sizes = chosen(encoder, ENCODER, ENCODER_FIXED)
    compare(sizes, "encoder", model, f"{FINE_TUNED if fine_tuned else ''}encoder.")
    if fine_tuned:
        sizes |= chosen(main, DECODER, DECODER_FIXED) | chosen(section(config, "criterion"), CRITERION, {})
        compare(sizes, "decoder", model, "decoder.")
        sizes["tokens"] = length(model, "decoder.embed_tokens.weight", 0)
    return sizes


def section(config, name, default=None):
    """A part of a config; of a flat one, which has no parts, all of it, unless there is a default."""
    part = config.get(name)
    if isinstance(part, dict):
        return part
    return config if default is None else default


def chosen(config, names, fixed):
    """The values of a config under our names. Raises InputError for one that is no number, or is not as `fixed`."""
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise InputError(f"the config says {name} {config[name]!r}, our networks have {value!r}: another model")
    values = {}
    for ours, (theirs, default) in names.items():
        value = config.get(theirs)
        values[ours] = value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float) if isinstance(default, float) else int):
            raise InputError(f"the config says {theirs} {value!r}, which is no number: get the original file")
    return values


def compare(sizes, part, model, prefix):
    """Raises InputError unless the layers, dim and ffn of a part are those of its tensors, and the heads divide it."""
    found = {
        "layers": len({name.split(".")[0] for name in under(model, f"{prefix}layers.")}),
        "dim": length(model, f"{prefix}layer_norm.weight", 0),
        "ffn": length(model, f"{prefix}layers.0.fc1.weight", 0),
    }
    for name, value in found.items():
        if sizes[f"{part}_{name}"] != value:
            said = f"{part}_{name} {sizes[f'{part}_{name}']}"
            raise InputError(f"the config says {said}, the weights say {value}: they are not of the same model")
    heads = sizes[f"{part}_heads"]
    if heads < 1 or found["dim"] % heads:
        raise InputError(f"the config says {part}_heads {heads}, which do not divide {found['dim']}: get the original")


def tokenizer_of(task):
    """The Tokenizer of a fine-tuned model. Raises InputError if there is none, or its dictionary has other ids."""
    bpe, dictionary = task.get("s2s_tokenizer"), task.get("target_dictionary")
    proto = bpe.get("sp") if isinstance(bpe, dict) else None
    symbols = dictionary.get("symbols") if isinstance(dictionary, dict) else None
    if not isinstance(proto, bytes) or not isinstance(symbols, list):
        raise InputError("no tokenizer in this task state: give a fine-tuned model's file, or task_state.pt of TalkLip")
    tokenizer = Tokenizer(proto)
    if tokenizer.symbols != symbols:
        raise InputError(
            f"the {len(symbols)} symbols of the dictionary are not the {len(tokenizer)} pieces of the tokenizer: they"
            " are not of the same model"
        )
    return tokenizer
