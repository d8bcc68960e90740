"""A draw is always the same sample, its parts fit together, and a data root that is none is told in one line."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from drawn_faces import is_mouth, write_data_root
from safetensors import safe_open
from safetensors.numpy import save_file

import data
from data import Clips, collate, sample, to_tensor
from errors import InputError
from faces.augment import Augmentation
from faces.landmarks import LIP_NUMBERS, mouth_region
from hparams import HParams
from media.clip import Clip

HP = HParams(window=2, windows=3, augment=0.0)
ABOUT = {"face_px": 96, "crop_px": 128}
FRAMES, IDENTITY = np.array([3, 4, 11]), np.array([20, 21, 0])


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def clip(data_root):
    return Clip(data_root / "clips" / "ann" / "one.safetensors")


def look(flip=False, affine=None):
    made = Augmentation(0.0, None)
    made.flip, made.affine = flip, None if affine is None else np.array(affine)
    return made


# Draws


@pytest.mark.parametrize("augment", [0.0, 0.9])
def test_the_same_draw_is_the_same_sample(data_root, augment):
    hp = replace(HP, augment=augment)
    first, again = Clips(data_root, "train", hp), Clips(data_root, "train", hp)
    for draw in (5, 0, 41):
        assert same(first[draw], again[draw]), draw
    assert same(first[5], again[5]), "what was drawn before must not matter"


def test_other_draws_and_other_seeds_are_other_samples(data_root):
    clips = Clips(data_root, "train", HP)
    targets = [clips[draw]["target"] for draw in range(12)]
    assert not any(torch.equal(a, b) for i, a in enumerate(targets) for b in targets[:i])
    alone, other = (Clips(data_root, "test", replace(HP, seed=seed)) for seed in (0, 1))  # a split of one clip
    assert not torch.equal(alone[0]["target"], other[0]["target"])


def test_each_clip_comes_once_an_epoch_in_changing_order(data_root):
    clips, rng = Clips(data_root, "train", HP), np.random.default_rng(0)
    epochs = [[clips._which(4 * epoch + place, rng) for place in range(4)] for epoch in range(6)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 2


def test_rare_speakers_are_drawn_as_often_as_others(data_root):
    clips = Clips(data_root, "train", replace(HP, rare_speakers=1.0))
    chosen = [clips._which(draw, np.random.default_rng(draw)) for draw in range(400)]
    counts = np.bincount(chosen, minlength=4)  # three clips of ann, one of bob
    assert 160 < counts[3] < 240 and counts[:3].min() > 40
    half = Clips(data_root, "train", replace(HP, rare_speakers=0.5))
    counts = np.bincount([half._which(draw, np.random.default_rng(draw)) for draw in range(400)], minlength=4)
    assert 110 < counts[3] < 190  # 1/2 * 1/2 + 1/2 * 1/4


def drawn_frames(clips, monkeypatch, draws):
    """(length of the clip, starts of its windows, starts of the identity's) of each draw."""
    monkeypatch.setattr(data, "sample", lambda clip, frames, identity, hp, *_: (len(clip), frames, identity))
    window, found = clips.hp.window, []
    for draw in range(draws):
        length, *parts = clips[draw]
        starts = [part.reshape(-1, window)[:, 0] for part in parts]
        for part, start in zip(parts, starts, strict=True):
            assert np.array_equal(part, (start[:, None] + np.arange(window)).ravel())
            assert part.min() >= 0 and part.max() < length
        found.append((length, *starts))
    return found


def test_the_identity_is_never_the_window_to_be_drawn(data_root, monkeypatch):
    for _, starts, identity in drawn_frames(Clips(data_root, "train", HP), monkeypatch, 150):
        assert (starts != identity).all()


def test_windows_lie_apart(data_root, monkeypatch):
    for _, starts, _ in drawn_frames(Clips(data_root, "train", replace(HP, windows=4)), monkeypatch, 60):
        assert len(starts) == 4 and np.diff(np.sort(starts)).min() >= HP.window


def test_a_short_clip_repeats_its_windows(data_root, monkeypatch):
    for length, starts, _ in drawn_frames(Clips(data_root, "train", replace(HP, window=10)), monkeypatch, 20):
        assert len(starts) == 3 and length < 40
        gaps = np.diff(np.unique(starts))
        assert not len(gaps) or gaps.min() >= 10


def chosen(clips, monkeypatch, draws):
    """(clip, starts of its windows, starts of the identity's, augmentation) of each draw."""
    monkeypatch.setattr(data, "sample", lambda clip, *parts: (clip, *parts[:2], parts[4]))
    found = [clips[draw] for draw in range(draws)]
    return [(clip, *(part[:: clips.hp.window] for part in parts), made) for clip, *parts, made in found]


@pytest.mark.parametrize("knobs", [{}, {"window": 5, "windows": 0}, {"window": 10}, {"seed": 7, "windows": 1}], ids=str)
def test_published_draws_stay_what_they_were(data_root, monkeypatch, knobs):
    """Without their knobs, frames and augmentation are those of the code before there were any."""
    hp = replace(HP, augment=0.5, rare_speakers=0.3, **knobs)
    clips = Clips(data_root, "train", hp)
    for draw, (clip, starts, identity, made) in enumerate(chosen(clips, monkeypatch, 40)):
        rng = np.random.default_rng((hp.seed, 1, draw))
        assert clips.paths[clips._which(draw, rng)] == clip.path
        places, windows = len(clip) - hp.window + 1, hp.windows or int(0.08 * len(clip))
        order = rng.permutation(places)
        apart = [order[0]]
        for start in order[1:]:
            if len(apart) < windows and min(abs(start - other) for other in apart) >= hp.window:
                apart.append(start)
        wanted = np.resize(apart, windows)
        assert np.array_equal(starts, wanted)
        assert identity.tolist() == [rng.choice(np.delete(np.arange(places), start)) for start in wanted]
        again = Augmentation(0.5, rng)
        assert (again.flip, again.sigma, again.quality) == (made.flip, made.sigma, made.quality)
        assert np.array_equal(again.affine, made.affine)


def share_in_words(found, window):
    """The share of windows at least half of which is said in words."""
    said = [clip.in_words[start : start + window].mean() >= 0.5 for clip, starts, *_ in found for start in starts]
    return np.mean(said)


def test_as_many_windows_as_are_asked_for_lie_within_words(data_root, monkeypatch):
    found = {}
    for share in (0.0, 0.5, 1.0):
        clips = Clips(data_root, "train", replace(HP, windows=2, speech_windows=share))
        draws = chosen(clips, monkeypatch, 100)
        assert all(abs(starts[0] - starts[1]) >= HP.window for _, starts, *_ in draws), "they lie apart all the same"
        found[share] = share_in_words(draws, HP.window)
    assert found[1.0] == 1 and 0.4 < found[0.0] < 0.75  # words from 0.1 to 0.8 s of a clip of 1 to 1.4 s
    assert abs(found[0.5] - (found[0.0] + 1) / 2) < 0.1


def test_windows_lie_anywhere_in_clips_without_times_of_words(spoken_root, monkeypatch):
    silent = Clips(spoken_root, "silent", replace(HP, speech_windows=1.0))
    for (_, starts, identity, _), (_, usual, other, _) in zip(
        chosen(silent, monkeypatch, 10),
        chosen(Clips(spoken_root, "silent", HP), monkeypatch, 10),
        strict=True,
    ):
        assert np.array_equal(starts, usual) and np.array_equal(identity, other)


def test_words_that_leave_no_room_are_followed_by_windows_elsewhere(spoken_root, monkeypatch):
    clips = Clips(spoken_root, "train", replace(HP, window=4, windows=4, speech_windows=1.0))
    for clip, starts, *_ in chosen(clips, monkeypatch, 20):
        assert len(starts) == 4 and clip.in_words[starts[0] : starts[0] + 4].sum() >= 2
        gaps = np.diff(np.unique(starts))
        assert not len(gaps) or gaps.min() >= 4


def test_the_identity_is_far_from_its_window_and_as_often_open_as_closed(data_root, monkeypatch):
    hp, above = replace(HP, identity_apart=12), []
    for clip, starts, identity, _ in chosen(Clips(data_root, "train", hp), monkeypatch, 150):
        opening, last = data.mouth_opening(clip.meshes), len(clip) - hp.window
        for start, other in zip(starts, identity, strict=True):
            assert abs(start - other) >= min(13, max(start, last - start)), "as far as the clip goes, at least"
            far = [p for p in range(last + 1) if abs(p - start) >= min(13, max(start, last - start))]
            rank = sum(opening[p : p + 2].sum() < opening[other : other + 2].sum() for p in far)
            third = -(-len(far) // 3)
            assert rank < third or rank >= len(far) - third, "of the third most open, or most closed"
            if len(far) > 2:
                above.append(rank >= len(far) / 2)
    assert 0.4 < np.mean(above) < 0.6


def test_a_draw_with_every_knob_is_the_same_sample_again(spoken_root):
    hp = replace(HP, augment=0.7, speech_windows=0.8, identity_apart=12)
    first, again = Clips(spoken_root, "train", hp), Clips(spoken_root, "train", hp)
    for draw in (5, 0, 41):
        assert same(first[draw], again[draw]), draw
    assert not same(first[5], Clips(spoken_root, "train", replace(hp, seed=1))[5])


# Samples


def test_the_pose_prior_is_the_target_above_and_black_below(data_root):
    for clips in (Clips(data_root, "train", replace(HP, augment=augment)) for augment in (0.0, 0.9)):
        for draw in range(4):
            drawn = clips[draw]
            pose = drawn["face"][:, :3]
            moved = (pose - drawn["target"])[:, :, :48].abs()
            assert pose[:, :, :48].any() and (moved.mean() < 0.03 if clips.hp.augment else not moved.any())
            assert not pose[:, :, 48:].any()
            assert 0 <= drawn["face"].min() and drawn["face"].max() <= 1


def test_shapes_are_as_documented(data_root, clip):
    drawn = sample(clip, FRAMES, IDENTITY, HP, ABOUT, look())
    shapes = {name: tuple(part.shape) for name, part in drawn.items()}
    pictures = {"face": (3, 6, 96, 96), "target": (3, 3, 96, 96), "mouth": (3, 1, 96, 96), "index": (3,)}
    assert shapes == {**pictures, "audio": (31, 104), "lips": (31, LIP_NUMBERS)}
    assert drawn["index"].tolist() == FRAMES.tolist() and drawn["index"].dtype == torch.int64
    local = sample(clip, FRAMES, IDENTITY, replace(HP, speech="local"), ABOUT, look())
    assert local["audio"].shape == (3, 1, 80, 16) and local["index"].tolist() == [0, 1, 2]
    assert torch.equal(local["lips"], drawn["lips"][FRAMES])
    starts = [int(3.2 * frame) for frame in FRAMES]
    for heard, start in zip(local["audio"][:, 0], np.clip(starts, 0, clip.mel.shape[1] - 16), strict=True):
        assert np.array_equal(heard, clip.mel[:, start : start + 16])


def test_without_augmentation_a_face_is_the_middle_of_the_stored_picture(clip):
    drawn = sample(clip, FRAMES, IDENTITY, HP, ABOUT, look())
    for part, frames in ((drawn["target"], FRAMES), (drawn["face"][:, 3:], IDENTITY)):
        stored = np.stack([clip.picture(i)[16:112, 16:112] for i in frames])
        assert np.array_equal((part * 255).round().byte().permute(0, 2, 3, 1).numpy(), stored)


TURNED = [0.9, -0.7, 0.5, -0.8, 0.6, -0.9]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("affine", [None, TURNED], ids=["upright", "turned"])
def test_the_mouth_mask_lies_over_the_mouth(clip, flip, affine):
    drawn = sample(clip, FRAMES, IDENTITY, HP, ABOUT, look(flip, affine))
    lips, mask = is_mouth(drawn["target"]), drawn["mouth"].bool()
    assert lips.flatten(1).sum(1).min() > 150, "the mouth is not where the test looks for it"
    assert not (lips & ~mask).any()
    assert (lips.flatten(1).sum(1) / mask.flatten(1).sum(1)).min() > 0.15, "the mask is much larger than the mouth"
    for seen, said in zip(lips[:, 0], mask[:, 0], strict=True):
        assert (seen.nonzero().float().mean(0) - said.nonzero().float().mean(0)).abs().max() < 2, "px apart"


def test_a_flip_mirrors_pictures_and_mask_alike(clip):
    for affine in (None, TURNED):
        plain, mirrored = (sample(clip, FRAMES, IDENTITY, HP, ABOUT, look(flip, affine)) for flip in (False, True))
        assert not torch.equal(plain["mouth"], plain["mouth"].flip(-1)), "a mouth in the middle would prove nothing"
        assert torch.equal(mirrored["face"], plain["face"].flip(-1))
        assert torch.equal(mirrored["target"], plain["target"].flip(-1))
        assert torch.equal(mirrored["mouth"], plain["mouth"].flip(-1))


def test_all_faces_of_a_sample_are_filmed_alike(data_root, clip):
    still = replace(HP, augment=1.0)
    for seed in range(3):
        drawn = sample(
            clip, np.array([4, 4]), np.array([4, 4]), still, ABOUT, Augmentation(1.0, np.random.default_rng(seed))
        )
        assert torch.equal(drawn["target"][0], drawn["target"][1])
        apart = (drawn["face"][:, 3:] - drawn["target"]).abs().mean()
        assert 0 < apart < 0.15, "the identity has a small affine of its own, and nothing else"


def spoilt(sigma=0.0, quality=0):
    made = look()
    made.sigma, made.quality = sigma, quality
    return made


@pytest.mark.parametrize("how", [{"sigma": 1.2}, {"quality": 30}, {"sigma": 0.8, "quality": 40}], ids=str)
def test_blur_and_compression_spoil_what_is_given_and_never_the_target(clip, how):
    plain, drawn = (sample(clip, FRAMES, IDENTITY, HP, ABOUT, made) for made in (look(), spoilt(**how)))
    assert torch.equal(drawn["target"], plain["target"])
    for part in (slice(0, 3), slice(3, 6)):  # the pose prior, the identity
        assert not torch.equal(drawn["face"][:, part, :48], plain["face"][:, part, :48])
    assert not drawn["face"][:, :3, 48:].any()


def test_colours_are_those_of_targets_and_inputs(clip):
    made = look()
    made.curves = np.tile((255 - np.arange(256)).astype(np.uint8), (3, 1)), 1.0  # a negative
    plain, drawn = (sample(clip, FRAMES, FRAMES, HP, ABOUT, each) for each in (look(), made))
    for name, part in (("target", slice(0, 3)), ("face", slice(3, 6))):
        torch.testing.assert_close(drawn[name][:, part], 1 - plain[name][:, part], atol=0.005, rtol=0)


def roughness(pictures):
    """Mean squared Laplacian of (T, 3, H, W) pictures, without their edges."""
    grey = pictures.mean(1).double().numpy()
    return np.mean([cv2.Laplacian(each, cv2.CV_64F)[8:-8, 8:-8] ** 2 for each in grey])


def test_a_turned_target_is_sampled_by_cubic_interpolation(clip):
    """A turn by bilinear interpolation takes off what is finest in a picture."""
    rng = np.random.default_rng(0)
    noise = rng.integers(60, 200, (128, 128, 3)).astype(np.uint8)
    made = look(affine=TURNED)
    made.active = True
    matrix = made.matrix(96, 1.0, 16)
    linear = cv2.warpAffine(noise, matrix, (96, 96))
    turned, before, after = (
        roughness(to_tensor(each[None])) for each in (made.warp(noise, matrix, 96), noise[16:112, 16:112], linear)
    )
    assert turned > 1.5 * after and turned > 0.5 * before
    black = np.where(rng.random((128, 128, 1)) < 0.5, 0, 255).astype(np.uint8).repeat(3, axis=2)
    assert np.isin(made.warp(black, matrix, 96), [0, 255]).mean() > 0.1, "what overshoots is clipped, not wrapped"


def test_validation_samples_are_fixed_and_look_like_the_first_frame(data_root):
    clips = Clips(data_root, "val", replace(HP, augment=0.9))
    assert len(clips) == 2 and same(clips.validation(1), clips.validation(1))
    identity = clips.validation(0)["face"][:, 3:]
    assert torch.equal(identity, clips.validation(0)["target"][:1].expand_as(identity))


def test_the_mask_of_a_mouth_that_leaves_the_picture_is_cut(clip):
    meshes = np.stack([clip.meshes[0] * 96 + away for away in ([0, 0], [0, 30], [500, 0], [-500, -500])])
    x1, y1, x2, y2 = mouth_region(meshes[0]).round().astype(int)
    mask = data.mouth_mask(meshes, 96)
    assert mask.flatten(1).sum(1).tolist()[0] == (x2 - x1 + 1) * (y2 - y1 + 1)
    assert mask[1, 0, -1].any() and not mask[2:].any()


def test_clips_of_unlike_length_are_padded(data_root):
    clips = Clips(data_root, "train", HP)
    samples = [sample(Clip(path), FRAMES, IDENTITY, HP, ABOUT, look()) for path in clips.paths]
    batch = collate(samples, window=len(FRAMES))
    lengths = [len(each["audio"]) for each in samples]
    assert len(set(lengths)) > 2 and batch["audio"].shape == (4, max(lengths), 104)
    assert (~batch["audio_padding"]).sum(1).tolist() == lengths
    for i, each in enumerate(samples):
        for name in ("audio", "lips"):
            assert torch.equal(batch[name][i, : lengths[i]], each[name]) and not batch[name][i, lengths[i] :].any()
        assert batch["audio_padding"][i, lengths[i] :].all() and torch.equal(batch["face"][i], each["face"])


# Roots that are none


@pytest.fixture
def small_root(tmp_path):
    return write_data_root(tmp_path, {"train": {"ann/one": 6}})


def refused(words, root, split="train"):
    with pytest.raises(InputError, match=words) as fault:
        Clips(root, split, HP)
    assert "\n" not in str(fault.value) and str(root) in str(fault.value)


def test_a_folder_that_is_no_data_root_is_told_in_one_line(small_root):
    (small_root / "dataset.json").unlink()
    refused("not a data root.*preprocess.py", small_root)
    refused("not a data root", small_root / "absent")


def test_a_data_root_of_another_format_is_told_in_one_line(small_root):
    (small_root / "dataset.json").write_text(json.dumps({"format": 99}))
    refused("format 99, this code reads 2", small_root)
    for broken in ("{", "[]", ""):
        (small_root / "dataset.json").write_text(broken)
        refused("preprocess", small_root)


def test_an_empty_or_missing_split_is_told_in_one_line(small_root):
    (small_root / "val.txt").write_text("\n")
    refused("val.txt: no clips", small_root, "val")
    refused("test.txt: no clips", small_root, "test")


def test_a_missing_clip_is_told_in_one_line(small_root):
    (small_root / "train.txt").write_text("ann/one\nann/gone\nbob/gone\n")
    refused("2 listed clips are missing.*ann/gone.safetensors", small_root)


def test_a_clip_that_is_too_short_is_named(small_root):
    clips = Clips(small_root, "train", replace(HP, window=6))
    with pytest.raises(InputError, match="ann/one.*6 frames is too short for windows of 6"):
        clips[0]


def test_a_clip_that_is_broken_is_named(small_root):
    path = small_root / "clips" / "ann" / "one.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="ann/one.safetensors.*broken"):
        Clips(small_root, "train", HP)[0]


@pytest.mark.parametrize("name", ["face_ends", "mouth_ends"])
def test_ends_of_pictures_that_are_no_whole_numbers_are_named(small_root, name):
    path = small_root / "clips" / "ann" / "one.safetensors"
    with safe_open(path, "np") as file:
        arrays, about = {each: file.get_tensor(each) for each in file.keys()}, file.metadata()
    save_file(arrays | {name: arrays[name].astype(np.float32)}, path, about)
    clip = Clip(path)
    with pytest.raises(InputError, match=r"ann/one.safetensors is broken \(ends of .* in float32\)"):
        clip.pictures(), clip.mouths()


def test_a_filelist_cannot_lead_out_of_the_root(data_root, tmp_path):
    (tmp_path / "dataset.json").write_text((data_root / "dataset.json").read_text())
    for name in ("../../etc/passwd", "/etc/passwd"):
        (tmp_path / "train.txt").write_text(name)
        with pytest.raises(InputError, match="leads out"):
            Clips(tmp_path, "train", HParams())
