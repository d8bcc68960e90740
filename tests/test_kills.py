"""Commands that are killed at any moment: what they lose, leave behind or make otherwise is counted."""

import random
import time
from types import SimpleNamespace

import torch

from evaluation import kills


def steps(words):
    """A command that goes on where it was: three files, one after the other."""
    for k in range(3):
        path = kills.Path(words[0]) / str(k)
        if not path.exists():
            time.sleep(0.05)
            path.write_text("whole")
    return 0


def faults(folder, whole, ended):
    """As of a `Stage`: what differs from the undisturbed run."""
    names = [{path.name for path in each.iterdir()} for each in (folder, whole)]
    if names[0] - names[1] or ended and names[0] != names[1]:
        yield "other", str(names)


def test_a_command_is_killed_so_often_and_comes_to_its_end(tmp_path, capsys):
    stage = kills.Stage(steps, lambda folder: [folder], faults)
    row = kills.tried(stage, tmp_path, "steps", 4, random.Random(1))
    assert row | {"s": 0} == {"kills": 4, "tracebacks": 0, "left": 0, "lost": 0, "other": 0, "s": 0}
    assert capsys.readouterr().err == ""
    runs = list((tmp_path / "killed" / "steps").iterdir())
    assert runs and all(len(list(folder.iterdir())) == 3 for folder in runs)


def test_bugs_and_differences_are_counted(tmp_path, capsys):
    def forgets(words):
        steps(words)
        if "killed" in words[0]:
            (kills.Path(words[0]) / "9").touch()
            return [][0]
        return 0

    stage = kills.Stage(forgets, lambda folder: [folder], faults)
    row = kills.tried(stage, tmp_path, "forgets", 2, SimpleNamespace(uniform=lambda low, high: 9, choice=None))
    assert row["tracebacks"] == 1 and "exit code 99" in capsys.readouterr().err


def test_states_are_compared_bit_for_bit():
    one = {"a": [torch.ones(2), 1.5], "b": {"c": "x"}}
    assert kills.same(one, {"a": [torch.ones(2), 1.5], "b": {"c": "x"}})
    for other in ({"a": [torch.ones(2), 1.5]}, {"a": [torch.tensor([1, 1 + 1e-7]), 1.5], "b": {"c": "x"}}):
        assert not kills.same(one, other)
