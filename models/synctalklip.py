"""AV-SyncNet (SyncTalklip, ACM MM 2024): a lip reader in whose space a clip's sound and its lips lie close together.

The local AV-SyncNet is a `LipReader` over an `AVHubert` as it is: what makes it one is the loss that it was fine-tuned
with (eq. 6). As a supervisor it is `experts.guidance.LipExpert`, and SyncTalklip's generator is `TalkLip`, whose audio
encoder begins as the supervisor's own.
Differs: the caption of figure 2 has a ResNet before the sound and a feed-forward layer before the video. It is the
other way round, as in AV-HuBERT.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.lip_reader import LipReader


class NeighbourMean(nn.Module):
    """A mean of each frame's features with its neighbours', whose weights each channel learns.

    kernel: frames of which the mean is, an odd number.
    """

    def __init__(self, dim, kernel):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(dim, kernel))

    def forward(self, x, padding=None):
        """x: (B, T, D).  padding: (B, T) bool, True after the end of a clip, or None.

        Returns (B, T, D), in 32 bits at least; what lies beyond the ends of a clip does not count.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        there = x.new_ones(x.shape) if padding is None else (~padding).to(x)[..., None].expand_as(x)
        with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):
            weights = self.logits.to(x).softmax(-1)[:, None]  # (D, 1, kernel)
            rows = torch.cat([x.where(there > 0, 0), there]).transpose(1, 2)  # (2B, D, T)
            total, count = F.conv1d(rows, weights, padding="same", groups=len(weights)).chunk(2)
        return (total / count.clamp(min=torch.finfo(x.dtype).tiny)).transpose(1, 2)


class AVSyncNetConv(LipReader):
    """AV-SyncNet with a convolution over time before sound and lips are compared (sec. 3.4, conv).

    Differs: the paper says no more than that it is one. A free convolution, which the lip-reading loss does not see,
    would bring eq. 5 down by going to 0; weights that are above 0 and sum up to 1 cannot.
    """

    def __init__(self, encoder, decoder, dim, kernel):
        super().__init__(encoder, decoder)
        self.neighbours = NeighbourMean(dim, kernel)

    def align(self, features, padding=None):
        """Features of a sound or of lips as they are compared: (B, T, D) -> (B, T, D), see `NeighbourMean`."""
        return self.neighbours(features, padding)
