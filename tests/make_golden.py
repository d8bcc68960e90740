"""Writes tests/golden/models.npz: what narrow models draw, hear and judge under the filling rule of tests/filling.py.

PYTHONPATH=. python tests/make_golden.py

Run it only when a change of the networks is meant, and only while tests/test_reference.py passes: that is what makes
these numbers right, not merely ours.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from filling import faces, filled, normal, uniform

from hparams import PRESETS, HParams
from models import build_generator
from models.avhubert import AVHubert
from models.talklip import Discriminator

GOLDEN = Path(__file__).with_name("golden") / "models.npz"
NARROW = {"width": 1 / 16, "audio_layers": 2, "audio_dim": 64, "audio_ffn": 128, "audio_heads": 4}


def narrow_hparams(preset):
    """The knobs of a preset at a sixteenth of its width, with a transformer of two small blocks."""
    return replace(HParams(**PRESETS[preset]), **NARROW)


def speech_input(hp, seed=60):
    """Sound of one clip of 7 frames, as the model that `hp` asks for hears it."""
    return normal(seed, (1, 7, 104) if hp.speech == "global" else (1, 7, 1, 80, 16))


@torch.no_grad()
def golden():
    """Every array by its name; pictures every eighth pixel, which is enough to see any difference."""
    arrays = {}
    for preset in ("talklip_g", "talklip_l", "wav2lip"):
        hp = narrow_hparams(preset)
        generator = filled(build_generator(hp)).eval()
        speech = generator.encode_audio(speech_input(hp))
        arrays[f"{preset}/speech"] = speech
        arrays[f"{preset}/drawn"] = generator.generate(faces(61, 3)[None], speech[:, [0, 3, 6]])[..., ::8, ::8]
    arrays["discriminator"] = filled(Discriminator(hp)).eval()(uniform(62, (1, 4, 3, 96, 96)))
    encoder = filled(AVHubert(2, 64, 128, 4, video=True)).eval()
    arrays["video"] = encoder(normal(63, (1, 5, 104)), normal(64, (1, 5, 1, 88, 88)))
    return {name: value.numpy() for name, value in arrays.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **golden())
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")
