"""Meshes come out of their file as they went in, and take no memory there."""

import os
import tracemalloc

import numpy as np
import pytest

from faces import meshes
from faces.meshes import Meshes


def mesh(k):
    return (k + np.arange(2 * meshes.POINTS).reshape(-1, 2) / 7).astype(np.float32)


def test_meshes_that_share_a_file_are_as_they_were():
    one = Meshes()
    other = Meshes(one.file)
    for k in range(4):
        one[k], other[k] = mesh(k), mesh(-k)
    one[2] = mesh(9)
    del one[0]
    assert list(one) == [1, 2, 3] and len(other) == 4 and 0 not in one and one.get(0) is None
    for k, value in {1: 1, 2: 9, 3: 3}.items():
        assert np.array_equal(one[k], mesh(value)) and np.array_equal(other[k], mesh(-k))
    assert list(one.of([3, 1])) == [3, 1] and np.array_equal(one.of([3])[3], one[3])
    with pytest.raises(KeyError):
        one[7]


def test_an_hour_takes_little_memory():
    kept, some = Meshes(), mesh(0)
    tracemalloc.start()
    for k in range(3000):
        kept[k] = some
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 0.1 * 3000 * meshes.BYTES


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux'")
def test_without_a_folder_for_temporary_files_they_are_in_memory(monkeypatch):
    def fails(**_):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(meshes, "TemporaryFile", fails)
    kept = Meshes()
    kept[5] = mesh(5)
    assert np.array_equal(kept[5], mesh(5))
