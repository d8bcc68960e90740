"""Each task takes what its knobs say of a batch, and its losses are those that a hand computes."""

from collections import Counter
from math import log

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import train_expert
from errors import InputError
from hparams import ExpertHParams
from models import build_reader
from models.decoder import END, PAD
from models.syncnet import WINDOW
from train_expert import MaskedPrediction, Synchrony, Transcription, WordNaming, objective_weights

torch.set_num_threads(1)
SIZES = {"layers": 1, "dim": 32, "ffn": 64, "heads": 2, "decoder_layers": 1, "decoder_ffn": 64, "decoder_heads": 2}
LENGTHS = torch.tensor([12, 7])
PADDING = torch.arange(12) >= LENGTHS[:, None]


def hparams(**knobs):
    return ExpertHParams(**({"width": 1 / 16, "clusters": 6, "dropout": 0.0, "layerdrop": 0.0} | SIZES | knobs))


def batch_of(**parts):
    torch.manual_seed(1)
    clusters = torch.randint(0, 6, (2, 12)).masked_fill(PADDING, -1)
    tokens = torch.tensor([[5, 4, 6, END], [7, END, PAD, PAD]])
    previous = torch.tensor([[END, 5, 4, 6], [END, 7, PAD, PAD]])
    roi, audio = torch.rand(2, 12, 1, 32, 32), torch.randn(2, 12, 104)
    said = torch.randint(4, 8, (2, 12)).masked_fill(PADDING, PAD)
    batch = {"roi": roi, "audio": audio, "clusters": clusters, "tokens": tokens, "previous": previous, "said": said}
    return batch | {"lengths": LENGTHS, "roi_padding": PADDING} | parts


def masks(*spans):
    """(2, 12) bool, True in these (clip, first, last + 1)."""
    masked = torch.zeros(2, 12, dtype=torch.bool)
    for clip, first, last in spans:
        masked[clip, first:last] = True
    return masked


VIDEO, AUDIO = masks((0, 2, 5), (1, 0, 3)), masks((0, 4, 9))  # what is masked of the pictures, and of the sound


@pytest.fixture
def masked(monkeypatch):
    """Masks that are known: VIDEO, then AUDIO, and so on."""
    made = []

    def spans(lengths, share, span):
        made.append((share, span))
        return (VIDEO, AUDIO)[(len(made) - 1) % 2]

    monkeypatch.setattr(train_expert, "spans", spans)
    return made


def pretraining(**knobs):
    torch.manual_seed(0)
    hp = hparams(**knobs)
    return MaskedPrediction(build_reader(hp, 8), hp)


def loss_of(net, batch):
    torch.manual_seed(3)
    return net(batch)["clusters"]


BOTH, VIDEO_ONLY, AUDIO_ONLY = (
    {"modality_dropout": modality, "audio_dropout": audio} for modality, audio in ((0.0, 0.5), (1.0, 1.0), (1.0, 0.0))
)


# Pre-training


@pytest.mark.parametrize(
    "knobs, counts",
    [(BOTH, VIDEO | AUDIO), (VIDEO_ONLY, VIDEO), (AUDIO_ONLY, AUDIO), ({**BOTH, "model": "conformer"}, VIDEO)],
    ids=["both", "video only", "audio only", "conformer"],
)
def test_only_the_clusters_of_masked_frames_count(masked, knobs, counts):
    net, batch = pretraining(**knobs).eval(), batch_of()
    loss = loss_of(net, batch)
    for clip, frame in (~PADDING).nonzero().tolist():
        clusters = batch["clusters"].clone()
        clusters[clip, frame] = (clusters[clip, frame] + 1) % 6
        changed = loss_of(net, batch | {"clusters": clusters})
        assert (changed != loss) == bool(counts[clip, frame]), (clip, frame)
    assert masked[:2] == [(0.3, 5), (0.8, 10)], "published: pictures, then sound"


def test_unmasked_frames_count_with_their_own_weight(masked):
    batch = batch_of()
    scores = torch.randn(2, 12, 6)
    each = F.cross_entropy(scores.flatten(0, 1), batch["clusters"].flatten(), ignore_index=-1, reduction="none").view(
        2, 12
    )
    either = VIDEO | AUDIO
    for weight in (0.0, 0.25, 1.0):
        net = pretraining(**BOTH, unmasked_weight=weight)
        net.head.forward = lambda x: scores
        counted = either.float() + weight * (~either & ~PADDING).float()
        assert loss_of(net, batch).item() == pytest.approx(((each * counted).sum() / counted.sum()).item(), rel=1e-5)


