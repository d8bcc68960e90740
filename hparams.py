"""Every knob of every stage in frozen dataclasses; command-line flags and presets are made from them."""

import argparse
from dataclasses import dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import ClassVar

from errors import InputError

_FILES = {"generator": "reference_warp", "whisper": "whisper_tiny_en_encoder"}
WEIGHTS = {  # what is used where no file is named
    name: Path(__file__).parent / "weights" / f"{_FILES.get(name, f'{name}_compact')}.safetensors"
    for name in ("generator", "expert", "reader1", "reader2", "words", "sync", "whisper")
}
ARTICULATION = 0.5, 2.0  # its least and most, see `renderer.SpeechTrack`
MOST_SEED = 2**31 - 1  # steps and draws are mixed into it in 64 bits
MOST_DECAY = 0.9999999  # of Adam's moments: with 1 they would never move
SYNC_WINDOW = 5  # frames that a sync expert sees at once
SYNC_MODELS = "sync", "wav2lip_sync", "compact_wav2lip_sync", "cals_sync", "compact_cals_sync"


def knob(default, note, choices=None, least=0, most=None, since=None):
    """A dataclass field with its one-line note (and unit); words may be chosen from, numbers have bounds.

    since: of a loss's weight, the knob that says from which step on it counts.
    """
    about = {"note": note, "choices": choices, "least": least, "most": most, "since": since}
    return field(default=default, metadata=about)


class Knobs:
    """Base of every set of knobs: checks each value against its choices or bounds; `presets` are its named rows."""

    presets: ClassVar = {}
    faithful: ClassVar = False  # what all runs can be asked for and only some have as a knob
    patience: ClassVar = 0
    awaits_sync: ClassVar = False
    later: ClassVar = {}
    last_lr: ClassVar = 0.0
    rise_from: ClassVar = 0.01  # share of the step size that a run begins with, where it rises
    model: ClassVar = ""

    @property
    def mel(self):
        """Whose setting the mel has: a name in `audio.MELS`."""
        return "cals" if "cals" in self.model.split("_") else "wav2lip"

    def __post_init__(self):
        for f in fields(self):
            choices, least, most = (f.metadata[name] for name in ("choices", "least", "most"))
            value = getattr(self, f.name)
            if choices and value not in choices:
                raise InputError(f"--{f.name} {value}: choose one of {', '.join(map(str, choices))}")
            if not choices and not least <= value <= (inf if most is None else most):
                bounds = f"at least {least:.10g}" + ("" if most is None else f" and at most {most:.10g}")
                raise InputError(f"--{f.name} {value} must be {bounds}")


