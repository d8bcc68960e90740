"""Small files as fairseq writes them, made with stand-ins for its classes that nobody can import afterwards."""

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

from text import train_tokenizer

SENTENCES = [
    "BIN BLUE AT F TWO NOW",
    "SET WHITE WITH P NINE PLEASE",
    "LAY RED BY Z ZERO AGAIN",
    "PLACE GREEN IN K SOON",
]
PRETRAINING = {
    "_name": "av_hubert",
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
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
    "decoder_embed_dim": 16,
    "decoder_ffn_embed_dim": 24,
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


def transformer(prefix, layers, dim, ffn):
    """Names and shapes of the parts of a transformer that tell its size."""
    shapes = {f"{prefix}layer_norm.weight": (dim,), f"{prefix}layer_norm.bias": (dim,)}
    for i in range(layers):
        shapes |= {f"{prefix}layers.{i}.fc1.weight": (ffn, dim), f"{prefix}layers.{i}.fc1.bias": (ffn,)}
    return shapes


def weights(fine_tuned=True, tokens=40, dtype=torch.float32):
    """A state dict by published names: some parts of AV-HuBERT, with a decoder beside it or not."""
    prefix = "encoder.w2v_model." if fine_tuned else ""
    shapes = {f"{prefix}feature_extractor_audio.proj.weight": (16, 104), f"{prefix}mask_emb": (104,)}
    shapes |= transformer(f"{prefix}encoder.", 2, 16, 32)
    if fine_tuned:
        shapes |= {"decoder.embed_tokens.weight": (tokens, 16)} | transformer("decoder.", 1, 16, 24)
    else:
        shapes |= {"final_proj.weight": (8, 16)}
    made = OrderedDict((name, fill_tensor(name, shape).to(dtype)) for name, shape in shapes.items())
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


def settings(fine_tuned, old, pretraining):
    """The config of a file: nested as `cfg`, or flat as `args`, the way of fairseq before it had `cfg`."""
    criterion = {"_name": "label_smoothed_cross_entropy", "label_smoothing": 0.1}
    if old:
        args = FINE_TUNING | {"w2v_args": Namespace(**pretraining)} | {"label_smoothing": 0.1, "criterion": "ce"}
        return {"args": Namespace(**(args if fine_tuned else pretraining)), "cfg": None}
    cfg = {"common": {"_name": None, "fp16": True}, "model": pretraining, "criterion": {"loss_weights": [10]}}
    if fine_tuned:
        cfg = cfg | {"model": FINE_TUNING | {"w2v_args": cfg}, "criterion": criterion}
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


def write(path, fine_tuned=True, dtype=torch.float32, old=False, zipped=True, recent=False, config=(), changes=()):
    """Writes a checkpoint; returns its weights and its tokenizer.

    old: with `args` instead of `cfg`.  recent: `cfg` in omegaconf, sentencepiece as newer versions pickle it.
    config: changes to the part of the config that tells the encoder.  changes: to the file's top level.
    """
    tokenizer = train_tokenizer(SENTENCES, 40)
    state = weights(fine_tuned, len(tokenizer), dtype)
    with foreign(*OTHERS) as (words, bpe, processor, meter, *classes):
        state_of_processor = {"_return_type": int, "model_proto": tokenizer.model} if recent else tokenizer.model
        processor.__getstate__ = lambda self: state_of_processor
        task = {"dictionaries": [filled_with(words, symbols=["<s>", "<pad>", "</s>", "<unk>", "0", "1"])]}
        if fine_tuned:
            task["target_dictionary"] = filled_with(words, symbols=tokenizer.symbols, nspecial=4)
            task["s2s_tokenizer"] = filled_with(bpe, sp=processor())
        told = settings(fine_tuned, old, PRETRAINING | dict(config))
        if recent:
            told["cfg"] = omega(told["cfg"], classes)
        everything = told | {"model": state, "task_state": task} | train_state(meter) | dict(changes)
        torch.save(everything, path, _use_new_zipfile_serialization=zipped)
    return state, tokenizer
