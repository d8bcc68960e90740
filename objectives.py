"""What experts are trained for: masked units, transcription, naming words, sync. Each turns a batch into losses."""

import torch
from torch import nn

from errors import InputError
from losses import cluster_loss, ctc_loss, matching_loss, reading_loss
from models.avhubert import ClusterHead, shuffle_spans, spans
from models.decoder import PAD
from models.syncnet import WINDOW


class MaskedPrediction(nn.Module):
    """Pre-training (AV-HuBERT, seed 003 eq. 3): the units of masked frames, told from what is left to hear and see.

    reader: a `LipReader` over an `AVHubert` with video, or over a `Conformer`, which only sees.
    Differs: where one modality is dropped, only what is masked in the other counts as masked. With `unmasked_weight` 1,
    as in the compact presets, and most batches seen alone, this is largely naming each frame's sound from the lips.
    """

    def __init__(self, reader, hp):
        super().__init__()
        self.hp, self.reader, self.head = hp, reader, ClusterHead(hp.dim, hp.units)

    def forward(self, batch):
        """batch: see `utterances.collate`, with `units`. Returns {"units": scalar}."""
        hp, roi, audio = self.hp, batch["roi"], batch["audio"]
        seen = spans(batch["lengths"], hp.mask_video, hp.mask_video_span)
        heard = spans(batch["lengths"], hp.mask_audio, hp.mask_audio_span)
        alone, deaf = torch.rand(2) < torch.tensor([hp.modality_dropout, hp.audio_dropout])
        roi = shuffle_spans(roi, seen, batch["lengths"])
        audio = torch.where(heard[..., None], self.head.mask.to(audio.dtype), audio)
        masked = seen | heard
        if hp.model == "conformer" or (alone and deaf):
            audio, masked = None, seen
        elif alone:
            roi, masked = None, heard
        scores = self.head(self.reader.encode(roi, batch["padding"], audio))
        weights = masked + hp.unmasked_weight * ~masked
        return {"units": cluster_loss(scores.float(), batch["units"], weights)}


class Transcription(nn.Module):
    """Fine-tuning: the tokens of the transcript with label smoothing; beside them, where asked for, CTC and frames.

    Raises InputError if CTC is asked for and the reader has no layer for it.
    """

    def __init__(self, reader, hp):
        super().__init__()
        if hp.ctc_weight and reader.ctc is None:
            raise InputError(f"--ctc_weight {hp.ctc_weight}: --model {hp.model} has no CTC layer, the conformer has")
        self.hp, self.reader = hp, reader
        tokens = reader.decoder.embedding.num_embeddings
        self.said = nn.Linear(hp.dim, tokens) if hp.frames_weight else None

    def forward(self, batch):
        """batch: see `utterances.collate`, with `tokens`. Returns {name: scalar}."""
        hp, reader = self.hp, self.reader
        memory = reader.encode(batch["roi"], batch["padding"])
        logits = reader.decoder(batch["previous"], memory, batch["padding"])
        losses = {"reading": reading_loss(logits.float(), batch["tokens"], PAD, hp.label_smoothing)}
        if hp.ctc_weight:
            lengths = (batch["tokens"] != PAD).sum(1) - 1  # without END, which CTC has no need of
            losses["ctc"] = ctc_loss(reader.ctc(memory).float(), batch["tokens"], batch["lengths"], lengths)
        if hp.frames_weight:
            losses["frames"] = reading_loss(self.said(memory).float(), batch["said"], PAD)
        return losses


class Naming(nn.Module):
    """The word classifier's only task: which word it is."""

    def __init__(self, classifier, hp):
        super().__init__()
        self.hp, self.reader = hp, classifier

    def forward(self, batch):
        """batch: see `utterances.collate`, with `word` (B,) and `inside` (B, T). Returns {"word": scalar}."""
        logits = self.reader(batch["roi"], batch["padding"], batch["inside"])
        return {"word": reading_loss(logits.float()[:, None], batch["word"][:, None], -1, self.hp.label_smoothing)}


class Matching(nn.Module):
    """The sync model's task: which sound belongs to which lips, among all windows of all clips of the batch."""

    def __init__(self, sync, hp):
        super().__init__()
        self.hp, self.sync = hp, sync

    def forward(self, batch):
        """batch: see `utterances.collate`, with `mel` (B, T - 4, 1, 80, 16).

        Returns {"sync": scalar, "chance": what it is for a model that knows nothing}, nats.
        """
        at = torch.arange(batch["mel"].shape[1], device=batch["mel"].device)
        inside = at < batch["lengths"][:, None] - (WINDOW - 1)
        seen, heard = self.sync.see(batch["roi"])[inside], self.sync.hear(batch["mel"])[inside]  # (N, D)
        return {
            "sync": matching_loss(seen, heard, self.hp.temperature),
            "chance": torch.tensor(float(len(seen))).log(),
        }


def loss_weights(hp):
    """The weight of each loss that the objectives give; `chance` is no loss but what one is held against."""
    reading = {"reading": 1 - hp.ctc_weight, "ctc": hp.ctc_weight, "frames": hp.frames_weight}
    return {"units": 1.0, "word": 1.0, "sync": 1.0, "chance": 0.0, **reading}
