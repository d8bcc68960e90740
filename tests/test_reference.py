"""The published models' outputs under made-up weights (shared/reference), met by ours through the converters."""

import pytest
import torch
from filling import (
    IN_FLOAT64,
    REFERENCE,
    TOLERANCE,
    difference,
    faces,
    fixture,
    meets,
    normal,
    published,
    record,
    uniform,
)
from torch import nn

from checkpoint import load_discriminator, load_generator
from models.avhubert import AVHubert
from models.published.generators import convert_avhubert

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}"),
]
BGR, BGR_TWICE = [2, 1, 0], [2, 1, 0, 5, 4, 3]
FACE_ROWS = [3, 4, 5, 20, 27, 34]  # of the speech of two clips of 20 frames, joined


def saved(folder, name, weights):
    """The published container around `weights`."""
    path = folder / f"{name}.pth"
    torch.save({"state_dict": weights, "optimizer": None, "global_step": 7, "global_epoch": 1}, path)
    return path


def blocks_of(generator):
    """Our blocks by their published names; block 6 of the published encoder is our last two rows."""
    named = {f"face_encoder_blocks.{i}": generator.encoder[i if i < 6 else 7] for i in range(7)}
    named |= {f"face_decoder_blocks.{i}": block for i, block in enumerate(generator.decoder)}
    return named | {"audio_map": generator.audio_map}


@pytest.fixture(scope="module")
def talklip(tmp_path_factory):
    weights = published("talklip_g")
    return load_generator(saved(tmp_path_factory.mktemp("talklip"), "checkpoint_step000000007", weights))


def talklip_inputs():
    """The fixture's clips: audio, padding, faces (each its own clip row), and which face sees which row."""
    audio, padding = normal(1, (2, 104, 20)), torch.zeros(2, 20, dtype=torch.bool)
    audio[1, :, 15:], padding[1, 15:] = 0, True
    return audio.transpose(1, 2), padding, faces(2, 6)[None, :, BGR_TWICE]


@torch.no_grad()
def test_talklip_global_draws_what_the_published_one_draws(talklip):
    generator, hp, about = talklip
    arrays = fixture("talklip_g")
    assert (hp.speech, hp.audio_layers, hp.audio_dim, hp.width, about["step"]) == ("global", 12, 768, 1.0, 7)
    audio, padding, face = talklip_inputs()
    seen = record(blocks_of(generator))
    speech = generator.encode_audio(audio, padding)
    pred = generator.generate(face, speech.flatten(0, 1)[None, FACE_ROWS])
    worst = {"audio_embedding": meets(speech.transpose(0, 1), arrays, "audio_embedding")}
    worst["pred"] = meets(pred[0, :, BGR], arrays, "pred")
    for name, out in seen.items():
        worst[name] = meets(out, arrays, f"block/{name}")
    print("talklip_g", {name: f"{value:.1e}" for name, value in worst.items()})


@torch.no_grad()
def test_forward_gathers_the_rows_of_each_clip(talklip):
    """`frames` counts within a clip: the first three faces of the fixture are of clip 0, the others of clip 1."""
    audio, padding, face = talklip_inputs()
    frames = torch.tensor([[3, 4, 5], [0, 7, 14]])  # = FACE_ROWS, clip by clip
    pred = talklip[0](face[0].unflatten(0, (2, 3)), audio, frames, padding)
    assert difference(pred.flatten(0, 1)[:, BGR], fixture("talklip_g")["pred"]) < TOLERANCE


def test_talklip_trains_as_the_published_one_does_in_float64(tmp_path, monkeypatch):
    """The original takes the GELU of its feed-forward layers in float32 even here: so must this test."""
    gelu = nn.functional.gelu
    monkeypatch.setattr(nn.functional, "gelu", lambda x: gelu(x.float()).double() if x.shape[-1] == 3072 else gelu(x))
    weights = published("talklip_g")
    generator = load_generator(saved(tmp_path, "g", weights))[0].double().train()
    generator.speech.eval()
    arrays = fixture("talklip_g")
    audio, padding, face = talklip_inputs()
    with torch.no_grad():
        speech = generator.encode_audio(audio.double(), padding)
    pred = generator.generate(face.double(), speech.flatten(0, 1)[None, FACE_ROWS])[0]
    target = uniform(3, (6, 3, 96, 96))[:, BGR].double()
    loss = (pred - target).abs().mean()
    loss.backward()
    assert abs(loss.item() / arrays["train/l1"].item() - 1) < 1e-6
    assert meets(pred[:, BGR], arrays, "train/pred") < 1e-6

    named = {f"face_encoder_blocks.{i}": generator.encoder[i] for i in range(6)}
    named |= {"face_encoder_blocks.6.0": generator.encoder[6][0], "face_encoder_blocks.6.1": generator.encoder[7][0]}
    named |= {f"face_decoder_blocks.{i}": block for i, block in enumerate(generator.decoder)}
    named |= {"output_block.0": generator.to_rgb[0][0], "output_block.1": generator.to_rgb[1][0]}
    named |= {"audio_map": generator.audio_map}
    ours = {}
    for prefix, module in named.items():
        for name, parameter in module.named_parameters():
            name = f"{prefix}.{name}".replace(".conv.", ".conv_block.0.").replace(".norm.", ".conv_block.1.")
            ours[name] = parameter.grad
    theirs = {k.removeprefix("train/gradnorm/"): arrays[k].item() for k in arrays if k.startswith("train/gradnorm/")}
    assert theirs.keys() == {name for name in ours if name.endswith("weight")}
    worst = max(abs(ours[name].norm().item() - norm) / norm for name, norm in theirs.items())
    total = torch.stack([p.grad.norm() for p in generator.parameters() if p.grad is not None]).norm().item()
    assert worst < IN_FLOAT64 and abs(total / arrays["train/gradnorm_total"].item() - 1) < IN_FLOAT64
    for name, value in (
        ("face_encoder_blocks.0.0.conv_block.1.running_mean", generator.encoder[0][0].norm.running_mean),
        ("face_decoder_blocks.6.2.conv_block.1.running_var", generator.decoder[6][2].norm.running_var),
        ("output_block.0.conv_block.1.running_var", generator.to_rgb[0][0].norm.running_var),
    ):
        assert difference(value, arrays[f"train/bn/{name}"]) < 1e-6
    print(f"talklip_g train: gradnorm {worst:.1e}")


