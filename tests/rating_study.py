"""A made-up rating study, its key and files of answers, for tests."""

import json

import numpy as np

from evaluation.study.page import FORMAT, QUESTIONS, READ, checksum, plan, shown

METHODS = ("real", "ours", "theirs")
WORDS = {"ann/one": "BIN BLUE AT F TWO NOW", "bob/two": "LAY RED BY A SIX AGAIN", "cid/three": "SET RED IN X NINE SOON"}


def make_key(methods=METHODS, words=WORDS):
    """The key of a study of made-up clips, as evaluation.study writes it."""
    items = plan(list(words), list(methods), True, np.random.default_rng(0))
    folders = {name: f"videos/{name}" for name in methods}
    return {
        "format": FORMAT,
        "study": "0123abcdef",
        "seed": 0,
        "methods": folders,
        "clips": list(words),
        "words": words,
        "items": items,
    }


def answer_all(key, rater, rate=lambda item, question: 3, read=lambda item: "", hears=True):
    """The file that the page saves for a rater who answers `rate(item, question key)` and types `read(item)`."""
    answers = []
    for name in sorted(shown(key["items"], len(key["methods"]), rater)):
        item = key["items"][name]
        answer = {"item": name, "plays": 1} | ({"words": read(item)} if item["part"] == READ else {})
        answers.append(answer | {each.key: rate(item, each.key) for each in QUESTIONS[item["part"]]})
    return sealed({"format": FORMAT, "study": key["study"], "rater": rater, "hears": hears, "answers": answers})


def sealed(file):
    """An answer file with the check that belongs to what it holds."""
    return file | {"check": checksum(file["study"], file["rater"], file["hears"], file["answers"])}


def write_json(path, value):
    """Writes a value as JSON and returns the path."""
    path.write_text(json.dumps(value))
    return path