@dataclass(frozen=True)
class HParams(Knobs):
    """All settings of a generator's run. Defaults are the published TalkLip (g) with its training recipe."""

    # model
    model: str = knob("talklip", "generator family", choices=("talklip", "wav2lip", "cals", "warp"))
    speech: str = knob(
        "global",
        "audio encoder: over the clip, 0.2 s of mel, Whisper's, or CALS' over the clip's mel",
        choices=("global", "local", "whisper", "utterance"),
    )
    references: int = knob(3, "frames whose pixels are warped (--model warp)", least=1, most=8)
    width: float = knob(1.0, "channels of the layer tables, times this", least=1 / 32, most=8)
    face_size: int = knob(96, "px: height and width of a face crop", choices=(96, 128, 256))
    audio_layers: int = knob(12, "transformer blocks of an audio encoder over the clip", least=1)
    audio_dim: int = knob(768, "its hidden size", least=1)
    audio_ffn: int = knob(3072, "its feed-forward size", least=1)
    audio_heads: int = knob(12, "its attention heads", least=1)
    audio_dropout: float = knob(0.1, "its dropout", most=1)
    audio_layerdrop: float = knob(0.05, "its chance to skip a block in training", most=1)
    sync_dim: int = knob(0, "size of the space in which sound and lips are compared: the expert's; 0: the speech's")
    # Audio-to-Lip (--model cals)
    a2l_steps: int = knob(0, "steps at the start that train Audio-to-Lip alone (stage 1)")
    a2l_sum: bool = knob(True, "its loss is the sum over masked units, as printed, instead of their mean")
    a2l_heard: bool = knob(False, "its loss is of units whose sound is heard too; printed: of masked ones")
    a2l_trains: bool = knob(False, "it goes on training after that, by the losses of the faces")
    mask_share: float = knob(0.5, "share of the sound's 10 ms steps that is masked in stage 1, before overlap", most=1)
    mask_span: int = knob(50, "10 ms steps of a masked span, more than the 20 that a lip-motion unit is of", least=21)
    shortest_rows: int = knob(0, "frames of sound at least that training cuts at random; 0: none", most=1000)
    # sampling, by default as published
    batch_size: int = knob(8, "clips in a step of each process", least=1)
    window: int = knob(5, "consecutive frames of a window", least=1)
    windows: int = knob(0, "windows of a clip; 0: as many as 8 % of its frames, as published, which is 6 of 3 s")
    speech_windows: float = knob(0.0, "chance of each window to lie within words, where times are known", most=1)
    identity_apart: int = knob(0, "frames from window to identity, then as often open as closed; 0: any other window")
    told: float = knob(0.7, "share of the guided draws whose lips the sound shapes; of others they are true", most=1)
    faces_share: float = knob(0.3, "share of the draws that are of --faces, before the expert joins", most=1)
    rare_speakers: float = knob(0.0, "share of the draws that choose the speaker first, then the clip", most=1)
    # augmentation, the same for all faces of a clip, but targets stay sharp; identity from another window is always on
    augment: float = knob(0.0, "chance of each augmentation: flip, colour, gamma, affine, blur, compression", most=1)
    sound_augment: float = knob(
        0.0, "chance of room, noise, equaliser, low-pass, level, zeros, cut, speed, repeats", most=1
    )
    # losses
    l1_weight: float = knob(0.92999, "mean absolute pixel error: 1 - adv_weight - the lip loss's 1e-5")
    rec_weight: float = knob(0.0, "absolute error summed over a face's pixels, as SyncTalklip prints it")
    mouth_weight: float = knob(0.0, "mean absolute pixel error inside the mouth region of the mesh")
    lips_weight: float = knob(0.0, "shape of the lips, predicted from the speech embedding alone")
    detail_weight: float = knob(0.0, "mean absolute error of three levels of a Laplacian pyramid")
    motion_weight: float = knob(0.0, "error, at the mouth, of the change from frame to frame", since="lip_from")
    adv_weight: float = knob(0.07, "adversarial loss", since="adv_from")
    adv_from: int = knob(0, "first step of the discriminator and of the adversarial loss")
    adv_ratio: float = knob(0.0, "length of its pixel gradient, as a share of the others'; 0: adv_weight as it is")
    discriminator: str = knob("talklip", "a verdict on each lower face, or on patches", choices=("talklip", "patch"))
    adv_form: str = knob("stable", "cross-entropy, or SyncTalklip's eq. 8 and 9 as printed", ("stable", "printed"))
    lip_weight: float = knob(1e-5, "lip-reading loss: how badly the expert reads the generated lips", since="lip_from")
    lip_sum: bool = knob(True, "sum it over all tokens of a step, as published, instead of their mean")
    contrastive_weight: float = knob(0.0, "contrastive loss of sound and lips; published (c): 1e-3", since="lip_from")
    cav_weight: float = knob(0.0, "SyncTalklip's contrastive loss of sound and lips, in L1", since="lip_from")
    cav_scale: float = knob(0.0, "what its distances are multiplied by, tau and F of eq. 11; 0: 1 / audio_dim")
    cav_apart: int = knob(3, "frames from a generated frame to its nearest negative; printed: 1", least=1)
    cav_sum: bool = knob(False, "sum it over the generated frames, as printed, instead of their mean")
    cav_audio: str = knob("tuned", "sound that it takes: the generator's, or the expert's", choices=("tuned", "frozen"))
    cav_negatives: str = knob("video", "its negatives: other lips, or the expert's sounds", choices=("video", "audio"))
    supervisor: str = knob("any", "kind that --expert has to be", choices=("any", "avhubert", "avsyncnet", "conv"))
    sync_weight: float = knob(0.0, "sync loss: how badly lips and sound fit, says the sync expert", since="sync_from")
    av_weight: float = knob(0.0, "CALS' d_av: generated lips find their sound among others", since="sync_from")
    vv_weight: float = knob(0.0, "CALS' d_vv: generated lips find the real ones among others", since="sync_from")
    sync_temperature: float = knob(1.0, "what the cosines of both are divided by; printed: 1", least=1e-3)
    roi: str = knob("lrs2", "mouth ROI that the expert sees; own: its file's", choices=("own", "aligned", "lrs2"))
    faithful: bool = knob(False, "the published code's quirks instead of the sound versions: see docs/differences.md")
    # optimisation
    lr: float = knob(1e-4, "Adam's step size, generator and discriminator")
    adv_lr: float = knob(0.0, "the discriminator's; 0: lr")
    beta1: float = knob(0.5, "Adam's first moment decay", most=MOST_DECAY)
    adv_beta1: float = knob(0.0, "the discriminator's; 0: beta1", most=MOST_DECAY)
    beta2: float = knob(0.999, "Adam's second moment decay", most=MOST_DECAY)
    warmup: int = knob(0, "steps over which the step size rises")
    decay_from: float = knob(1.0, "share of max_steps after which the step size falls along a half cosine to 0", most=1)
    clip_norm: float = knob(0.0, "largest norm of the generator's gradient; 0: no limit")
    audio_from: int = knob(36_000, "first step that trains the audio encoder (stage 1); before it, it is frozen")
    audio_train_layers: int = knob(3, "how many of its top blocks train; 0: all of the encoder")
    lip_from: int = knob(60_000, "first step of the lip-reading and contrastive losses (stage 2)")
    sync_from: int = knob(0, "first step of the sync loss")
    sync_below: float = knob(0.0, "nats: it begins once validation's sync loss is below; published: 0.75. 0: by step")
    lip_batch_size: int = knob(0, "clips in a step from there on; 0: batch_size")
    lip_window: int = knob(0, "frames of a window from there on; 0: window")
    freeze_norms: bool = knob(False, "batch norms keep the statistics they have from there on")
    patience: int = knob(0, "validations without a better one after which a stage ends; published: 5. 0: by step")
    accumulate: int = knob(1, "batches whose gradients make one step", least=1)
    recompute: bool = knob(False, "compute the expert's activations twice: less memory, more time")
    rollbacks: int = knob(3, "times that a run which diverges goes back to its last.pt, with half the step size")
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
        if self.audio_dim % self.audio_heads:
            raise InputError(f"--audio_dim {self.audio_dim} must be a multiple of --audio_heads {self.audio_heads}")
        if self.audio_dim % 16 and self.speech in ("global", "utterance"):
            raise InputError(f"--audio_dim {self.audio_dim} must be a multiple of 16, the groups of its convolution")
        if self.model == "wav2lip" and self.speech != "local":
            raise InputError("--model wav2lip takes 0.2 s of mel: say --speech local beside it")
        if self.model == "warp" and (self.speech not in ("whisper", "global") or self.face_size != 128):
            raise InputError("--model warp takes crops of 128 px: say --speech whisper --face_size 128 beside it")
        if (self.model == "cals") != (self.speech == "utterance") or (self.model == "cals" and not self.sync_dim):
            raise InputError("--model cals, --speech utterance and --sync_dim, the size of its units, go together")
        if self.model == "cals" and not (self.a2l_steps or self.a2l_trains):
            raise InputError("--a2l_steps 0 without --a2l_trains: Audio-to-Lip would never be trained")
        if self.model != "cals" and (self.a2l_steps or self.shortest_rows or self.av_weight or self.vv_weight):
            raise InputError("--a2l_steps, --shortest_rows, --av_weight and --vv_weight are of --model cals")
        if self.shortest_rows and self.windows != 1:
            raise InputError("--shortest_rows: sound is cut around one window of a clip, say --windows 1")
        if self.a2l_steps and (self.patience or self.sound_augment):
            raise InputError("--a2l_steps: that stage has neither --patience nor --sound_augment")
        if self.model in ("wav2lip", "cals") and self.contrastive_weight:
            raise InputError(f"--contrastive_weight: --model {self.model} has no space to compare sound and lips in")
        if self.cav_weight and not self.has_expert_encoder:
            raise InputError("--cav_weight holds lips against the speech of --model talklip --speech global: say these")
        if self.synced and (self.window < SYNC_WINDOW or 0 < self.lip_window < SYNC_WINDOW):
            short = f"--window {self.window}" if self.window < SYNC_WINDOW else f"--lip_window {self.lip_window}"
            raise InputError(f"{short}: the sync expert sees {SYNC_WINDOW} frames that follow each other, say so many")
        if self.sync_weight and self.model == "warp":
            raise InputError("--sync_weight: the sync expert sees faces, --model warp generates whole crops")
        if self.batch_size * self.window < 2 and self.windows < 2:
            raise InputError("--batch_size 1 --windows 1 --window 1: batch norm needs two faces in a step at least")
        if not any(loss_weights(self, 0).values()):
            raise InputError("--l1_weight 0: no loss is left for step 0; --mouth_weight or --lips_weight would be one")
        if self.adv_ratio and not self.l1_weight + self.mouth_weight:
            raise InputError("--adv_ratio is a share of L1's gradient: --l1_weight or --mouth_weight must be above 0")
        if self.faithful and (self.adv_ratio or self.discriminator != "talklip"):
            raise InputError("--faithful: the published code has neither --adv_ratio nor --discriminator patch")
        if self.adv_form == "printed" and (self.faithful or self.discriminator != "talklip"):
            raise InputError("--adv_form printed is SyncTalklip's: it goes with --no-faithful --discriminator talklip")
        if self.patience and not self.later:
            raise InputError("--patience: no stage begins after step 0 (--audio_from, --lip_from), none could wait")

    @property
    def rise_steps(self):
        """Steps over which the step size rises: it is whole at the last of `warmup`."""
        return max(self.warmup - 1, 0)

    @property
    def rise_from(self):
        """Share of the step size that the first step has: that of one step of `warmup`."""
        return 1 / max(self.warmup, 1)

    @property
    def fall_step(self):
        """The step from which on the step size falls."""
        return self.decay_from * self.max_steps

    @property
    def guided(self):
        """Whether a lip-reading expert guides the training, from `lip_from` on."""
        return bool(self.lip_weight or self.contrastive_weight or self.cav_weight)

    @property
    def has_expert_encoder(self):
        """Whether the audio encoder is of the lip-reading expert's kind, and begins as the expert's own."""
        return self.model == "talklip" and self.speech == "global"

    @property
    def synced(self):
        """Whether a sync expert guides the training, from `sync_from` on, or from where validation says."""
        return bool(self.sync_weight or self.av_weight or self.vv_weight)

    @property
    def needs_sync_expert(self):
        """Whether a sync expert has a part in the training: by its losses, or by its lip-motion units."""
        return bool(self.synced or self.a2l_steps)

    @property
    def awaits_sync(self):
        """Whether the sync loss begins once validation finds it low enough."""
        return bool(self.sync_weight and self.sync_below)

    @property
    def later(self):
        """The knobs of the stages that begin after step 0, {name: step}; with `patience` each waits for a plateau."""
        lips = self.guided or self.freeze_norms or self.lip_batch_size or self.lip_window
        starts = {"audio_from": self.speech == "global" and self.audio_from, "lip_from": lips and self.lip_from}
        return {name: start for name, start in starts.items() if start}

    def paced(self, step):
        """These knobs as the batches of `step` are made by: from `lip_from` on that stage's."""
        if step < self.lip_from:
            return self
        clips, frames = self.lip_batch_size or self.batch_size, self.lip_window or self.window
        return replace(self, batch_size=clips, window=frames)