@torch.no_grad()
def test_talklip_local_draws_what_the_constructed_one_draws(tmp_path):
    generator, hp, _ = load_generator(saved(tmp_path, "l", published("talklip_l_constructed")))
    arrays = fixture("talklip_l_constructed")
    assert hp.speech == "local"
    speech = generator.encode_audio(normal(4, (6, 1, 80, 16))[None])  # (1, 6, 512)
    pred = generator.generate(faces(2, 6)[None, :, BGR_TWICE], speech)[0, :, BGR]
    worst = [meets(speech.transpose(0, 1), arrays, "audio_embedding"), meets(pred, arrays, "pred")]
    print("talklip_l_constructed", worst)


@torch.no_grad()
def test_wav2lip_draws_what_the_published_one_draws(tmp_path):
    weights = {f"module.{name}": value for name, value in published("wav2lip").items()}
    generator, hp, _ = load_generator(saved(tmp_path, "wav2lip_gan", weights))
    arrays = fixture("wav2lip")
    assert hp.model == "wav2lip"
    speech = generator.encode_audio(normal(40, (4, 1, 80, 16))[None])  # (1, 4, 512)
    pred = generator.generate(faces(41, 4)[None, :, BGR_TWICE], speech)[0, :, BGR]
    worst = [meets(speech[0, :, :, None, None], arrays, "audio_embedding"), meets(pred, arrays, "pred")]
    face = uniform(43, (1, 6, 3, 96, 96)).transpose(1, 2)[:, :, BGR_TWICE]
    pred = generator.generate(face, generator.encode_audio(normal(42, (1, 3, 1, 80, 16))))
    worst += [meets(pred[:, :, BGR].transpose(1, 2), arrays, "pred5d")]
    print("wav2lip", worst)


def test_discriminator_judges_as_the_published_one_does(tmp_path):
    discriminator, _, _ = load_discriminator(saved(tmp_path, "disc", published("talklip_disc")))
    arrays = fixture("talklip_disc")
    x = normal(10, (4, 3, 12, 12)).repeat_interleave(8, 2).repeat_interleave(8, 3).requires_grad_()
    last = {f"face_encoder_blocks.{i}": discriminator.blocks[2 * i] for i in range(7)}
    seen = record(last)
    logits = discriminator(x[None, :, BGR])
    worst = {name: meets(out, arrays, f"block/{name}") for name, out in seen.items()}
    worst["pred"] = meets(logits.sigmoid(), arrays, "pred")
    bce = nn.functional.binary_cross_entropy_with_logits
    real, fake = bce(logits, torch.ones(4, 1)), bce(logits, torch.zeros(4, 1))
    worst["loss"] = max(difference(real, arrays["bce_real"]), difference(fake, arrays["bce_fake"]))
    real.backward()
    worst["grad"] = meets(x.grad, arrays, "perceptual_grad_x")
    assert worst["loss"] < TOLERANCE
    print("talklip_disc", {name: f"{value:.1e}" for name, value in worst.items()})


@torch.no_grad()
def test_avhubert_hears_and_sees_as_the_published_one_does():
    with torch.device("meta"):
        encoder = AVHubert(video=True)
    weights = convert_avhubert(published("avhubert_base_s2s", "encoder."), prefix="w2v_model.")
    encoder.load_state_dict(weights, assign=True)
    encoder.eval()
    arrays = fixture("avhubert_base_encoder")
    audio75, padding75 = normal(20, (2, 104, 75)), torch.zeros(2, 75, dtype=torch.bool)
    audio75[1, :, 60:], padding75[1, 60:] = 0, True
    video, padding12 = normal(21, (2, 1, 12, 88, 88)), torch.zeros(2, 12, dtype=torch.bool)
    video[1, :, 9:], padding12[1, 9:] = 0, True
    audio12 = normal(22, (2, 104, 12))
    audio12[1, :, 9:] = 0
    audio75, audio12, video = audio75.transpose(1, 2), audio12.transpose(1, 2), video.transpose(1, 2)
    passes = {
        "audio": (audio75, None, padding75),
        "video": (None, video, padding12),
        "both": (audio12, video, padding12),
        "audio_nopad": (audio75[:1], None, None),
    }
    worst = {}
    for name, inputs in passes.items():
        worst[name] = meets(encoder(*inputs).transpose(0, 1), arrays, f"{name}/encoder_out")
    print("avhubert_base_encoder", {name: f"{value:.1e}" for name, value in worst.items()})


def test_parameter_counts_are_the_published_ones(talklip):
    """The generator's 137,603,099 hold the video front end and two parts of pre-training, which we do not build."""
    with torch.device("meta"):
        encoder = AVHubert(video=True)
    unused = 104 + 2004 * 256
    audio_only = sum(p.numel() for p in talklip[0].speech.parameters())
    whole = sum(p.numel() for p in encoder.parameters())
    drawn = sum(p.numel() for p in talklip[0].parameters()) - audio_only
    assert whole + unused == 103_133_416
    assert drawn == 34_469_683
    assert whole + unused + drawn == 137_603_099
