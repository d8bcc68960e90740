"""Videos become a data root as documented, bad clips are left out with a reason, and a second run does what is left."""

import json
import subprocess
import sys
from concurrent.futures import Future
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import buzz, make_video

import faces
import preprocess
import video
from data import Clip, Clips
from hparams import HParams, InputError

ROOT = Path(__file__).parents[1]
FRAMES = 12
TRANSCRIPT = """Text:  BIN BLUE AT F TWO NOW
Conf:  6

WORD START END ASDSCORE
BIN 0.10 0.25 1.0
BLUE 0.25 0.40 1.0
"""
LISTS = {"train": "ann/one bob/empty bob/mute bob/blank bob/gone bob/garbled", "val": "ann/two NF", "test": "ann/one"}


class Here:
    """Stands for a pool of processes: does the work at once, in this one."""

    def __init__(self, workers, mp_context, initializer):
        initializer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, work, *args):
        job = Future()
        job.set_result(work(*args))
        return job


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(preprocess, "ProcessPoolExecutor", Here)


def portrait(shift=0):
    """FRAMES pictures, 240x200, of a person who moves a little: (n, H, W, 3) uint8."""
    picture = cv2.imread(str(ROOT / "examples" / "portrait.png"))[..., ::-1]
    return np.stack([picture[20:220, 110 - shift - k : 350 - shift - k] for k in range(FRAMES)])


def write_lists(root, lists=LISTS):
    for split, ids in lists.items():
        ids = ids.replace(" NF", "\tNF").split(" ")  # LRS2's test.txt has a second column
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A root in LRS2's layout with two good clips and five bad ones."""
    root = tmp_path_factory.mktemp("corpus")
    for speaker in ("ann", "bob"):
        (root / "main" / speaker).mkdir(parents=True)
    sound, ann, bob = buzz(FRAMES / 25), root / "main" / "ann", root / "main" / "bob"
    make_video(ann / "one.mp4", portrait(), audio=sound)
    (ann / "one.txt").write_text(TRANSCRIPT)
    make_video(ann / "two.mp4", portrait(20), audio=sound)
    (bob / "empty.mp4").write_bytes(b"")
    make_video(bob / "mute.mp4", portrait())
    make_video(bob / "blank.mp4", np.full((FRAMES, 200, 240, 3), 90, np.uint8), audio=sound)
    make_video(bob / "garbled.mp4", portrait(), audio=sound)
    (bob / "garbled.txt").write_text(TRANSCRIPT.replace("0.25 0.40", "0,25 0,40"))
    write_lists(root)
    return root


