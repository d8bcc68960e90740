"""Short raw clips of the portrait, good and bad, as a corpus has them."""

from pathlib import Path

import cv2
import numpy as np
from conftest import buzz, make_video

ROOT = Path(__file__).parents[1]
FRAMES = 12
TRANSCRIPT = """Text:  BIN BLUE AT F TWO NOW
Conf:  6

WORD START END ASDSCORE
BIN 0.10 0.25 1.0
BLUE 0.25 0.40 1.0
"""
LISTS = {"train": "ann/one bob/empty bob/mute bob/blank bob/gone bob/garbled", "val": "ann/two NF", "test": "ann/one"}
BAD = ["bob/blank", "bob/empty", "bob/garbled", "bob/gone", "bob/mute"]


def portrait(shift=0, count=FRAMES):
    """Pictures, 240x200, of a person who moves a little: (count, H, W, 3) uint8."""
    picture = cv2.imread(str(ROOT / "examples" / "portrait.png"))[..., ::-1]
    return np.stack([picture[20:220, 110 - shift - k : 350 - shift - k] for k in range(count)])


def write_lists(root, lists=LISTS):
    """Writes filelists as LRS2 has them: test.txt may have a mark behind each id, which here "NF" stands for."""
    for split, names in lists.items():
        ids = names.replace(" NF", "\tNF").split(" ")
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))


def write_clip(path, frames=None, text=TRANSCRIPT, **options):
    """A video of the portrait with sound, and its transcript."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = portrait() if frames is None else frames
    make_video(path, frames, audio=buzz(len(frames) / 25), **options)
    path.with_suffix(".txt").write_text(text)
    return path


def write_corpus(root):
    """A root in LRS2's layout with two good clips and five bad ones, see LISTS and BAD."""
    ann, bob = root / "main" / "ann", root / "main" / "bob"
    write_clip(ann / "one.mp4")
    write_clip(ann / "two.mp4", portrait(20))
    write_clip(bob / "garbled.mp4", text=TRANSCRIPT.replace("0.25 0.40", "0,25 0,40"))
    write_clip(bob / "blank.mp4", np.full((FRAMES, 200, 240, 3), 90, np.uint8))
    make_video(bob / "mute.mp4", portrait())
    (bob / "empty.mp4").write_bytes(b"")
    for name in ("mute", "empty"):
        (bob / f"{name}.txt").write_text(TRANSCRIPT)
    write_lists(root)
    return root
