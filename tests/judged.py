"""Videos to be evaluated: the clips of a made-up data root as a method would hand them in."""

import numpy as np
from conftest import make_video

from evaluation.rows import Corpus
from evaluation.videos import framed


def write_videos(root, split, folder, change=lambda crops, real: crops, flat=False, names=None):
    """Writes the videos of a split's clips, their face crops altered by `change`; returns the folder.

    change: takes and returns crops, (L, P, P, 3) uint8. flat: <clip>.mp4 without the speaker.
    """
    corpus = Corpus(root, split)
    for name in names or corpus.names:
        real = corpus.real(name)
        crops = change(real.crops, real)
        frames = framed(crops, real.clip.boxes[: len(crops)], real.margin, size=real.clip.size)
        path = folder / f"{name.rpartition('/')[2] if flat else name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_video(path, frames)
    return folder


def blurred(crops, real):
    """A method of blurred faces: every other pixel is lost."""
    return np.repeat(np.repeat(crops[:, ::2, ::2], 2, axis=1), 2, axis=2)


def still(crops, real):
    """A method that copies the first frame."""
    return np.repeat(crops[:1], len(crops), axis=0)
