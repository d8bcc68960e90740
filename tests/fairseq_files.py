"""Small AV-HuBERTs as fairseq writes them, made with stand-ins for its classes that nobody can import afterwards."""

import sys
from argparse import Namespace
from collections import OrderedDict, defaultdict
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from filling import fill_tensor

from experts.tokenizer import train_tokenizer

SENTENCES = [
    "BIN BLUE AT F TWO NOW",
    "SET WHITE WITH P NINE PLEASE",
    "LAY RED BY Z ZERO AGAIN",
    "PLACE GREEN IN K SOON",
]
PRETRAINING = {
    "_name": "av_hubert",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "encoder_layerdrop": 0.05,
    "dropout_input": 0.1,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "feature_grad_mult": 0.1,
    "layer_norm_first": True,
}
FINE_TUNING = {
    "_name": "av_hubert_seq2seq",
    "dropout": 0.0,
    "layerdrop": 0.1,
    "feature_grad_mult": 1.0,
    "decoder_layers": 1,
    "decoder_embed_dim": 32,
    "decoder_ffn_embed_dim": 48,
    "decoder_attention_heads": 2,
    "decoder_dropout": 0.1,
    "no_scale_embedding": True,
}


@contextmanager
def foreign(*paths):
    """Classes under their full names, which pickle finds while the context is open and never after it."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        for path in paths:
            module, _, name = path.rpartition(".")
            made.append(type(name, (), {"__module__": module}))
            for package in {module, module.split(".")[0]} - sys.modules.keys():
                patch.setitem(sys.modules, package, ModuleType(package))
            patch.setattr(sys.modules[module], name, made[-1], raising=False)
        yield made


def filled_with(kind, **attributes):
    """An object of a class with these attributes."""
    thing = kind()
    thing.__dict__.update(attributes)
    return thing


def linear(name, out, cin):
    return {f"{name}.weight": (out, cin), f"{name}.bias": (out,)}


def norm(name, size):
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def batch_norm(name, size):
    counts = {f"{name}.running_mean": (size,), f"{name}.running_var": (size,), f"{name}.num_batches_tracked": ()}
    return norm(name, size) | counts


def under(prefix, shapes):
    return {prefix + name: shape for name, shape in shapes.items()}


def transformer(layers, dim, ffn, attentions):
    """Names and shapes of a transformer whose blocks have these attentions."""
    block = linear("fc1", ffn, dim) | linear("fc2", dim, ffn) | norm("final_layer_norm", dim)
    for attention in attentions:
        block |= norm(f"{attention}_layer_norm", dim)
        for part in ("q", "k", "v", "out"):
            block |= linear(f"{attention}.{part}_proj", dim, dim)
    shapes = norm("layer_norm", dim)
    for i in range(layers):
        shapes |= under(f"layers.{i}.", block)
    return shapes


def resnet(channels):
    """Names and shapes of the ResNet-18 that sees the mouth; channels of its four stages."""
    cin = channels[0]
    shapes = {"frontend3D.0.weight": (cin, 1, 5, 7, 7), "frontend3D.2.weight": (cin,)} | batch_norm("frontend3D.1", cin)
    for i, out in enumerate(channels, start=1):
        for j in range(2):
            block = {"conv1.weight": (out, cin, 3, 3), "conv2.weight": (out, out, 3, 3)}
            for k in (1, 2):
                block |= batch_norm(f"bn{k}", out) | {f"relu{k}.weight": (out,)}
            if cin != out:
                block |= {"downsample.0.weight": (out, cin, 1, 1)} | batch_norm("downsample.1", out)
            shapes |= under(f"trunk.layer{i}.{j}.", block)
            cin = out
    return shapes


def avhubert(fine_tuned, tokens, encoder=(2, 32, 64), decoder=(1, 32, 48), channels=(4, 8, 16, 32), units=8):
    """The published names of AV-HuBERT, with a decoder beside it or not, and their shapes.

    encoder, decoder: (layers, dim, ffn).
    """
    dim = encoder[1]
    shapes = {"mask_emb": (104,), "label_embs_concat": (units, 256)}
    shapes |= linear("feature_extractor_audio.proj", dim, 104)
    shapes |= linear("feature_extractor_video.proj", dim, channels[-1])
    shapes |= under("feature_extractor_video.resnet.", resnet(channels))
    shapes |= norm("layer_norm", 2 * dim) | linear("post_extract_proj", dim, 2 * dim)
    shapes |= {f"encoder.pos_conv.0.{name}": shape for name, shape in (("bias", (dim,)), ("weight_g", (1, 1, 128)))}
    shapes |= {"encoder.pos_conv.0.weight_v": (dim, dim // 16, 128)}
    shapes |= under("encoder.", transformer(*encoder, ["self_attn"]))
    if not fine_tuned:
        return shapes | linear("final_proj", 256, dim)
    written = transformer(*decoder, ["self_attn", "encoder_attn"])
    written |= {"embed_tokens.weight": (tokens, dim), "embed_positions._float_tensor": (1,)}
    return under("encoder.w2v_model.", shapes) | under("decoder.", written)


def weights(fine_tuned=True, tokens=40, dtype=torch.float32):
    """A state dict by published names, filled."""
    made = OrderedDict()
    for name, shape in avhubert(fine_tuned, tokens).items():
        counts = name.endswith("num_batches_tracked")
        made[name] = torch.tensor(7) if counts else fill_tensor(name, shape).to(dtype)
    made._metadata = OrderedDict(version=1)  # as state dicts have it
    if not fine_tuned:
        made["final_proj.weight"] = torch.nn.Parameter(made["final_proj.weight"].T.contiguous().T)
    return made


def train_state(meter):
    """What stands in a file beside weights and config: numpy's numbers, old meters, an optimizer with its tensors."""
    extra = {"val_loss": np.float64(1.5), "seen": np.arange(3), "train_meters": {"loss": filled_with(meter, val=1)}}
    return {
        "criterion": None,
        "optimizer_history": [{"num_updates": 7}, {"optimizer_name": "FairseqAdam", "num_updates": 60_000}],
        "extra_state": extra | {"epochs": defaultdict(list, a=[1])},
        "last_optimizer_state": {"state": {0: {"step": 7, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]},
    }


def settings(fine_tuned, old, pretraining, fine_tuning):
    """The config of a file: nested as `cfg`, or flat as `args`, the way of fairseq before it had `cfg`."""
    criterion = {"_name": "label_smoothed_cross_entropy", "label_smoothing": 0.1}
    if old:
        args = fine_tuning | {"w2v_args": Namespace(**pretraining)} | {"label_smoothing": 0.1, "criterion": "ce"}
        return {"args": Namespace(**(args if fine_tuned else pretraining)), "cfg": None}
    cfg = {"common": {"_name": None, "fp16": True}, "model": pretraining, "criterion": {"loss_weights": [10]}}
    if fine_tuned:
        cfg = cfg | {"model": fine_tuning | {"w2v_args": cfg}, "criterion": criterion}
    return {"args": None, "cfg": cfg}


def omega(value, classes):
    """A value as omegaconf holds it: `_content` of containers, `_val` of nodes, and metadata on each."""
    mapping, sequence, node, metadata = classes
    about = filled_with(metadata, ref_type=Any, object_type=dict, key=None)
    if isinstance(value, dict):
        return filled_with(mapping, _metadata=about, _content={k: omega(v, classes) for k, v in value.items()})
    if isinstance(value, list):
        return filled_with(sequence, _metadata=about, _content=[omega(each, classes) for each in value])
    return filled_with(node, _metadata=about, _val=value)


OTHERS = (
    "fairseq.data.dictionary.Dictionary",
    "fairseq.data.encoders.sentencepiece_bpe.SentencepieceBPE",
    "sentencepiece.SentencePieceProcessor",
    "fairseq.meters.AverageMeter",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.base.Metadata",
)


def write(
    path,
    fine_tuned=True,
    dtype=torch.float32,
    old=False,
    zipped=True,
    recent=False,
    config=(),
    changes=(),
    tokenizer=None,
):
    """Writes a checkpoint; returns its weights and its tokenizer.

    old: with `args` instead of `cfg`.  recent: `cfg` in omegaconf, sentencepiece as newer versions pickle it.
    config: changes to the parts of the config that tell the networks.  changes: to the file's top level.
    """
    tokenizer = tokenizer or train_tokenizer(SENTENCES, 40)
    state = weights(fine_tuned, len(tokenizer), dtype)
    with foreign(*OTHERS) as (words, bpe, processor, meter, *classes):
        state_of_processor = {"_return_type": int, "model_proto": tokenizer.model} if recent else tokenizer.model
        processor.__getstate__ = lambda self: state_of_processor
        task = {"dictionaries": [filled_with(words, symbols=["<s>", "<pad>", "</s>", "<unk>", "0", "1"])]}
        if fine_tuned:
            task["target_dictionary"] = filled_with(words, symbols=tokenizer.symbols, nspecial=4)
            task["s2s_tokenizer"] = filled_with(bpe, sp=processor())
        of_decoder = {name: value for name, value in dict(config).items() if name.startswith("decoder_")}
        told = settings(fine_tuned, old, PRETRAINING | dict(config), FINE_TUNING | of_decoder)
        if recent:
            told["cfg"] = omega(told["cfg"], classes)
        everything = told | {"model": state, "task_state": task} | train_state(meter) | dict(changes)
        torch.save(everything, path, _use_new_zipfile_serialization=zipped)
    return state, tokenizer
