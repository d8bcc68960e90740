"""Every knob of the generator in one frozen dataclass; command-line flags and presets are made from it."""

import argparse
import sys
from dataclasses import dataclass, field, fields, replace
from math import inf
from typing import ClassVar

MOST_SEED = 2**31 - 1  # steps and draws are mixed into it in 64 bits
MOST_DECAY = 0.9999999  # of Adam's moments: with 1 they would never move


class InputError(Exception):
    """A fault of the user's file or flag: scripts print it in one line, without a traceback, and exit with 1."""


def exit_code(script, work, if_stopped="stopped"):
    """Does a script's `work` and returns its exit code: 0, 1 for a fault of the user's, which is told in one line, 130
    for Ctrl-C, answered with `if_stopped`. Any other exception is a bug and keeps its traceback."""
    try:
        work()
    except InputError as error:
        reason = str(error).split("hparams.InputError: ")[-1]  # torch sends a loader's error wrapped in its traceback
        print(f"{script}: {' '.join(reason.split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{script}: {if_stopped}", file=sys.stderr)
        return 130
    return 0


def knob(default, note, choices=None, least=0, most=None):
    """A dataclass field with its one-line note (and unit); words may be chosen from, numbers have bounds."""
    return field(default=default, metadata={"note": note, "choices": choices, "least": least, "most": most})


class Knobs:
    """What every set of knobs can do: check each value against its choices or bounds; `presets` are its named rows."""

    presets: ClassVar = {}

    def __post_init__(self):
        for f in fields(self):
            choices, least, most = (f.metadata[name] for name in ("choices", "least", "most"))
            value = getattr(self, f.name)
            if choices and value not in choices:
                raise InputError(f"--{f.name} {value}: choose one of {', '.join(choices)}")
            if not choices and not least <= value <= (inf if most is None else most):
                bounds = f"at least {least:.10g}" + ("" if most is None else f" and at most {most:.10g}")
                raise InputError(f"--{f.name} {value} must be {bounds}")


@dataclass(frozen=True)
class HParams(Knobs):
    """All settings of a generator's run. Defaults are the published TalkLip (g) with its training recipe."""

    # model
    model: str = knob("talklip", "generator family", choices=("talklip", "wav2lip"))
    speech: str = knob(
        "global", "audio encoder: transformer over the clip, or 0.2 s of mel", choices=("global", "local")
    )
    width: float = knob(1.0, "channels of the layer tables, times this", least=1 / 32, most=8)
    face_size: int = knob(96, "px: height and width of a face crop")
    audio_layers: int = knob(12, "transformer blocks of the global audio encoder", least=1)
    audio_dim: int = knob(768, "its hidden size", least=1)
    audio_ffn: int = knob(3072, "its feed-forward size", least=1)
    audio_heads: int = knob(12, "its attention heads", least=1)
    audio_dropout: float = knob(0.1, "its dropout", most=1)
    audio_layerdrop: float = knob(0.05, "its chance to skip a block in training", most=1)
    # sampling, by default as published
    batch_size: int = knob(8, "clips in a step", least=1)
    window: int = knob(5, "frames drawn one after the other", least=1)
    windows: int = knob(6, "windows of a clip; published: 8 % of its frames, which is 6 of 3 s", least=1)
    rare_speakers: float = knob(0.0, "share of the draws that choose the speaker first, then the clip", most=1)
    # augmentation, the same for all faces of a clip; identity from another window is always on
    augment: float = knob(0.0, "chance of each augmentation: flip, colour, gamma, affine, blur, compression", most=1)
    # losses
    l1_weight: float = knob(0.92999, "mean absolute pixel error: 1 - adv_weight - the lip loss's 1e-5")
    mouth_weight: float = knob(0.0, "mean absolute pixel error inside the mouth region of the mesh")
    lips_weight: float = knob(0.0, "outline of the lips, told from the speech embedding alone")
    adv_weight: float = knob(0.07, "adversarial loss")
    adv_from: int = knob(0, "first step of the discriminator and of the adversarial loss")
    # optimisation
    lr: float = knob(1e-4, "Adam's step size, generator and discriminator")
    beta1: float = knob(0.5, "Adam's first moment decay", most=MOST_DECAY)
    beta2: float = knob(0.999, "Adam's second moment decay", most=MOST_DECAY)
    warmup: int = knob(0, "steps over which the step size rises from 0")
    decay_from: float = knob(1.0, "share of max_steps after which the step size falls along a half cosine to 0", most=1)
    clip_norm: float = knob(0.0, "largest norm of the generator's gradient; 0: no limit")
    audio_from: int = knob(36_000, "first step that trains the audio encoder (stage 1); before it, it is frozen")
    audio_train_layers: int = knob(3, "how many of its top blocks train; 0: all of the encoder")
    ema: float = knob(0.0, "decay of the averaged generator that is validated and exported; 0: none", most=1)
    # run
    seed: int = knob(0, "decides everything that is random", most=MOST_SEED)
    max_steps: int = knob(100_000, "steps of the run", least=1)
    log_every: int = knob(50, "steps between two lines of the log", least=1)
    save_every: int = knob(500, "steps between two writings of last.pt", least=1)
    valid_every: int = knob(3000, "steps between two validations", least=1)
    valid_clips: int = knob(40, "clips of a validation, at most", least=1)
    amp: bool = knob(False, "bfloat16 autocast")

    def __post_init__(self):
        super().__post_init__()
        if self.face_size != 96:
            raise InputError(f"--face_size {self.face_size}: the layer tables draw faces of 96 px")
        if self.audio_dim % self.audio_heads:
            raise InputError(f"--audio_dim {self.audio_dim} must be a multiple of --audio_heads {self.audio_heads}")
        if self.audio_dim % 16 and self.speech == "global":
            raise InputError(f"--audio_dim {self.audio_dim} must be a multiple of 16, the groups of its convolution")
        if self.model == "wav2lip" and self.speech == "global":
            raise InputError("--model wav2lip hears 0.2 s of mel: say --speech local beside it")
        if self.batch_size * self.windows * self.window < 2:
            raise InputError("--batch_size 1 --windows 1 --window 1: batch norm needs two faces in a step at least")


