"""Reads the published weights of the Conformer lip reader: the names of others become ours."""

import re

import torch

from published import rename

# (what the published name holds, what ours holds), applied in this order.
NAMES = (
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
JOINED = (  # (parts, their name once joined); the cross-attention's query stays by itself
    (("src_attn.linear_k", "src_attn.linear_v"), "keys_values"),
    (("linear_q", "linear_k", "linear_v"), "qkv"),
)
UNUSED = "visual_frontend.resnet.layer1.downsample."  # the first stage adds its input as it is


def convert_conformer(published):
    """The published Conformer lip reader, as our `ConformerReader`.

    The first convolution's kernel over time becomes its channels, convolutions of kernel 1 become linear layers.
    """
    stages = [(rf"^visual_frontend\.resnet\.layer{i + 1}\.", f"encoder.stages.{i}.") for i in range(4)]
    weights = {name: value for name, value in published.items() if not name.startswith(UNUSED)}
    weights = rename(weights, (*stages, *NAMES))
    for name, value in weights.items():
        if name == "encoder.stem.0.weight":
            weights[name] = value.squeeze(1)  # (64, 1, 5, 7, 7) to (64, 5, 7, 7)
        elif re.search(r"\.convolution\.(gate|out)\.weight$", name):
            weights[name] = value.squeeze(-1)
    for parts, whole in JOINED:
        for name in [name for name in weights if f".{parts[0]}." in name]:
            names = [name.replace(parts[0], part) for part in parts]
            if all(each in weights for each in names):
                weights[name.replace(parts[0], whole)] = torch.cat([weights.pop(each) for each in names])
    return weights
