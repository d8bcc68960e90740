"""Training samples of the sync experts that see whole faces in colour: Wav2Lip's and CALS'."""

import numpy as np

from data import to_tensor
from experts.data import SyncWindows
from faces.augment import Augmentation
from media.clip import Clip


class FaceWindows(SyncWindows):
    """`SyncWindows` with whole faces in place of mouths: roi is (T, 3, H, W), RGB, of the size that the expert sees.

    Augmented they are flipped, moved, coloured, blurred and compressed as a generator's inputs are.
    """

    def load(self, i):
        """Clip `i`, and nothing of its pictures: they are decoded at every use."""
        return Clip(self.paths[i]), None

    def shown(self, clip, greys, frames, rng):
        """The faces of frames that follow each other, in [0, 1]."""
        chance = 0.5 if rng is not None and self.hp.augment else 0.0
        return faces_of(clip, frames[0], frames[-1] + 1, self.hp.face_px, self.about, Augmentation(chance, rng))


def faces_of(clip, first, last, px, about, alter):
    """The faces of frames `first` to `last` - 1 of a clip: (T, 3, px, px) in [0, 1], RGB.

    about: the facts of the data root.  alter: an `Augmentation`.
    """
    border = (about["crop_px"] - about["face_px"]) / 2
    matrix = alter.matrix(px, px / about["face_px"], border)
    crops = clip.pictures(slice(first, last))
    faces = np.stack([alter.degrade(alter.recolour(alter.warp(crop, matrix, px))) for crop in crops])
    return to_tensor(faces[:, :, ::-1] if alter.flip else faces)
