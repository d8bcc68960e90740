"""Whether a generated face is still the same person: distances of a face embedding, by the optional dlib-bin."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

import checkpoint
from corpora.corpus import speaker
from data import evenly
from errors import InputError
from media.clip import SUFFIX, Clip

FRAMES = 8  # of a clip, evenly spread, whose faces are compared
CHIP_PX = 150  # of the faces that the network sees
POINTS, NETWORK = "shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"  # both are CC0
HOW = "pip install dlib-bin && pip install --no-deps face-recognition-models"


class FaceEmbedding:
    """Embeds faces by dlib's ResNet (D. E. King), whose file is in the package face-recognition-models: 128 numbers.

    By its author, faces within 0.6 of each other are one person's. It has taught nothing here.
    Raises InputError where the packages are not installed.
    """

    def __init__(self):
        try:
            import dlib
        except ImportError as error:
            raise InputError(f"--measures identity: dlib cannot be imported ({error}): {HOW}") from error
        spec = find_spec("face_recognition_models")
        if spec is None:
            raise InputError(f"--measures identity: the package face-recognition-models is not installed: {HOW}")
        folder = Path(spec.submodule_search_locations[0]) / "models"
        self.dlib, self.points = dlib, dlib.shape_predictor(str(folder / POINTS))
        self.network = dlib.face_recognition_model_v1(str(folder / NETWORK))
        self.about = {"sha256": checkpoint.sha256(folder / NETWORK), "package": "face-recognition-models"}

    def places(self, crops, border):
        """Where the eyes and the nose are in real crops, for `__call__`.

        crops: (T, P, P, 3) uint8, RGB.  border: px of each around the face box.
        """
        box = self.dlib.rectangle(border, border, crops.shape[1] - border, crops.shape[1] - border)
        return [self.points(np.ascontiguousarray(crop), box) for crop in crops]

    def __call__(self, crops, places):
        """The embeddings of faces that are upright and in the middle by `places`: (T, 128)."""
        both = zip(crops, places, strict=True)
        chips = [self.dlib.get_face_chip(np.ascontiguousarray(crop), place, CHIP_PX) for crop, place in both]
        return np.array([self.network.compute_face_descriptor(chip) for chip in chips])


class IdentityScorer:
    """Measures how far the faces of rows are from the real ones, and real faces from others of one or another person.

    corpus: a `rows.Corpus`.  embed: a `FaceEmbedding`.
    """

    def __init__(self, corpus, embed=None):
        self.embed = embed or FaceEmbedding()
        root = next(iter(corpus.place.values())).parents[len(corpus.names[0].split("/")) - 1]
        files = sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(f"*{SUFFIX}"))
        self.known = {name: root / f"{name}{SUFFIX}" for name in files}  # of all lists of the data root

    def others(self, name):
        """The next clips of the same and of another person among all of the data root: two ids, or None."""
        names = list(self.known)
        at = names.index(name) + 1
        after = names[at:] + names[: at - 1]
        same = next((each for each in after if speaker(each) == speaker(name)), None)
        return same, next((each for each in after if speaker(each) != speaker(name)), None)

    def faces(self, crops, border):
        """The embeddings of real crops, (T, P, P, 3) uint8, and their places."""
        places = self.embed.places(crops, border)
        return self.embed(crops, places), places

    def __call__(self, real, rows, truth):
        """The distances of a clip: {row: {measure: (sum, weight)}}. rows: {row: crops}; truth: the real row's name.

        Every row's faces are cut out where the real ones are, so that none is favoured.
        """
        frames = evenly(len(rows[truth]), FRAMES)
        border = round(real.crops.shape[1] * real.margin / (1 + 2 * real.margin))
        own, places = self.faces(rows[truth][frames], border)
        found = {}
        for row, crops in rows.items():
            found[row] = {"identity": mean_distance(self.embed(crops[frames], places), own)}
        for measure, name in zip(("identity_same", "identity_other"), self.others(real.name), strict=True):
            if name is not None:
                crops = Clip(self.known[name]).pictures()
                faces, _ = self.faces(crops[evenly(len(crops), FRAMES)], border)
                found[truth][measure] = mean_distance(faces[: len(own)], own[: len(faces)])
        return found


def mean_distance(faces, others):
    """The mean Euclidean distance of embeddings, (T, D) each, as (sum, weight), see `bootstrap.estimate`."""
    return float(np.linalg.norm(faces - others, axis=1).mean()), 1
