"""A generator at work: it embeds sound of any length, generates faces in batches, and puts them back."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import buzz
from filling import difference, faces, filled
from portraits import WEIGHTS, head, same

import audio
import renderer
from distributed import device_of
from errors import InputError
from faces.crop import crop
from faces.target import TargetFace
from hparams import HParams
from media.frame import from_rgb
from models import build_generator
from models.layers import ConvNorm, UpNorm, fold_norms
from renderer import CHUNK, CONTEXT, FaceRenderer, SpeechTrack

ONE_PASS = CHUNK + 2 * CONTEXT  # rows


@pytest.fixture(autouse=True)
def inference_mode():
    with torch.inference_mode():
        yield


def generator_of(name):
    hp = HParams(**WEIGHTS[name])
    return filled(build_generator(hp)).eval(), hp


def noise(samples):
    return np.random.default_rng(0).integers(-9000, 9000, samples).astype(np.int16)


def renderer_of(boxes, identities, px=96, size=(160, 160)):
    """A renderer of a face in these places, and its frames by index, each a head moved a little."""
    generator, hp = generator_of("talklip_g")
    frames = {i: from_rgb(head(160, x=2 * i)[: size[1], : size[0]]) for i in boxes}
    target = TargetFace()
    target.boxes, target.identities = boxes, identities
    video = SimpleNamespace(read=[])
    video.at = lambda i: video.read.append(i) or frames[i]
    return FaceRenderer(generator, target, video, SpeechTrack(generator, hp, buzz(1)), px), frames


@pytest.mark.parametrize("rows", [1, 2, CHUNK, ONE_PASS])
def test_a_short_sound_is_embedded_in_one_pass(rows):
    generator, hp = generator_of("talklip_g")
    features = audio.global_features(noise(rows * 640 - 100))
    speech = SpeechTrack(generator, hp, noise(rows * 640 - 100))
    assert len(features) == rows
    torch.testing.assert_close(speech.rows, generator.encode_audio(torch.from_numpy(features)[None])[0], rtol=0, atol=0)


@pytest.mark.parametrize("rows", [ONE_PASS + 1, 3 * CHUNK, 4 * CHUNK, 4 * CHUNK + 1, 5 * CHUNK - 1])
def test_a_long_sound_is_embedded_in_chunks_with_their_surroundings(rows):
    generator, hp = generator_of("talklip_g")
    lengths, encode = [], generator.encode_audio
    generator.encode_audio = lambda x: lengths.append(x.shape[1]) or encode(x)
    found = SpeechTrack(generator, hp, noise(rows * 640)).rows
    assert found.shape == (rows, 32) and found.isfinite().all()
    assert max(lengths) <= ONE_PASS and len(lengths) == -(-rows // CHUNK)
    torch.testing.assert_close(SpeechTrack(generator, hp, noise(rows * 640)).rows, found, rtol=0, atol=0)
    features = torch.from_numpy(audio.global_features(noise(rows * 640)))[None]
    second = encode(features[:, CHUNK - CONTEXT : 2 * CHUNK + CONTEXT])[0, CONTEXT : CONTEXT + CHUNK]
    torch.testing.assert_close(found[CHUNK : 2 * CHUNK], second, rtol=0, atol=0)


@pytest.mark.parametrize("name", WEIGHTS)
def test_speech_is_found_by_time_and_past_its_end_is_the_last_of_it(name):
    generator, hp = generator_of(name)
    track = SpeechTrack(generator, hp, noise(16_000))
    times = [0.0, 0.04, 0.36, 0.5, 0.999, 1.0, 7.0]
    speech = track(times)
    assert speech.shape == (7, generator.speech_size) and speech.isfinite().all()
    torch.testing.assert_close(track([0.36]), speech[2:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(speech[-1], speech[-2], rtol=0, atol=0)
    if hp.speech == "global":
        torch.testing.assert_close(speech, track.rows[[0, 1, 9, 12, 24, 24, 24]], rtol=0, atol=0)


@pytest.mark.parametrize("name", WEIGHTS)
def test_articulation_scales_speech_about_its_mean_over_the_track_and_1_changes_no_bit(name):
    generator, hp = generator_of(name)
    times = np.arange(0, 1, 0.04)
    plain, same_bits, more = (SpeechTrack(generator, hp, noise(16_000), *a)(times) for a in ((), (1.0,), (1.5,)))
    assert torch.equal(plain, same_bits)
    torch.testing.assert_close(more.mean(0), plain.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(more - more.mean(0), 1.5 * (plain - plain.mean(0)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 100, 3000])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_click_can_be_embedded(name, samples):
    generator, hp = generator_of(name)
    assert SpeechTrack(generator, hp, noise(samples))([0.0]).isfinite().all()


@pytest.mark.parametrize("name", WEIGHTS)
def test_folding_the_norms_changes_no_output(name):
    plain, hp = generator_of(name)
    folded = fold_norms(generator_of(name)[0])
    assert not any(
        isinstance(m.norm, torch.nn.BatchNorm2d) for m in folded.modules() if isinstance(m, (ConvNorm, UpNorm))
    )
    face, sounds = faces(1, 2)[None], [SpeechTrack(net, hp, noise(9000))([0.0, 0.2]) for net in (plain, folded)]
    assert difference(sounds[1], sounds[0]) < 1e-5
    assert difference(folded.generate(face, sounds[0][None]), plain.generate(face, sounds[0][None])) < 1e-5


@pytest.mark.parametrize(
    "box", [(50.3, 52.7, 116.2, 120.9), (-30, 20, 60, 150), (100, 90, 230, 260), (300, 9, 400, 99)]
)
@pytest.mark.parametrize("scale", [1, 4])
def test_a_face_is_cut_from_a_region_as_from_the_whole_frame(box, scale):
    box = tuple(scale * side for side in box)
    work, _ = renderer_of({0: box}, {0: 0}, px=96)
    frame = from_rgb(head(160 * scale))
    expected = np.float32(crop(frame.rgb(), box, 96)) / 255
    np.testing.assert_allclose(work._crop(frame, 0), expected, atol=1.01 / 255)


def test_frames_without_the_face_are_left_alone():
    work, frames = renderer_of({0: (50, 52, 116, 120), 2: (50, 52, 116, 120)}, {0: 2, 2: 0})
    empty = from_rgb(head())
    batch = [(0, 0.0, frames[0]), (1, 0.04, empty), (2, 0.08, frames[2])]
    pairs = work.render(batch)
    assert pairs[1] is None and all(part.shape == (96, 96, 3) for i in (0, 2) for part in pairs[i])
    back = work.put_back(batch, pairs)
    assert back[1] is empty and not same(back[0], frames[0]) and not same(back[2], frames[2])
    assert work.render([(1, 0.04, empty)]) == [None] and work.put_back([(1, 0.04, empty)], [None]) == [empty]


def test_the_generator_sees_the_pose_above_and_the_identity_of_another_frame():
    box = (50, 52, 116, 120)
    work, frames = renderer_of({i: box for i in range(4)}, {0: 3, 1: 3, 2: 3, 3: 0})
    inputs, generate = [], work.generator.generate
    work.generator.generate = lambda face, speech: inputs.append(face) or generate(face, speech)
    for k in range(4):
        work.render([(k, k / 25, frames[k])])
    for k, face in enumerate(inputs):
        real = np.float32(crop(frames[k].rgb(), box, 96)) / 255
        identity = np.float32(crop(frames[work.target.identities[k]].rgb(), box, 96)) / 255
        pose, shown = face[0, 0, :3].permute(1, 2, 0).numpy(), face[0, 0, 3:].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(pose[:48], real[:48], atol=1.01 / 255)
        assert not pose[48:].any(), "its own mouth is black"
        np.testing.assert_allclose(shown, identity, atol=1.01 / 255)
    assert work.video.read == [3, 0], "each is read once"


def test_the_identities_of_few_shots_are_kept():
    box, shots = (50, 52, 116, 120), 12
    work, frames = renderer_of({i: box for i in range(2 * shots)}, {i: i ^ 1 for i in range(2 * shots)})
    for k in range(2 * shots):
        work.render([(k, k / 25, frames[k])])
    assert list(work.identities) == [k ^ 1 for k in range(2 * shots)][-renderer.KEPT :]


def test_a_frame_that_is_its_own_identity_is_not_read_again():
    work, frames = renderer_of({0: (50, 52, 116, 120)}, {0: 0})
    work.render([(0, 0.0, frames[0])])
    assert not work.video.read and not work.identities


@pytest.mark.parametrize(
    "box", [(-60, 40, 30, 130), (120, 60, 260, 210), (170, 10, 240, 90), (-90, -90, -20, -20), (80, 80, 81, 81)]
)
def test_a_box_that_leaves_the_frame_is_rendered_where_it_is_inside(box):
    work, frames = renderer_of({0: box}, {0: 0})
    batch = [(0, 0.0, frames[0])]
    (back,) = work.put_back(batch, work.render(batch))
    assert back.size == (160, 160) and back.time_s == 0.0


@pytest.mark.parametrize("name", ["no_such_device", "meta"])
def test_a_device_must_be_there(name):
    assert device_of("cpu") == "cpu" and device_of(None) in ("cpu", "cuda")
    with pytest.raises(InputError, match=f"--device {name} does not work here"):
        device_of(name)


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("float32", torch.float32)])
def test_a_generator_is_loaded_for_fast_inference(narrow_weights, precision, dtype):
    generator, hp, about = renderer.load(narrow_weights, "cpu", precision)
    assert {p.dtype for p in generator.parameters()} == {dtype} and not generator.training and hp.width == 1 / 16
    assert about["precision"] == str(dtype).split(".")[1] and about["path"] == str(narrow_weights)
    speech = SpeechTrack(generator, hp, noise(9000))([0.0, 0.2])
    generated = generator.generate(faces(1, 2)[None].to(dtype), speech[None])
    assert generated.isfinite().all()
