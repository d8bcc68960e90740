"""Samples of a generator that warps: points lie where pictures show them, references lie apart from their windows."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import retell
from drawn_faces import write_data_root

import data
from data import Clips, GuidedClips, collate, fixed_identity, sample
from errors import InputError
from experts.tokenizer import Tokenizer
from faces import mouth
from faces.augment import BEND, Augmentation
from faces.landmarks import CHIN, LIP_NUMBERS
from faces.shape import ONE_PICTURE, POINTS, REFERENCES_APART, SHAPE_SCALE, random_references
from hparams import preset
from media.clip import Clip, write_clip

HP = replace(preset("warp"), references=3, augment=0.0, window=2, windows=2)
ABOUT = {"face_px": 96, "crop_px": 128}
FRAMES, SHOWN = np.array([3, 4]), np.array([[20, 11, 15], [0, 12, 29]])
TURNED = [0.9, -0.7, 0.5, -0.8, 0.6, -0.9]


@pytest.fixture(scope="module")
def path(data_root):
    return data_root / "clips" / "ann" / "one.safetensors"


def look(flip=False, affine=None, field=None):
    made = Augmentation(0.0, None)
    made.flip, made.affine, made.field = flip, None if affine is None else np.array(affine), field
    return made


def bent(seed=0):
    return np.float32(np.random.default_rng(seed).uniform(-BEND, BEND, (5, 5, 2)))


class Marked(Clip):
    """A clip whose pictures show nothing but a spot at one point of the mesh."""

    point = CHIN

    def picture(self, frame):
        rgb, at = np.zeros((128, 128, 3), np.float32), self.meshes[frame, self.point] * 96 + 16 - 0.5
        away = np.stack(np.meshgrid(np.arange(128), np.arange(128)), -1) - at
        rgb[:] = 255 * np.exp(-(away**2).sum(-1) / 8)[..., None]
        return rgb.round().astype(np.uint8)


def spots(pictures):
    """The place of the spot in each picture: (..., 3, H, W) -> (..., 2), the picture as [0, 1] x [0, 1]."""
    light = pictures.mean(-3) ** 2
    at = (torch.arange(pictures.shape[-1]) + 0.5) / pictures.shape[-1]
    total = light.sum((-2, -1))
    return torch.stack([(light.sum(-2) * at).sum(-1) / total, (light.sum(-1) * at).sum(-1) / total], -1)


# Parts


def test_parts_are_as_documented(path):
    clip = Clip(path)
    drawn = sample(clip, FRAMES, SHOWN, HP, ABOUT, look(), told=False)
    shapes = {name: tuple(part.shape) for name, part in drawn.items()}
    pictures = {"face": (2, 12, 128, 128), "target": (2, 3, 128, 128), "mouth": (2, 1, 128, 128), "index": (2,)}
    places = {"points": (2, 4, len(POINTS), 2), "resting": (2, 40, 2), "turns": (2, 2, 2), "told": (2,)}
    rows = len(drawn["audio"])
    assert shapes == {**pictures, **places, "audio": (rows, 768), "lips": (rows, LIP_NUMBERS)}
    assert 30 <= rows <= 31 and drawn["index"].tolist() == FRAMES.tolist()
    assert np.array_equal(drawn["audio"][:15].flatten(), clip.whisper[:30].astype(np.float32).ravel())
    assert not drawn["told"].any() and drawn["told"].dtype == torch.bool
    assert {drawn[name].dtype for name in ("points", "resting", "turns", "face", "lips")} == {torch.float32}


def test_a_face_is_the_whole_stored_picture_and_so_are_its_references(path):
    clip, drawn = Clip(path), sample(Clip(path), FRAMES, SHOWN, HP, ABOUT, look())
    face = (drawn["face"] * 255).round().byte().unflatten(1, (4, 3)).permute(0, 1, 3, 4, 2)
    for t, frames in enumerate(np.column_stack([FRAMES, SHOWN])):
        for seen, frame in zip(face[t], frames, strict=True):
            assert np.array_equal(seen, clip.picture(frame))
    assert torch.equal(drawn["face"][:, :3], drawn["target"])


def test_pixels_that_become_the_output_are_never_spoilt(path):
    made = look()
    made.sigma, made.quality = 1.2, 30
    plain, drawn = (sample(Clip(path), FRAMES, SHOWN, HP, ABOUT, each) for each in (look(), made))
    assert torch.equal(plain["face"], drawn["face"])


def test_the_shape_of_the_lips_is_that_of_the_points(path):
    drawn = sample(Clip(path), FRAMES, SHOWN, HP, ABOUT, look(True, TURNED))
    shape = drawn["lips"][drawn["index"]].unflatten(1, (40, 2)) / SHAPE_SCALE
    lips = drawn["resting"] + shape @ drawn["turns"].transpose(1, 2)
    torch.testing.assert_close(lips, drawn["points"][:, 0, :40], atol=1e-4, rtol=0)


# Pictures that are altered


@pytest.mark.parametrize("point", [CHIN, 61, 14, 50])
@pytest.mark.parametrize("field", [None, bent(1), bent(2)], ids=["straight", "bent", "bent otherwise"])
@pytest.mark.parametrize("flip, affine", [(False, None), (True, None), (True, TURNED)])
def test_points_follow_the_pictures_of_target_and_references(path, flip, affine, field, point):
    clip = Marked(path)
    clip.point = point
    drawn = sample(clip, FRAMES, SHOWN, HP, ABOUT, look(flip, affine, field))
    found = spots(drawn["face"].unflatten(1, (4, 3)))
    away = (found - drawn["points"][:, :, POINTS.index(point)]).norm(dim=-1) * 128
    assert away.max() < 0.75, "px"


def test_a_bend_is_undone_by_its_points():
    made = look(field=bent(3))
    shift, inner = made._shift(128), np.stack(np.meshgrid(np.arange(16, 112, 5.0), np.arange(16, 112, 5.0)), -1)
    moved = made.bend(inner, 128)
    back = moved + cv2.remap(shift, np.float32(moved), None, cv2.INTER_LINEAR)
    assert np.abs(back - inner).max() < 0.1 and np.abs(moved - inner).max() > 2
    assert np.abs(shift).max() < 1.5 * BEND * 128
    assert look().bend(inner, 128) is inner


def test_only_the_stage_without_an_expert_bends(spoken_root, monkeypatch):
    hp, met = replace(HP, augment=1.0), []
    monkeypatch.setattr(data, "sample", lambda clip, *parts: met.append(parts[4].field is not None) or {})
    tokenizer = Tokenizer((spoken_root / "tokenizer.model").read_bytes())
    Clips(spoken_root, "train", hp)[0]
    GuidedClips(spoken_root, "train", hp, tokenizer, "aligned", 100)[0]
    assert met == [True, False]


@pytest.mark.parametrize("point", [61, 0, 17, CHIN])
def test_lips_of_another_shape_move_with_their_points_in_references_alone(path, point):
    clip, made, usual = Marked(path), look(), look()
    clip.point, made.reshapes, made.rng = point, True, np.random.default_rng(0)
    drawn, plain = (sample(clip, FRAMES, SHOWN, HP, ABOUT, each) for each in (made, usual))
    place = POINTS.index(point)
    away = (spots(drawn["face"].unflatten(1, (4, 3))) - drawn["points"][:, :, place]).norm(dim=-1) * 128
    assert away.max() < 2.5, "px: what is pressed together is not round"
    moved = (drawn["points"] - plain["points"])[:, :, place].norm(dim=-1) * 128
    assert not moved[:, 0].any() and torch.equal(drawn["target"], plain["target"])
    assert moved[:, 1:].max() == 0 if point == CHIN else moved[:, 1:].max() > 1


# Draws


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_draw_is_the_same_sample(data_root):
    hp = replace(HP, augment=0.9)
    first, again = Clips(data_root, "train", hp), Clips(data_root, "train", hp)
    for draw in (5, 0, 41):
        assert same(first[draw], again[draw]), draw
    assert not same(first[5], Clips(data_root, "train", replace(hp, seed=1))[5])


def test_a_share_of_the_draws_is_of_silent_faces_whose_lips_no_sound_tells(data_root, tmp_path):
    root = write_data_root(tmp_path, {"train": {"cid/one": 3}})
    silent = root / "clips" / "cid" / "one.safetensors"
    retell(silent, wav=np.zeros_like(Clip(silent).wav))
    faces = Clips(root, "train", replace(HP, window=1))
    mixed, alone = Clips(data_root, "train", replace(HP, faces_share=0.4), faces), Clips(data_root, "train", HP)
    met = [mixed._silent_face(draw) == silent for draw in range(400)]
    assert abs(np.mean(met) - 0.4) < 0.08
    assert same(mixed[met.index(False)], alone[met.index(False)]), "the others stay as they are"
    lips = mixed[met.index(True)]["lips"]
    assert lips.numel() and not lips.any(), "silence asks for lips at rest, whatever the picture shows"
    other = tmp_path / "other"
    other.mkdir()
    write_data_root(other, {"train": {"cid/one": 3}})
    (other / "dataset.json").write_text((other / "dataset.json").read_text().replace("96", "128"))
    with pytest.raises(InputError, match="faces of 96 px, --faces of 128 px"):
        Clips(data_root, "train", HP, Clips(other, "train", HP))


def test_references_lie_apart_from_their_window_and_now_and_then_are_one_picture(path):
    clip, rng, still = Clip(path), np.random.default_rng(0), []
    for start in 20 * list(range(len(clip) - 1)):
        found = random_references(len(clip), start, HP.window, HP.references, rng)
        assert found.shape == (3,) and found.min() >= 0 and found.max() < len(clip)
        assert np.minimum(abs(found - start), abs(found - (start + HP.window - 1))).min() >= REFERENCES_APART
        still.append(len(set(found)) == 1)
        assert still[-1] or len(set(found)) == 3
    assert abs(np.mean(still) - ONE_PICTURE) < 0.06


@pytest.mark.parametrize("frames", [3, 4, 7])
def test_a_short_clip_has_references_as_far_away_as_it_goes(tmp_path, frames):
    root, rng = write_data_root(tmp_path, {"train": {"ann/one": frames}}), np.random.default_rng(0)
    clip = Clip(root / "clips" / "ann" / "one.safetensors")
    for start in 5 * list(range(frames - 1)):
        found = random_references(len(clip), start, HP.window, HP.references, rng)
        away = np.maximum(start - found, found - start - 1)
        assert found.shape == (3,) and away.min() >= min(REFERENCES_APART, max(start, frames - 2 - start))


def test_windows_have_references_of_their_own(data_root, monkeypatch):
    clips = Clips(data_root, "train", HP)
    monkeypatch.setattr(data, "sample", lambda clip, frames, identity, *_: (frames, identity))
    for frames, identity in (clips[draw] for draw in range(20)):
        assert frames.shape == (4,) and identity.shape == (4, 3)
        assert np.array_equal(identity[0], identity[1]) and np.array_equal(identity[2], identity[3])


def test_lips_are_told_in_a_share_of_the_guided_draws_and_in_validation(spoken_root):
    tokenizer = Tokenizer((spoken_root / "tokenizer.model").read_bytes())

    def told(share, draws=1):
        clips = GuidedClips(spoken_root, "train", replace(HP, told=share), tokenizer, "aligned", 100)
        return [clips[draw]["told"].unique().tolist() for draw in range(draws)]

    assert told(1.0) == [[True]] and told(0.0) == [[False]]
    assert 2 <= told(0.5, 12).count([True]) <= 10
    clips = Clips(spoken_root, "val", replace(HP, told=1.0))
    assert not any(clips[draw]["told"].any() for draw in range(4)) and clips.validation(0)["told"].all()


@pytest.mark.parametrize("draw", range(4))
def test_what_is_redrawn_is_pasted_where_the_expert_looks(spoken_root, draw):
    tokenizer, hp = Tokenizer((spoken_root / "tokenizer.model").read_bytes()), replace(HP, augment=0.9)
    drawn = GuidedClips(spoken_root, "train", hp, tokenizer, "aligned", 100)[draw]
    faces = (drawn["target"], drawn["target"].flip(-1))
    found = (mouth.splice(drawn["roi"], each[None], drawn["to_face"][None], drawn["frames"][None]) for each in faces)
    right, wrong = ((each - drawn["roi"]).abs()[drawn["frames"]].mean() for each in found)
    assert right < 0.06 and right < 0.6 * wrong


def test_validation_shows_references_of_the_other_half(data_root):
    clips = Clips(data_root, "val", HP)
    clip, frames = Clip(clips.paths[0]), np.array([0, 3, 29])
    shown = fixed_identity(clip, frames, HP)
    assert shown.shape == (3, 3) and ((shown >= 15) == [[True], [True], [False]]).all()
    assert same(clips.validation(0), clips.validation(0)) and clips.validation(0)["face"].shape == (8, 12, 128, 128)


def test_clips_of_unlike_length_are_padded(data_root):
    clips = Clips(data_root, "train", HP)
    samples = [clips[draw] for draw in range(4)]
    batch = collate(samples, HP.window)
    assert batch["points"].shape == (8, 2, 4, len(POINTS), 2) and batch["told"].shape == (8, 2)
    assert batch["audio"].shape == (4, max(len(each["audio"]) for each in samples), 768)
    assert torch.equal(batch["resting"][2:4].flatten(0, 1), samples[1]["resting"])


# Features


def without_features(path):
    clip = Clip(path)
    arrays = {name: clip.array(name) for name in clip.file.keys() if name != "whisper"}
    write_clip(path, arrays, dict(clip.about))


def test_a_clip_without_features_is_told_in_one_line(tmp_path):
    root = write_data_root(tmp_path, {"train": {"ann/one": 8}})
    without_features(root / "clips" / "ann" / "one.safetensors")
    with pytest.raises(InputError, match="ann/one.safetensors has no features of Whisper: preprocess.*again") as fault:
        Clips(root, "train", HP)[0]
    assert "\n" not in str(fault.value)
    with pytest.raises(InputError, match="no features of Whisper"):
        Clip(root / "clips" / "ann" / "one.safetensors").whisper  # noqa: B018
    other = replace(preset("compact"), window=2)
    assert Clips(root, "train", other)[0]["face"].shape[1] == 6, "other generators need none"


def test_an_odd_row_of_features_is_said_twice(tmp_path):
    root = write_data_root(tmp_path, {"train": {"ann/one": 8}})
    path = root / "clips" / "ann" / "one.safetensors"
    rows = np.arange(5 * 384, dtype=np.float16).reshape(5, 384)
    retell(path, whisper=rows)
    found, index, places = data.audio_features(Clip(path), [0, 1, 2, 7], "whisper")
    assert found.shape == (3, 768) and found.dtype == np.float32 and index.tolist() == [0, 1, 2, 2]
    assert np.array_equal(found[0], np.concatenate([rows[0], rows[1]]))
    assert np.array_equal(found[2], np.concatenate([rows[4], rows[4]]))
