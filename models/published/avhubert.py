"""Facts of AV-HuBERT's files beside their weights: fairseq's config as our knobs."""

from errors import InputError
from hparams import ExpertHParams
from models.avhubert import RESNET
from models.published.archive import listing
from models.published.generators import length, under

FINE_TUNED = "encoder.w2v_model."  # what the names of AV-HuBERT begin with where a decoder stands beside it
STEM = "feature_extractor_video.resnet.frontend3D.0.weight"
# Our knob: (name in the config, value of the published code where the config is silent).
ENCODER = {
    "layers": ("encoder_layers", 12),
    "dim": ("encoder_embed_dim", 768),
    "ffn": ("encoder_ffn_embed_dim", 3072),
    "heads": ("encoder_attention_heads", 12),
    "dropout": ("dropout", 0.1),
    "layerdrop": ("encoder_layerdrop", 0.0),
    "grad_mult": ("feature_grad_mult", 1.0),
}
DECODER = {
    "decoder_layers": ("decoder_layers", 6),
    "decoder_dim": ("decoder_embed_dim", 768),  # no knob: it must be the encoder's
    "decoder_ffn": ("decoder_ffn_embed_dim", 3072),
    "decoder_heads": ("decoder_attention_heads", 4),
}
CRITERION = {"label_smoothing": ("label_smoothing", 0.0)}
# What our networks are and tensors do not show: a config that says otherwise is of another network.
ENCODER_FIXED = {"layer_norm_first": True, "activation_fn": "gelu"}
DECODER_FIXED = {"decoder_normalize_before": True, "no_token_positional_embeddings": False, "no_scale_embedding": True}


def is_fine_tuned(model):
    """Whether weights, by their published names, have a decoder beside AV-HuBERT."""
    return any(name.startswith(FINE_TUNED) for name in model)


def knobs_of(config, model):
    """The sizes of a network and how it was trained, from its config, held against its weights.

    config, model: of `fairseq.Fairseq`. Returns an `ExpertHParams`, whose defaults stand for what a file does not say.
    Raises InputError where config and weights, or config and our networks, contradict each other.
    Differs: one dropout, the encoder's, stands for the many of a config, which only training knows.
    """
    fine_tuned = is_fine_tuned(model)
    prefix = FINE_TUNED if fine_tuned else ""
    if f"{prefix}feature_extractor_audio.proj.weight" not in model:
        raise InputError(f"no AV-HuBERT with or without a decoder, but weights named {listing(model)}: give its file")
    main = section(config, "model")
    knobs = chosen(section(section(main, "w2v_args", {}), "model") if fine_tuned else main, ENCODER, ENCODER_FIXED)
    compare(knobs, "", ENCODER, under(model, f"{prefix}encoder."))
    if fine_tuned:
        knobs |= chosen(main, DECODER, DECODER_FIXED) | chosen(section(config, "criterion"), CRITERION, {})
        compare(knobs, "decoder_", DECODER, under(model, "decoder."))
        if (dim := knobs.pop("decoder_dim")) != knobs["dim"]:
            raise InputError(f"an encoder of {knobs['dim']} with a decoder of {dim}, ours have one size: another model")
    return ExpertHParams(width=length(model, prefix + STEM, RESNET[0][0]) / RESNET[0][0], **knobs)


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
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float) if isinstance(default, float) else int):
            raise InputError(f"the config says {theirs} {value!r}, which is no number: get the original file")
        values[ours] = type(default)(value)
    return values


def compare(knobs, part, names, weights):
    """Raises InputError unless the layers, dim and ffn of a part are those of its tensors, and the heads divide it.

    part: "" or "decoder_", what the names of its knobs begin with. names: ENCODER or DECODER. weights: of that part.
    """
    found = {
        "layers": len({name.split(".")[0] for name in under(weights, "layers.")}),
        "dim": length(weights, "layer_norm.weight", 0),
        "ffn": length(weights, "layers.0.fc1.weight", 0),
    }
    for name, value in found.items():
        if knobs[part + name] != value:
            said = f"{names[part + name][0]} {knobs[part + name]}"
            raise InputError(f"the config says {said}, the weights say {value}: they are not of the same model")
    heads = knobs[f"{part}heads"]
    if heads < 1 or found["dim"] % heads:
        said = f"{names[f'{part}heads'][0]} {heads}"
        raise InputError(f"the config says {said}, which do not divide {found['dim']}: get the original")
