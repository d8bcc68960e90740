"""A warped lower face goes back into its frame at the frame's own size, and nothing else of the frame changes."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import make_video
from drawn_faces import draw_head, head_mesh
from filling import normal
from portraits import export_narrow, head, same, target_of
from warp_inputs import D, K, faces, net, parts_of, speech

import audio
import renderer
from errors import InputError
from faces import detect, landmarks
from faces.blend import View, composed
from faces.shape import BOTTOM, LEFT, RIGHT, SIDE, TOP
from faces.target import TargetFace
from media.face_video import FaceVideo
from media.frame import from_rgb, planes
from models.warp import Layers, grid
from models.whisper import row_count
from renderer import CHUNK, CONTEXT, MARGIN, TURNED, SpeechTrack, WarpRenderer

H, W = 40, 56


@pytest.fixture(autouse=True)
def inference_mode():
    with torch.inference_mode():
        yield


# A face at its own size


def scene(seed, height=420, width=500):
    """A picture of soft colours, neither flat nor noisy."""
    y, x = np.mgrid[:height, :width] + 10 * seed
    rgb = [128 + 60 * np.sin(x / 31 + y / 47), 110 + 50 * np.cos(x / 53 - y / 29), 100 + 40 * np.sin(x / 41 + seed)]
    return np.stack(rgb, -1).astype(np.uint8)


def layers_of(first=1.0, rows=slice(8, 32), columns=slice(10, 46)):
    """Layers that show references where they are, the first of them with this weight, in part of the crop."""
    places = grid(H, W, torch.zeros(1)).numpy()[None].repeat(2, 0)
    weights = np.zeros((2, H, W), np.float32)
    weights[0], weights[1] = first, 1 - first
    mask = np.zeros((1, H, W), np.float32)
    mask[:, rows, columns] = 1
    return places, weights, np.ones((1, 2 * H, 2 * W), np.float32), mask


def depth(view, rows=slice(8, 32), columns=slice(10, 46)):
    """How far inside a part of the grid each pixel of a view lies, in its cells, negative outside: (height, width)."""
    height, width = view.rgb.shape[:2]
    x, y = (np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) @ view.to_crop[:, :2].T).T
    column = (x.T + view.to_crop[0, 2] - LEFT) / (RIGHT - LEFT) * W
    row = (y.T + view.to_crop[1, 2] - TOP) / (BOTTOM - TOP) * H
    sides = [column - columns.start, columns.stop - column, row - rows.start, rows.stop - row]
    return np.min(sides, 0)


BOXES = {"the network's": (100.0, 90.0, 196.0, 186.0), "twice": (120.3, 80.6, 312.3, 272.6), "wide": (90, 90, 330, 300)}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_a_reference_that_stays_where_it_is_is_shown_inside_the_mask_and_nothing_outside(box):
    own, first, second = (View.of(scene(seed), box) for seed in range(3))
    assert own.crop.shape == (SIDE, SIDE, 3)
    layers, hole = layers_of(), (slice(16, 24), slice(20, 36))
    layers[3][0, *hole] = 0
    patch, (x, y) = composed(own, layers, [first, second])
    at = slice(y, y + patch.shape[0]), slice(x, x + patch.shape[1])
    inside, hidden = depth(own), depth(own, *hole)[at]
    assert (inside > 0).sum() == (inside[at] > 0).sum(), "the patch holds the mask"
    shown, kept = (inside[at] > 1) & (hidden < -1), hidden > 1
    assert np.abs(patch.astype(int) - first.rgb[at])[shown].max() <= 2
    assert np.array_equal(patch[kept], own.rgb[at][kept]) and shown.sum() > 3 * kept.sum() > 900


def test_references_are_mixed_by_their_weights_and_fade_into_the_frame():
    own, *shown = (View.of(np.full((420, 500, 3), level, np.uint8), BOXES["twice"]) for level in (40, 100, 200))
    for first, fade, wanted in ((1.0, 1.0, 100), (0.0, 1.0, 200), (0.25, 1.0, 175), (1.0, 0.5, 70)):
        patch, (x, y) = composed(own, layers_of(first), shown, fade)
        inside = depth(own)[y : y + patch.shape[0], x : x + patch.shape[1]]
        assert np.abs(patch[inside > 1].astype(int) - wanted).max() <= 1


def test_a_reference_of_another_size_and_place_is_brought_to_the_face():
    small = scene(1, 210, 250)
    large = cv2.resize(small, (500, 420), interpolation=cv2.INTER_CUBIC)
    moved = np.roll(large, (12, -20), (0, 1))
    own, box = View.of(scene(0), BOXES["twice"]), np.array(BOXES["twice"])
    for rgb, there in ((small, box / 2), (moved, box + [-20, 12, -20, 12])):
        patch, (x, y) = composed(own, layers_of(), [View.of(rgb, there)] * 2)
        at = slice(y, y + patch.shape[0]), slice(x, x + patch.shape[1])
        away = np.abs(patch.astype(int) - large[at])[depth(own)[at] > 1]
        assert away.max() <= 8 and away.mean() < 1


def test_where_nothing_shows_there_is_no_patch():
    own = View.of(scene(0), BOXES["twice"])
    assert composed(own, layers_of(), [own, own], fade=0) is None
    assert composed(own, layers_of(rows=slice(0, 0)), [own, own]) is None
    beside = View.of(scene(0), (900, 80, 1092, 272))
    assert composed(beside, layers_of(), [own, own]) is None


def test_at_the_networks_size_the_patch_is_what_the_network_generates():
    shown, said, made = faces(), speech(), net()
    wanted = made.generate(**shown, speech=said)[0].permute(0, 2, 3, 1).numpy() * 255
    layers = [part.numpy() for part in made.layers(*parts_of(shown), said[0])]
    pictures = (shown["face"][0].unflatten(1, (1 + K, 3)) * 255).round().byte().permute(0, 1, 3, 4, 2).numpy()
    for t in range(2):
        own, *references = (View.of(rgb, (16, 16, 112, 112)) for rgb in pictures[t])
        assert np.array_equal(own.crop, own.rgb), "the crop is the picture"
        patch, (x, y) = composed(own, [part[t] for part in layers], references)
        found = own.rgb.copy()
        found[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
        away = np.abs(found - wanted[t])
        assert away.mean() < 1 and np.abs(found - pictures[t, 0].astype(int)).mean() > 3 * away.mean()


# A renderer


CORNER = np.array([46, 36])  # of the face box, px of the frame


def drawn(opening, side=0.0):
    """A frame, 200 x 220 px, of a drawn head whose nose is moved to the side, and its mesh in px."""
    mesh = head_mesh(opening)
    rgb = cv2.copyMakeBorder(draw_head(mesh), 20, 52, 30, 62, cv2.BORDER_REPLICATE)
    mesh[landmarks.NOSE_TIP, 0] += side
    return from_rgb(rgb), mesh * 96 + CORNER


def said(times_s):
    """Made-up speech: one row for each time."""
    return 0.3 * normal(3, (len(times_s), D))


def renderer_of(sides, shots=1):
    """A renderer of drawn heads whose noses lie so far aside, one frame each, and these frames."""
    found = [drawn(0.1 * abs(np.sin(i)), side) for i, side in enumerate(sides)]
    target, video = TargetFace(), SimpleNamespace(read=[], fps=25, first=SimpleNamespace(size=(10_000, 10_000)))
    target.boxes = dict.fromkeys(range(len(found)), (*CORNER, *CORNER + 96))
    target.meshes.update({i: mesh for i, (_, mesh) in enumerate(found)})
    target.shots = [part.tolist() for part in np.array_split(np.arange(len(found)), shots)]
    video.at = lambda i: video.read.append(i) or found[i][0]
    return WarpRenderer(net(), target, video, said, SIDE), [frame for frame, _ in found]


def batch_of(frames):
    return [(i, i / 25, frame) for i, frame in enumerate(frames)]


def test_only_the_lower_face_changes():
    work, frames = renderer_of([0.0] * 6)
    batch = batch_of(frames)
    found = work.render(batch)
    for (index, _, frame), back in zip(batch, work.put_back(batch, found), strict=True):
        jaw = np.float32(work.target.meshes[index][landmarks.JAW])
        changed = np.argwhere(planes(frame.picture)[0] != planes(back.picture)[0])[:, ::-1]
        assert len(changed) > 800, "the lower face is redrawn"
        outside = [-cv2.pointPolygonTest(jaw, place.astype(float).tolist(), True) for place in changed]
        assert max(outside) < 4 and changed[:, 1].min() > work.target.meshes[index][landmarks.NOSE_BASE, 1] - 3
    assert [work.share(index) for index in range(6)] == [1] * 6


def test_frames_without_the_face_are_left_alone():
    work, frames = renderer_of([0.0] * 3)
    empty = from_rgb(np.full((200, 220, 3), 90, np.uint8))
    batch = [(0, 0.0, frames[0]), (7, 0.04, empty)]
    found = work.render(batch)
    assert found[1] is None and work.put_back(batch, found)[1] is empty
    assert work.render([(7, 0.04, empty)]) == [None] and work.share(7) is None


def test_a_head_that_is_turned_far_keeps_its_own_mouth_and_is_listed():
    low, high = TURNED
    held = 7  # frames: meshes are averaged over those right before and after
    work, frames = renderer_of(np.repeat([0.0, (low + high) / 2, high + 0.05, 0.0, -high - 0.05], held))
    middles = [held // 2 + held * i for i in range(5)]
    batch = [batch_of(frames)[i] for i in middles]
    found = work.render(batch)
    shares = [work.share(i) for i in middles]
    assert [share for *_, share in found] == shares == pytest.approx([1, 0.5, 0, 1, 0], abs=0.01)
    frames, back = [frames[i] for i in middles], work.put_back(batch, found)
    assert [same(*pair) for pair in zip(back, frames, strict=True)] == [False, False, True, False, True]


def test_references_come_from_the_own_shot_and_each_is_read_once():
    work, frames = renderer_of([0.0] * 12, shots=2)
    assert all((shown < 6) == (index < 6) for index, each in work.references.items() for shown in each)
    for each in batch_of(frames):
        work.render([each])
    shown = {frame for each in work.references.values() for frame in each}
    assert sorted(work.video.read) == sorted(shown)


def test_a_still_picture_is_its_own_reference():
    work, frames = renderer_of([0.0])
    batch = [(0, k / 25, frames[0]) for k in range(3)]
    back = work.put_back(batch, work.render(batch))
    assert work.references == {0: (0,) * K} and not any(same(frame, frames[0]) for frame in back)
    assert not same(back[0], back[1]), "it speaks"


@pytest.mark.parametrize("corner", [(-40, 30), (170, 130), (60, -70), (150, 190), (400, 10)])
def test_a_face_that_leaves_the_frame_is_rendered_where_it_is_inside(corner):
    work, frames = renderer_of([0.0, 0.0])
    move = np.array(corner) - CORNER
    work.target.boxes = {i: (*corner, *np.add(corner, 96)) for i in (0, 1)}
    work.target.meshes.update({i: mesh + move for i, mesh in work.target.meshes.items()})
    back = work.put_back(batch_of(frames), work.render(batch_of(frames)))
    assert all(frame.size == (220, 200) for frame in back)


def test_views_hold_what_crops_show_and_no_more():
    work, frames = renderer_of([0.0])
    view, whole = work._view(frames[0], 0), View.of(frames[0].rgb(), work.target.boxes[0])
    np.testing.assert_allclose(view.crop.astype(int), whole.crop, atol=1)
    assert view.rgb.shape[1] <= 96 * (1 + 2 * MARGIN) + 6


# Speech and weights


@pytest.fixture
def sounds(monkeypatch):
    """Stands for Whisper's encoder: made-up features of each 20 ms, in parts of an odd number of them."""
    monkeypatch.setattr(renderer, "whisper_encoder", torch.nn.Identity)
    monkeypatch.setattr(renderer, "embedded", lambda _, wav: iter(normal(8, (row_count(wav), 384)).split(17)))


