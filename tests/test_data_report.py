"""A data report counts what is in a root, shows it, and fails on what would break training, naming the clip."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from shutil import copytree

import cv2
import numpy as np
import pytest
from conftest import retell
from drawn_faces import SPLITS

import preprocess
from corpora.data_root import general
from corpora.report import contact_sheet, report, spread
from errors import InputError
from media.clip import Clip, write_clip


@pytest.fixture
def root(data_root, tmp_path):
    """A copy that may be spoilt."""
    copytree(data_root, tmp_path / "root")
    return tmp_path / "root"


def check(root):
    printed = StringIO()
    with redirect_stdout(printed):
        assert preprocess.main(["--check", str(root)]) == 0
    return json.loads(printed.getvalue())


def test_a_report_counts_what_is_there(root):
    (root / "skipped.txt").write_text(
        "bob/two\tno face in 9 frames from frame 3 on\nbob/six\tno face in 7 frames from frame 0 on\n"
    )
    numbers = check(root)
    frames = sum({name: n for split in SPLITS.values() for name, n in split.items()}.values())
    assert numbers["frames"] == numbers["boxes"] == frames
    train = numbers["splits"]["train"]
    assert train["clips"] == 4 and train["speakers"] == 2 and train["words"] == 24 and train["vocabulary"] == 6
    assert train["hours"] == round(sum(SPLITS["train"].values()) / 25 / 3600, 3) and not train["without_transcript"]
    assert numbers["frame_rates"] == {"25": 6}
    assert numbers["face_px"] == {"5%": 96.0, "50%": 96.0, "95%": 96.0}
    assert numbers["skipped"] == {"no face in N frames from frame N on": 2}
    assert numbers["windows_a_second"] > 50
    assert json.loads((root / "report" / "report.json").read_text()) == numbers


def test_its_pictures_show_the_clips(root):
    check(root)
    sheet = cv2.imread(str(root / "report" / "contact_sheet.jpg"))
    assert sheet.shape == (128, 8 * (128 + 104), 3)
    clip = Clip(root / "clips" / "ann" / "four.safetensors")  # the first by name
    assert np.abs(sheet[:, :128, ::-1].astype(int) - clip.picture(len(clip) // 2)).mean() < 6
    plots = cv2.imread(str(root / "report" / "histograms.png"))
    assert plots.shape[1] > 1000 and plots.std() > 10


def test_a_contact_sheet_of_many_clips_is_full(data_root):
    paths = sorted((data_root / "clips").rglob("*.safetensors")) * 20
    assert contact_sheet(paths).shape == (6 * 128, 8 * (128 + 104), 3)


def test_it_shows_as_many_speakers_as_there_are():
    many = [Path(f"s{who:02}/{clip}") for who in range(30) for clip in range(3)]
    assert [path.parent.name for path in spread(many, 4)] == ["s00", "s09", "s19", "s29"]
    one = [Path(f"s1/{clip:03}") for clip in range(50)] + [Path("s2/000"), Path("s3/000")]
    shown = [path.parent.name for path in spread(one, 6)]
    assert len(set(shown)) == 3 and shown.count("s1") == 4


CLIP = "ann/two.safetensors"


@pytest.mark.parametrize(
    "change, why",
    [
        ({"boxes": np.zeros((36, 4), np.float32)}, f"{CLIP}: a face box of 0.0 px"),
        ({"boxes": np.ones((5, 4), np.float32)}, f"{CLIP}: boxes is"),
        ({"mesh": np.full((36, 468, 2), np.nan, np.float16)}, f"{CLIP}: meshes is"),
        ({"wav": np.zeros(1600, np.int16)}, f"{CLIP}: 0.10 s of sound for 1.44 s"),
        ({"mel": np.full((80, 9), np.inf, np.float32)}, f"{CLIP}: mel is not finite"),
        ({"words": ["BIN"]}, f"{CLIP}: 1 words but 2 times"),
        ({"faces": np.zeros(10, np.uint8)}, f"{CLIP} is broken"),
        ({"format": 1}, f"{CLIP}: a clip of format 1"),
    ],
)
def test_what_would_break_training_is_named(root, change, why):
    retell(root / "clips" / "ann" / "two.safetensors", **change)
    with pytest.raises(InputError, match=why):
        report(root)


def test_roots_that_cannot_be_trained_on_are_refused(root, tmp_path):
    def refused(why):
        with pytest.raises(InputError, match=why):
            report(root)

    path = root / "clips" / "ann" / "two.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    refused("ann/two.safetensors is broken")
    path.unlink()
    refused("1 listed clips are missing, the first is .*ann/two")
    path.write_bytes(whole)
    (root / "test.txt").write_text("ann/two\n")
    refused("ann/two is in train.txt and in test.txt")
    (root / "test.txt").write_text("../x\n")
    refused("leads out")
    (root / "test.txt").unlink()
    (root / "val.txt").write_text("\n")
    refused("val.txt: no clips")
    (root / "dataset.json").write_text('{"format": 1}')
    refused("format 1, this code reads 2")
    (root / "dataset.json").unlink()
    refused("not a data root")


def test_a_short_clip_is_named(root):
    clip = Clip(root / "clips" / "ann" / "two.safetensors")
    arrays = {name: clip.array(name) for name in clip.file.keys()}
    arrays |= {name: arrays[name][:3] for name in ("boxes", "mesh", "mouth_windows", "face_ends", "mouth_ends")}
    write_clip(clip.path, arrays, clip.about)
    with pytest.raises(InputError, match="ann/two.safetensors: 3 frames, 6 are needed"):
        report(root)


def test_reasons_count_together_without_their_numbers():
    assert general("/a/b.mp4 is empty (0 bytes)") == "... is empty N bytes)"