# fmt: off
_HALF_WIDTH = {
    "width": 0.5, "audio_layers": 4, "audio_dim": 256, "audio_ffn": 1024, "audio_heads": 4, "audio_from": 0,
    "audio_train_layers": 0, "roi": "own", "lip_weight": 0.0,
}
_EVENING = {  # of one evening: what runs of a few thousand steps on a processor share
    **_HALF_WIDTH, "rare_speakers": 0.3, "augment": 0.5, "mouth_weight": 1.0, "lips_weight": 0.2, "adv_weight": 0.01,
    "lr": 5e-4, "beta1": 0.9, "warmup": 200, "decay_from": 0.5, "clip_norm": 1.0, "ema": 0.998, "valid_every": 500,
    "amp": True,
}
_LOCAL = {"speech": "local", "audio_from": 0, "audio_train_layers": 0}
# The rows of TalkLip's table: l, g: local, global audio encoder; c: contrastive loss; base: l without the expert.
_ROWS = {
    "talklip_l": _LOCAL,
    "talklip_l_c": {**_LOCAL, "contrastive_weight": 1e-3},
    "talklip_g": {},
    "talklip_g_c": {"contrastive_weight": 1e-3},
    "base_wo_lip": {**_LOCAL, "lip_weight": 0.0},
    "base_wo_lip_gan": {**_LOCAL, "lip_weight": 0.0, "adv_weight": 0.0},
}
_SIZED = {  # what the published size has of its own: L1 takes what the others leave of 1, and AV-HuBERT's space
    "talklip_l_c": {"sync_dim": 768},
    "base_wo_lip": {"l1_weight": 0.93}, "base_wo_lip_gan": {"l1_weight": 1.0},
}
_COMPACT_ROW = {  # batches, steps and weights of all six rows; the losses are the paper's, and L1 at the mouth
    **_EVENING,
    "lips_weight": 0.0,  # the paper has no such help: with it the rows without an expert could be read as well
    "l1_weight": 1.0, "batch_size": 16, "window": 2, "windows": 1,
    "lip_batch_size": 2,  # whole clips are dear, and of 5 generated frames in 75 the expert would hardly take note:
    "lip_window": 16,  # two words or so, from two clips, whose own statistics are no good for batch norms
    "freeze_norms": True,
    "lip_weight": 0.003,  # of the mean; published, 1e-5 of a sum over 8 clips is about 0.002 of the mean
    "lip_sum": False, "max_steps": 3000, "audio_from": 1000,
    "audio_train_layers": 1,  # of 4 blocks, as the published 3 of 12: it begins as the expert's own
    "lip_from": 2000,
    "adv_from": 2500,  # last, when there is something to judge: until then rows share more steps
}