def test_speech_lies_between_the_rows_around_a_time(sounds):
    made = net()
    track = SpeechTrack(made, SimpleNamespace(speech="whisper"), np.zeros(16_000, np.int16))
    rows = made.encode_audio(torch.from_numpy(audio.pairs(normal(8, (50, 384)).numpy()))[None])[0]
    torch.testing.assert_close(track.rows, rows)
    found = track([0.0, 0.04, 0.05, 0.96, 7.0])
    torch.testing.assert_close(found, torch.stack([rows[0], rows[1], 0.75 * rows[1] + 0.25 * rows[2], *rows[[24, 24]]]))
    assert SpeechTrack(made, SimpleNamespace(speech="whisper"), np.zeros(1, np.int16))([0.0]).shape == (1, D)


def test_a_long_sound_is_embedded_in_chunks(sounds):
    made, lengths = net(), []
    encode = made.encode_audio
    made.encode_audio = lambda rows: lengths.append(rows.shape[1]) or encode(rows)
    seconds = 3 * CHUNK // 25
    track = SpeechTrack(made, SimpleNamespace(speech="whisper"), np.zeros(seconds * 16_000, np.int16))
    assert track.rows.shape == (3 * CHUNK, D) and max(lengths) <= CHUNK + 2 * CONTEXT and len(lengths) == 3
    rows = torch.from_numpy(audio.pairs(normal(8, (6 * CHUNK, 384)).numpy()))
    middle = (CHUNK - CONTEXT, 2 * CHUNK + CONTEXT, CONTEXT)
    parts = [(0, CHUNK + CONTEXT, 0), middle, (2 * CHUNK - CONTEXT, 3 * CHUNK, CONTEXT)]
    expected = [encode(rows[None, low:high])[0, skip : skip + CHUNK] for low, high, skip in parts]
    torch.testing.assert_close(track.rows, torch.cat(expected))


