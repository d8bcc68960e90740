"""Answers of made-up raters give the scores that were worked out by hand; files that are not right are refused."""

import csv
import json

import pytest
from rating_study import METHODS, WORDS, answer_all, make_key, sealed, write_json

from errors import InputError
from evaluation.study import __main__
from evaluation.study.page import RATE, READ, shown
from evaluation.study.ratings import error_rate, opinion, read_all, read_answers, score, spoken, table

LEVEL = {"real": 5, "ours": 4, "theirs": 2}


@pytest.fixture
def key():
    return make_key()


def raters_of(key, tmp_path, *files):
    return read_all([write_json(tmp_path / f"{i}.json", file) for i, file in enumerate(files)], key)


def test_interval_over_two_raters_is_the_one_worked_out_by_hand():
    found = opinion([3.0, 5.0])  # deviation sqrt(2), standard error 1, Student's t of one degree of freedom
    assert found["value"] == 4 and found["raters"] == 2
    assert (found["low"], found["high"]) == pytest.approx((4 - 12.7062, 4 + 12.7062), abs=1e-3)


def test_interval_over_five_raters_is_the_one_of_a_t_table():
    found = opinion([1.0, 2.0, 3.0, 4.0, 5.0])  # sqrt(2.5 / 5) * 2.776
    assert found["high"] - 3 == pytest.approx(2.776 * 0.5**0.5, abs=1e-3)


def test_one_rater_has_no_interval():
    assert opinion([4.0]) == {"value": 4.0, "low": None, "high": None, "raters": 1}


def test_each_rater_counts_once_and_each_method_gets_its_own_ratings(key, tmp_path):
    first = answer_all(key, 1, lambda item, q: LEVEL[item["method"]])
    second = answer_all(key, 2, lambda item, q: LEVEL[item["method"]] - 1)
    scores = score(key, raters_of(key, tmp_path, first, second))
    for method, level in LEVEL.items():
        for question in ("visual", "sync", "realness", "intelligibility"):
            assert scores[method][question]["value"] == level - 0.5
            assert scores[method][question]["raters"] == 2
        assert scores[method]["visual"]["ratings"] == 2 * len(WORDS)


def test_who_cannot_hear_is_left_out_of_lip_sync_alone(key, tmp_path):
    def deaf(item, question):
        return None if question == "sync" else 1

    hearing = answer_all(key, 1, lambda item, q: 5)
    raters = raters_of(key, tmp_path, hearing, answer_all(key, 2, deaf, hears=False))
    scores = score(key, raters)
    assert scores["ours"]["sync"] == {"value": 5.0, "low": None, "high": None, "raters": 1, "ratings": 3}
    assert scores["ours"]["visual"]["value"] == 3 and "(lip sync: 1)" in table(key, raters, scores)
    nobody = score(key, raters_of(key, tmp_path, answer_all(key, 2, deaf, hears=False)))
    assert "sync" not in nobody["ours"]


def test_human_word_errors_are_counted_over_all_words(key, tmp_path):
    def read(item):
        said = WORDS[item["clip"]]
        return {"real": said.lower() + ".", "ours": " ".join(said.split()[:-3]), "theirs": ""}[item["method"]]

    raters = raters_of(key, tmp_path, *(answer_all(key, r, read=read) for r in (1, 2, 3)))
    scores = score(key, raters)
    assert [scores[method]["wer"]["value"] for method in METHODS] == pytest.approx([0, 0.5, 1])
    assert scores["theirs"]["cer"]["value"] == 1 and scores["real"]["wer"]["ratings"] == 3
    assert scores["ours"]["wer"]["low"] == pytest.approx(0.5)  # the same share of every rater: no spread


def test_bootstrap_interval_holds_the_rate_and_widens_with_spread():
    near, far = error_rate([(3, 6), (3, 6), (2, 6), (4, 6)]), error_rate([(0, 6), (6, 6), (0, 6), (6, 6)])
    assert near["value"] == far["value"] == 0.5
    assert far["low"] < near["low"] < 0.5 < near["high"] < far["high"]
    assert error_rate([(3, 6), (3, 6), (2, 6), (4, 6)]) == near


def test_what_was_typed_is_compared_without_case_and_punctuation():
    assert spoken("  Bin blue, at F -- TWO now! ") == "bin blue at f two now"
    assert spoken("don\u2019t") == spoken("Don't") == "don't"