@pytest.mark.parametrize(
    "knobs, trained",
    [(BOTH, {"video", "audio", "mask"}), (VIDEO_ONLY, {"video"}), (AUDIO_ONLY, {"audio", "mask"})],
    ids=["both", "video only", "audio only"],
)
def test_a_batch_has_video_or_sound_or_both_with_masks_over_it(masked, knobs, trained, monkeypatch):
    net, batch, met = pretraining(**knobs).train(), batch_of(), {}
    encoder, forward = net.reader.encoder, net.reader.encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda **inputs: met.update(inputs) or forward(**inputs))
    before = {name: part.clone() for name, part in batch.items()}
    loss_of(net, batch).backward()
    assert all(torch.equal(batch[name], before[name]) for name in batch), "the batch itself stays as it is"
    assert met.keys() == trained - {"mask"} | {"padding"} and torch.equal(met["padding"], PADDING)
    if "audio" in met:
        assert torch.equal(met["audio"][AUDIO], net.head.mask.expand(5, 104))
        assert torch.equal(met["audio"][~AUDIO], batch["audio"][~AUDIO])
    if "video" in met:
        shown, clear = met["video"] * 0.165 + 0.421, ~VIDEO & ~PADDING
        torch.testing.assert_close(shown[clear], batch["roi"][clear])
        assert not met["video"][PADDING].any() and not torch.allclose(shown[VIDEO], batch["roi"][VIDEO])
    weights = {"audio": encoder.audio.weight, "video": encoder.video.proj.weight, "mask": net.head.mask}
    assert {name for name, each in weights.items() if each.grad is not None and each.grad.any()} == trained


def test_modalities_are_dropped_as_often_as_the_knobs_say():
    net, met = pretraining(modality_dropout=0.5, audio_dropout=0.5), Counter()
    net.reader.encode = lambda roi, _, audio: (
        met.update([(roi is not None, audio is not None)]) or torch.zeros(2, 12, 32)
    )
    batch = batch_of(roi=torch.zeros(2, 12, 1, 1, 1))
    for seed in range(400):
        torch.manual_seed(seed)
        net(batch)
    assert met.total() == 400 and met.keys() == {(True, True), (True, False), (False, True)}
    assert 160 < met[True, True] < 240 and 70 < met[True, False] < 130 and 70 < met[False, True] < 130


@pytest.mark.parametrize("model", ["avhubert", "conformer"])
def test_pre_training_learns(model):
    net, batch = pretraining(model=model, unmasked_weight=1.0, **VIDEO_ONLY).train(), batch_of()
    optim, losses = torch.optim.AdamW(net.parameters(), 3e-3), []
    for step in range(12):
        torch.manual_seed(step)
        losses.append(net(batch)["clusters"])
        optim.zero_grad()
        losses[-1].backward()
        optim.step()
    assert losses[-1] < 0.8 * losses[0]


def test_clips_whose_frames_are_all_clear_add_nothing(monkeypatch):
    monkeypatch.setattr(train_expert, "spans", lambda *_: masks())
    assert loss_of(pretraining(**BOTH), batch_of()) == 0


# Fine-tuning


class Known(nn.Module):
    """A reader whose scores are known: `logits` of the decoder, `memory` for CTC and frames."""

    def __init__(self, logits, memory, ctc=None):
        super().__init__()
        self.logits, self.memory, self.ctc = logits, memory, ctc
        self.decoder = lambda previous, memory, padding: self.asked.update(previous=previous) or self.logits
        self.asked = {}

    def encode(self, roi, padding):
        self.asked.update(roi=roi, padding=padding)
        return self.memory


def transcription(known, hp, tokens=8):
    known.decoder.embedding = nn.Embedding(tokens, 2)
    return Transcription(known, hp)


def test_reading_is_the_loss_of_the_next_tokens():
    logits = torch.zeros(2, 4, 8)
    logits[0, 0, 5] = log(7)  # 7 / (7 + 7): the right token has a half, each of the others 1/14
    batch, known = batch_of(), Known(logits, torch.zeros(2, 12, 32))
    even, half = log(8), log(2)
    found = transcription(known, hparams(label_smoothing=0.0))(batch)
    assert found.keys() == {"reading"}
    assert found["reading"].item() == pytest.approx((half + 5 * even) / 6)  # 6 tokens with END, none of PAD
    assert torch.equal(known.asked["previous"], batch["previous"]) and known.asked["roi"] is batch["roi"]
    assert known.asked["padding"] is PADDING
    smooth = transcription(known, hparams(label_smoothing=0.1))(batch)["reading"].item()
    assert smooth == pytest.approx((0.9 * half + 0.1 * log(14) + 5 * even) / 6)


