"""A method's videos: matched with clips, refused where they do not fit; crops there and back."""

import shutil

import numpy as np
import pytest
from conftest import make_video, numbered
from judged import write_videos

from errors import InputError
from evaluation.rows import Corpus
from evaluation.videos import crops_of, framed, frames_of, matched, other_size, unlike


def touch(folder, *names):
    for name in names:
        path = folder / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


class Header:
    """The facts of a clip without its pictures."""

    def __init__(self, frames, size=(48, 64)):
        self.frames, self.size = frames, size

    def __len__(self):
        return self.frames


def test_videos_are_found_by_speaker_and_clip_in_a_corpus_and_flat(tmp_path):
    names = ["ann/one", "bob/two"]
    nested = touch(tmp_path / "nested", *names)
    corpus = touch(tmp_path / "corpus" / "main", *names).parent
    unpacked = touch(tmp_path / "unpacked" / "mvlrs_v1" / "main", *names).parent.parent
    touch(unpacked / "mvlrs_v1" / "pretrain", *names)
    flat = touch(tmp_path / "flat", "one", "two")
    for folder in (nested, corpus, unpacked, flat):
        paths, faults, extra = matched(folder, names)
        assert (list(paths), faults, extra) == (names, {}, [])
        assert paths["ann/one"].name == "one.mp4"


def test_a_flat_name_that_two_speakers_share_is_not_guessed(tmp_path):
    paths, faults, extra = matched(touch(tmp_path, "one", "bob/two"), ["ann/one", "bob/one", "bob/two"])
    assert list(paths) == ["bob/two"] and sorted(faults) == ["ann/one", "bob/one"]
    assert extra == ["one.mp4"]


def test_missing_extra_and_differently_named_videos_are_reported(tmp_path):
    touch(tmp_path, "ann/one", "ann/two_result", "zoe/more")
    paths, faults, extra = matched(tmp_path, ["ann/one", "ann/two", "cid/nine"])
    assert list(paths) == ["ann/one"]
    assert "there is two_result.mp4" in faults["ann/two"] and "no video" in faults["cid/nine"]
    assert extra == ["ann/two_result.mp4", "zoe/more.mp4"]


def test_two_videos_of_one_clip_are_a_fault(tmp_path):
    touch(tmp_path, "ann/one", "one", "ann/two")
    assert "2 videos" in matched(tmp_path, ["ann/one", "ann/two"])[1]["ann/one"]


@pytest.mark.parametrize("names, words", [((), "no videos"), (("x", "y"), "none of its 2 videos is named as a clip")])
def test_a_folder_without_a_fitting_video_is_refused(tmp_path, names, words):
    with pytest.raises(InputError, match=words):
        matched(touch(tmp_path, *names), ["ann/one"])
    with pytest.raises(InputError, match="no such folder"):
        matched(tmp_path / "nowhere", ["ann/one"])


def test_videos_of_another_length_or_size_are_refused_by_header_and_by_frames(tmp_path):
    path = make_video(tmp_path / "x.mp4", numbered(12))
    assert unlike(path, Header(12), 1) is None and len(frames_of(path, Header(12), 1)) == 12
    for clip, words in (
        (Header(20), "12 frames, the real clip has 20"),
        (Header(12, (96, 64)), "64x48 px, the real clip has"),
    ):
        assert words in unlike(path, clip, 1)
        with pytest.raises(InputError, match=words):
            frames_of(path, clip, 1)
    with pytest.raises(InputError, match="real clip has 9"):
        frames_of(path, Header(9), 1)


def test_a_frame_more_or_less_is_within_the_slack_and_never_adds_frames(tmp_path):
    path = make_video(tmp_path / "x.mp4", numbered(12))
    assert len(frames_of(path, Header(11), 1)) == 11
    assert len(frames_of(path, Header(13), 1)) == 12
    with pytest.raises(InputError, match="another length"):
        frames_of(path, Header(13), 0)


def test_an_odd_size_may_have_been_made_even():
    assert other_size((48, 64), Header(9, (47, 63))) is None
    assert other_size((47, 63), Header(9, (48, 64))) is not None


def test_a_broken_video_is_refused_in_one_line(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"no video at all" * 50)
    assert "\n" not in unlike(path, Header(9), 1)


def test_crops_put_back_and_cut_again_are_the_crops(data_root):
    real = Corpus(data_root, "val").real("cid/one")
    frames = framed(real.crops, real.clip.boxes, real.margin, size=(200, 220))
    again = crops_of(frames, real.clip.boxes, real.crops.shape[1], real.margin)
    inner = np.abs(again.astype(int) - real.crops)[:, 4:-4, 4:-4]
    assert inner.mean() < 1
    base = np.zeros((len(frames), 200, 220, 3), np.uint8)
    into = framed(real.crops, real.clip.boxes, real.margin, base)
    assert into[:, :5].max() == 0 and base.max() == 0  # what is around stays, the base too


def test_real_videos_replace_the_stored_crops(data_root, tmp_path):
    write_videos(data_root, "val", tmp_path / "main", lambda crops, real: 255 - crops)
    stored, filmed = (Corpus(data_root, "val", videos).real("cid/one") for videos in (None, tmp_path))
    assert stored.frames is None and len(filmed.frames) == len(stored.crops)
    assert np.abs(255 - filmed.crops.astype(int) - stored.crops)[:, 8:-8, 8:-8].mean() < 8
    shutil.rmtree(tmp_path / "main" / "cid")
    assert "no video" in Corpus(data_root, "val", tmp_path).faults["cid/one"]
