"""How late the sound of a clip is, measured by a sync model, and what is stored then."""

from typing import NamedTuple

import numpy as np

import audio
from errors import InputError
from media.clip import FPS

MEASURED = 500  # frames on which the offset of the sound is measured: 20 s


def shifted(wav, times, offset):
    """Corrects the sound and the word times of a clip whose sound is `offset` frames late, early if negative.

    What is missing at an end becomes silence; words that leave the clip lie at its edge.
    """
    samples = round(offset * audio.RATE / FPS)
    moved = wav[samples:] if samples >= 0 else np.concatenate([np.zeros(-samples, np.int16), wav])
    moved = np.pad(moved, (0, max(0, len(wav) - len(moved))))[: len(wav)]
    return moved, np.clip(np.asarray(times) - offset / FPS, 0, len(wav) / audio.RATE)


class Face(NamedTuple):
    """The place of the face in a clip's frames, with the names of `media.clip.Clip`."""

    boxes: np.ndarray
    meshes: np.ndarray
    size: tuple


class SyncOffset:
    """Measures how many frames a clip's sound is late, by a sync model, in the clip's first `MEASURED` frames.

    path: of the sync model, see `experts.sync.load_sync`.  most: frames; clips whose sound is further off are refused.
    """

    def __init__(self, path, most):
        from experts.lse import scorer

        self.scorer, self.most = scorer(path, "track"), most

    def __call__(self, pictures, wav, boxes, meshes):
        """Measures how late the sound is: frames, negative if early. Returns that and the scores, as facts of the clip.

        pictures: the frames, (H, W, 3) uint8 RGB each.  wav: int16, 16 kHz.  boxes: (L, 4) px.  meshes: (L, 468, 2).
        Raises InputError for a clip whose sound is too far off, or which is too short to measure.
        """
        boxes, meshes = boxes[:MEASURED], meshes[:MEASURED]
        room = (boxes[:, 2:] - boxes[:, :2]).max()  # around the face: of a large frame the rest is not needed
        left, top = np.maximum(boxes[:, :2].min(0) - room, 0).astype(int)
        right, bottom = np.ceil(boxes[:, 2:].max(0) + room).astype(int)
        cut = (rgb[top:bottom, left:right].copy() for rgb, _ in zip(pictures, boxes, strict=False))
        frames = np.stack(list(cut))
        face = Face(boxes - np.float32([left, top, left, top]), meshes, frames.shape[1:3])
        found = self.scorer(frames, wav, face)
        if abs(found["offset"]) > self.most:
            how = "late" if found["offset"] < 0 else "early"
            raise InputError(f"its sound is {abs(found['offset'])} frames {how}, more than --max_offset {self.most}")
        if found["c"] < self.scorer.sync.sure:
            least = f"{self.scorer.columns['c']} {found['c']:.2f}, {self.scorer.sync.sure} is the least"
            raise InputError(f"lips and sound fit at no offset that was tried: {least}")
        scores = {"model": self.scorer.about["sha256"], "c": round(found["c"], 3), "d": round(found["d"], 3)}
        return -found["offset"], {"sync": scores}