def test_ctc_is_of_the_tokens_without_the_end():
    ctc = nn.Linear(32, 8)
    memory = torch.randn(2, 12, 32)
    known, batch = Known(torch.zeros(2, 4, 8), memory, ctc), batch_of()
    found = transcription(known, hparams(model="conformer", ctc_weight=0.3))(batch)
    logs = ctc(memory).log_softmax(-1)
    first = F.ctc_loss(logs[0], torch.tensor([5, 4, 6]), (12,), (3,), reduction="sum") / 3
    second = F.ctc_loss(logs[1, :7], torch.tensor([7]), (7,), (1,), reduction="sum")
    assert found["ctc"].item() == pytest.approx(((first + second) / 2).item(), rel=1e-5)
    assert objective_weights(hparams(model="conformer", ctc_weight=0.3))["reading"] == pytest.approx(0.7)


def test_frames_name_the_word_that_is_said_in_them():
    memory = torch.randn(2, 12, 32)
    batch = batch_of()
    net = transcription(Known(torch.zeros(2, 4, 8), memory), hparams(frames_weight=0.5))
    found = net(batch)["frames"]
    wanted = F.cross_entropy(net.said(memory)[~PADDING], batch["said"][~PADDING])
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5) and objective_weights(net.hp)["frames"] == 0.5
    found = net(batch | {"said": torch.full((2, 12), PAD)})["frames"]
    found.backward()
    assert found == 0 and not net.said.weight.grad.any(), "no transcript of this batch has times"


def test_ctc_is_refused_where_no_layer_is_made_for_it():
    hp = hparams(ctc_weight=0.1)
    with pytest.raises(InputError, match="--ctc_weight 0.1: --model avhubert has no CTC layer"):
        Transcription(build_reader(hp, 8), hp)


@pytest.mark.parametrize("model, ctc", [("avhubert", 0.0), ("conformer", 0.1)])
def test_every_weight_of_a_reader_learns_to_transcribe(model, ctc):
    hp = hparams(model=model, ctc_weight=ctc, frames_weight=0.3)
    net = Transcription(build_reader(hp, 8), hp).train()
    losses, weights = net(batch_of()), objective_weights(hp)
    assert losses.keys() == {"reading", "frames"} | ({"ctc"} if ctc else set())
    sum(weights[name] * loss for name, loss in losses.items()).backward()
    idle = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == ({"reader.encoder.audio.weight", "reader.encoder.audio.bias"} if model == "avhubert" else set())
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


# Words


def test_naming_is_the_loss_of_the_word():
    class Scored(nn.Module):
        def forward(self, roi, padding, inside):
            return torch.tensor([[1.0, 2.0, 5.0, 2.0], [2.0, 6.0, 1.0, 1.0]]).log()  # of 10 parts

    batch = {"roi": torch.zeros(2, 3, 1, 8, 8), "roi_padding": None, "inside": None, "word": torch.tensor([2, 0])}
    plain = WordNaming(Scored(), hparams(label_smoothing=0.0))(batch)["word"].item()
    assert plain == pytest.approx(-(log(0.5) + log(0.2)) / 2)
    smooth = WordNaming(Scored(), hparams(label_smoothing=0.3))(batch)["word"].item()
    first = 0.7 * log(0.5) + 0.1 * (log(0.1) + 2 * log(0.2))
    second = 0.7 * log(0.2) + 0.1 * (log(0.6) + 2 * log(0.1))
    assert smooth == pytest.approx(-(first + second) / 2)


# Synchrony


class Windows(nn.Module):
    """A sync model whose embeddings are known: window t of both has the number that its picture and mel have."""

    def embed_video(self, roi):
        numbers = roi[:, : 1 - WINDOW, 0, 0, 0].long()
        return F.one_hot(numbers, 8).float()

    def embed_audio(self, mels):
        return F.one_hot(mels[:, :, 0, 0, 0].long(), 8).float()


def test_windows_are_matched_with_all_others_of_the_batch_but_padding():
    roi, mels = torch.zeros(2, 7, 1, 2, 2), torch.zeros(2, 3, 1, 2, 2)
    roi[0, :3, 0], mels[0, :, 0] = (torch.arange(3.0)[:, None, None] for _ in range(2))
    roi[1, :3, 0], mels[1, :, 0] = (torch.tensor([3.0, 4.0, 0.0])[:, None, None] for _ in range(2))
    batch = {"roi": roi, "mel": mels, "lengths": torch.tensor([7, 6])}  # the last window of the second is padding
    found = Synchrony(Windows(), hparams(temperature=0.5))(batch)
    assert found.keys() == {"sync", "chance"} and found["chance"].item() == pytest.approx(log(5))
    own = torch.tensor([2.0, 0, 0, 0, 0]).softmax(0)[0]  # one of five is alike, a cosine of 1 by 0.5
    assert found["sync"].item() == pytest.approx(-own.log().item())
    weights = objective_weights(hparams())
    assert (weights["sync"], weights["chance"]) == (1.0, 0.0), "chance is logged, no loss"
