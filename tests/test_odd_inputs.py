"""Odd inputs are made alike each time, a good one is judged good, and what goes wrong is counted."""

import random

import numpy as np
import pytest
from portraits import export_narrow

from errors import InputError
from evaluation import odd_inputs


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return export_narrow(tmp_path_factory.mktemp("odd") / "w.safetensors", **odd_inputs.NARROW)


def test_the_same_number_is_the_same_case(tmp_path):
    data = []
    for _ in range(2):
        rng = random.Random(4)
        odd_inputs.write_video(tmp_path / "a.mkv", odd_inputs.draw(rng) | {"suffix": ".mkv", "sound": "flac"})
        data.append(odd_inputs.damage(bytes(range(200)), rng))
    assert data[0] == data[1] != bytes(range(200))


def test_a_sound_case_is_in_step_and_a_broken_one_is_told(tmp_path, weights, monkeypatch):
    found, how = odd_inputs.of_video(tmp_path, random.Random(1), weights)
    assert found == ["worked"], how
    late = odd_inputs.pieces

    def later(beeps, how, track):
        return late(np.append(np.zeros(odd_inputs.RATE // 5, np.int16), beeps), how, track)

    (tmp_path / "late").mkdir()
    monkeypatch.setattr(odd_inputs, "pieces", later)
    assert "step" in odd_inputs.of_video(tmp_path / "late", random.Random(1), weights)[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_data_root_ends_in_one_line_or_works_and_stays_as_it_is(tmp_path, spoken_root, seed):
    found, what = odd_inputs.of_root(tmp_path, random.Random(seed), spoken_root)
    assert len(found) == 1 and set(found) <= {"worked", "refused"}, what


def test_a_data_root_that_a_command_changes_and_a_bug_are_told(tmp_path, spoken_root, monkeypatch, capfd):
    def changes(words):
        (tmp_path / "data" / "dataset.json").write_text("mine")
        return len(words) / 0

    monkeypatch.setattr(odd_inputs, "main_of", lambda name: changes)
    monkeypatch.setattr(odd_inputs.evaluate, "main", changes)
    monkeypatch.setattr(odd_inputs.preprocess, "main", changes)
    assert odd_inputs.of_root(tmp_path, random.Random(0), spoken_root)[0] == ["traceback", "lost"]
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_odd_flags_are_refused(tmp_path, spoken_root):
    words = [*odd_inputs.RUNS["train"], "--data_root", spoken_root, "--runs", tmp_path, "--lr=x"]
    assert odd_inputs.run(words, odd_inputs.train.main, True) == "refused"


def test_how_a_reader_ends_is_told_apart(tmp_path, capfd):
    def refuses(_):
        raise InputError("no")

    assert [odd_inputs.read_by(reader, tmp_path) for reader in (str, refuses, len)] == [
        "worked",
        "refused",
        "traceback",
    ]
    assert "TypeError" in capfd.readouterr().err


def test_the_table_has_a_row_for_each_kind(capsys):
    assert odd_inputs.main(["--cases", "6", "--kinds", "transcripts", "lists", "damaged weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        [f"| {kind}", "2"] for kind in ("transcripts", "lists", "damaged weights")
    ]
