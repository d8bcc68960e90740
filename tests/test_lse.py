"""LSE-C, LSE-D and offset are the published ones; each protocol shows what it says; offsets of clips are found."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filling import REFERENCE, difference, fixture, published
from mirror import FRAME, Mirror, flicker
from portraits import moving_head
from test_sync import HP

import checkpoint
from errors import InputError
from evaluation import sync_accuracy
from experts.lse import PX, Scorer, decoded, face_crops, jpegs, judge, scorer, tracked
from experts.sync import Compact, Published, Score, load_sync, score
from hparams import WEIGHTS
from media import sound, video
from models import build_reader

torch.set_num_threads(1)
fixtures = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference fixtures at {REFERENCE}")
GRID = Path(__file__).parents[1].parent / "shared" / "data" / "grid"


class Place:
    """Stands for a `clip.Clip`: where the face is."""

    def __init__(self, boxes, meshes=None, size=None):
        self.boxes, self.meshes, self.size = boxes, meshes, size


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of a narrow untrained compact model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sync") / "narrow.safetensors"
    checkpoint.export(path, build_reader(HP, None), HP, network="sync")
    return path


# The published numbers


@pytest.fixture(scope="module")
def syncnet(tmp_path_factory):
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(published("syncnet_v2"), path, _use_new_zipfile_serialization=False)
    return path


def grid_clip():
    """The fixture's clip: (75, 288, 360, 3) uint8, RGB, and its sound."""
    frames = np.stack([frame.rgb() for _, frame in video.frames_at(REFERENCE / "fixtures" / "bbaf2n.mpg", 25)])
    return frames, np.load(REFERENCE / "fixtures" / "bbaf2n_wav.npy")


@fixtures
@pytest.mark.weights
def test_lse_is_the_published_one_on_the_published_jpegs(syncnet):
    arrays, files = fixture("lse_grid"), fixture("lse_grid_jpegs")
    data, ends = files["data"].tobytes(), np.cumsum(files["size"])
    pictures = decoded([data[end - size : end] for end, size in zip(ends, files["size"], strict=True)])
    sync, (_, wav) = load_sync(syncnet), grid_clip()
    with torch.inference_mode():
        seen, heard = sync.embed(pictures, wav)
    assert len(seen) == arrays["n_windows"] == 69
    worst = [difference(seen, arrays["im_feat"]), difference(heard, arrays["cc_feat"])]
    found = sync.distances(pictures, wav)
    worst += [difference(found.T, arrays["dists"]), difference(found.mean(0), arrays["mdist"])]
    offset, c, d = score(found)
    assert offset == arrays["offset"] and max(worst) < 1e-5
    assert d == pytest.approx(arrays["LSE_D_min_dist"].item(), rel=1e-6)
    assert c == pytest.approx(arrays["LSE_C_confidence"].item(), abs=1e-6 * d), "a difference of two such numbers"
    print("lse_grid", [f"{value:.1e}" for value in worst])


@fixtures
@pytest.mark.weights
def test_our_own_jpegs_lead_to_nearly_the_same_lse(syncnet):
    arrays, found = fixture("lse_grid"), scorer(syncnet, "lrs")(*grid_clip())
    assert found["offset"] == arrays["offset"]
    assert found["d"] == pytest.approx(arrays["LSE_D_min_dist"].item(), rel=0.01)
    assert found["c"] == pytest.approx(arrays["LSE_C_confidence"].item(), rel=0.02)


# SyncNet's input


@pytest.mark.parametrize("height, width", [(96, 128), (97, 131)])
def test_a_jpeg_round_trip_keeps_picture_order_and_colours(height, width):
    frames = np.zeros((7, height, width, 3), np.uint8)
    frames[..., 0], frames[..., 2] = 200, np.arange(0, 140, 20)[:, None, None]
    files = jpegs(frames)
    assert len(files) == 7 and all(file.startswith(b"\xff\xd8") for file in files)
    seen = decoded(files)
    assert seen.shape == (7, PX, PX, 3) and np.abs(seen.mean((1, 2)) - frames.mean((1, 2))).max() < 6


