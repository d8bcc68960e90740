"""A clip whose brightness follows its sound, and a sync model without weights that sees and hears just that."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

RATE, FRAME = 16_000, 640  # samples a second and a frame


def flicker(frames, seed=0):
    """Brightness in [0, 1] of each frame, and a noise that is as loud: (frames,) float32, (samples,) int16."""
    rng = np.random.default_rng(seed)
    light = rng.random(frames).astype(np.float32)
    noise = rng.standard_normal(frames * FRAME) * np.repeat(10 ** (1.5 * light), FRAME) * 100
    return light, noise.clip(-32768, 32767).astype(np.int16)


def unit(x):
    """Rows without their mean, at length 1."""
    return F.normalize(x - x.mean(-1, keepdim=True), dim=-1)


class Mirror(nn.Module):
    """Embeds windows of five frames as their five brightnesses, sound as its five loudnesses: of mel or of cepstra."""

    def embed_video(self, pictures):
        """Mouths of clips (B, T, 1, H, W), or windows of faces (N, 5, 3, H, W)."""
        light = pictures.mean((2, 3, 4))
        return unit(light if pictures.shape[2] == 3 else light.unfold(1, 5, 1))

    def embed_audio(self, sound):
        """Mel windows (B, N, 1, 80, 16), or cepstra (N, 1, 13, 20), of which the first is the loudness."""
        if sound.ndim == 4:
            return unit(sound[:, 0, 0].unflatten(-1, (5, 4)).mean(-1))
        loud = sound.mean((2, 3))  # (B, N, 16): 3.2 mel steps a frame
        return unit(torch.stack([loud[..., round(3.2 * k) : round(3.2 * k + 3)].mean(-1) for k in range(5)], dim=-1))