def _compact_row(row, **own):
    """The compact form of a row: its losses with the compact rows' weights and schedule, then `own` knobs as given."""
    losses = {name: value for name, value in row.items() if name not in ("audio_from", "audio_train_layers")}
    weights = {"contrastive_weight": 0.003} if "contrastive_weight" in losses else {}
    return {**_COMPACT_ROW, "speech": "global", "contrastive_weight": 0.0, **losses, **weights, **own}


_SYNCTALKLIP = {  # what weights its losses have is nowhere: they are TalkLip's, its contrastive loss's for the new one
    "audio_layers": 24, "audio_dim": 1024, "audio_ffn": 4096, "audio_heads": 16, "audio_from": 0,
    "audio_train_layers": 0, "lip_from": 0, "max_steps": 60_000, "cav_weight": 1e-3, "supervisor": "avsyncnet",
}
_COMPACT_SYNCTALKLIP = {
    "cav_weight": 0.006,  # its gradient at the faces is about as long as that of TalkLip's contrastive loss times 0.003
    "supervisor": "avsyncnet",
}
_SYNCTALKLIP_ROWS = {  # its variants, then the rows of its table 3
    "synctalklip": {},
    "synctalklip_conv": {"supervisor": "conv"},
    "synctalklip_freeze": {"cav_audio": "frozen"},
    "synctalklip_wo_novel": {"cav_weight": 0.0, "contrastive_weight": 1e-3},
    "synctalklip_wo_contrastive": {"cav_weight": 0.0},
    "synctalklip_wo_lip": {"lip_weight": 0.0},
    "synctalklip_wo_avsyncnet": {"supervisor": "avhubert"},
}
_WAV2LIP = {**_LOCAL, "model": "wav2lip", "lip_weight": 0.0, "batch_size": 80, "windows": 1, "sync_below": 0.75}
_COMPACT_WAV2LIP = {
    **_EVENING, "model": "wav2lip", "speech": "local", "l1_weight": 1.0, "batch_size": 12, "windows": 1,
    "lips_weight": 0.0,  # the paper has no such help
    "sync_weight": 0.003,  # of an InfoNCE, as that of the other compact rows; the paper's weights are of another loss
    "sync_from": 1000, "max_steps": 3000,
}
_CALS_BATCH = {"batch_size": 20, "windows": 4}  # 80 windows, as Wav2Lip's, but several of a clip: d_vv tells them apart
_CALS = {
    **_CALS_BATCH, "model": "cals", "speech": "utterance", "face_size": 128, "audio_layers": 6, "audio_dim": 512,
    "audio_ffn": 2048, "audio_heads": 8, "audio_from": 0, "audio_train_layers": 0, "sync_dim": 512, "lip_weight": 0.0,
    "a2l_steps": 50_000, "max_steps": 150_000,
}
_COMPACT_CALS_BATCH = {"batch_size": 4, "windows": 3}
_COMPACT_CALS = {
    **_EVENING, **_COMPACT_CALS_BATCH, "model": "cals", "speech": "utterance", "sync_dim": 128, "l1_weight": 1.0,
    "lips_weight": 0.0, "a2l_sum": False, "sync_temperature": 0.07,
    # faces train for the 3000 steps of the baseline, and their losses begin as late
    "a2l_steps": 1500, "sync_from": 2500, "adv_from": 4000, "max_steps": 4500, "decay_from": 2 / 3,
}
# The rows of CALS' table 1: the baseline is Wav2Lip under its own sync expert.
_CALS_ROWS = {
    "cals_baseline": {**_WAV2LIP, **_CALS_BATCH, "face_size": 128, "l1_weight": 0.9, "sync_weight": 0.03},
    "cals_a2l": {**_CALS, "l1_weight": 0.93},
    "cals_a2l_av": {**_CALS, "l1_weight": 0.9, "av_weight": 0.03},
    "cals_a2l_av_vv": {**_CALS, "l1_weight": 0.9, "av_weight": 0.03, "vv_weight": 0.03},
    "compact_cals_baseline": {**_COMPACT_WAV2LIP, **_COMPACT_CALS_BATCH, "adv_from": 2500},
    "compact_cals_a2l": _COMPACT_CALS,
    "compact_cals_a2l_av": {**_COMPACT_CALS, "av_weight": 0.003},
    "compact_cals_a2l_av_vv": {**_COMPACT_CALS, "av_weight": 0.003, "vv_weight": 0.003},
}
_WARP = {  # in no paper: see models/warp.py
    "model": "warp", "speech": "whisper", "face_size": 128, "audio_dim": 256, "audio_heads": 4, "audio_from": 0,
    "audio_train_layers": 0, "roi": "own", "batch_size": 12, "window": 1, "windows": 1, "lip_batch_size": 2,
    "lip_window": 24, "speech_windows": 0.7, "rare_speakers": 0.5, "augment": 0.6, "sound_augment": 0.3,
    "freeze_norms": True, "l1_weight": 4.0, "mouth_weight": 1.0, "detail_weight": 4.0, "lips_weight": 2.0,
    "motion_weight": 1.0, "discriminator": "patch", "adv_weight": 0.003, "adv_ratio": 0.4, "adv_from": 1000,
    "adv_lr": 5e-4, "adv_beta1": 0.5, "lip_weight": 0.01, "lip_sum": False, "contrastive_weight": 0.003,
    "lip_from": 1000, "max_steps": 5300, "lr": 6e-4, "beta1": 0.9, "warmup": 200, "decay_from": 0.35,
    "clip_norm": 1.0, "ema": 0.998, "valid_every": 200, "valid_clips": 13,
}
# Published sizes are rows of the papers' tables, compact_... the same for a laptop; weights/ began as `compact`.
PRESETS = {
    **{name: row | _SIZED.get(name, {}) for name, row in _ROWS.items()},
    # L1 takes what the others leave of 1.
    "wav2lip": {**_WAV2LIP, "l1_weight": 0.99, "adv_weight": 0.0, "sync_weight": 0.01},
    "wav2lip_gan": {**_WAV2LIP, "l1_weight": 0.9, "adv_weight": 0.07, "sync_weight": 0.03},
    "compact_wav2lip": {**_COMPACT_WAV2LIP, "adv_weight": 0.0},
    "compact_wav2lip_gan": {**_COMPACT_WAV2LIP, "adv_from": 2500},
    **_CALS_ROWS,
    "compact": {**_EVENING, "batch_size": 16, "window": 2, "windows": 1, "adv_from": 3500, "max_steps": 4400},
    "warp": _WARP,
    "warp_wo_expert": {**_WARP, "lip_weight": 0.0, "contrastive_weight": 0.0},
    "warp_wo_adv": {**_WARP, "adv_weight": 0.0},
    "warp_wo_whisper": {**_WARP, "speech": "global"},
    "warp_wo_pixels": {**_WARP, "model": "talklip", "width": 0.5},  # painted, of one identity frame
    **{name: _SYNCTALKLIP | row for name, row in _SYNCTALKLIP_ROWS.items()},
    **{f"compact_{name}": _compact_row(_COMPACT_SYNCTALKLIP | row) for name, row in _SYNCTALKLIP_ROWS.items()},
    "compact_l": {**_HALF_WIDTH, "speech": "local"},
    **{f"compact_{name}": _compact_row(row) for name, row in _ROWS.items()},
}
# fmt: on
# The preset that a method trains where none is given.
METHODS = {
    "talklip": "compact_talklip_g_c",
    "wav2lip": "compact_wav2lip",
    "cals": "compact_cals_a2l_av_vv",
    "synctalklip": "compact_synctalklip",
    "warp": "warp",
}
HParams.presets = PRESETS


