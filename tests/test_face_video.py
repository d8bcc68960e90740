"""The video of --face is edited as the flags ask, and played for as long as it takes."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from conftest import make_video, number_of, numbered
from portraits import same

from errors import InputError
from media.face_video import FaceVideo
from media.video import bounce, read_frames


@pytest.fixture
def clip(tmp_path):
    """Twelve numbered frames of 64x48 px, 20 a second."""
    return make_video(tmp_path / "a.mp4", numbered(12), 20)


@pytest.fixture
def picture(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((37, 51, 3), 90, np.uint8))
    return tmp_path / "a.png"


def indices(frames):
    return [index for index, _ in frames]


def test_a_video_is_played_forth_and_back(clip):
    video = FaceVideo(clip)
    for count in (1, 12, 40):
        played = [(index, number_of(frame.rgb())) for index, frame in video.played(count)]
        assert played == [(bounce(k, 12),) * 2 for k in range(count)]


def test_once_stops_at_the_end_of_the_sound_or_of_the_video(clip):
    video = FaceVideo(clip)
    assert indices(video.once(5)) == list(range(5)) and indices(video.once(40)) == list(range(12))


def test_any_frame_can_be_asked_for(clip):
    video = FaceVideo(clip, crop=(0, -1, 10, -1))
    assert [number_of(video.at(k).rgb()) for k in (11, 0, 5)] == [11, 0, 5]
    assert all(same(video.at(k), frame) for k, frame in video.once(12))


@pytest.mark.parametrize("static", [False, True])
def test_a_picture_is_always_its_one_frame(picture, static):
    video = FaceVideo(picture, static=static)
    assert indices(video.once(9)) == [0] and indices(video.played(9)) == [0] * 9
    assert video.fps == 25 and video.like.fps == 25 and video.first.size == (51, 37)
    assert same(video.at(0), video.first)


def test_static_is_the_first_frame_of_a_video(clip):
    video = FaceVideo(clip, static=True)
    assert [number_of(frame.rgb()) for _, frame in video.played(3)] == [0] * 3 and video.fps == 20


def test_the_rate_is_the_videos_own_unless_only_one_frame_is_shown(clip, picture):
    assert FaceVideo(clip, fps=10).fps == 20
    assert FaceVideo(clip, fps=10, static=True).like.fps == 10
    assert FaceVideo(picture, fps=29.97).fps == Fraction(2997, 100)


def test_frames_are_shrunk_then_turned_then_cropped(clip):
    whole = next(read_frames(clip)).rgb().astype(int)
    edited = FaceVideo(clip, resize_factor=2, rotate=True, crop=(4, 30, 2, 20)).first
    small = whole.reshape(24, 2, 32, 2, 3).mean((1, 3))
    expected = np.rot90(small, -1)[4:30, 2:20]  # clockwise
    assert edited.size == (18, 26) and np.abs(edited.rgb() - expected).max() < 4


def test_size_rate_and_shape_of_pixels_are_what_will_be_written(tmp_path):
    path = make_video(tmp_path / "a.mp4", numbered(2), 15, sample_aspect_ratio=Fraction(4, 3))
    like = FaceVideo(path).like
    assert (like.width, like.height, like.fps, like.pixel_aspect) == (64, 48, 15, Fraction(4, 3))
    like = FaceVideo(path, rotate=True, crop=(0, 60, 0, -1)).like
    assert (like.width, like.height, like.pixel_aspect) == (48, 60, Fraction(3, 4))


def test_a_crop_begins_where_pixels_share_no_colour_with_what_is_cut_off(clip):
    assert FaceVideo(clip, crop=(3, 21, 5, 30)).first.size == (26, 19)  # from 4, 2


@pytest.mark.parametrize(
    "sides, region",
    [((0, -1, 0, -1), (0, 0, 64, 48)), ((1, 48, 2, 64), (2, 1, 64, 48)), ((47, -1, 63, -1), (63, 47, 64, 48))],
)
def test_a_region_is_top_bottom_left_right(sides, region):
    assert FaceVideo.region(sides, "--crop", (64, 48)) == region


@pytest.mark.parametrize(
    "sides",
    [(-1, 10, 0, 10), (0, 49, 0, 10), (0, 10, 0, 65), (9, 9, 0, 9), (9, 3, 0, 9), (0, 9, 64, -1), (0, -2, 0, 9)],
)
def test_a_region_that_leaves_the_frame_is_refused_in_the_users_words(sides):
    with pytest.raises(InputError, match=f"--crop {' '.join(map(str, sides))} does not fit the frame of 64x48 px"):
        FaceVideo.region(sides, "--crop", (64, 48))


def test_shrinking_a_tiny_picture_leaves_something(picture):
    assert FaceVideo(picture, resize_factor=64).first.size == (2, 2)
