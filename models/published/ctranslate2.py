"""Reads CTranslate2's model.bin, the container in which Whisper's weights are at hand. No code of a file is run.

It begins with (all numbers little-endian): version (uint32, 6), the name of the kind of model, its revision (uint32),
the number of variables (uint32). Each variable: name, rank (uint8), sizes (uint32 each), type (uint8, see TYPES), bytes
(uint32), data. Then aliases, which nothing here needs. A name: its length with the closing zero (uint16), UTF-8, zero.
"""

import struct
from pathlib import Path

import numpy as np
import torch

from errors import InputError
from models.published.archive import AGAIN, listing, peek
from models.published.generators import rename, under
from models.whisper import Sizes

VERSION = 6
TYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16"}  # 5, bfloat16, is not known to numpy
WHISPER = (  # our names for theirs
    (r"^layer_(\d+)/", r"blocks.\1."),
    (r"self_attention/layer_norm/", "norm1."),
    (r"self_attention/linear_0/", "qkv."),
    (r"self_attention/linear_1/", "out."),
    (r"ffn/layer_norm/", "norm2."),
    (r"ffn/linear_0/", "up."),
    (r"ffn/linear_1/", "down."),
    (r"^layer_norm/", "norm."),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
    (r"/", "."),
)


def read_ctranslate2(path):
    """Contents of a model.bin: (kind of model, such as "WhisperSpec", {name: tensor as it is stored}).

    Raises InputError for a file that is none, is cut off, or has a type that is not in TYPES.
    """
    path = Path(path)
    peek(path)
    data, place = np.memmap(path, np.uint8, "r"), 0

    def take(count):
        nonlocal place
        place += count
        if place > len(data):
            raise InputError(f"{path} is cut off: {len(data)} bytes, it tells of {place} and more. {AGAIN}")
        return data[place - count : place]

    def number(code):
        return struct.unpack("<" + code, take(struct.calcsize(code)))[0]

    def name():
        return bytes(take(number("H"))[:-1]).decode("utf-8", "replace")

    version = number("I")
    if version != VERSION:
        raise InputError(
            f"{path} is not a CTranslate2 model of version {VERSION}: it begins with {bytes(data[:12])!r}."
        )
    kind, _, variables = name(), number("I"), {}
    for _ in range(number("I")):
        label, shape = name(), tuple(number("I") for _ in range(number("B")))
        code, size = number("B"), number("I")
        if code not in TYPES or np.dtype(TYPES[code]).itemsize * int(np.prod(shape, dtype=object)) != size:
            raise InputError(f"{path}: {label} has shape {shape}, type {code}, {size} bytes: not one of {TYPES}.")
        variables[label] = torch.from_numpy(np.frombuffer(take(size).tobytes(), TYPES[code]).reshape(shape).copy())
    return kind, variables


def convert_whisper(variables):
    """The encoder of a Whisper model as ours: (weights of a `WhisperEncoder`, its `Sizes`).

    variables: of `read_ctranslate2`. Raises InputError where there is no such encoder, or its weights are quantised.
    The table of places is left out: it is computed. Queries, keys and values stand in one matrix in both.
    """
    parts = under(variables, "encoder/")
    parts.pop("position_encodings/encodings", None)
    heads = parts.pop("num_heads", None)
    if heads is None or "conv1/weight" not in parts:
        raise InputError(f"no encoder of Whisper, but variables named {listing(variables)}")
    quantised = [name for name, value in parts.items() if not value.is_floating_point() or name.endswith("_scale")]
    if quantised:
        raise InputError(f"quantised variables: {listing(quantised)}. Get the model in float16 or float32")
    weights = rename(parts, WHISPER)
    layers = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    dim, mels, _ = weights["conv1.weight"].shape
    return weights, Sizes(mels, layers, dim, int(heads))
