"""Distances of face embeddings: rows against the real face, those of one person and of another; made-up network."""

from importlib.util import find_spec

import numpy as np
import pytest

from errors import InputError
from evaluation.identity import FaceEmbedding, IdentityScorer, mean_distance
from evaluation.rows import TRUTH, Corpus, baseline_rows


class MeanColour:
    """An embedding that is the mean colour of a crop."""

    def places(self, crops, border):
        return [border] * len(crops)

    def __call__(self, crops, places):
        return np.stack([crop[p:-p, p:-p].mean((0, 1)) for crop, p in zip(crops, places, strict=True)])


@pytest.fixture(scope="module")
def corpus(data_root):
    return Corpus(data_root, "val")


def test_rows_are_as_far_from_the_real_face_as_their_embeddings(corpus):
    real = corpus.real(corpus.names[0])
    rows = baseline_rows(real, corpus.real(corpus.names[1])) | {"grey": real.crops // 2}
    found = IdentityScorer(corpus, MeanColour())(real, rows, TRUTH)
    assert found[TRUTH]["identity"] == (0, 1)
    assert found["grey"]["identity"][0] > 5 * found["identity frame copied"]["identity"][0] > 0
    assert set(found[TRUTH]) == {"identity", "identity_same", "identity_other"} and set(found["grey"]) == {"identity"}


def test_one_and_another_person_are_taken_from_the_whole_data_root(corpus):
    scorer = IdentityScorer(corpus, MeanColour())
    assert set(corpus.names) < set(scorer.known)
    for name in scorer.known:
        same, other = scorer.others(name)
        assert other.split("/")[0] != name.split("/")[0]
        assert same is None or (same != name and same.split("/")[0] == name.split("/")[0])
    assert any(scorer.others(name)[0] for name in scorer.known)


def test_the_distance_is_euclidean_and_a_mean_over_frames():
    assert mean_distance(np.array([[3.0, 4.0], [0.0, 0.0]]), np.zeros((2, 2))) == (2.5, 1)


@pytest.mark.skipif(find_spec("dlib") is not None, reason="it is installed")
def test_without_the_package_it_is_said_how_to_install_it():
    with pytest.raises(InputError, match="pip install dlib-bin"):
        FaceEmbedding()
