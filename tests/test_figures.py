"""Figures of what was trained: embeddings of words, strips of frames, curves of runs."""

import json

import cv2
import numpy as np
import pytest
import torch
from small_experts import NARROW

import checkpoint
from data import audio_features
from errors import InputError
from evaluation.figures import embedded, logged, main, smooth
from hparams import HParams
from media.frame import write_pixels
from models import build_generator

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained generator of each kind of hearing, narrow: {name: path}."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    for name, knobs in (("l", {"speech": "local"}), ("g", {})):
        hp = HParams(**NARROW, **knobs)
        torch.manual_seed(0)
        found[name] = folder / f"{name}.safetensors"
        checkpoint.export(found[name], build_generator(hp), hp)
    return found


def rows(weights):
    return ["--rows", *(f"{name}={path}" for name, path in weights.items())]


def test_embeddings_of_two_words_are_plotted_and_classified(spoken_root, weights, tmp_path, capsys):
    out = tmp_path / "figures" / "words.png"
    argv = [
        "embeddings",
        "--data_root",
        spoken_root,
        "--splits",
        "train",
        "val",
        "--words",
        "bin",
        "BLUE",
        "--out",
        out,
    ]
    assert main([*map(str, argv), *rows(weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| row | frames") and [line.split(" | ")[0] for line in lines[2:4]] == ["| l", "| g"]
    height, width, _ = cv2.imread(str(out)).shape
    assert width > 2 * height * 0.9


def test_the_frames_of_a_word_are_those_it_is_said_in(spoken_root, weights):
    from media.clip import Clip

    generator, hp, _ = checkpoint.load_generator(weights["g"])
    clip = Clip(spoken_root / "clips" / "bob" / "one.safetensors")  # BIN 4 to 9, RED 9 to 14
    vectors, labels = embedded(generator, hp, [clip], ["BIN", "RED"])
    assert labels.tolist() == [0] * 5 + [1] * 5
    heard, *_ = audio_features(clip, np.arange(24), "global")
    with torch.no_grad():
        speech = generator.encode_audio(torch.from_numpy(heard)[None])[0]
    np.testing.assert_allclose(vectors, speech[4:14].numpy(), atol=1e-6)


def test_a_strip_has_a_row_for_each_generator_and_the_real_mouth_below(spoken_root, weights, tmp_path):
    from media.clip import Clip

    out = tmp_path / "strip.png"
    argv = ["strips", "--data_root", spoken_root, "--splits", "train", "--clip", "ann/one", "--first", "3"]
    assert main([*map(str, argv), "--frames", "4", "--out", str(out), *rows(weights)]) == 0
    strip = cv2.imread(str(out))[..., ::-1]
    assert strip.shape == (3 * 48, 4 * 96, 3)
    real = Clip(spoken_root / "clips" / "ann" / "one.safetensors").picture(5)[16:112, 16:112]
    assert abs(strip[-48:, 2 * 96 : 3 * 96].astype(int) - real[48:]).max() <= 1


def test_curves_of_runs_are_plotted(tmp_path, capsys):
    for name, first in (("a", 1), ("b", 5)):
        (tmp_path / name).mkdir()
        lines = [{"step": step, "l1": 1 / step} | ({"lip": 2.0} if step > first else {}) for step in range(1, 9)]
        lines.append({"step": 8, "valid": {"l1": 0.1, "mouth": 0.2}})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "curves.png"
    assert main(["curves", "--out", str(out), "--rows", f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"]) == 0
    assert cv2.imread(str(out)).std() > 5
    with (tmp_path / "a" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 9, "l1": 0.')  # what a killed run leaves
    assert main(["curves", "--out", str(out), "--rows", f"a={tmp_path / 'a'}"]) == 0
    capsys.readouterr()
    assert main(["curves", "--out", str(out), "--rows", f"a={tmp_path}"]) == 1
    assert "no log of a run" in capsys.readouterr().err
    assert smooth(np.arange(100.0)).tolist()[10:90] == pytest.approx(np.arange(10, 90), abs=1)


def test_what_a_log_says_of_a_measure():
    lines = [{"step": 1, "l1": 0.5}, {"step": 2, "valid": {"l1": 0.4, "mouth": 0.2}}, {"step": 2, "l1": 0.3}]
    assert logged(lines, "l1") == [[1, 2], [0.5, 0.3]]
    assert logged(lines, "valid l1") == [[2], [0.4]] and logged(lines, "lip") == [[], []]


@pytest.mark.parametrize(
    "argv, words",
    [
        (["embeddings", "--words", "BIN", "ZOO"], "not all of them are said"),
        (["strips", "--clip", "ann/nobody"], "not in train.txt"),
        (["strips", "--clip", "ann/one", "--first", "19"], "has 20 frames"),
        (["strips", "--clip", "ann/one", "--frames", "0"], "--frames 0"),
        (["strips", "--rows", "nothing"], "NAME=PATH"),
        (["embeddings", "--words", "A", "B", "C", "D"], "give two or three"),
        (["embeddings", "--out", "folder"], "--out folder: its suffix is no picture's"),
        (["strips", "--first", "3", "--out", "a.sheet"], "a.sheet: its suffix is no picture's"),
    ],
)
def test_faults_of_the_user_are_one_line(spoken_root, weights, tmp_path, capsys, argv, words):
    argv = [argv[0], "--data_root", str(spoken_root), "--splits", "train", "--out", str(tmp_path / "x.png"), *argv[1:]]
    argv += [] if "--rows" in argv else rows(weights)
    assert main(argv) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert words in last


def test_a_picture_that_cannot_be_written_is_told(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    write_pixels(tmp_path / "new" / "a.png", pixels)
    with pytest.raises(InputError, match=r"a.sheet: its suffix is no picture's"):
        write_pixels(tmp_path / "a.sheet", pixels)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(InputError, match="b.png cannot be written: Is a directory"):
        write_pixels(tmp_path / "b.png", pixels)
