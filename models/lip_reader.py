"""Lip readers: an encoder of a mouth's video with a decoder of tokens, or a classifier of single words."""

import torch
import torch.nn.functional as F
from torch import nn

from models.avhubert import VideoFrontEnd


class LipReader(nn.Module):
    """Predicts text from a mouth's video: an encoder of the video, a decoder of tokens, and a CTC layer or none.

    encoder: called with `video` (B, T, 1, H, W), normalised, and `padding`; AV-HuBERT or the Conformer.
    decoder: None while there is only an encoder, in pre-training.
    normal: (mean, standard deviation) of the grey values that the encoder was trained on.
    """

    def __init__(self, encoder, decoder, normal=(0.421, 0.165), ctc=None):
        super().__init__()
        self.encoder, self.decoder, self.normal, self.ctc = encoder, decoder, normal, ctc

    def encode(self, roi, padding=None, audio=None, **how):
        """Embeds a mouth, for AV-HuBERT also a sound, or both; `how` is handed on to the encoder.

        roi: (B, T, 1, H, W) grey in [0, 1], see `mouth.cut`.  padding: (B, T) bool, True after the end, or None.
        audio: (B, T, 104), see `audio.stack`. Either may be None, but not both.
        Returns (B, T, D).
        """
        how |= {} if audio is None else {"audio": audio}
        if roi is not None:
            how["video"] = self.normalised(roi, padding)
        return self.encoder(padding=padding, **how)

    def normalised(self, roi, padding=None):
        """The mouth as the encoder was trained on it, 0 after the end of a clip; shapes as in `encode`."""
        mean, deviation = self.normal
        video = (roi - mean) / deviation
        return video if padding is None else video.masked_fill(padding[..., None, None, None], 0)

    def align(self, features, padding=None):
        """The features, (B, T, D), of a sound or of lips, in the form in which both are compared: here as they are."""
        return features

    def forward(self, roi, previous, padding=None):
        """The scores of each next token, given those before it.

        roi: (B, T, 1, H, W) grey in [0, 1].  previous: (B, N) int64.  padding: (B, T) bool or None.
        Returns (B, N, V).
        """
        return self.decoder(previous, self.encode(roi, padding), padding)


class WordClassifier(nn.Module):
    """Classifies the one word of a short clip, as LRW asks for: ResNet-18 front end, bidirectional GRU, mean.

    The GRU takes the frames around the word too; the mean is taken over the word itself.

    normal: (mean, standard deviation) of the grey values.
    """

    def __init__(self, words, layers=2, dim=256, dropout=0.1, width=1.0, shrink=1, normal=(0.421, 0.165)):
        super().__init__()
        self.normal = normal
        self.front = VideoFrontEnd(dim, width, shrink)
        self.memory = nn.GRU(dim, dim, layers, batch_first=True, bidirectional=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.words = nn.Linear(2 * dim, words)

    def forward(self, roi, padding=None, inside=None):
        """Scores every word of its vocabulary.

        roi: (B, T, 1, H, W) grey in [0, 1].  padding: (B, T) bool, True after the end, or None.
        inside: (B, T) bool, True in the frames of the word itself, or None for all frames.
        Returns (B, words).
        """
        mean, deviation = self.normal
        if padding is None:
            padding = torch.zeros(roi.shape[:2], dtype=torch.bool, device=roi.device)
        video = ((roi - mean) / deviation).masked_fill(padding[..., None, None, None], 0)
        x = self.front(video)  # (B, T, D)
        lengths = (~padding).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.memory(packed)[0], batch_first=True, total_length=x.shape[1])
        inside = ~padding if inside is None else inside
        x = x.masked_fill(~inside[..., None], 0).sum(1) / inside.sum(1, keepdim=True)  # (B, 2D)
        return self.words(self.dropout(F.relu(x)))