def loss_weights(hp, step):
    """{loss: its weight at `step`} by the knobs named `<loss>_weight`; 0 before the step from which on it counts."""
    weights = {}
    for f in fields(hp):
        if f.name.endswith("_weight"):
            start = getattr(hp, f.metadata["since"]) if f.metadata["since"] else 0
            weights[f.name.removesuffix("_weight")] = getattr(hp, f.name) if step >= start else 0.0
    return weights


def stage_plan(hp):
    """The schedule in words, one line per stage, as it is printed at the start of a run."""
    parts = []  # (knob that says when, what then begins)
    for f in fields(hp):
        if f.name.endswith("_weight") and (weight := getattr(hp, f.name)):
            name, much = f.name.removesuffix("_weight"), f"x {weight:g}"
            if name == "lip":
                much += f" ({'sum' if hp.lip_sum else 'mean'} over tokens)"
            if name == "adv" and hp.adv_ratio:
                much = f"with {hp.adv_ratio:g} of the other gradients"
            parts.append((f.metadata["since"], f"{name} loss {much}"))
    if hp.has_expert_encoder:
        what = f"top {hp.audio_train_layers} blocks" if hp.audio_train_layers else "all"
        parts.append(("audio_from", f"audio encoder trains ({what})"))
    if hp.freeze_norms:
        parts.append(("lip_from", "batch norms keep their statistics"))
    lines = []
    if hp.a2l_steps:
        how = "sum" if hp.a2l_sum else "mean"
        which = "all" if hp.a2l_heard else "masked"
        lines.append(f"from step 0: Audio-to-Lip alone, by the {how} of squared errors of {which} lip-motion units")
        parts.append((None, "Audio-to-Lip goes on training" if hp.a2l_trains else "Audio-to-Lip is frozen"))
    starts = {knob: max(getattr(hp, knob) if knob else 0, hp.a2l_steps) for knob, _ in parts}
    for start in sorted({start for start in starts.values() if start < hp.max_steps}):
        lines.append(f"from step {start}: {', '.join(what for knob, what in parts if starts[knob] == start)}")
    if hp.awaits_sync and hp.sync_from >= hp.max_steps:
        what = ", ".join(what for knob, what in parts if knob == "sync_from")
        lines.append(f"then, when validation has a sync loss below {hp.sync_below:g}: {what}")
    if hp.patience:
        for stage in (knob for knob in hp.later if starts.get(knob) == hp.max_steps):
            lines.append(f"then, at a plateau: {', '.join(what for knob, what in parts if knob == stage)}")
        least = (hp.patience + 1) * hp.valid_every
        lines.append(f"a plateau is more than {hp.patience} validations without a better L1, {least} steps at least")
    return lines


