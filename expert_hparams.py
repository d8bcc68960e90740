"""Every knob of the lip readers, the expert and the observers, in one frozen dataclass, and their presets."""

from dataclasses import dataclass

from hparams import MOST_DECAY, MOST_SEED, InputError, Knobs, knob


@dataclass(frozen=True)
class ExpertHParams(Knobs):
    """All settings of a lip reader's run. Defaults are AV-HuBERT's base size, with TalkLip's lip expert's gradient.

    Differs: one tri-stage schedule serves both tasks, that of the published fine-tuning. Published pre-training has a
    polynomial decay from 5e-4 to 2e-3 by iteration, over 400,000 steps and more, and gradients clipped at 10.
    """

    # model
    model: str = knob("avhubert", "family", choices=("avhubert", "conformer", "words", "sync"))
    width: float = knob(1.0, "channels of the ResNet-18 that sees the mouth, times this", least=1 / 32, most=8)
    shrink: int = knob(
        1, "px of the mouth ROI that are averaged before the ResNet, in height and width", least=1, most=8
    )
    layers: int = knob(12, "blocks of the encoder", least=1)
    dim: int = knob(768, "its hidden size", least=1)
    ffn: int = knob(3072, "its feed-forward size", least=1)
    heads: int = knob(12, "its attention heads", least=1)
    decoder_layers: int = knob(6, "blocks of the decoder", least=1)
    decoder_ffn: int = knob(3072, "its feed-forward size", least=1)
    decoder_heads: int = knob(4, "its attention heads", least=1)
    dropout: float = knob(0.1, "dropout of encoder and decoder", most=1)
    layerdrop: float = knob(0.05, "AV-HuBERT's chance to skip a block in training", most=1)
    grad_mult: float = knob(0.1, "gradient that leaves AV-HuBERT's video front end, times this", most=1)
    # what it sees
    roi: str = knob("aligned", "mouth ROI: turned to a mean face, or LRS2's middle", choices=("aligned", "lrs2"))
    longest: int = knob(500, "frames of the longest clip that is taken", least=1)
    fraction: float = knob(1.0, "share of the training clips that is used", least=0.001, most=1)
    max_frames: int = knob(1000, "frames of a batch, clips of like length together", least=2)
    frames: int = knob(0, "frames cut from a training clip, with all its words where their times are known; 0: all")
    augment: bool = knob(False, "turn and scale the mouth, change its light, blank a span of frames")
    # pre-training
    units: int = knob(
        100, "clusters that are predicted; published: 100, 100, 500, 1000, 2000 in five iterations", least=2
    )
    depth: int = knob(0, "block whose output is clustered after the first iteration; 0: the last")
    mask_audio: float = knob(0.8, "share of the sound's frames that is masked", most=1)
    mask_audio_span: int = knob(10, "frames of a masked span", least=1)
    mask_video: float = knob(0.3, "share of the pictures that is masked, by others of the clip", most=1)
    mask_video_span: int = knob(5, "frames of a masked span", least=1)
    modality_dropout: float = knob(0.5, "chance that a batch is only heard or only seen", most=1)
    audio_dropout: float = knob(0.5, "chance that it is then the sound that is missing", most=1)
    unmasked_weight: float = knob(0.0, "loss of frames that are not masked; masked ones have 1")
    # fine-tuning
    label_smoothing: float = knob(0.1, "share of the probability that is spread over all tokens", most=1)
    ctc_weight: float = knob(0.0, "CTC's share of the loss", most=1)
    frames_weight: float = knob(0.0, "loss of naming the word said in each frame, where the transcript has times")
    freeze: int = knob(22_500, "steps at the start in which a pre-trained encoder is frozen")
    context: int = knob(3, "frames before and after a word that a word classifier sees")
    # sync model
    temperature: float = knob(0.07, "what likenesses of lips and sound are divided by", least=1e-3)
    # optimisation: a tri-stage schedule
    lr: float = knob(1e-3, "Adam's largest step size")
    beta2: float = knob(0.98, "Adam's second moment decay", most=MOST_DECAY)
    weight_decay: float = knob(0.01, "AdamW's pull towards 0")
    rise: float = knob(0.33, "share of max_steps over which the step size rises", most=1)
    hold: float = knob(0.0, "share over which it stays", most=1)
    last_lr: float = knob(0.05, "the last step size, as a share of lr", most=1)
    clip_norm: float = knob(0.0, "largest norm of the gradient; 0: no limit")
    # reading
    beam: int = knob(5, "hypotheses that beam search keeps", least=1)
    penalty: float = knob(1.0, "length penalty of beam search: score / length ** penalty")
    # run
    seed: int = knob(0, "decides everything that is random", most=MOST_SEED)
    max_steps: int = knob(45_000, "steps of the run", least=1)
    log_every: int = knob(20, "steps between two lines of the log", least=1)
    save_every: int = knob(100, "steps between two writings of last.pt", least=1)
    valid_every: int = knob(1000, "steps between two validations", least=1)
    valid_clips: int = knob(100, "clips of a validation, at most", least=1)
    amp: bool = knob(False, "bfloat16 autocast")

    def __post_init__(self):
        super().__post_init__()
        if self.model == "sync" and self.shrink != 2:
            raise InputError(f"--shrink {self.shrink}: a sync model sees the mouth ROI at half its size, say 2")
        if self.model != "sync" and (self.dim % self.heads or self.dim % self.decoder_heads):
            raise InputError(f"--dim {self.dim} must be a multiple of --heads and of --decoder_heads")
        if self.dim % 16 and self.model == "avhubert":
            raise InputError(f"--dim {self.dim} must be a multiple of 16, the groups of AV-HuBERT's convolution")
        if self.dim % 2 and self.model == "conformer":
            raise InputError(f"--dim {self.dim} must be even: a conformer's positions are pairs of sine and cosine")
        if self.rise + self.hold > 1:
            raise InputError(f"--rise {self.rise} and --hold {self.hold} are together more than the whole run")


