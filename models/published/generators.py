"""Reads the authors' published generators: other people's names and colour order become ours."""

import re
from dataclasses import replace

import torch

from hparams import preset
from models.talklip import DISCRIMINATOR, ENCODER, SPEECH

# (what the published name holds, what ours holds), applied in this order.
GENERATOR = (
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


def numbered(table, blocks="blocks."):
    """Rules for the convolutions of a table that a published file numbers through from 0: `blocks` row, layer."""
    numbers = ((row, layer) for row, line in enumerate(table) for layer in range(line.res + 1))
    return [(rf"^{i}\.conv_block\.", f"{blocks}{row}.{layer}.conv_block.") for i, (row, layer) in enumerate(numbers)]


def convert_speech(published, prefix):
    """Table 1's weights, numbered through from 0 in the published files, as blocks of our `LocalSpeech`."""
    return rename(under(published, prefix), (*numbered(SPEECH), *GENERATOR))


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


def convert_faces(published):
    """The parts that TalkLip and Wav2Lip share, from BGR to RGB."""
    weights = rename({k: v for k, v in published.items() if not k.startswith("audio_encoder.")}, GENERATOR)
    flip(weights, "encoder.0.0.conv.weight", 1, BGR_TWICE)
    flip(weights, "to_rgb.1.0.weight", 0, BGR)
    flip(weights, "to_rgb.1.0.bias", 0, BGR)
    return weights


def convert_talklip(published):
    """A published TalkLip generator: (weights by our names, hparams); (g), or (l) with Wav2Lip's audio encoder."""
    weights = convert_faces(published)
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
    return weights, replace(hp, width=face_width(weights))


def convert_wav2lip(published):
    """A published Wav2Lip generator: (weights by our names, hparams)."""
    weights = convert_faces(published)
    weights |= {f"speech.{name}": value for name, value in convert_speech(published, "audio_encoder.").items()}
    return weights, replace(preset("wav2lip"), width=face_width(weights))


def convert_discriminator(published):
    """A published discriminator of TalkLip or Wav2Lip: (weights by our names, hparams)."""
    rules = [(r"^face_encoder_blocks\.0\.0\.", "blocks.0.0.")]
    rules += [
        (rf"^face_encoder_blocks\.{i}\.{j}\.", f"blocks.{2 * i - 1 + j}.0.") for i in range(1, 7) for j in range(2)
    ]
    rules += [(r"^binary_pred\.0\.", f"blocks.{len(DISCRIMINATOR) - 1}.0.")]
    weights = rename(published, (*rules, *GENERATOR))
    flip(weights, "blocks.0.0.conv.weight", 1, BGR)
    channels = length(weights, "blocks.0.0.conv.weight", DISCRIMINATOR[0].out)
    return weights, replace(preset("talklip_g"), width=channels / DISCRIMINATOR[0].out)


def face_width(weights):
    """Width of a converted generator, relative to table 2."""
    return length(weights, "encoder.0.0.conv.weight", ENCODER[0].out) / ENCODER[0].out


def length(weights, name, default):
    """The first axis of a weight; `default` where it is missing, which the check of all names reports later."""
    return weights[name].shape[0] if name in weights and weights[name].ndim else default