@dataclass(frozen=True)
class ExpertHParams(Knobs):
    """All settings of a lip reader's run. Defaults are AV-HuBERT's base size, with TalkLip's lip expert's gradient.

    Differs: one tri-stage schedule serves both tasks, that of the published fine-tuning. Published pre-training has a
    polynomial decay from 5e-4 to 2e-3 by iteration, over 400,000 steps and more, and gradients clipped at 10.
    """

    # model
    model: str = knob("avhubert", "family", choices=("avhubert", "conformer", "words", *SYNC_MODELS))
    width: float = knob(1.0, "channels of the ResNet-18 of the mouth ROI, times this", least=1 / 32, most=8)
    shrink: int = knob(1, "px of the mouth ROI averaged before the ResNet, in height and width", least=1, most=8)
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
    # clips
    roi: str = knob("aligned", "mouth ROI: turned to a mean face, or LRS2's middle", choices=("aligned", "lrs2"))
    longest: int = knob(500, "frames of the longest clip that is taken", least=1)
    fraction: float = knob(1.0, "share of the training clips that is used", least=0.001, most=1)
    max_frames: int = knob(1000, "frames of a batch, clips of like length together", least=2)
    frames: int = knob(0, "frames cut from a training clip, with all its words where their times are known; 0: all")
    augment: bool = knob(False, "turn and scale the mouth, change its light, blank a span of frames")
    # pre-training
    clusters: int = knob(100, "cluster targets; published: 100, 100, 500, 1000, 2000 in five iterations", least=2)
    depth: int = knob(0, "block whose output is clustered after the first iteration; 0: the last")
    mask_audio: float = knob(0.8, "share of the sound's frames that is masked", most=1)
    mask_audio_span: int = knob(10, "frames of a masked span", least=1)
    mask_video: float = knob(0.3, "share of the pictures that is masked, by others of the clip", most=1)
    mask_video_span: int = knob(5, "frames of a masked span", least=1)
    modality_dropout: float = knob(0.5, "chance that a batch has one modality only, sound or pictures", most=1)
    audio_dropout: float = knob(0.5, "chance that it is then the sound that is missing", most=1)
    unmasked_weight: float = knob(0.0, "loss of frames that are not masked; masked ones have 1")
    # fine-tuning
    label_smoothing: float = knob(0.1, "share of the probability that is spread over all tokens", most=1)
    ctc_weight: float = knob(0.0, "CTC's share of the loss", most=1)
    frames_weight: float = knob(0.0, "loss of naming the word said in each frame, where the transcript has times")
    align_weight: float = knob(0.0, "AV-SyncNet: L1 between a clip's features by its sound and by its lips")
    align_scale: float = knob(0.0, "what that is multiplied by, tau and F of SyncTalklip's eq. 5; 0: 1 / dim")
    align_kernel: int = knob(1, "frames of the convolution before it, an odd number; 1: none (local)", least=1)
    freeze: int = knob(22_500, "steps at the start in which a pre-trained encoder is frozen")
    context: int = knob(3, "frames before and after a word that a word classifier sees")
    # sync model
    sync_loss: str = knob(
        "matching", "each window against all of the batch (InfoNCE); published: by pairs", ("matching", "pairs")
    )
    temperature: float = knob(0.07, "what cosines of lips and sound are divided by (--sync_loss matching)", least=1e-3)
    # optimisation: a tri-stage schedule
    lr: float = knob(1e-3, "Adam's largest step size")
    beta1: float = knob(0.9, "Adam's first moment decay", most=MOST_DECAY)
    beta2: float = knob(0.98, "Adam's second moment decay", most=MOST_DECAY)
    weight_decay: float = knob(0.01, "AdamW's pull towards 0")
    rise: float = knob(0.33, "share of max_steps over which the step size rises", most=1)
    hold: float = knob(0.0, "share over which it stays", most=1)
    last_lr: float = knob(0.05, "the last step size, as a share of lr; 0: down to it along half a cosine", most=1)
    clip_norm: float = knob(0.0, "largest norm of the gradient; 0: no limit")
    rollbacks: int = knob(3, "times that a run which diverges goes back to its last.pt, with half the step size")
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
            raise InputError(f"--shrink {self.shrink}: a sync model takes the mouth ROI at half its size, say 2")
        if self.sync_loss == "pairs" and (self.model == "sync" or self.mel == "cals"):
            raise InputError(f"--sync_loss pairs: cosines of --model {self.model} may be below 0: no probability")
        if self.model not in SYNC_MODELS and (self.dim % self.heads or self.dim % self.decoder_heads):
            raise InputError(f"--dim {self.dim} must be a multiple of --heads and of --decoder_heads")
        if self.dim % 16 and self.model == "avhubert":
            raise InputError(f"--dim {self.dim} must be a multiple of 16, the groups of AV-HuBERT's convolution")
        if self.dim % 2 and self.model == "conformer":
            raise InputError(f"--dim {self.dim} must be even: a conformer's positions are pairs of sine and cosine")
        if self.model != "avhubert" and (self.align_weight or self.align_kernel > 1):
            raise InputError(f"--align_weight, --align_kernel: --model {self.model} has no sound, avhubert has")
        if self.align_kernel % 2 == 0 or (self.align_kernel > 1 and not self.align_weight):
            raise InputError(f"--align_kernel {self.align_kernel} must be odd, and more than 1 asks for --align_weight")
        if self.rise + self.hold > 1:
            raise InputError(f"--rise {self.rise} and --hold {self.hold} are together more than the whole run")

    @property
    def face_px(self):
        """Side in px of the faces whose lower half a sync expert sees."""
        return 128 if self.model == "cals_sync" else 96

    @property
    def rise_steps(self):
        """Steps over which the step size rises."""
        return self.rise * self.max_steps

    @property
    def fall_step(self):
        """The step from which on the step size falls."""
        return (self.rise + self.hold) * self.max_steps


