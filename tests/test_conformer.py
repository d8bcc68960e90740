"""The Conformer lip reader: the published outputs under made-up weights, and what holds for one of any size."""

import pytest
import torch
from filling import REFERENCE, difference, fixture, meets, normal, published, record, uniform

from hparams import ExpertHParams, preset
from models import build_reader
from models.conformer import Conformer, Convolution, by_frame
from models.published.experts import convert_conformer

torch.set_num_threads(1)
needs_fixtures = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")
TOLERANCE = 1e-5
LETTERS, END = 40, 39
FRAMES, PADDED = (14, 10), (16, 12)  # of the fixture's clips, and with the zeros that go around their features
SENTENCES = [[3, 9, 2, 1, 17, 5, 3], [6, 1, 18, 4, 13]]
SMALL = {"layers": 2, "dim": 16, "ffn": 24, "heads": 2, "width": 0.125}


def unfilled():
    """The lip reader of the published size, without weights."""
    with torch.device("meta"):
        return build_reader(preset("conformer", ExpertHParams), LETTERS)


@pytest.fixture(scope="module")
def reader():
    model = unfilled()
    model.load_state_dict(convert_conformer(published("conformer_observer2")), assign=True)
    return model.eval()


def small():
    """A Conformer of few weights, none of them zero."""
    torch.manual_seed(0)
    model = Conformer(**SMALL, kernel=5)
    for name, parameter in model.named_parameters():
        if name.endswith("_bias"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def after_the_end(lengths):
    """(B, T) bool, True where a clip of these lengths is padded."""
    return torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]


def centred(features):
    """The fixture's features, joined, as the published code pads them before its encoder: zeros on both sides."""
    clips = torch.zeros(2, max(PADDED), features.shape[-1])
    for clip, part, frames, padded in zip(clips, features.split(FRAMES), FRAMES, PADDED, strict=True):
        start = (padded - frames) // 2
        clip[start : start + frames] = part
    return clips


@pytest.fixture(scope="module")
@torch.no_grad()
def encoded(reader):
    """What the encoder makes of the fixture's clips, by the fixture's names, and the padding of its output.

    The frames after the end of clip 1 are not zero, and the published first convolution sees them. In the published
    blocks padded frames reach the others through the convolutions over time: here these know of no padding either.
    """
    encoder = reader.encoder
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0], None))
        for module in encoder.modules()
        if isinstance(module, Convolution)
    ]
    seen = record({"frontend": encoder.stem[0], "embed": encoder.proj_norm, "block": encoder.blocks[0]})
    video, padding = normal(50, (2, 14, 112, 112))[:, :, None], after_the_end(PADDED)
    features = encoder.embed(video)[~after_the_end(FRAMES)]  # (24, 512)
    ours = {"block/resnet": features[..., None, None], "visual_frontend": centred(features)}
    ours["encoder_out"] = encoder.encode(ours["visual_frontend"], padding)
    ours["block/frontend3D.0"] = seen["frontend"].unflatten(0, (2, 14)).transpose(1, 2)
    ours["block/enc.embed"] = seen["embed"] * 256**0.5
    ours["block/enc.0"] = seen["block"]
    for hook in hooks:
        hook.remove()
    return ours, padding


@pytest.mark.weights
@needs_fixtures
def test_encoder_sees_what_the_published_one_sees(encoded):
    ours, padding = encoded
    arrays = fixture("conformer_observer2")
    assert (~padding[:, None]).tolist() == arrays["encoder_mask"].tolist()
    worst = {name: meets(value, arrays, name) for name, value in ours.items()}
    print("conformer_observer2", {name: f"{value:.1e}" for name, value in worst.items()})
    assert max(worst.values()) < TOLERANCE


@pytest.mark.weights
@needs_fixtures
@torch.no_grad()
def test_decoder_and_ctc_read_what_the_published_ones_read(reader, encoded):
    memory, padding = encoded[0]["encoder_out"], encoded[1]
    arrays = fixture("conformer_observer2")
    previous = torch.full((2, 8), END)
    for row, sentence in zip(previous, SENTENCES, strict=True):
        row[1 : len(sentence) + 1] = torch.tensor(sentence)
    assert previous.tolist() == arrays["ys_in"].tolist()
    worst = {"decoder_logits": meets(reader.decoder(previous, memory, padding), arrays, "decoder_logits")}
    worst["ctc_log_softmax"] = meets(reader.ctc(memory).log_softmax(-1), arrays, "ctc_log_softmax")
    print("conformer_observer2", {name: f"{value:.1e}" for name, value in worst.items()})
    assert max(worst.values()) < TOLERANCE


def test_the_preset_has_the_published_parameter_count():
    unused = 64 * 64  # a shortcut of the first stage, in the published file but in no sum
    assert sum(p.numel() for p in unfilled().parameters()) == 52_496_656 - unused


def test_scores_by_distance_come_to_their_frames():
    for length in (1, 2, 5):
        distances = torch.arange(length - 1, -length, -1).expand(3, length, -1)  # the same in every row
        frames = torch.arange(length)
        assert torch.equal(by_frame(distances), (frames[:, None] - frames).expand(3, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("size", [32, 88])
def test_padded_frames_do_not_matter(size):
    """Not their pixels, and not their being there."""
    model, video = small(), normal(1, (2, 7, 1, size, size))
    padding = after_the_end((7, 4))
    both = model(video, padding)
    other = model(video.masked_fill(padding[..., None, None, None], 9.0), padding)
    assert both.shape == (2, 7, 16) and torch.equal(both, other)
    assert difference(both[:1], model(video[:1])) < TOLERANCE
    assert difference(both[1:, :4], model(video[1:, :4])) < TOLERANCE


@torch.no_grad()
def test_a_clip_of_padding_alone_stays_finite():
    padding = after_the_end((3, 0))
    for dtype in (torch.float32, torch.bfloat16):
        assert small().to(dtype)(normal(2, (2, 3, 1, 32, 32)).to(dtype), padding).isfinite().all()


@torch.no_grad()
def test_eval_is_deterministic_and_train_is_not():
    model, video = small(), normal(3, (2, 4, 1, 32, 32))
    assert torch.equal(model(video), model(video))
    model.train()
    assert not torch.equal(model(video), model(video))


def test_gradient_reaches_every_frame_of_the_video():
    video = normal(4, (2, 5, 1, 32, 32)).requires_grad_()
    padding = after_the_end((5, 3))
    small()(video, padding)[:, 0].square().sum().backward()  # one frame sees the whole clip
    per_frame = video.grad.abs().amax((2, 3, 4))
    assert (per_frame[~padding] > 0).all() and (per_frame[padding] == 0).all()


def test_every_weight_of_the_reader_learns():
    torch.manual_seed(0)
    hp = ExpertHParams(model="conformer", decoder_layers=1, decoder_ffn=24, decoder_heads=2, **SMALL)
    model, padding = build_reader(hp, 11).train(), after_the_end((6, 4))
    previous, memory = torch.randint(11, (2, 4)), model.encode(uniform(5, (2, 6, 1, 32, 32)), padding)
    logits, ctc = model.decoder(previous, memory, padding), model.ctc(memory)
    assert logits.shape == (2, 4, 11) and ctc.shape == (2, 6, 11)
    (logits.log_softmax(-1)[..., 0].mean() + ctc.log_softmax(-1)[..., 0].mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@torch.no_grad()
def test_channels_last_changes_no_number():
    video = normal(6, (1, 3, 1, 48, 40))
    assert difference(small().to(memory_format=torch.channels_last)(video), small()(video)) < TOLERANCE
