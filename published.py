"""Reads the authors' published weights: other people's names and colour order become ours, no code of theirs is run."""

import pickle
import re
import zipfile
from collections import OrderedDict
from dataclasses import replace

import torch

from hparams import preset
from models.talklip import DISCRIMINATOR, ENCODER, SPEECH

# (what the published name holds, what ours holds), applied in this order.
DRAWING = (
    (r"^face_encoder_blocks\.6\.0\.", "encoder.6.0."),
    (r"^face_encoder_blocks\.6\.1\.", "encoder.7.0."),
    (r"^face_encoder_blocks\.", "encoder."),
    (r"^face_decoder_blocks\.", "decoder."),
    (r"^output_block\.(\d)\.", r"to_rgb.\1.0."),
    (r"^sync_net\.Linearaudio\.", "sync."),
    (r"\.conv_block\.0\.", ".conv."),
    (r"\.conv_block\.1\.", ".norm."),
)
TRANSFORMER = (
    (r"^feature_extractor_audio\.proj\.", "audio."),
    (r"^feature_extractor_video\.proj\.", "video.proj."),
    (r"^feature_extractor_video\.resnet\.frontend3D\.", "video.stem."),
    (r"^layer_norm\.", "fusion_norm."),
    (r"^post_extract_proj\.", "fusion."),
    (r"^encoder\.pos_conv\.0\.weight_g$", "positions.gain"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "positions.direction"),
    (r"^encoder\.pos_conv\.0\.", "positions."),
    (r"^encoder\.layer_norm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.self_attn\.out_proj\.", ".out."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.fc1\.", ".up."),
    (r"\.fc2\.", ".down."),
    (r"\.final_layer_norm\.", ".norm2."),
    (r"\.bn(\d)\.", r".norm\1."),
    (r"\.relu(\d)\.", r".act\1."),
    (r"\.downsample\.", ".shortcut."),
)
PRETRAINING = ("mask_emb", "label_embs_concat")  # parts of AV-HuBERT that only its pre-training uses
BGR = [2, 1, 0]
BGR_TWICE = [2, 1, 0, 5, 4, 3]  # pose prior and identity

# Which network a bare state dict belongs to, told by a part of it that no other one has.
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


def kind_of(names):
    """The network that state dict entries of these names belong to, in words, or None."""
    for part, kind in KINDS:
        if any(name.startswith(part) for name in names):
            return kind
    return None


def rename(published, rules):
    """`published` with every (pattern, replacement) of `rules` applied to each name, in their order."""
    renamed = {}
    for name, value in published.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def under(published, prefix):
    """The entries below `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in published.items() if name.startswith(prefix)}


def flip(weights, name, axis, order):
    """Puts the channels of one weight into `order`, in place; one that is missing or smaller is left to the check."""
    if name in weights and weights[name].shape[axis] == len(order):
        weights[name] = weights[name].index_select(axis, torch.tensor(order))


def join(weights, parts, whole):
    """Puts weights whose names differ in `parts` behind each other, in place, under the name with `whole` instead."""
    for name in [name for name in weights if parts[0] in name]:
        names = [name.replace(parts[0], part) for part in parts]
        if all(each in weights for each in names):
            weights[name.replace(parts[0], whole)] = torch.cat([weights.pop(each) for each in names])


def convert_speech(published, prefix):
    """Table 1's weights, numbered through from 0 in the published files, as blocks of our `LocalSpeech`."""
    numbers = ((row, layer) for row, line in enumerate(SPEECH) for layer in range(line.res + 1))
    rules = [(rf"^{i}\.conv_block\.", f"blocks.{row}.{layer}.conv_block.") for i, (row, layer) in enumerate(numbers)]
    return rename(under(published, prefix), (*rules, *DRAWING))


def convert_avhubert(published, prefix="", video=True):
    """AV-HuBERT's encoder, whose published names begin with `prefix`, as our `AVHubert`.

    Pre-training parts, and the video front end unless `video`, are dropped.
    """
    trunk = r"^feature_extractor_video\.resnet\.trunk\.layer"
    blocks = [(rf"{trunk}{i + 1}\.{j}\.", f"video.blocks.{2 * i + j}.") for i in range(4) for j in range(2)]
    weights = rename(under(published, prefix), (*blocks, *TRANSFORMER))
    weights = {name: value for name, value in weights.items() if name not in PRETRAINING}
    if not video:
        weights = {name: value for name, value in weights.items() if not name.startswith("video.")}
    if weights.get("video.stem.0.weight", torch.empty(0)).ndim == 5:
        weights["video.stem.0.weight"] = weights["video.stem.0.weight"].squeeze(1)  # 5 frames are our channels
    join(weights, [f".self_attn.{part}_proj." for part in "qkv"], ".qkv.")
    return weights


def convert_drawing(published):
    """The parts that TalkLip and Wav2Lip share, from BGR to RGB."""
    weights = rename({k: v for k, v in published.items() if not k.startswith("audio_encoder.")}, DRAWING)
    flip(weights, "encoder.0.0.conv.weight", 1, BGR_TWICE)
    flip(weights, "to_rgb.1.0.weight", 0, BGR)
    flip(weights, "to_rgb.1.0.bias", 0, BGR)
    return weights


def convert_talklip(published):
    """A published TalkLip generator: (weights by our names, hparams); (g), or (l) with Wav2Lip's audio encoder."""
    weights = convert_drawing(published)
    hp = preset("talklip_g")
    if any(name.startswith("audio_encoder.w2v_model.") for name in published):
        speech = convert_avhubert(published, "audio_encoder.w2v_model.", video=False)
        dim = length(speech, "audio.weight", hp.audio_dim)
        layers = len({name.split(".")[1] for name in speech if name.startswith("blocks.")})
        ffn = length(speech, "blocks.0.up.weight", hp.audio_ffn)
        hp = replace(hp, audio_layers=layers, audio_dim=dim, audio_ffn=ffn, audio_heads=dim // 64 or 1)
    else:
        speech = convert_speech(published, "audio_encoder.audio_encoder.")
        hp = preset("talklip_l")
    weights |= {f"speech.{name}": value for name, value in speech.items()}
    return weights, replace(hp, width=drawing_width(weights))


def convert_wav2lip(published):
    """A published Wav2Lip generator: (weights by our names, hparams)."""
    weights = convert_drawing(published)
    weights |= {f"speech.{name}": value for name, value in convert_speech(published, "audio_encoder.").items()}
    return weights, replace(preset("wav2lip"), width=drawing_width(weights))


def convert_discriminator(published):
    """A published discriminator of TalkLip or Wav2Lip: (weights by our names, hparams)."""
    rules = [(r"^face_encoder_blocks\.0\.0\.", "blocks.0.0.")]
    rules += [
        (rf"^face_encoder_blocks\.{i}\.{j}\.", f"blocks.{2 * i - 1 + j}.0.") for i in range(1, 7) for j in range(2)
    ]
    rules += [(r"^binary_pred\.0\.", f"blocks.{len(DISCRIMINATOR) - 1}.0.")]
    weights = rename(published, (*rules, *DRAWING))
    flip(weights, "blocks.0.0.conv.weight", 1, BGR)
    channels = length(weights, "blocks.0.0.conv.weight", DISCRIMINATOR[0].out)
    return weights, replace(preset("talklip_g"), width=channels / DISCRIMINATOR[0].out)


def drawing_width(weights):
    """How wide a converted generator is, relative to table 2."""
    return length(weights, "encoder.0.0.conv.weight", ENCODER[0].out) / ENCODER[0].out


def length(weights, name, default):
    """The first axis of a weight; `default` where it is missing, which the check of all names reports later."""
    return weights[name].shape[0] if name in weights and weights[name].ndim else default


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
    return found
