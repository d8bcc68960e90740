"""What a run logs for TensorBoard: the numbers of metrics.jsonl, also after it went back, and pictures."""

import json
import sys

import numpy as np
import pytest
import torch

from errors import InputError
from media.frame import write_picture
from media.metrics import MISSING, Metrics


def test_tensorboard_shows_the_numbers_and_pictures_of_a_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Metrics(tmp_path, 0, tensorboard=True)
    for step, l1 in ((1, 0.5), (2, 0.25), (3, 99.0)):
        log.write({"step": step, "l1": l1})
    log.go_back(2)
    log.write({"step": 3, "l1": 0.125})
    write_picture(tmp_path / "samples" / "0000003.png", torch.rand(3, 8, 8))
    log.write({"step": 3, "valid": {"l1": 0.75}})
    log.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in found.Scalars("train/l1")] == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert [(each.step, each.value) for each in found.Scalars("valid/l1")] == [(3, 0.75)]
    assert [(each.step, each.width) for each in found.Images("samples")] == [(3, 8)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3] and np.isclose(lines[2]["l1"], 0.125)


def test_without_it_nothing_is_written_but_the_log(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Metrics(tmp_path, 0)
    log.write({"step": 1, "l1": 0.5})
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    with pytest.raises(InputError, match=MISSING[:20]):
        Metrics(tmp_path, 0, tensorboard=True)
