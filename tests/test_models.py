"""The networks have the sizes of the papers' tables, run in every format, and compute what they did when verified."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filling import difference, faces, filled, normal, uniform
from make_golden import GOLDEN, golden, narrow_hparams, speech_input

from hparams import HParams, preset
from losses import pixel_loss, verdict_loss
from models import build_discriminator, build_generator
from models.avhubert import AVHubert, ClusterHead, shuffle_spans, spans
from models.layers import Pointwise, narrow
from models.lip_reader import WordClassifier
from models.talklip import (
    DECODER,
    DISCRIMINATOR,
    DISCRIMINATORS,
    ENCODER,
    FACES,
    PATCH,
    SPEECH,
    TO_RGB,
    Discriminator,
    LocalSpeech,
    PatchDiscriminator,
    TalkLip,
)
from models.wav2lip import Wav2Lip

torch.set_num_threads(1)
WIDTH = 1 / 16
LOCAL = narrow_hparams("talklip_l")


def sizes_of(blocks, model, *inputs):
    """The output shape (C, H, W) of every block when the model runs."""
    sizes = {}
    for i, block in enumerate(blocks):
        block.register_forward_hook(lambda _, __, out, i=i: sizes.update({i: tuple(out.shape[1:])}))
    with torch.no_grad():
        model.eval()(*inputs)
    return [sizes[i] for i in range(len(blocks))]


def sizes_in(table):
    """The (C, H, W) that a table says."""
    return [(row.out, *(row.size if isinstance(row.size, tuple) else (row.size, row.size))) for row in table]


@pytest.mark.parametrize("px", FACES)
@pytest.mark.parametrize("part, name", list(enumerate("encoder decoder to_rgb".split())))
def test_every_row_of_the_generator_has_the_size_its_table_says(part, name, px):
    net = TalkLip(replace(LOCAL, face_size=px))
    inputs = torch.zeros(1, 1, 6, px, px), torch.zeros(1, 1, 1, 80, 16), torch.zeros(1, 1, dtype=torch.long)
    assert sizes_of(getattr(net, name), net, *inputs) == sizes_in(narrow(FACES[px][part], WIDTH))
    assert FACES[96] == (ENCODER, DECODER, TO_RGB)


def test_every_row_of_the_local_audio_encoder_has_the_size_its_table_says():
    net = LocalSpeech(narrow(SPEECH, WIDTH))
    assert sizes_of(net.blocks, net, torch.zeros(1, 1, 1, 80, 16)) == sizes_in(narrow(SPEECH, WIDTH))


@pytest.mark.parametrize("px, table", DISCRIMINATORS.items())
def test_every_row_of_the_discriminator_has_the_size_its_table_says(px, table):
    net = Discriminator(replace(LOCAL, face_size=px))
    assert sizes_of(net.blocks, net, torch.zeros(1, 1, 3, px, px)) == sizes_in(narrow(table, WIDTH))


def test_every_row_of_the_patch_discriminator_has_the_size_its_table_says():
    net = PatchDiscriminator(LOCAL)
    assert sizes_of(net.blocks, net, torch.zeros(1, 1, 3, 96, 96)) == sizes_in(narrow(PATCH, WIDTH))


def test_a_patch_score_sees_34_px_and_what_they_are_compared_with_of_the_mouth_alone():
    judge, face = filled(PatchDiscriminator(LOCAL)).eval(), torch.rand(1, 1, 3, 96, 96, requires_grad=True)
    scores = judge(face)
    assert scores.shape == (1, 100)
    (seen,) = torch.autograd.grad(scores.view(10, 10)[5, 5], face, retain_graph=True)
    rows, columns = (seen[0, 0].abs().sum((0, other)).nonzero().flatten() for other in (2, 1))
    assert (len(rows), len(columns)) == (34 + 4, 34 + 4)  # each pixel by the mean of 5 x 5
    (seen,) = torch.autograd.grad(scores.sum(), face)
    rows, columns = (seen[0, 0].abs().sum((0, other)).nonzero().flatten().tolist() for other in (2, 1))
    assert (rows, columns) == (list(range(48, 96)), list(range(24, 72)))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts_are_those_of_the_published_models():
    with torch.device("meta"):
        talklip, wav2lip = TalkLip(preset("talklip_g")), Wav2Lip(preset("wav2lip"))
        assert parameters(wav2lip) == 36_298_035
        assert parameters(Discriminator(preset("talklip_g"))) == 14_113_793
        assert parameters(TalkLip(preset("talklip_l"))) == 36_823_347
        # Not built: mask_emb, label_embs_concat.
        assert parameters(AVHubert(video=True)) + 104 + 2004 * 256 == 103_133_416
        assert parameters(talklip) - parameters(talklip.speech) == 34_469_683


def test_narrower_tables_keep_what_is_generated():
    half = narrow(DECODER, 0.5) + narrow(TO_RGB, 0.5)
    assert [row.out for row in half] == [256, 256, 256, 192, 128, 64, 32, 16, 3]
    assert narrow(DISCRIMINATOR, 0.5)[-1].out == 1
    assert narrow(ENCODER, 1.0) == ENCODER


def test_compact_preset_has_about_12_million_parameters():
    with torch.device("meta"):
        assert parameters(build_generator(preset("compact"))) == 12_354_459


def test_outputs_are_the_verified_ones():
    made, stored = golden(), np.load(GOLDEN)
    assert made.keys() == set(stored.files)
    for name, value in made.items():
        assert difference(torch.from_numpy(value), stored[name]) < 1e-5, name


@pytest.mark.parametrize("name", ["talklip_g", "talklip_l", "wav2lip"])
def test_channels_last_in_bfloat16_trains_and_generates_in_float32(name):
    hp = narrow_hparams(name)
    generator = filled(build_generator(hp)).eval()
    audio, face, frames = speech_input(hp), faces(3, 2)[None], torch.tensor([[1, 5]])
    plain = generator(face, audio, frames)
    generator = generator.to(memory_format=torch.channels_last)
    met = []
    generator.decoder[-1].register_forward_hook(
        lambda _, __, out: met.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    assert difference(generator(face, audio, frames), plain.detach()) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        drawn = generator(face, audio, frames)
        judged = Discriminator(hp).to(memory_format=torch.channels_last)(drawn)
    assert met == [True, True]
    assert drawn.dtype == torch.float32 and drawn.shape == (1, 2, 3, 96, 96) and judged.shape == (2, 1)
    assert difference(drawn, plain.detach()) < 0.1
    judged.float().sum().backward()
    unused = {n for n, p in generator.named_parameters() if p.grad is None}
    assert unused == ({"sync.weight", "sync.bias"} if hp.model == "talklip" else set())


@torch.no_grad()
def test_padding_does_not_leak_into_a_clip():
    encoder = filled(AVHubert(2, 64, 128, 4)).eval()
    audio, padding = normal(5, (2, 30, 104)), torch.zeros(2, 30, dtype=torch.bool)
    padding[1, 11:] = True
    together, alone = encoder(audio, padding=padding), encoder(audio[1:, :11])
    assert difference(together[1, :11], alone[0]) < 1e-5
    assert difference(together[0], encoder(audio[:1])[0]) < 1e-5


@torch.no_grad()
def test_each_face_says_the_row_that_frames_names():
    hp = narrow_hparams("talklip_g")
    generator = filled(build_generator(hp)).eval()
    audio, face = normal(6, (2, 9, 104)), faces(7, 4).unflatten(0, (2, 2))
    speech = generator.encode_audio(audio)
    rows = torch.stack([speech[0, [8, 2]], speech[1, [0, 4]]])
    assert torch.equal(generator(face, audio, torch.tensor([[8, 2], [0, 4]])), generator.generate(face, rows))


@torch.no_grad()
def different_faces(count, px=96):
    """Smooth pictures as unlike as faces are, and what a generator would make of them: (count, 1, 3, px, px) each."""
    torch.manual_seed(0)
    coarse = 0.5 + 0.1 * torch.randn(count, 3, 12, 12)
    real = F.interpolate(coarse, (px, px), mode="bicubic").clamp(0, 1)
    return real[:, None], F.avg_pool2d(real, 3, 1, 1)[:, None]


@pytest.mark.parametrize("width", [1.0, 0.5, WIDTH])
@pytest.mark.parametrize("kind", ["talklip", "patch"])
def test_an_untrained_discriminator_tells_faces_apart_and_pulls_at_their_pixels(kind, width):
    real, fake = different_faces(6)
    torch.manual_seed(1)
    hp = replace(LOCAL, width=width, discriminator=kind)
    judge = build_discriminator(hp)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        verdicts = judge(real).mean(1)
    assert verdicts.dtype == torch.float32 and verdicts.std() > 1e-3, "torch's own first weights: 1e-7"
    assert verdicts.unique().numel() == len(real) and verdicts.abs().max() < 3
    fake.requires_grad_()
    (pulled,) = torch.autograd.grad(verdict_loss(judge(fake), hp), fake)
    (wanted,) = torch.autograd.grad(pixel_loss(fake, real), fake)
    assert 0.1 < pulled.norm() / wanted.norm() < 1000, "torch's own first weights: 2e-4"


def test_discriminator_takes_the_lower_half_only():
    judge, face = filled(Discriminator(LOCAL)).eval(), torch.rand(1, 2, 3, 96, 96)
    other = face.clone()
    other[..., :48, :] = 0
    assert torch.equal(judge(face), judge(other))
    other[..., 48, :] = 0
    assert not torch.equal(judge(face), judge(other))


def test_layerdrop_and_dropout_follow_torchs_seed_and_rest_in_eval_mode():
    encoder, audio = AVHubert(4, 64, 128, 4, layerdrop=0.5), normal(8, (1, 6, 104))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(encoder(audio))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    encoder.eval()
    assert torch.equal(encoder(audio), encoder(audio))


def test_wider_knobs_reach_the_transformer():
    hp = replace(HParams(), audio_layers=3, audio_dim=256, audio_ffn=512, audio_heads=4)
    with torch.device("meta"):
        speech = TalkLip(hp).speech
    assert len(speech.blocks) == 3 and speech.blocks[0].up.weight.shape == (512, 256)
    assert speech.positions.direction.shape == (256, 16, 128)


@pytest.mark.parametrize("step, size", [(1, (4, 4)), (2, (6, 5)), (2, (7, 9)), (3, (8, 8))])
def test_a_pointwise_convolution_is_the_strided_one(step, size):
    torch.manual_seed(0)
    ours = Pointwise(3, 5, step).double()
    theirs = torch.nn.Conv2d(3, 5, 1, step, bias=False).double()
    assert ours.state_dict().keys() == theirs.state_dict().keys() and ours.weight.shape == theirs.weight.shape
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [net(part) for net, part in zip((ours, theirs), inputs, strict=True)]
    weights = torch.randn_like(outputs[0])
    for out in outputs:
        (out * weights).sum().backward()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-12, atol=1e-12)


# Masks and clusters


def runs_of(row):
    """The lengths of the runs of True in (T,) bool."""
    edges = torch.diff(row.int(), prepend=torch.zeros(1), append=torch.zeros(1))
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten().tolist()


def test_spans_are_whole_and_cover_their_share():
    torch.manual_seed(0)
    masked = spans(torch.full((400,), 100), share=0.3, span=5)
    assert masked.shape == (400, 100) and masked.dtype == torch.bool
    assert all(run >= 5 for row in masked for run in runs_of(row))
    expected = 1 - (1 - 5 / 96) ** 6  # six spans at random of 96 places, which may overlap
    assert masked.float().mean().item() == pytest.approx(expected, abs=0.02)
    assert masked.float().mean(0)[5:-5].std() < 0.05 and masked[:, 0].any() and masked[:, -1].any()
    single = spans(torch.full((400,), 10), share=0.25, span=5)  # half a span a clip, by chance one or none
    assert set(single.sum(1).tolist()) == {0, 5} and single.any(1).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_spans_stay_within_short_clips():
    torch.manual_seed(0)
    masked = spans(torch.tensor([3, 1, 10, 40]), share=1.0, span=10)
    assert masked.shape == (4, 40) and not any(masked[i, n:].any() for i, n in enumerate((3, 1, 10)))
    counts = spans(torch.tensor([3] * 50 + [10]), 1.0, 10).sum(1)[:50].tolist()
    assert set(counts) == {0, 3}, "a clip shorter than a span is masked whole or not at all"
    assert not spans(torch.tensor([20, 5]), 0.0, 5).any() and spans(torch.tensor([7]), 1.0, 7).all()


def test_masked_frames_show_a_span_of_the_same_clip_and_others_stay():
    torch.manual_seed(0)
    lengths = torch.tensor([12, 5, 9])
    video = (100 * torch.arange(3)[:, None] + torch.arange(12) + 1.0)[..., None, None, None].expand(3, 12, 1, 2, 2)
    video = video * (torch.arange(12) < lengths[:, None])[..., None, None, None]  # zeros after the end
    masked = torch.zeros(3, 12, dtype=torch.bool)
    masked[0, 2:7], masked[0, 9:11], masked[1, 0:4], masked[2, 8] = True, True, True, True
    before, firsts = video.clone(), set()
    for _ in range(60):
        shown = shuffle_spans(video, masked, lengths)
        assert torch.equal(video, before) and torch.equal(shown[~masked], video[~masked])
        numbers = shown[..., 0, 0, 0]
        for clip, (start, stop) in ((0, (2, 7)), (0, (9, 11)), (1, (0, 4)), (2, (8, 9))):
            part = numbers[clip, start:stop] - 100 * clip
            assert (part.diff() == 1).all() and part[0] >= 1 and part[-1] <= lengths[clip], "a span of this clip"
            firsts.add((clip, start, int(part[0])))
    assert {first for clip, start, first in firsts if (clip, start) == (0, 2)} == set(range(1, 9))
    assert {first for clip, start, first in firsts if clip == 1} == {1, 2}
    alone = shuffle_spans(video[1:2, :5], masked[1:2, :5], lengths[1:2])
    assert alone.shape == (1, 5, 1, 2, 2) and torch.equal(alone[:, 4], video[1:2, 4])


def test_a_score_is_the_cosine_with_a_cluster_over_a_tenth():
    head = ClusterHead(4, 3)
    with torch.no_grad():
        head.proj.weight.zero_()[:4] = 2 * torch.eye(4)
        head.proj.bias.zero_()
        head.embeddings.zero_()[:, :2] = torch.tensor([[5.0, 0], [0, 0.1], [-3, -3]])
    scores = head(torch.tensor([[[7.0, 0, 0, 0], [1, 1, 0, 0]]]))
    half = 0.5**0.5
    torch.testing.assert_close(scores, torch.tensor([[[10.0, 0, -10 * half], [10 * half, 10 * half, -10]]]))
    assert head.mask.shape == (104,)


@torch.no_grad()
def test_depth_is_what_a_block_gives_before_the_last_norm():
    encoder, audio, kept = filled(AVHubert(3, 64, 128, 4)).eval(), normal(9, (1, 6, 104)), {}
    for i, block in enumerate(encoder.blocks, start=1):
        block.register_forward_hook(lambda _, __, out, i=i: kept.update({i: out}))
    whole = encoder(audio)
    assert torch.equal(whole, encoder.norm(kept[3]))
    wanted = dict(kept)
    for depth in (1, 2, 3):
        assert torch.equal(encoder(audio, depth=depth), wanted[depth])


def test_grad_mult_scales_the_gradient_of_the_video_and_no_number():
    audio, video = normal(10, (1, 4, 104)), normal(11, (1, 4, 1, 32, 32))
    seen, found = [], []
    for mult in (1.0, 0.1):
        encoder = filled(AVHubert(1, 32, 64, 2, video=True, width=1 / 16, grad_mult=mult)).eval()
        seen.append(encoder(audio, video))
        seen[-1].square().sum().backward()
        found.append((encoder.video.proj.weight.grad, encoder.audio.weight.grad))
    torch.testing.assert_close(seen[1], seen[0])
    torch.testing.assert_close(found[1][0], 0.1 * found[0][0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_a_word_is_named_by_its_own_frames_and_not_by_padding():
    net = filled(WordClassifier(5, layers=2, dim=16, width=1 / 16, shrink=4)).eval()
    roi, inside = uniform(3, (1, 6, 1, 88, 88)), torch.tensor([[False, True, True, True, False, False]])
    padded, longer = torch.zeros(1, 2, dtype=torch.bool), torch.cat([roi, torch.zeros(1, 2, 1, 88, 88)], dim=1)
    padding = torch.cat([torch.zeros_like(inside), ~padded], dim=1)
    alone, among = net(roi, None, inside), net(longer, padding, torch.cat([inside, padded], dim=1))
    assert difference(among, alone) < 1e-5
    assert difference(net(roi), alone) > 1e-3, "the mean over all frames is another"
