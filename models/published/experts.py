"""Reads the published weights of AV-HuBERT, the Conformer, SyncNet and Wav2Lip's sync expert: names become ours."""

import re

from models.layers import ConvNorm
from models.published.generators import BGR, GENERATOR, convert_avhubert, flip, join, numbered, rename, under
from models.syncnet import LIPS, SOUND, WINDOW
from models.wav2lip import LOWER_FACES
from models.wav2lip import SOUND as SYNC_SOUND

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
CONFORMER = (
    (r"^visual_frontend\.frontend3D\.", "encoder.stem."),
    (r"\.conv1a\.", ".conv1."),
    (r"\.bn1a\.", ".norm1."),
    (r"\.conv2a\.", ".conv2."),
    (r"\.outbna\.", ".norm2."),
    (r"\.conv1b\.", ".conv3."),
    (r"\.bn1b\.", ".norm3."),
    (r"\.conv2b\.", ".conv4."),
    (r"\.outbnb\.", ".norm4."),
    (r"\.downsample\.", ".shortcut."),
    (r"^encoder\.embed\.0\.", "encoder.proj."),
    (r"^encoder\.embed\.1\.", "encoder.proj_norm."),
    (r"^encoder\.encoders\.(\d+)\.feed_forward_macaron\.", r"encoder.blocks.\1.ffn1."),
    (r"^encoder\.encoders\.(\d+)\.feed_forward\.", r"encoder.blocks.\1.ffn2."),
    (r"^encoder\.encoders\.(\d+)\.self_attn\.", r"encoder.blocks.\1.attention."),
    (r"^encoder\.encoders\.", "encoder.blocks."),
    (r"\.norm_ff_macaron\.", ".ffn1.norm."),
    (r"\.norm_ff\.", ".ffn2.norm."),
    (r"\.norm_mha\.", ".attention.norm."),
    (r"\.norm_conv\.", ".convolution.norm."),
    (r"\.norm_final\.", ".norm."),
    (r"\.conv_module\.norm\.", ".convolution.batch_norm."),
    (r"\.conv_module\.pointwise_conv1\.", ".convolution.gate."),
    (r"\.conv_module\.depthwise_conv\.", ".convolution.depthwise."),
    (r"\.conv_module\.pointwise_conv2\.", ".convolution.out."),
    (r"\.pos_bias_u$", ".content_bias"),
    (r"\.pos_bias_v$", ".distance_bias"),
    (r"\.attention\.linear_pos\.", ".attention.distance."),
    (r"^decoder\.embed\.0\.", "decoder.embedding."),
    (r"^decoder\.decoders\.", "decoder.blocks."),
    (r"^decoder\.output_layer\.", "decoder.head."),
    (r"\.self_attn\.", "."),
    (r"\.src_attn\.linear_out\.", ".cross_out."),
    (r"\.src_attn\.linear_q\.", ".query."),
    (r"\.linear_out\.", ".out."),
    (r"(^decoder\..*)\.feed_forward\.", r"\1."),
    (r"\.w_1\.", ".up."),
    (r"\.w_2\.", ".down."),
    (r"\.after_norm\.", ".norm."),
    (r"^ctc\.ctc_lo\.", "ctc."),
)
UNUSED = "visual_frontend.resnet.layer1.downsample."  # the Conformer's first stage adds its input as it is
POSITIONS = "embed_positions._float_tensor"  # of the decoder: holds nothing


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


def convert_conformer(published):
    """The published Conformer lip reader as our `LipReader` with CTC.

    The first convolution's kernel over time becomes its channels, convolutions of kernel 1 become linear layers.
    """
    stages = [(rf"^visual_frontend\.resnet\.layer{i + 1}\.", f"encoder.stages.{i}.") for i in range(4)]
    weights = {name: value for name, value in published.items() if not name.startswith(UNUSED)}
    weights = rename(weights, (*stages, *CONFORMER))
    for name, value in weights.items():
        if name == "encoder.stem.0.weight":
            weights[name] = value.squeeze(1)  # (64, 1, 5, 7, 7) to (64, 5, 7, 7)
        elif re.search(r"\.convolution\.(gate|out)\.weight$", name):
            weights[name] = value.squeeze(-1)
    join(weights, [f".src_attn.linear_{part}." for part in "kv"], ".keys_values.")  # its query stays by itself
    join(weights, [f".linear_{part}." for part in "qkv"], ".qkv.")
    return weights


def convert_syncnet(published):
    """The published SyncNet v2 as our `SyncNet`: from BGR to RGB, the first convolution's five frames its channels."""
    rules = []
    for theirs, ours, table in (("lip", "lips", LIPS), ("aud", "sound", SOUND)):
        place = 0  # in the published stack: convolution, norm and ReLU count, and so does a maximum
        for i, row in enumerate(table):
            if row.layer is ConvNorm:
                rules.append((rf"^netcnn{theirs}\.{place}\.", f"{ours}.blocks.{i}.0.conv."))
                rules.append((rf"^netcnn{theirs}\.{place + 1}\.", f"{ours}.blocks.{i}.0.norm."))
            place += 3 if row.layer is ConvNorm else 1
        parts = {0: "inner", 1: "norm", 3: "outer"}
        rules += [(rf"^netfc{theirs}\.{at}\.", f"{ours}.{part}.") for at, part in parts.items()]
    weights = rename(published, rules)
    for name, value in weights.items():
        if value.ndim == 5:  # (out, in, frames, H, W)
            value = value[:, BGR] if value.shape[1] == len(BGR) else value
            weights[name] = value.transpose(1, 2).flatten(1, 2)
    return weights


def convert_wav2lip_sync(published):
    """Wav2Lip's published sync expert as our `Wav2LipSync`, from BGR to RGB.

    The 15 channels that it sees are taken for B, G, R of the first frame, then of the second, and so on.
    """
    weights = {}
    for theirs, ours, table in (("face_encoder.", "faces", LOWER_FACES), ("audio_encoder.", "sound", SYNC_SOUND)):
        weights |= rename(under(published, theirs), (*numbered(table, f"{ours}."), *GENERATOR))
    flip(weights, "faces.0.0.conv.weight", 1, [3 * frame + channel for frame in range(WINDOW) for channel in BGR])
    return weights
