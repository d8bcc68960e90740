"""Everyone in a video has a number, and whoever is chosen is the one who is redrawn."""

import csv
import json

import cv2
import numpy as np
import pytest
from conftest import buzz, make_video, make_wav
from drawn_faces import head_mesh
from portraits import changed_region, command, head, inside, run, written_frames

import inference
from errors import InputError
from faces import detect, people
from faces.landmarks import OUTER_LIPS
from faces.people import Point
from faces.track import Track
from media.face_video import FaceVideo
from media.frame import planes
from media.sound import read_audio, together
from media.video import read_frames

LEFT, RIGHT = (10, 40, 120, 150), (140, 20, 320, 200)  # where the two heads are


def two_heads(count):
    """A small head at the left and a large one at the right, which sway: (count, 200, 330, 3) uint8."""
    frames = np.full((count, 200, 330, 3), 120, np.uint8)
    for k, frame in enumerate(frames):
        frame[40:150, 10:120], frame[20:200, 140:320] = head(110, k % 3), head(180, k % 3)
    return frames


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A video of two people."""
    return make_video(tmp_path_factory.mktemp("people") / "both.mp4", two_heads(12))


def track(x, frames, px=40):
    """A face of some frames whose left edge is at x px."""
    return Track({i: head_mesh() * px + [x, 100] for i in frames})


def test_people_are_numbered_from_left_to_right_and_shown(both, tmp_path, capsys):
    found, frames = people.people_of(FaceVideo(both), detect.BlazeFace())
    assert len(found) == 2 and len(frames) == 12 and all(len(places) == 12 for places in found)
    for places, box in zip(found, (LEFT, RIGHT), strict=True):
        assert all(inside((point.x, point.y, point.x, point.y), box) for point in people.points_of(places))
    sheet = tmp_path / "faces.jpg"
    for _ in range(2):  # an earlier sheet is replaced
        assert inference.main(["--face", str(both), "--preview", str(sheet)]) == 0
        told = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[0] for line in told] == ["0", "1", str(sheet)] and "--face_at" in told[1]
    assert cv2.imread(str(sheet)).shape[1] == 4 * people.TILE_PX
    sheet.write_bytes(b"my own picture")
    assert inference.main(["--face", str(both), "--preview", str(sheet)]) == 1
    assert "no earlier output" in capsys.readouterr().err and sheet.read_bytes() == b"my own picture"


def test_a_pick_is_of_each_shot():
    small, large, ghost = track(10, range(5), 40), track(200, range(5), 60), track(400, [2], 8)
    later = track(30, range(6, 9))
    shots = [[large, small, ghost], [], [later]]
    assert people.picked(shots) == people.picked(shots, "right") == [large, later], "a ghost is nobody to choose"
    assert people.picked(shots, "left") == [small, later]
    talks = track(10, range(5))
    for i in range(0, 5, 2):
        talks.meshes[i][[13, 14]] += [[0, -3], [0, 3]]
    assert people.picked([[large, talks]], "speaking") == [talks]


def test_who_speaks_moves_with_the_sound_and_who_chews_does_not(tmp_path):
    loudness, rng = np.repeat(np.random.default_rng(0).random(20), 3), np.random.default_rng(1)
    talks, chews, still = (track(x, range(55)) for x in (10, 100, 200))
    for who, gaps in ((talks, 4 * loudness), (chews, 9 * np.repeat(rng.random(20), 3))):
        for i in range(1, 55):  # sound is a frame early
            who.meshes[i][[13, 14]] += [[0, -gaps[i - 1] / 2], [0, gaps[i - 1] / 2]]
    shots = [[still, chews, talks]]
    assert people.picked(shots, "speaking") == [chews] and people.picked(shots, "speaking", loudness) == [talks]
    assert people.picked(shots, "speaking", loudness[:20]) == [chews], "too short to compare"
    wav = np.concatenate([buzz(0.4) // 50, buzz(0.4)])
    heard = people.loudness_of(FaceVideo(make_video(tmp_path / "a.mp4", two_heads(20)[:, :, :64], audio=wav)))
    assert 19 <= len(heard) <= 22 and heard[2:9].max() < heard[12:18].max() - 2
    assert people.loudness_of(FaceVideo(make_video(tmp_path / "b.mp4", two_heads(2)))) is None


def test_a_point_means_the_face_there_and_then():
    one, other, later = track(10, range(10)), track(200, range(10)), track(10, range(20, 30))
    shots, (x, y) = [[one, other], [later]], one.meshes[0].mean(0)
    assert people.at_points(shots, [Point(x, y)], "--face_at") == [one, later]
    assert people.at_points(shots, [Point(x, y, 3)], "--face_at") == [one], "in that shot alone"
    assert people.at_points(shots, [Point(x + 190, y)], "--face_at") == [other]
    for point in (Point(x + 100, y), Point(x, y, 50)):
        with pytest.raises(InputError, match="--face_at: no face is there. Faces are at .* at frame 0"):
            people.at_points(shots, [point], "--face_at")


def regions(shown, both):
    """What is changed of the frames."""
    return [changed_region(frame, old) for frame, old in zip(shown, read_frames(both), strict=False)]


def test_who_is_chosen_is_redrawn(both, tmp_path, voice, narrow_weights, monkeypatch):
    shown = written_frames(monkeypatch)
    for flags in (("--face_pick", "left"), ("--face_at", "65,95"), ("--face_at", "65,95,0.2")):
        shown.clear()
        run(both, voice, tmp_path / "a.mp4", narrow_weights, *flags)
        assert all(inside(region, LEFT) for region in regions(shown, both))


def test_several_people_speak_with_their_own_sounds(both, tmp_path, narrow_weights, capsys, monkeypatch):
    sounds = [make_wav(tmp_path / "a.wav", buzz(0.4)), make_wav(tmp_path / "b.wav", buzz(0.2))]
    words = command(both, sounds[0], tmp_path / "o.mp4", narrow_weights)
    at = words.index("--audio")
    shown = written_frames(monkeypatch)
    words[at + 1 : at + 2] = [f"1={sounds[0]}", f"0={sounds[1]}"]
    assert inference.main(words) == 0
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["audio"] == {"1": str(sounds[0]), "0": str(sounds[1])} and report["frames"] == report["redrawn"] == 10
    assert set(report["boxes"]) == {"0", "1"} and inside(report["boxes"]["0"]["0"], LEFT)
    x1, _, x2, _ = regions(shown, both)[0]
    assert x1 < 120 and x2 > 140, "both mouths are redrawn"
    words[at + 1] = f"2={sounds[0]}"
    capsys.readouterr()
    assert inference.main(words) == 1 and "--audio 2=...: 2 people are seen" in capsys.readouterr().err


def test_sounds_together_are_their_sum(tmp_path):
    long, short = buzz(1.5, 48_000) // 2, buzz(0.5, 48_000) // 2
    paths = [make_wav(tmp_path / "a.wav", long, 48_000), make_wav(tmp_path / "b.wav", short, 48_000)]
    with together(paths) as both, together(paths[:1]) as one:
        assert one == paths[0]
        found = read_audio(both, 48_000).astype(int)
    wanted = long.astype(int)
    wanted[: len(short)] += short
    assert len(found) == len(wanted) and np.abs(found - wanted).max() < 5 and not both.exists()


def test_flags_that_contradict_each_other_are_refused(capsys):
    for words in (
        ["--face", "x.mp4"],
        ["--list", "a.csv", "--face", "x.mp4"],
        ["--face", "x.mp4", "--audio", "a.wav", "b.wav"],
        ["--face", "x.mp4", "--audio", "0=a.wav", "0=b.wav"],
        ["--face", "x.mp4", "--audio", "a.wav", "--face_at", "1"],
        ["--face", "x.mp4", "--audio", "a.wav", "--face_at", "1,2", "--box", "1", "2", "3", "4"],
    ):
        with pytest.raises(SystemExit) as end:
            inference.main(words)
        assert end.value.code == 2
    args = inference.parse(["--face", "x.mp4", "--audio", "a=b.wav", "--face_at", "1,2.5,3"])
    assert str(args.audio) == "a=b.wav" and args.face_at == (1, 2.5, 3)


def test_a_list_goes_on_after_faults_and_resumes(swaying_clip, voice, tmp_path, narrow_weights, capsys):
    for name, path in {"a.mp4": swaying_clip, "v.wav": voice}.items():
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "broken.mp4").write_text("a shopping list")
    rows = [("broken.mp4", "v.wav", "out/1.mp4"), ("a.mp4", "v.wav", "out/2.mp4"), ("a.mp4", "no.wav", "out/3.mp4")]
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    words = ["--list", str(tmp_path / "pairs.csv"), "--checkpoint_path", str(narrow_weights), "--quiet"]
    for time in range(2):
        assert inference.main(words) == 1
        told = capsys.readouterr()
        assert told.out.startswith(f"{tmp_path / 'out' / '2.mp4'}: {('15 frames', 'is there')[time]}")
        first, second, last = told.err.splitlines()
        assert "pairs.csv, line 1: " in first and "line 3: " in second and "2 of 3 pairs could not be made" in last
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["2.json", "2.mp4"]


@pytest.mark.parametrize("degrees", [50, 180])
def test_a_head_on_its_side_is_redrawn_there(tmp_path, voice, narrow_weights, monkeypatch, degrees):
    turn = cv2.getRotationMatrix2D((100, 110), degrees, 1)
    rgb = cv2.warpAffine(head(200), turn, (200, 200), borderMode=cv2.BORDER_REPLICATE)
    path = make_video(tmp_path / "side.mp4", np.stack([rgb] * 4))
    (upright,) = people.faces_in(head(200), detect.BlazeFace())
    mouth, eyes = (upright[points].mean(0) @ turn[:, :2].T + turn[:, 2] for points in (OUTER_LIPS, [33, 263]))
    shown = written_frames(monkeypatch)
    report = run(path, voice, tmp_path / "o.mp4", narrow_weights)
    assert report["frames"] == report["redrawn"] and abs(report["boxes"]["0"][4] + degrees) % 360 < 8
    after, before = (planes(frame.picture)[0] for frame in (shown[0], FaceVideo(path).first))
    changed = [(after != before)[y - 5 : y + 6, x - 5 : x + 6] for x, y in np.round([mouth, eyes]).astype(int)]
    assert changed[0].mean() > 0.5 and not changed[1].any()
