"""The meshes of faces in a long video, kept in a file: in memory, an hour of one face takes 0.3 GB."""

import os
from collections.abc import MutableMapping
from tempfile import TemporaryFile

import numpy as np

POINTS = 468
BYTES = 4 * 2 * POINTS  # of a mesh


def mesh_file():
    """A file for `Meshes` that nobody else sees; in memory where no folder for temporary files can be written to."""
    try:
        return TemporaryFile(buffering=0)
    except OSError:
        return os.fdopen(os.memfd_create("meshes"), "r+b", buffering=0)


class Meshes(MutableMapping):
    """The meshes of a face, {frame number: (468, 2) float32 px}, read from a file each time; any thread may do so.

    file: of `mesh_file`, which several of them can share.  places: {frame number: where its mesh begins in there}.
    """

    def __init__(self, file=None, places=None):
        self.file, self.places = file or mesh_file(), places or {}

    def __getitem__(self, frame):
        data = os.pread(self.file.fileno(), BYTES, self.places[frame])
        return np.frombuffer(data, np.float32).reshape(POINTS, 2)

    def __setitem__(self, frame, mesh):
        place = os.lseek(self.file.fileno(), 0, os.SEEK_END)
        self.file.write(np.ascontiguousarray(mesh, np.float32).tobytes())
        self.places[frame] = place

    def __delitem__(self, frame):
        del self.places[frame]

    def __iter__(self):
        return iter(self.places)

    def __len__(self):
        return len(self.places)

    def of(self, frames):
        """Those of some frames, in their order."""
        return Meshes(self.file, {frame: self.places[frame] for frame in frames})
