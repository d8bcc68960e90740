"""Viseme confusions of what lip readers read: B for P is none, B for S is one, and all of it is counted."""

import json

import numpy as np
import pytest

from errors import InputError
from evaluation.visemes import (
    ADDED,
    MISSED,
    OF_PHONE,
    PRONUNCIATIONS,
    VISEMES,
    confusions,
    counted,
    main,
    scores_of,
    visemes_of,
    worst,
)


def test_the_51_words_of_grid_are_pronounced_and_every_phone_has_one_viseme():
    assert len(PRONUNCIATIONS) == 51 and {len(word) for word in PRONUNCIATIONS} == {1, 2, 3, 4, 5, 6}
    assert "w" not in PRONUNCIATIONS and sum(len(word) == 1 for word in PRONUNCIATIONS) == 25
    phones = [phone for of in VISEMES.values() for phone in of.split()]
    assert len(phones) == len(set(phones))
    assert {phone for of in PRONUNCIATIONS.values() for phone in of.split()} <= OF_PHONE.keys()


def test_visemes_of_words():
    assert visemes_of("BIN blue") == ["bilabial", "spread", "alveolar", "bilabial", "semivowel", "round"]
    assert visemes_of("b") == visemes_of("p") != visemes_of("c")
    assert visemes_of("blu", known=False) == ["?"]
    with pytest.raises(InputError, match="'hello' is none of GRID's 51 words"):
        visemes_of("hello")


def test_a_letter_that_looks_alike_is_no_viseme_error_and_a_word_error():
    assert scores_of("bin b", "bin p") == {"viseme_errors": (0, 5), "visemes_right": (5, 5), "word_errors": (1, 2)}
    found = scores_of("set b", "set c")
    assert found["viseme_errors"] == (1, 5) and confusions("b", "c") == [
        ("bilabial", "fricative"),
        ("spread", "spread"),
    ]


def test_what_is_missed_or_added_counts():
    assert confusions("at", "") == [("middle", MISSED), ("alveolar", MISSED)]
    assert confusions("e", "e e") in (
        [("spread", "spread"), (ADDED, "spread")],
        [(ADDED, "spread"), ("spread", "spread")],
    )
    counts = counted(confusions("b", "c") + confusions("at", "") + confusions("e", "e e"))
    names = list(VISEMES)
    assert counts[names.index("bilabial"), names.index("fricative")] == 1
    assert counts[names.index("alveolar"), -1] == 1 and counts[-1, names.index("spread")] == 1
    assert counts.sum() == 6


def test_the_most_common_confusions_are_named():
    counts = counted([("bilabial", "bilabial")] * 3 + [("bilabial", "fricative")] * 3 + [("dental", "open")])
    assert worst(counts) == "bilabial as fricative 50%"


@pytest.fixture
def report(tmp_path):
    said = {"ann/one": "bin blue at b two now", "ann/two": "set red by c one soon"}
    rows = ["ground truth", "identity frame copied", "other clip's lips", "ours", "theirs"]
    read = {row: {name: text if row != "theirs" else "" for name, text in said.items()} for row in rows}
    read["ours"]["ann/one"] = "bin blue at p two now"
    by_clip = {name: {row: {"reader1": read[row][name]} for row in rows} for name in said}
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps({"splits": {"val": {"rows": dict.fromkeys(rows), "said": said, "read": by_clip}}}))
    return path


def test_the_command_prints_tables_and_draws(report, tmp_path, capsys):
    assert main([str(report), "--out", str(tmp_path / "v.png"), "--json", str(tmp_path / "v.json")]) == 0
    out = capsys.readouterr().out
    assert "| ours | 0.0 | 100.0 | 8.3 |" in out and "| theirs | 100.0 | 0.0 | 100.0 |" in out
    assert "| theirs - ours | +100.0 |" in out and "| ours: said, times | bilabial | labiodental |" in out
    assert (tmp_path / "v.png").stat().st_size > 1000
    found = json.loads((tmp_path / "v.json").read_text())
    assert np.array(found["confusions"]["ours"]).trace() == np.array(found["confusions"]["ours"]).sum()


def test_what_is_no_report_or_was_not_read_is_one_line(report, tmp_path, capsys):
    assert main([str(tmp_path / "none.json")]) == 1 and "holds no split" in capsys.readouterr().err
    assert main([str(report), "--split", "test"]) == 1 and "holds no split test" in capsys.readouterr().err
    assert main([str(report), "--reader", "reader2"]) == 1 and "has not read ground truth" in capsys.readouterr().err