def test_the_whole_frame_is_shown_at_any_shape():
    frame = np.zeros((100, 300, 3), np.uint8)
    frame[:, 150:] = 255
    seen = decoded([cv2.imencode(".png", frame)[1].tobytes()])[0]
    assert seen[:, : PX // 2 - 2].max() == 0 and seen[:, PX // 2 + 2 :].min() == 255


def test_a_face_is_cut_out_as_for_videos_in_the_wild():
    """1.4 half sizes of the box to left and right of its middle, 1 above, 1.8 below; what is outside is grey."""
    frames = np.zeros((3, 200, 300, 3), np.uint8)
    frames[..., 0], frames[..., 1] = np.arange(300) % 256, np.arange(200)[:, None]
    boxes = np.tile([100, 60, 180, 160], (3, 1))  # half is 50, the middle at (140, 110)
    seen = face_crops(frames, boxes)[1].astype(int)
    assert abs(seen[112, 2, 0] - 71) < 2 and abs(seen[112, -2, 0] - 209) < 2
    assert abs(seen[2, 112, 1] - 61) < 2 and abs(seen[-2, 112, 1] - 199) < 2
    low = face_crops(frames, boxes + [0, 60, 0, 60])[1]
    assert (low[-3:] == 110).all() and not (low[:126] == 110).all(-1).any()


def test_a_box_that_jumps_for_a_moment_is_smoothed_by_a_median():
    frames = np.random.default_rng(0).integers(0, 255, (30, 120, 160, 3)).astype(np.uint8)
    boxes = np.tile([50, 30, 90, 80], (30, 1))
    still, boxes[[0, 11, 29]] = face_crops(frames, boxes), [0, 0, 20, 20]
    assert np.array_equal(face_crops(frames, boxes), still)


def test_a_box_of_another_video_is_told():
    with pytest.raises(InputError, match="the face's box lies outside the picture"):
        face_crops(np.zeros((2, 50, 50, 3), np.uint8), np.tile([400, 400, 420, 420], (2, 1)))


def test_the_longest_track_is_followed_and_tells_where_it_begins():
    frames = moving_head(20)
    frames = np.concatenate([np.zeros_like(frames[:8]), frames])
    first, boxes, meshes = tracked(frames)
    assert 8 <= first <= 20 and len(boxes) == len(meshes) == 28 - first
    assert (boxes[:, 2] - boxes[:, 0] > 40).all() and 0 < meshes.mean() < 1
    with pytest.raises(InputError, match="no face in any of 8 frames"):
        tracked(frames[:8])


# One clip


def flickering(frames, shape=(64, 80)):
    """A clip whose whole picture flickers with its sound, and where its face would be."""
    light, wav = flicker(frames)
    pictures = np.round(55 + 200 * light)[:, None, None, None] * np.ones((*shape, 3))
    boxes = np.tile([20, 10, 60, 50], (frames, 1)).astype(np.float32)
    place = Place(boxes, np.zeros((frames, 468, 2)), list(shape))
    return pictures.astype(np.uint8), wav, place


@pytest.mark.parametrize("protocol", ["lrs", "track"])
@pytest.mark.parametrize("late", [-3, 0, 4])
def test_a_shifted_clip_is_found_in_both_protocols(protocol, late):
    frames, wav, clip = flickering(50)
    judged = Scorer(Published(Mirror(), {}), protocol)
    clip.boxes = clip.boxes[: len(frames) - max(-late, 0)]
    found = judged(frames[max(-late, 0) :], wav[max(late, 0) * FRAME :], clip)
    assert found.keys() == {"offset", "c", "d"} and found["offset"] == late and found["d"] < 0.7


def test_where_the_real_clip_is_shorter_it_ends_the_judging(monkeypatch):
    frames, wav, clip = flickering(30)
    clip.boxes, asked = clip.boxes[:25], []

    def embed(self, pictures, wav):
        asked.append(len(pictures))
        return torch.rand(9, 4), torch.rand(9, 4)

    monkeypatch.setattr(Published, "embed", embed)
    judge(Published(Mirror(), {}), "track", frames, wav, clip)
    judge(Published(Mirror(), {}), "lrs", frames, wav, clip)
    assert asked == [25, 30]


def test_what_cannot_be_judged_is_told_in_a_line():
    frames, wav, clip = flickering(12)
    sync = Published(Mirror(), {})
    with pytest.raises(InputError, match="5 frames at 25 fps and .* sync cannot be told from less than 6 frames"):
        judge(sync, "lrs", frames[:5], wav, clip)
    with pytest.raises(InputError, match="frames of 80x64 px, the real clip has 100x50"):
        judge(sync, "track", frames, wav, Place(clip.boxes, clip.meshes, [50, 100]))
    with pytest.raises(InputError, match="no face in any of 12 frames"):
        judge(sync, "track", frames, wav)


def test_the_columns_tell_model_and_protocol(weights):
    compact = scorer(weights, "track")
    assert (
        compact.protocol == "mouths" and compact.about["name"] == "sync_compact" and len(compact.about["sha256"]) == 64
    )
    names = [Scorer(Published(None, {}), way).columns for way in ("lrs", "track")] + [compact.columns]
    assert names[0] == {"c": "LSE-C (lrs)", "d": "LSE-D (lrs)", "offset": "offset (lrs)"}
    assert len({name for columns in names for name in columns.values()}) == 9
    with pytest.raises(InputError, match="protocol wild: choose one of lrs, track"):
        scorer(weights, "wild")


def test_the_compact_model_is_shown_the_mouth_of_the_real_clip(weights):
    frames = moving_head(14)
    first, boxes, meshes = tracked(frames)
    judged, (_, wav) = scorer(weights), flicker(14)
    found = judged(frames, wav, Place(boxes, meshes, list(frames.shape[1:3])))
    assert first == 0 and found == judged(frames, wav) and isinstance(judged.sync, Compact)
    painted = frames.copy()
    painted[:, :30] = 0  # far from the mouth
    assert judged(painted, wav, Place(boxes, meshes)) == pytest.approx(found)


# The measurement of a split


def test_a_summary_of_known_offsets_has_the_known_shares():
    scores = {"ground truth": [Score(0, 2.0, 1.0), Score(1, 4.0, 3.0), Score(-2, 0.0, 2.0), Score(0, 2.0, 2.0)]}
    found = {3: [3, 4, 3, 9], -3: [-3, -3, -3, -3]}
    result = sync_accuracy.summary(scores, found)
    wanted = {"zero": 0.5, "within_1": 0.75, "c": 2.0, "d": 2.0, "c_low": 0.3, "c_high": 3.7}
    assert result["rows"]["ground truth"] == pytest.approx(wanted)
    assert result["shifts"][3] == {"exact": 0.5, "within_1": 0.75, "moved": 0.5}
    assert result["shifts"][-3] == {"exact": 1.0, "within_1": 1.0, "moved": 0.5}
    assert result["all_shifts"] == {"exact": 0.75, "within_1": 0.875, "moved": 0.5}


def test_the_command_prints_a_table_and_writes_all_numbers(weights, data_root, tmp_path, capsys):
    argv = ["--data_root", data_root, "--splits", "val", "--sync", weights, "--json", tmp_path / "all.json"]
    assert sync_accuracy.main([str(word) for word in argv]) == 0
    printed, report = capsys.readouterr().out, json.loads((tmp_path / "all.json").read_text())
    assert "| val, 2 clips | offset 0 | within 1 frame | sync C (compact) | of 90 % | sync D (compact) |" in printed
    assert "LSE" not in printed and report["sync"]["sha256"] in printed
    assert [each["clip"] for each in report["splits"]["val"]["clips"]] == ["ann/four", "cid/one"]
    assert len(report["splits"]["val"]["shifts"]) == 20


def test_faults_of_the_command_are_one_line(weights, syncnet_narrow, data_root, tmp_path, capsys):
    for more, words in (
        (["--sync", tmp_path / "none"], "no checkpoint at"),
        (["--sync", syncnet_narrow], "is SyncNet v2, which sees whole videos"),
        (["--sync", weights, "--splits", "test"], "a split of one clip has no other clip's sound"),
        (["--sync", weights, "--device", "nonsense"], "--device nonsense does not work here"),
    ):
        assert sync_accuracy.main(["--data_root", str(data_root), *map(str, more)]) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


@pytest.fixture
def syncnet_narrow(monkeypatch, tmp_path):
    from test_syncnet import LIPS, SOUND, SyncNet, narrow, narrow_syncnet

    small = {"lips": narrow(LIPS, 1 / 32), "sound": narrow(SOUND, 1 / 32)}
    monkeypatch.setattr("experts.sync.SyncNet", lambda: SyncNet(**small))
    torch.save(narrow_syncnet(), tmp_path / "syncnet_v2.model")
    return tmp_path / "syncnet_v2.model"


# The weights we ship


@pytest.mark.weights
@pytest.mark.skipif(
    not GRID.is_dir() or not WEIGHTS["sync"].is_file(), reason=f"no recordings at {GRID}, or no {WEIGHTS['sync'].name}"
)
def test_the_shipped_weights_find_every_shift_of_a_real_clip():
    name = (GRID / "test.txt").read_text().split()[0]
    path = GRID / "main" / f"{name}.mp4"
    frames, wav = np.stack([frame.rgb() for _, frame in video.frames_at(path, 25)]), sound.read_audio(path)
    judged = scorer()
    first, boxes, meshes = tracked(frames)
    assert first == 0
    for late in range(-10, 11):
        clip = Place(boxes[max(-late, 0) :], meshes[max(-late, 0) :], list(frames.shape[1:3]))
        found = judged(frames[max(-late, 0) :], wav[max(late, 0) * FRAME :], clip)
        assert abs(found["offset"] - late) <= 1 and found["c"] > 0.2, (late, found)