def test_raters_in_multiples_of_the_methods_read_every_clip_by_every_method(key):
    seen = [
        (item["clip"], item["method"])
        for rater in (1, 2, 3)
        for name, item in key["items"].items()
        if item["part"] == READ and name in shown(key["items"], 3, rater)
    ]
    assert sorted(seen) == sorted((clip, method) for clip in WORDS for method in METHODS)
    for rater in (1, 2, 3):
        own = [key["items"][name] for name in shown(key["items"], 3, rater)]
        assert sorted(item["clip"] for item in own if item["part"] == READ) == sorted(WORDS)  # each sentence once
        assert len([item for item in own if item["part"] == RATE]) == 9


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f | {"study": "ffff"}, "answers study ffff, the key is that of study 0123abcdef"),
        (lambda f: f | {"answers": f["answers"][:-2]}, "incomplete: rater 1 answered 10 of 12"),
        (lambda f: f | {"answers": [*f["answers"], f["answers"][0]]}, "answered twice"),
        (lambda f: f | {"check": "00000000"}, "changed after the page saved it"),
        (lambda f: f | {"format": 2}, "has format 2"),
        (lambda f: f | {"rater": 0}, "rater is 0"),
        (lambda f: f | {"rater": True}, "rater is True"),
        (lambda f: f | {"rater": 2}, "not shown to rater 2"),
        (lambda f: f | {"answers": [{"item": "nowhere"}]}, "no video 'nowhere'"),
        (lambda f: f | {"answers": [{"item": ["x"]}]}, "no video"),
        (lambda f: f | {"answers": "none"}, "no list of answers"),
        (lambda f: {"format": 1}, "no answer file"),
        (lambda f: [f], "holds a list"),
    ],
)
def test_a_file_that_is_not_right_is_refused(key, tmp_path, change, words):
    path = write_json(tmp_path / "a.json", change(answer_all(key, 1)))
    with pytest.raises(InputError, match=words) as refused:
        read_answers(path, key)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("value", [0, 6, 3.5, "4", None, True])
def test_a_rating_out_of_range_is_refused_even_when_sealed(key, tmp_path, value):
    file = answer_all(key, 1)
    place = next(i for i, each in enumerate(file["answers"]) if "visual" in each)
    file["answers"][place]["visual"] = value
    with pytest.raises(InputError, match="visual is .*not a number from 1 to 5"):
        read_answers(write_json(tmp_path / "a.json", sealed(file)), key)


def test_one_changed_rating_is_noticed(key, tmp_path):
    file = answer_all(key, 1)
    place = next(i for i, each in enumerate(file["answers"]) if "visual" in each)
    file["answers"][place]["visual"] = 5
    with pytest.raises(InputError, match="changed after"):
        read_answers(write_json(tmp_path / "a.json", file), key)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00\xff", "<html></html>"])
def test_a_file_that_is_no_json_is_refused_in_one_line(key, tmp_path, capsys, text):
    (tmp_path / "a.json").write_text(text)
    write_json(tmp_path / "key.json", key)
    assert __main__.main(["read", "--key", str(tmp_path / "key.json"), "--answers", str(tmp_path / "a.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_rater_who_comes_twice_is_refused(key, tmp_path):
    with pytest.raises(InputError, match=r"1\.json and .*0\.json are both of rater 4"):
        raters_of(key, tmp_path, answer_all(key, 4), answer_all(key, 4, lambda item, q: 5))


def test_key_and_answers_are_not_taken_for_each_other(key, tmp_path, capsys):
    answers, keyed = write_json(tmp_path / "a.json", answer_all(key, 1)), write_json(tmp_path / "key.json", key)
    assert __main__.main(["read", "--key", str(answers), "--answers", str(answers)]) == 1
    assert "is an answer file" in capsys.readouterr().err
    assert __main__.main(["read", "--key", str(keyed), "--answers", str(keyed)]) == 1
    assert "no answer file" in capsys.readouterr().err
    assert __main__.main(["read", "--key", str(tmp_path / "none.json"), "--answers", str(answers)]) == 1
    assert "No such file" in capsys.readouterr().err


def test_read_prints_a_table_and_writes_the_same_numbers(key, tmp_path, capsys):
    keyed = write_json(tmp_path / "key.json", key)
    rate = {1: lambda item, q: LEVEL[item["method"]], 2: lambda item, q: LEVEL[item["method"]] - 1}
    files = [write_json(tmp_path / f"{r}.json", answer_all(key, r, rate[r])) for r in (2, 1)]
    out = ["--csv", tmp_path / "out" / "s.csv", "--json", tmp_path / "out" / "s.json"]
    assert __main__.main([str(a) for a in ["read", "--key", keyed, "--answers", *files, *out]]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "| Method | Visual quality | Lip-sync quality | Realness | Intelligibility | Human WER | Human CER |"
    )
    assert printed[2].startswith("| real | 4.500 ± 6.353 |") and printed[3].endswith("| 100.0% | 100.0% |")
    rows = {(r["method"], r["measure"]): r for r in csv.DictReader((tmp_path / "out" / "s.csv").open())}
    report = json.loads((tmp_path / "out" / "s.json").read_text())
    assert report["raters"] == [1, 2] and len(report["sha256"]) == 3
    for (method, measure), row in rows.items():
        assert float(row["value"]) == report["scores"][method][measure]["value"]
    assert len(rows) == 3 * 6