def run(root, out, workers=1):
    """What the command prints, as JSON."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert preprocess.main(["--data_root", str(root), "--out", str(out), "--workers", str(workers)]) == 0
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    """The data root that the real command, with a worker process of its own, makes of the corpus."""
    out = tmp_path_factory.mktemp("out") / "new" / "folder"
    return out, run(corpus, out)


def test_the_arrays_are_as_documented(made):
    out, _ = made
    assert json.loads((out / "dataset.json").read_text()) == {"format": 1, "fps": 25, "face_px": 96, "crop_px": 128}
    with np.load(out / "clips" / "ann" / "one.npz") as arrays:
        one = dict(arrays)
    shapes = {name: (value.shape, value.dtype.name) for name, value in one.items()}
    assert shapes["boxes"] == ((FRAMES, 4), "float32") and shapes["mesh"] == ((FRAMES, 468, 2), "float16")
    samples = len(one["wav"])
    assert one["wav"].dtype == np.int16 and FRAMES * 640 <= samples < FRAMES * 640 + 2048  # AAC fills its last block
    assert shapes["logfbank"][0] == (1 + -(-(samples - 400) // 160), 26) and shapes["logfbank"][1] == "float32"
    assert shapes["mel"] == ((80, 1 + samples // 200), "float32")
    assert len(one["ends"]) == FRAMES and one["ends"][-1] == len(one["faces"]) and one["faces"].dtype == np.uint8
    assert one["text"] == "BIN BLUE AT F TWO NOW" and one["words"].tolist() == ["BIN", "BLUE"]
    np.testing.assert_allclose(one["word_times"], [[0.1, 0.25], [0.25, 0.4]])
    assert abs(int(np.abs(one["wav"]).max()) - np.abs(buzz(0.48)).max()) < 3000


def test_crops_show_the_boxes_and_meshes_lie_on_them(made, corpus):
    out, _ = made
    path = out / "clips" / "ann" / "one.npz"
    boxes, clip = np.load(path)["boxes"], Clip(path)
    np.testing.assert_allclose(boxes[0], (178 - 110, 78 - 20, 271 - 110, 179 - 20), atol=9)  # of the portrait
    np.testing.assert_allclose(np.diff(boxes[:, 0])[3:-3], 1, atol=0.2)  # a pixel a frame
    source = [frame.rgb() for _, frame in video.frames_at(corpus / "main" / "ann" / "one.mp4", 25)]
    for k in (0, 5, FRAMES - 1):
        wanted = faces.crop(source[k], boxes[k], 128, 128 / 96)
        assert np.abs(clip.picture(k).astype(int) - wanted).mean() < 3
        mesh = clip.meshes[k]
        assert abs(mesh[:, 0].min()) < 0.05 and abs(mesh[:, 0].max() - 1) < 0.05 and abs(mesh[151, 1]) < 0.05
        assert 0.88 < mesh[faces.CHIN, 1] < 1


def test_what_is_made_can_be_trained_on(made):
    clips = Clips(made[0], "train", HParams(window=3, windows=2))
    drawn = clips[0]
    assert clips.names == ["ann/one"] and drawn["target"].shape == (6, 3, 96, 96)
    assert drawn["mouth"].flatten(1).sum(1).min() > 300


def test_bad_clips_are_left_out_with_a_reason(made):
    out, printed = made
    assert printed == {"clips": 7, "done_now": 2, "skipped": 5}
    reasons = dict(line.split("\t") for line in (out / "skipped.txt").read_text().splitlines())
    assert sorted(reasons) == ["bob/blank", "bob/empty", "bob/garbled", "bob/gone", "bob/mute"]
    assert "no face in any of 12 frames" in reasons["bob/blank"] and "is empty" in reasons["bob/empty"]
    assert "no such file" in reasons["bob/gone"] and "no sound track" in reasons["bob/mute"]
    assert "garbled.txt" in reasons["bob/garbled"] and "0,25" in reasons["bob/garbled"]
    assert [(out / f"{split}.txt").read_text() for split in LISTS] == ["ann/one\n", "ann/two\n", "ann/one\n"]
    assert sorted(path.name for path in out.rglob("*") if path.is_file() and path.suffix != ".npz") == [
        *("dataset.json", "skipped.txt", "test.txt", "train.txt", "val.txt"),
    ]


def test_a_second_run_does_only_what_is_left(corpus, tmp_path, in_this_process, monkeypatch):
    assert run(corpus, tmp_path)["done_now"] == 2
    kept, lost = (tmp_path / "clips" / "ann" / name for name in ("one.npz", "two.npz"))
    before, lists = kept.stat().st_mtime_ns, [(tmp_path / f"{split}.txt").read_text() for split in LISTS]
    lost.unlink()
    assert run(corpus, tmp_path) == {"clips": 7, "done_now": 1, "skipped": 5} and lost.is_file()
    work, tried = preprocess._work, []
    monkeypatch.setattr(preprocess, "_work", lambda source, *args: tried.append(source.name) or work(source, *args))
    assert run(corpus, tmp_path)["done_now"] == 0
    assert not {"one.mp4", "two.mp4"} & set(tried), "only what failed is tried again"
    assert kept.stat().st_mtime_ns == before
    assert [(tmp_path / f"{split}.txt").read_text() for split in LISTS] == lists


def refused(capsys, root, out, *more):
    """The one line on stderr with which the command stops."""
    assert preprocess.main(["--data_root", str(root), "--out", str(out), "--workers=1", *more]) == 1
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["../secret", "ann/../../x", "/etc/passwd"])
def test_ids_that_lead_out_of_the_root_are_refused(tmp_path, capsys, name):
    (tmp_path / "in" / "main").mkdir(parents=True)
    write_lists(tmp_path / "in", {"train": name})
    assert "leads out of" in refused(capsys, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_layout_is_told_in_one_line(tmp_path, capsys):
    assert "no folder main/" in refused(capsys, tmp_path, tmp_path / "out")
    (tmp_path / "main").mkdir()
    assert "no filelists" in refused(capsys, tmp_path, tmp_path / "out")
    write_lists(tmp_path, {"train": "ann/one"})
    assert "at least 1" in refused(capsys, tmp_path, tmp_path / "out", "--workers=0")
    assert "--out" in refused(capsys, tmp_path, tmp_path / "main" / "..")
    assert (tmp_path / "train.txt").read_text() == "ann/one\n"


def test_a_corpus_without_any_good_clip_fails(corpus, tmp_path, capsys, in_this_process):
    (tmp_path / "main").symlink_to(corpus / "main")
    write_lists(tmp_path, {"train": "bob/empty bob/gone"})
    line = refused(capsys, tmp_path, tmp_path / "out")
    assert "none of 2 clips" in line and "skipped.txt" in line


def test_a_missing_detector_is_told_in_one_line(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preprocess.faces.importlib.util, "find_spec", lambda name: None)
    assert "face detector is missing" in refused(capsys, corpus, tmp_path / "out")


def test_short_gaps_are_filled_and_long_ones_refused():
    class Found:
        """A detector that sees a face, ever further right, unless the picture is dark."""

        def rois(self, rgb):
            return [(1.0, None)] if rgb.max() > 100 else []

        def mesh(self, rgb, _):
            points = np.random.default_rng(0).random((468, 2)) * 40 + 20
            return np.float32(points + [float(rgb[0, 0, 0]) - 110, 0]), float(rgb.max() > 100)

    def follow(levels):
        frames = [np.full((90, 160, 3), level, np.uint8) for level in levels]
        return preprocess.follow_one_face(frames, Found())

    meshes = follow([110, 111, 95, 95, 95, 115])
    assert meshes.shape == (6, 468, 2) and meshes.dtype == np.float32
    np.testing.assert_allclose(meshes[:, 0, 0] - meshes[0, 0, 0], [0, 1, 2, 3, 4, 5], atol=1e-4)
    with pytest.raises(InputError, match="^no face in 6 frames from frame 2 on"):
        follow([110, 111, *[95] * 6, 115])
    with pytest.raises(InputError, match="no face in 7 frames from frame 1 on"):
        follow([110, *[95] * 7])
    with pytest.raises(InputError, match="^a scene cut"):
        follow([110, 111, 250, 250])


def test_transcripts_are_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TRANSCRIPT)
    sentence, words, times = preprocess.read_transcript(path)
    assert sentence == "BIN BLUE AT F TWO NOW" and words == ["BIN", "BLUE"]
    assert times.dtype == np.float32 and times.shape == (2, 2)
    path.write_text("Text:  HELLO\nConf:  3\n")
    assert preprocess.read_transcript(path)[:2] == ("HELLO", [])
    for other in (path, tmp_path / "absent.txt"):
        path.write_text("")
        sentence, words, times = preprocess.read_transcript(other)
        assert (sentence, words, times.shape) == ("", [], (0, 2))


def test_training_reads_no_media(data_root):
    """A process that trains has no use for the decoder and the sound packages: they cost seconds and memory."""
    spy = (
        "import sys, train, data, hparams\n"
        f"data.Clips({str(data_root)!r}, 'train', hparams.HParams(window=2, windows=1))[0]\n"
        "print([name for name in ('av', 'librosa', 'python_speech_features', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", spy], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")