# fmt: off
_COMPACT_READER = {
    "width": 0.375, "shrink": 2, "layers": 4, "dim": 256, "ffn": 1024, "heads": 4, "decoder_layers": 2,
    "decoder_ffn": 512, "grad_mult": 1.0, "max_frames": 800, "frames": 50, "augment": True, "modality_dropout": 0.8,
    "audio_dropout": 0.75, "unmasked_weight": 1.0, "freeze": 0, "lr": 1e-3, "rise": 0.1, "hold": 0.4,
    "clip_norm": 1.0, "max_steps": 700, "valid_every": 100, "amp": True,
}
_LARGE = {
    "layers": 24, "dim": 1024, "ffn": 4096, "heads": 16,
    "decoder_layers": 9, "decoder_ffn": 4096, "decoder_heads": 8,
}
_AVSYNCNET = {"align_weight": 1.0}  # published weights are nowhere: both losses count alike
_AVSYNCNET_CONV = {**_AVSYNCNET, "align_kernel": 5}  # the published kernel is nowhere
EXPERT_PRESETS = {
    "base": {},
    "large": _LARGE,
    "avsyncnet": {**_LARGE, **_AVSYNCNET, "max_steps": 180_000},
    "avsyncnet_conv": {**_LARGE, **_AVSYNCNET_CONV, "max_steps": 180_000},
    # few steps: they begin as a reader that is finished
    "compact_avsyncnet": {**_COMPACT_READER, **_AVSYNCNET, "max_steps": 300},
    "compact_avsyncnet_conv": {**_COMPACT_READER, **_AVSYNCNET_CONV, "max_steps": 300},
    "conformer": {
        "model": "conformer", "dim": 256, "ffn": 2048, "heads": 4,
        "decoder_ffn": 2048, "ctc_weight": 0.1, "grad_mult": 1.0,
    },
    "compact": _COMPACT_READER,
    "compact_reader1": {
        **_COMPACT_READER, "width": 0.25, "layers": 3, "ffn": 768, "lr": 6e-4, "seed": 1,
    },
    "compact_reader2": {
        **_COMPACT_READER, "model": "conformer", "width": 0.25, "layers": 3, "dim": 192, "ffn": 576, "heads": 3,
        "decoder_heads": 3, "ctc_weight": 0.1, "seed": 2,
    },
    "compact_words": {
        **_COMPACT_READER, "model": "words", "width": 0.25, "layers": 2, "context": 2, "hold": 0.3, "max_steps": 560,
        "seed": 3,
    },
    "compact_sync": {
        "model": "sync", "shrink": 2, "dim": 128, "max_frames": 800, "frames": 50, "augment": True, "lr": 1e-3,
        "rise": 0.05, "hold": 0.35, "last_lr": 0.01, "clip_norm": 1.0, "max_steps": 900, "valid_every": 100,
        "amp": True, "seed": 4,
    },
    "wav2lip_sync": {  # batches of 64 windows, Adam at 1e-3; the number of its steps is nowhere
        "model": "wav2lip_sync", "sync_loss": "pairs", "frames": 5, "max_frames": 320, "lr": 1e-3, "rise": 0.0,
        "hold": 1.0, "beta2": 0.999, "weight_decay": 0.0, "max_steps": 500_000, "valid_every": 5000,
    },
    "compact_wav2lip_sync": {  # it teaches: of another size and seed than `compact_sync`, which judges
        "model": "compact_wav2lip_sync", "max_frames": 400, "frames": 25, "augment": True, "rise": 0.05, "hold": 0.35,
        "last_lr": 0.01, "clip_norm": 1.0, "max_steps": 900, "valid_every": 100, "amp": True, "seed": 5,
    },
    "cals_sync": {  # the poster says that it learns by contrast, and nothing of how
        "model": "cals_sync", "max_frames": 800, "frames": 25, "rise": 0.05, "hold": 0.35, "last_lr": 0.01,
        "clip_norm": 1.0, "max_steps": 100_000, "valid_every": 5000, "amp": True, "seed": 7,
    },
    "compact_cals_sync": {  # it teaches too: another size and seed than the others
        "model": "compact_cals_sync", "max_frames": 400, "frames": 25, "augment": True, "rise": 0.05, "hold": 0.35,
        "last_lr": 0.01, "clip_norm": 1.0, "max_steps": 900, "valid_every": 100, "amp": True, "seed": 6,
    },
}
# fmt: on
ExpertHParams.presets = EXPERT_PRESETS


