"""The published losses and the published training step, met in float64 (shared/reference), with --faithful."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from filling import IN_FLOAT64, REFERENCE, difference, fixture, meets, normal, published
from torch import nn

from experts import guidance
from experts.guidance import LipExpert
from experts.lip_reader import TrainedLipReader
from faces.mouth import cut, greyed, places
from hparams import preset
from losses import published_contrastive_loss, reading_loss
from models import build_generator, build_reader
from models.decoder import PAD
from models.published.experts import convert_expert
from models.published.generators import convert_discriminator, convert_talklip
from models.talklip import Discriminator
from train import set_stage, train_step
from training import TrainState

torch.set_num_threads(1)
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")
BGR, BGR_TWICE = [2, 1, 0], [2, 1, 0, 5, 4, 3]
FRAMES = (30, 24)
STARTS, IDENTITY = ([5, 11], [2]), ([12, 20], [17])


# The losses


@pytest.mark.weights
@needs_reference
def test_the_losses_are_the_published_ones():
    arrays = fixture("losses")
    state = published("talklip_g", "sync_net.Linearaudio.")
    sync = nn.Linear(768, 768)
    sync.load_state_dict({name: state[name] for name in ("weight", "bias")})
    seen, sound = normal(80, (12, 768)).requires_grad_(), normal(81, (12, 768)).requires_grad_()
    loss = published_contrastive_loss(
        sync(nn.functional.normalize(sound, dim=-1)), seen, torch.from_numpy(arrays["contrastive/neg_idxs"])
    )
    loss.backward()
    assert difference(loss, arrays["contrastive/loss"]) < 1e-6
    assert difference(seen.grad, arrays["contrastive/grad_video"]) < 1e-5
    assert difference(sound.grad, arrays["contrastive/grad_audio"]) < 1e-5
    assert meets(sync.weight.grad, arrays, "contrastive/grad_W") < 1e-5
    logits, tokens = normal(82, (1, 9, 1000)), torch.tensor([[5, 7, 999, 2, 1, 1, 4, 3, 2]])
    for name, smoothing in (("loss", 0.1), ("nll", 0.0)):
        found = reading_loss(logits, tokens, PAD, smoothing, summed=True)
        assert difference(found, arrays[f"lsce/{name}"]) < 1e-6


# The step


def synth_clip(frames, seed):
    """A made-up clip, (frames, 160, 160, 3) uint8, BGR."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (20, 20, 3)).repeat(8, axis=0).repeat(8, axis=1)
    pictures = [np.clip(base + rng.integers(-20, 21, (160, 160, 3)), 0, 255) for _ in range(frames)]
    return np.stack(pictures).astype(np.uint8)


def boxes(frames):
    """(frames, 4) x1, y1, x2, y2."""
    i = np.arange(frames)
    return np.stack([14 + i % 3, 2 + i % 2, 134 + i % 4, 138 + i % 5], axis=1)