_COMPACT = {
    "width": 0.5,
    "audio_layers": 4,
    "audio_dim": 256,
    "audio_ffn": 1024,
    "audio_heads": 4,
    "audio_from": 0,
    "audio_train_layers": 0,
}

# Published sizes are rows of the papers' tables; `compact` is what weights/ holds and what a laptop trains.
PRESETS = {
    "talklip_g": {},
    "talklip_l": {"speech": "local"},
    "wav2lip": {"model": "wav2lip", "speech": "local"},
    "base_wo_lip": {"speech": "local", "audio_from": 0, "audio_train_layers": 0},
    "base_wo_lip_gan": {"speech": "local", "audio_from": 0, "audio_train_layers": 0, "adv_weight": 0.0},
    "compact": {
        **_COMPACT,
        "batch_size": 16,
        "window": 2,
        "windows": 1,
        "rare_speakers": 0.3,
        "augment": 0.5,
        "mouth_weight": 1.0,
        "lips_weight": 0.2,
        "adv_weight": 0.01,
        "adv_from": 3500,
        "lr": 5e-4,
        "beta1": 0.9,
        "warmup": 200,
        "decay_from": 0.5,
        "clip_norm": 1.0,
        "ema": 0.998,
        "max_steps": 4400,
        "valid_every": 500,
        "amp": True,
    },
    "compact_l": {**_COMPACT, "speech": "local"},
}


HParams.presets = PRESETS


def add_flags(parser, kind=HParams):
    """Adds --preset and one flag per knob. A flag that is not given stays absent, so it never masks a checkpoint."""
    parser.add_argument("--preset", choices=kind.presets, default=argparse.SUPPRESS, help="a named set of knobs")
    group = parser.add_argument_group("knobs (each is stored in the checkpoint; flags given here win)")
    for f in fields(kind):
        options = {"action": argparse.BooleanOptionalAction} if f.type is bool else {"type": f.type}
        if f.metadata["choices"]:
            options["choices"] = f.metadata["choices"]
        note = f"{f.metadata['note']} (default: {f.default})".replace("%", "%%")  # argparse fills in %(words)s
        group.add_argument(f"--{f.name}", default=argparse.SUPPRESS, help=note, **options)


def preset(name, kind=HParams):
    """The knobs of the preset `name`; raises InputError for a name that does not exist."""
    if name not in kind.presets:
        raise InputError(f"--preset {name}: choose one of {', '.join(kind.presets)}")
    return kind(**kind.presets[name])


def override(hp, args):
    """`hp` with the preset and then the knobs that were given on the command line (`args`, a namespace)."""
    given = dict(hp.presets[args.preset]) if hasattr(args, "preset") else {}
    given |= {f.name: getattr(args, f.name) for f in fields(hp) if hasattr(args, f.name)}
    return replace(hp, **given)