def add_flags(parser, kind=HParams):
    """Adds --preset and one flag per knob. A flag that is not given stays absent, so it never masks a checkpoint."""
    parser.add_argument("--preset", choices=kind.presets, default=argparse.SUPPRESS, help="a named set of knobs")
    group = parser.add_argument_group(
        f"knobs, stored in the checkpoint; flags take precedence (defaults: {kind.__name__}'s; a preset has its own)"
    )
    for f in fields(kind):
        options = {"action": argparse.BooleanOptionalAction} if f.type is bool else {"type": f.type}
        if f.metadata["choices"]:
            options["choices"] = f.metadata["choices"]
        note = f"{f.metadata['note']} (default: {f.default})".replace("%", "%%")  # argparse fills in %(words)s
        group.add_argument(f"--{f.name}", default=argparse.SUPPRESS, help=note, **options)


def preset(name, kind=HParams):
    """The knobs of the preset `name`. Raises InputError for one that does not exist."""
    if name not in kind.presets:
        raise InputError(f"--preset {name}: choose one of {', '.join(kind.presets)}")
    return kind(**kind.presets[name])


def override(hp, args):
    """`hp` with the preset and then the knobs that were given on the command line (`args`, a namespace)."""
    given = dict(hp.presets[args.preset]) if hasattr(args, "preset") else {}
    given |= {f.name: getattr(args, f.name) for f in fields(hp) if hasattr(args, f.name)}
    return replace(hp, **given)
