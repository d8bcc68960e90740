"""The numbers of a run as they are logged: metrics.jsonl, and the same numbers and pictures for TensorBoard."""

import json

from errors import InputError
from media.files import open_log

MISSING = "--tensorboard: the package is missing: pip install tensorboard, as in requirements-extra.txt"


class Metrics:
    """The record of a run from `step` on; what a killed run has logged beyond it is dropped.

    folder: where the run is kept: metrics.jsonl is there, and the pictures that validations write to samples/.
    tensorboard: whether both are written to tensorboard/ too. Raises InputError where the package is missing.
    """

    def __init__(self, folder, step, tensorboard=False):
        self.folder, self.tensorboard, self.board = folder, tensorboard, None
        self._open(step)

    def _open(self, step):
        if self.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise InputError(MISSING) from error
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        self.file = open_log(self.folder / "metrics.jsonl", step)

    def go_back(self, step):
        """Drops what was logged beyond `step`, and goes on there."""
        self.close()
        self._open(step)

    def write(self, line):
        """Adds a line, {"step": ..., name: number} or {"step": ..., "valid": {name: number}}."""
        print(json.dumps(line), file=self.file, flush=True)
        if self.board:
            step, group = line["step"], "valid" if "valid" in line else "train"
            for name, value in line.get("valid", line).items():
                if name != "step" and isinstance(value, (int, float)):
                    self.board.add_scalar(f"{group}/{name}", value, step)
            strip = self.folder / "samples" / f"{step:07d}.png"
            if group == "valid" and strip.is_file():
                import cv2

                self.board.add_image("samples", cv2.imread(str(strip))[..., ::-1], step, dataformats="HWC")
            self.board.flush()

    def close(self):
        """Closes the files."""
        self.file.close()
        if self.board:
            self.board.close()