_COMPACT_READER = {
    "width": 0.375,
    "shrink": 2,
    "layers": 4,
    "dim": 256,
    "ffn": 1024,
    "heads": 4,
    "decoder_layers": 2,
    "decoder_ffn": 512,
    "grad_mult": 1.0,
    "max_frames": 800,
    "frames": 50,
    "augment": True,
    "modality_dropout": 0.8,
    "audio_dropout": 0.75,
    "unmasked_weight": 1.0,
    "freeze": 0,
    "lr": 1e-3,
    "rise": 0.1,
    "hold": 0.4,
    "clip_norm": 1.0,
    "max_steps": 700,
    "valid_every": 100,
    "amp": True,
}

EXPERT_PRESETS = {
    "base": {},
    "large": {
        "layers": 24,
        "dim": 1024,
        "ffn": 4096,
        "heads": 16,
        "decoder_layers": 9,
        "decoder_ffn": 4096,
        "decoder_heads": 8,
    },
    "conformer": {
        "model": "conformer",
        "dim": 256,
        "ffn": 2048,
        "heads": 4,
        "decoder_ffn": 2048,
        "ctc_weight": 0.1,
        "grad_mult": 1.0,
    },
    "compact": _COMPACT_READER,
    "compact_observer1": {
        **_COMPACT_READER,
        "width": 0.25,
        "layers": 3,
        "ffn": 768,
        "lr": 6e-4,
        "seed": 1,
    },
    "compact_observer2": {
        **_COMPACT_READER,
        "model": "conformer",
        "width": 0.25,
        "layers": 3,
        "dim": 192,
        "ffn": 576,
        "heads": 3,
        "decoder_heads": 3,
        "ctc_weight": 0.1,
        "seed": 2,
    },
    "compact_words": {
        **_COMPACT_READER,
        "model": "words",
        "width": 0.25,
        "layers": 2,
        "context": 2,
        "hold": 0.3,
        "max_steps": 560,
        "seed": 3,
    },
    "compact_sync": {
        "model": "sync",
        "shrink": 2,
        "dim": 128,
        "max_frames": 800,
        "frames": 50,
        "augment": True,
        "lr": 1e-3,
        "rise": 0.05,
        "hold": 0.35,
        "last_lr": 0.01,
        "clip_norm": 1.0,
        "max_steps": 900,
        "valid_every": 100,
        "amp": True,
        "seed": 4,
    },
}
ExpertHParams.presets = EXPERT_PRESETS