def test_numbers_that_say_where_things_are_keep_their_bits(tmp_path, sounds):
    sizes = {"face_size": SIDE, "audio_dim": D, "audio_heads": 4, "references": K, "width": 1 / 8}
    path = export_narrow(tmp_path / "warp.safetensors", model="warp", speech="whisper", **sizes)
    generator, hp, about = renderer.load(path, "cpu", "bf16")
    kept = {name.split(".")[0] for name, weight in generator.named_parameters() if weight.dtype == torch.float32}
    assert kept == {"speech", "outline"} and hp.model == "warp" and about["precision"] == "bfloat16"
    work, frames = renderer_of([0.0] * 3)
    whole = work.render(batch_of(frames))
    work.generator, work.speech = generator, SpeechTrack(generator, hp, np.zeros(9000, np.int16))
    for (_, found, _, _), (_, exact, _, _) in zip(work.render(batch_of(frames)), whole, strict=True):
        assert all(np.isfinite(part).all() and part.dtype == np.float32 for part in Layers(*found))
        assert np.array_equal(found[3], exact[3]), "the mask is where it was"


# A place that is given


@pytest.fixture(scope="module")
def detector():
    return detect.BlazeFace()


def test_a_placed_face_has_a_mesh_by_the_detector(detector, swaying_clip):
    video = FaceVideo(swaying_clip)
    followed = target_of(video, 8, detector)
    placed = TargetFace.placed(video, 8, followed.boxes[4], detector=detector)
    assert sorted(placed.boxes) == sorted(placed.meshes) == sorted(placed.sharpness) == list(range(8))
    assert placed.shots == [list(range(8))] and placed.searched == 8
    for i in range(8):
        assert np.abs(np.subtract(placed.boxes[i], followed.boxes[i])).max() < 4, "px"


def test_frames_without_a_face_at_the_place_are_left_out(detector, tmp_path):
    frames = np.stack([head(160)] * 4)
    frames[2:] = 128
    video = FaceVideo(make_video(tmp_path / "a.mp4", frames))
    box = target_of(video, 2, detector).boxes[0]
    target = TargetFace.placed(video, 4, box, detector=detector)
    assert sorted(target.boxes) == [0, 1] and target.searched == 4 and set(target.identities) == {0, 1}
    with pytest.raises(InputError, match="--box: no face there in any of 2 frames"):
        TargetFace.placed(FaceVideo(make_video(tmp_path / "b.mp4", frames[2:])), 2, box, detector=detector)


def test_meshes_are_not_averaged_across_a_cut():
    work, _ = renderer_of([0.0] * 12, shots=2)
    work.target.meshes.update({i: work.target.meshes[i] + 300 for i in range(6, 12)})
    assert np.abs(work._steady(5) - work.target.meshes[5]).max() < 5
