"""Small files in the published layouts, at a sixteenth of the width, and what the tests of checkpoints ask of them."""

import re

import pytest
import torch
from filling import faces, fill_tensor
from make_golden import speech_input
from torch import nn

from checkpoint import load_generator
from errors import InputError
from models.talklip import DECODER, DISCRIMINATOR, ENCODER, SPEECH

WIDTH = 1 / 16


def conv(name, cin, out, kernel, norm=True, up=False):
    """The published names of one convolution block, filled."""
    shape = (cin, out) if up else (out, cin)
    entries = {f"{name}.conv_block.0.weight": (*shape, kernel, kernel), f"{name}.conv_block.0.bias": (out,)}
    if norm:
        parts = ("weight", "bias", "running_mean", "running_var")
        entries |= {f"{name}.conv_block.1.{part}": (out,) for part in parts}
    return {key: fill_tensor(key, shape) for key, shape in entries.items()}


def published_drawing():
    """What Wav2Lip and TalkLip share, in published names, at a sixteenth of the width."""
    state, cin = {}, 6
    for i, row in enumerate(ENCODER):
        block, first = (i, 0) if i < 7 else (6, 1)
        for j in range(row.res + 1):
            out = round(row.out * WIDTH)
            state |= conv(f"face_encoder_blocks.{block}.{first + j}", cin, out, row.kernel if j == 0 else 3)
            cin = out
    skips, cin = [32, 32, 16, 8, 4, 2, 1], 32
    for i, row in enumerate(DECODER):
        for j in range(row.res + 1):
            out = round(row.out * WIDTH)
            name = f"face_decoder_blocks.{i}.{j}"
            state |= conv(name, cin, out, row.kernel if j == 0 else 3, up=i > 0 and j == 0)
            cin = out
        cin += skips[i]
    state |= conv("output_block.0", cin, 2, 3)
    shapes = {"output_block.1.weight": (3, 2, 1, 1), "output_block.1.bias": (3,)}
    return state | {key: fill_tensor(key, shape) for key, shape in shapes.items()}


def published_wav2lip():
    """A Wav2Lip generator's state dict."""
    state, cin, number = published_drawing(), 1, 0
    for row in SPEECH:
        for j in range(row.res + 1):
            out = round(row.out * WIDTH)
            state |= conv(f"audio_encoder.{number}", cin, out, row.kernel if j == 0 else 3)
            cin, number = out, number + 1
    return state


def published_talklip(dim=64, ffn=128, layers=2):
    """A TalkLip (g) generator's state dict, with a few of the parts that we do not build."""
    head = "audio_encoder.w2v_model."
    shapes = {
        "audio_map.weight": (32, dim),
        "audio_map.bias": (32,),
        "sync_net.Linearaudio.weight": (dim, dim),
        "sync_net.Linearaudio.bias": (dim,),
        f"{head}mask_emb": (104,),
        f"{head}label_embs_concat": (7, 16),
        f"{head}feature_extractor_audio.proj.weight": (dim, 104),
        f"{head}feature_extractor_audio.proj.bias": (dim,),
        f"{head}feature_extractor_video.proj.weight": (dim, 512),
        f"{head}feature_extractor_video.resnet.trunk.layer1.0.conv1.weight": (64, 64, 3, 3),
        f"{head}post_extract_proj.weight": (dim, 2 * dim),
        f"{head}post_extract_proj.bias": (dim,),
        f"{head}encoder.pos_conv.0.bias": (dim,),
        f"{head}encoder.pos_conv.0.weight_g": (1, 1, 128),
        f"{head}encoder.pos_conv.0.weight_v": (dim, dim // 16, 128),
    }
    for norm, size in (("layer_norm", 2 * dim), ("encoder.layer_norm", dim)):
        shapes |= {f"{head}{norm}.{part}": (size,) for part in ("weight", "bias")}
    for i in range(layers):
        layer = f"{head}encoder.layers.{i}."
        linears = {f"self_attn.{part}_proj": (dim, dim) for part in ("q", "k", "v", "out")}
        linears |= {"fc1": (ffn, dim), "fc2": (dim, ffn)}
        for name, shape in linears.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{layer}{name}.weight": (dim,), f"{layer}{name}.bias": (dim,)}
    return published_drawing() | {key: fill_tensor(key, shape) for key, shape in shapes.items()}


def wrapped(state, prefix=""):
    """The published container."""
    state = {prefix + name: value for name, value in state.items()}
    return {"state_dict": state, "optimizer": None, "global_step": 42, "global_epoch": 3}


def as_modules(state):
    """A tree of modules without a forward pass, whose parameters and buffers have the names of `state`."""
    top = nn.Module()
    for name, value in state.items():
        module, *parts = top, *name.split(".")
        for part in parts[:-1]:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        if "running" in parts[-1]:
            module.register_buffer(parts[-1], value)
        else:
            module.register_parameter(parts[-1], nn.Parameter(value))
    return top


def published_discriminator():
    """A discriminator's state dict."""
    state, cin = {}, 3
    names = ["0.0"] + [f"{i}.{j}" for i in range(1, 7) for j in range(2)]
    for name, row in zip(names, DISCRIMINATOR, strict=False):
        out = round(row.out * WIDTH)
        state |= conv(f"face_encoder_blocks.{name}", cin, out, row.kernel, norm=False)
        cin = out
    shapes = {"binary_pred.0.weight": (1, cin, 1, 1), "binary_pred.0.bias": (1,)}
    return state | {key: fill_tensor(key, shape) for key, shape in shapes.items()}


@torch.no_grad()
def drawn(generator, hp, colours=slice(None)):
    """Two faces of a made-up clip, their input channels in the order `colours`."""
    face = faces(9, 2)[None]
    return generator.generate(face[:, :, colours], generator.encode_audio(speech_input(hp))[:, [1, 4]])


def refused(path, words, read=load_generator):
    """Holds that `read` refuses the file in one line that names it and matches `words`."""
    with pytest.raises(InputError) as error:
        read(path)
    line = str(error.value)
    assert "\n" not in line and str(path) in line and re.search(words, line), line
