"""Reads published lip-reading experts: fairseq's names of a decoder, of a fine-tuned and a pre-trained AV-HuBERT."""

import torch

from published import convert_avhubert, rename, under

# (what the published name holds, what ours holds), applied in this order.
DECODER = (
    (r"^embed_tokens\.", "embedding."),
    (r"^layers\.", "blocks."),
    (r"^layer_norm\.", "norm."),
    (r"\.self_attn\.out_proj\.", ".out."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.encoder_attn\.q_proj\.", ".query."),
    (r"\.encoder_attn\.out_proj\.", ".cross_out."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"\.fc1\.", ".up."),
    (r"\.fc2\.", ".down."),
    (r"\.final_layer_norm\.", ".norm3."),
)
CLUSTER_HEAD = (
    (r"^mask_emb$", "mask"),
    (r"^final_proj\.", "proj."),
    (r"^label_embs_concat$", "embeddings"),
)
POSITIONS = "embed_positions._float_tensor"  # of the decoder: holds nothing


def join(weights, parts, whole):
    """Puts weights whose names differ in `parts` behind each other, in place, under the name with `whole` instead."""
    for name in [name for name in weights if parts[0] in name]:
        names = [name.replace(parts[0], part) for part in parts]
        if all(each in weights for each in names):
            weights[name.replace(parts[0], whole)] = torch.cat([weights.pop(each) for each in names])


def convert_decoder(published, prefix="decoder."):
    """The decoder of a fine-tuned AV-HuBERT, whose published names begin with `prefix`, as our `Decoder`."""
    weights = rename(under(published, prefix), DECODER)
    weights.pop(POSITIONS, None)
    join(weights, [f".self_attn.{part}_proj." for part in "qkv"], ".qkv.")
    join(weights, [f".encoder_attn.{part}_proj." for part in "kv"], ".keys_values.")
    return weights


def convert_expert(published):
    """A fine-tuned AV-HuBERT as our `LipReader`; what only pre-training uses is dropped."""
    encoder = convert_avhubert(published, "encoder.w2v_model.")
    weights = {f"encoder.{name}": value for name, value in encoder.items()}
    return weights | {f"decoder.{name}": value for name, value in convert_decoder(published).items()}


def convert_pretrained(published):
    """A pre-trained AV-HuBERT as our `AVHubert` under `encoder.` and `ClusterHead` under `head.`."""
    head = rename(published, CLUSTER_HEAD)
    head = {name: value for name, value in head.items() if name not in published}
    trunk = {name: value for name, value in published.items() if not name.startswith("final_proj.")}
    weights = {f"encoder.{name}": value for name, value in convert_avhubert(trunk).items()}
    return weights | {f"head.{name}": value for name, value in head.items()}
