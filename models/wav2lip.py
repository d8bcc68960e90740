"""Wav2Lip (ACM MM 2020), the baseline: its generator, over TalkLip's tables, and the sync expert that teaches it."""

import torch
import torch.nn.functional as F
from torch import nn

from models.layers import ConvNorm, Row, build, in_format_of, narrow
from models.syncnet import MEL, WINDOW
from models.talklip import SPEECH, Generator, LocalSpeech

# fmt: off
LOWER_FACES = (  # sync expert, in: (15, 48, 96), the lower half of five faces in colour as channels
    #             out  k       s  p  res      size
    Row(ConvNorm,  32, 7,      1, 3,   0, (48, 96)),
    Row(ConvNorm,  64, 5, (1, 2), 1,   2, (46, 47)),
    Row(ConvNorm, 128, 3,      2, 1,   3, (23, 24)),
    Row(ConvNorm, 256, 3,      2, 1,   2,       12),
    Row(ConvNorm, 512, 3,      2, 1,   2,        6),
    Row(ConvNorm, 512, 3,      2, 1,   0,        3),
    Row(ConvNorm, 512, 3,      1, 0,   0,        1),
    Row(ConvNorm, 512, 1,      1, 0,   0,        1),
)
SOUND = (  # sync expert, in: (1, 80, 16), a mel window: the generator's table with one residual more
    #             out  k       s  p  res      size
    Row(ConvNorm,  32, 3,      1, 1,   2, (80, 16)),
    Row(ConvNorm,  64, 3, (3, 1), 1,   2, (27, 16)),
    Row(ConvNorm, 128, 3,      3, 1,   2,   (9, 6)),
    Row(ConvNorm, 256, 3, (3, 2), 1,   2,        3),
    Row(ConvNorm, 512, 3,      1, 0,   0,        1),
    Row(ConvNorm, 512, 1,      1, 0,   0,        1),
)

COMPACT_LOWER_FACES = (  # compact sync expert, in: (15, 48, 96), as above; its sound's table is `syncnet.MEL`
    #             out  k       s  p  res      size
    Row(ConvNorm,  32, 5,      2, 2,   0, (24, 48)),
    Row(ConvNorm,  64, 3,      2, 1,   1, (12, 24)),
    Row(ConvNorm, 128, 3,      2, 1,   1,  (6, 12)),
    Row(ConvNorm, 256, 3,      2, 1,   1,   (3, 6)),
    Row(ConvNorm, 256, 3, (1, 2), 1,   0,        3),
    Row(ConvNorm, 256, 3,      1, 0,   0,        1),
)
# fmt: on
SYNC_TABLES = {  # family of sync experts: tables of faces and sound
    "wav2lip_sync": (LOWER_FACES, SOUND),
    "compact_wav2lip_sync": (COMPACT_LOWER_FACES, MEL),
}


class Wav2Lip(Generator):
    """Wav2Lip's generator: the embedding of 0.2 s of mel is the decoder's input as it is."""

    def __init__(self, hp, speech=SPEECH, tables=None):
        super().__init__(hp, tables)
        speech = narrow(speech, hp.width)
        self.speech, self.speech_size = LocalSpeech(speech), speech[-1].out
        self.audio_map = nn.Identity()


class Wav2LipSync(nn.Module):
    """Wav2Lip's sync expert: it embeds the lower half of five faces, and 0.2 s of sound (sec. 3.1).

    Embeddings have length 1 and, as the tables end in a ReLU, no value below 0, so that their cosine is in [0, 1].
    """

    def __init__(self, width=1.0, faces=LOWER_FACES, sound=SOUND):
        super().__init__()
        self.faces = build(narrow(faces, width), cin=3 * WINDOW)
        self.sound = build(narrow(sound, width), cin=1)

    def embed_windows(self, windows):
        """windows: (N, 15, 48, 96) in [0, 1]: lower halves of five faces behind each other, RGB. Returns (N, D)."""
        return unit(self.faces, windows)

    def embed_video(self, faces):
        """Embeds every window of five frames of a clip.

        faces: (B, T, 3, 96, 96) in [0, 1], RGB, whole; T is 5 at least. In CALS they are of 128 px.
        Returns (B, T - 4, D): row t is of the frames t to t + 4.
        """
        lower = faces[..., faces.shape[-2] // 2 :, :]  # (B, T, 3, 48, 96)
        windows = lower.unfold(1, WINDOW, 1).permute(0, 1, 5, 2, 3, 4)  # (B, T - 4, 5, 3, 48, 96)
        return self.embed_windows(windows.flatten(0, 1).flatten(1, 2)).unflatten(0, windows.shape[:2])

    def embed_audio(self, mels):
        """mels: (B, N, 1, 80, S): the 0.2 s of sound of each window, see `audio.mel_windows`. Returns (B, N, D)."""
        return unit(self.sound, mels.flatten(0, 1)).unflatten(0, mels.shape[:2])


def unit(blocks, x):
    """x: (N, C, H, W) through the blocks of a table that ends at size 1. Returns (N, D) of length 1, in 32 bits."""
    x = in_format_of(blocks[0][0].conv.weight, x)
    for block in blocks:
        x = block(x)
    return F.normalize(x.flatten(1).to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