def published_batch():
    """The train batch of the fixture `dataset_synth`, as `data.collate` would give it, in float64."""
    import cv2

    arrays, parts = fixture("dataset_synth"), {"face": [], "target": [], "index": [], "frames": [], "to_face": []}
    rois, clip = torch.zeros(2, 30, 1, 88, 88), []
    for number, frames in enumerate(FRAMES):
        pictures, box = synth_clip(frames, 100 + number), boxes(frames)
        cut = [cv2.resize(p[y1:y2, x1:x2], (96, 96)) for p, (x1, y1, x2, y2) in zip(pictures, box, strict=True)]
        faces = torch.from_numpy(np.stack(cut)[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255  # RGB
        rgb = torch.from_numpy(pictures[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        rois[number, :frames] = greyed(rgb)[:, :, 36:124, 36:124] / 255
        corner, size = box[:, :2], box[:, 2:] - box[:, :2]
        to_face = np.zeros((frames, 2, 3))  # from the 88 px from 36 on to the box
        to_face[:, 0, 0], to_face[:, 1, 1] = 88 / size[:, 0], 88 / size[:, 1]
        to_face[:, :, 2] = (36 - corner) / size
        for start, other in zip(STARTS[number], IDENTITY[number], strict=True):
            here, there = slice(start, start + 5), slice(other, other + 5)
            pose = faces[here].clone()
            pose[:, :, 48:] = 0
            parts["face"].append(torch.cat([pose, faces[there]], dim=1).double())
            parts["target"].append(faces[here].double())
            for name in ("index", "frames"):
                parts[name].append(torch.arange(start, start + 5))
            parts["to_face"].append(torch.from_numpy(to_face[here]))
            clip.append(number)
    batch = {name: torch.stack(each) for name, each in parts.items()} | {"clip": torch.tensor(clip), "roi": rois}
    assert meets(batch["face"].flatten(0, 1)[:, BGR_TWICE], arrays, "train/inp") < 1e-6
    batch["audio_padding"] = batch["roi_padding"] = torch.from_numpy(arrays["train/padding_mask"])
    batch["audio"] = torch.from_numpy(arrays["train/audio"]).transpose(1, 2).double()
    batch |= {"tokens": torch.from_numpy(arrays["train/target"]), "previous": torch.from_numpy(arrays["train/prev"])}
    return batch | {"mouth": torch.zeros(3, 5, 1, 96, 96), "lips": torch.zeros(2, 30, 80)}


def filled(module, weights):
    """`module`, built on the meta device, with weights, in float64."""
    module.load_state_dict(weights, assign=True)
    return module.double()


def published_nets(faithful=True):
    """Generator, discriminator and expert with the filled weights, and the generator's knobs."""
    from checkpoint import UNTRACKED
    from hparams import ExpertHParams

    def counted(weights, module):
        counts = {k: torch.zeros((), dtype=torch.long) for k in module.state_dict() if UNTRACKED in k}
        return {k: v for k, v in weights.items() if UNTRACKED not in k} | counts

    weights, _ = convert_talklip(published("talklip_g"))
    hp = replace(preset("talklip_g_c"), lip_from=0, faithful=faithful, audio_dropout=0.0, audio_layerdrop=0.0)
    with torch.device("meta"):
        generator, discriminator = build_generator(hp), Discriminator(hp)
        reader = build_reader(ExpertHParams(), 1000)
    nets = {"generator": filled(generator, counted(weights, generator))}
    nets["discriminator"] = filled(discriminator, convert_discriminator(published("talklip_disc"))[0])
    filled(reader, counted(convert_expert(published("avhubert_base_s2s")), reader))
    expert = LipExpert(TrainedLipReader(reader, ExpertHParams(), tokenizer=(), about={"sha256": ""}), "cpu", faithful)
    return nets, expert, hp


TO_THEIRS = (  # our names as the published ones
    (r"^encoder\.7\.0\.", "face_encoder_blocks.6.1."),
    (r"^encoder\.", "face_encoder_blocks."),
    (r"^decoder\.", "face_decoder_blocks."),
    (r"^to_rgb\.(\d)\.0\.", r"output_block.\1."),
    (r"^sync\.", "sync_net.Linearaudio."),
    (r"\.conv\.", ".conv_block.0."),
    (r"\.norm\.", ".conv_block.1."),
)


def their_gradients(generator):
    """{published name: norm of the gradient}, without the audio encoder."""
    import re

    norms = {}
    for name, weight in generator.named_parameters():
        if weight.grad is not None and not name.startswith("speech."):
            for pattern, replacement in TO_THEIRS:
                name = re.sub(pattern, replacement, name)
            norms[name] = weight.grad.norm().item()
    block = generator.speech.blocks[9]
    if block.qkv.weight.grad is not None:
        head = "audio_encoder.w2v_model.encoder.layers.9."
        parts = {f"self_attn.{name}_proj": g for name, g in zip("qkv", block.qkv.weight.grad.chunk(3), strict=True)}
        parts |= {
            "self_attn.out_proj": block.out.weight.grad,
            "fc1": block.up.weight.grad,
            "fc2": block.down.weight.grad,
        }
        parts |= {"self_attn_layer_norm": block.norm1.weight.grad, "final_layer_norm": block.norm2.weight.grad}
        norms |= {f"{head}{name}.weight": gradient.norm().item() for name, gradient in parts.items()}
    return norms


def pasted_in_colour(real, drawn, matrices, at):
    """`mouth.splice`, rounded as the original is: colours are pasted in 32 bits, 0 to 255, and greyed after that."""
    colours = cut(drawn[:, :, :, None], matrices[:, :, None].expand(-1, -1, 3, -1, -1)).squeeze(3)  # (W, T, 3, 88, 88)
    red, green, blue = (colours * 255).float().flatten(0, 1).unbind(1)
    roi = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None] / 255
    points = places(matrices).flatten(0, 1)
    inside = ((points > 0) & (points < 1)).all(-1)[:, None]
    return real.index_copy(0, at.flatten(), torch.where(inside, roi, real[at.flatten()]))


@pytest.mark.weights
@pytest.mark.slow
@needs_reference
def test_a_faithful_step_is_the_published_one(monkeypatch):
    """As in tests/test_reference.py, the original takes the GELU of its feed-forward layers in float32 even here.

    Of the fixture's two steps the one that trains the audio encoder too: the other has the same losses and less.
    """
    arrays, name = fixture("trainstep_base"), "ft1_f64"
    gelu = nn.functional.gelu
    monkeypatch.setattr(nn.functional, "gelu", lambda x: gelu(x.float()).double() if x.shape[-1] == 3072 else gelu(x))
    others = torch.from_numpy(arrays[f"{name}/neg_idxs"])
    monkeypatch.setattr(guidance, "counter_examples", lambda count: others)
    (nets, expert, hp), batch = published_nets(), published_batch()
    exactly = expert.rois(batch["target"], batch)[0]
    monkeypatch.setattr(guidance, "splice", pasted_in_colour)
    assert difference(expert.rois(batch["target"], batch)[0], exactly) < 1e-6
    hp = replace(hp, audio_from=0)
    set_stage(nets["generator"], hp, 0)
    trained = sum(weight.numel() for weight in nets["generator"].parameters() if weight.requires_grad)
    assert trained == arrays["n_trainable_gen"]

    seen = {}
    look = expert.features
    monkeypatch.setattr(
        expert, "features", lambda fake, batch: seen.setdefault("memory", look(seen.setdefault("fake", fake), batch))
    )
    optims = {n: torch.optim.Adam(net.parameters(), 1e-4, (0.5, 0.999)) for n, net in nets.items()}
    losses = train_step(TrainState(hp, torch.device("cpu"), nets, optims), [batch], expert)

    worst = {"syn": meets(seen["fake"].flatten(0, 1)[:, BGR], arrays, f"{name}/syn")}
    shown = expert.rois(seen["fake"], batch)[0]
    worst["proc_img"] = meets(shown.transpose(1, 2), arrays, f"{name}/proc_img")
    worst["enc_video"] = meets(seen["memory"].transpose(0, 1), arrays, f"{name}/enc_video")
    theirs = {"lip": "lip", "contrastive": "sync", "adv": "perceptual", "l1": "l1", "total": "loss"}
    theirs |= {"d_real": "disc_real", "d_fake": "disc_fake"}
    for ours, there in theirs.items():
        worst[there] = difference(losses[ours], arrays[f"{name}/loss/{there}"])
    head = f"{name}/gradnorm/"
    wanted = {key.removeprefix(head): arrays[key].item() for key in arrays if key.startswith(head)}
    found = their_gradients(nets["generator"])
    assert wanted.keys() <= found.keys()
    worst["gradnorm"] = max(abs(found[key] / norm - 1) for key, norm in wanted.items())
    worst["gradnorm_total"] = difference(losses["grad_norm"], arrays[f"{name}/gradnorm_total"])
    total = torch.stack([weight.grad.norm() for weight in nets["discriminator"].parameters()]).norm()
    worst["disc_gradnorm_total"] = difference(total, arrays[f"{name}/disc_gradnorm_total"])
    generator, blocks = nets["generator"], nets["discriminator"].blocks
    after = {
        "face_encoder_blocks.0.0.conv_block.0.weight": generator.encoder[0][0].conv.weight[:, BGR_TWICE],
        "face_decoder_blocks.6.0.conv_block.0.weight": generator.decoder[6][0].conv.weight,
        "sync_net.Linearaudio.weight": generator.sync.weight,
        "audio_encoder.w2v_model.encoder.layers.11.fc2.weight": generator.speech.blocks[11].down.weight,
        "face_encoder_blocks.0.0.conv_block.1.running_var": generator.encoder[0][0].norm.running_var,
        "disc.binary_pred.0.weight": blocks[-1][0].weight,
        "disc.face_encoder_blocks.0.0.conv_block.0.weight": blocks[0][0].conv.weight[:, BGR],
    }
    for key, value in after.items():
        worst[f"after {key}"] = meets(value, arrays, f"{name}/after/{key}")
    print(name, {key: f"{value:.1e}" for key, value in worst.items()})
    assert max(worst.values()) < IN_FLOAT64
