"""Answers of raters: their files checked, mean opinion scores with 95 % intervals, the word error rate of people."""

import csv
import json
import re

from errors import InputError
from evaluation.study.page import FORMAT, QUESTIONS, RATE, READ, checksum, shown
from media.files import make_folder, write_text

LONGEST = 8 << 20  # bytes of an answer file
RESAMPLES = 2000  # of the bootstrap
WER, CER = "wer", "cer"
AGAIN = "ask for the file as the page saved it"


def read_json(path, what):
    """The object in a JSON file. Raises InputError, which calls the file `what`, for anything else."""
    try:
        if path.stat().st_size > LONGEST:
            raise InputError(f"{path} is no {what}: it has {path.stat().st_size} bytes")
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no {what}: it is not JSON, or cut off") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no {what}: it holds a {type(found).__name__}")
    return found


def read_key(path):
    """The key of a study, as `evaluation.study make` wrote it."""
    key = read_json(path, "key of a study")
    if "answers" in key:
        raise InputError(f"{path} is an answer file: --key wants the key.json that evaluation.study make wrote")
    if not {"format", "study", "methods", "clips", "items", "words"} <= key.keys():
        raise InputError(f"{path} is no key of a study: give the key.json that evaluation.study make wrote")
    if key["format"] != FORMAT:
        raise InputError(f"{path} has format {key['format']}, this code reads {FORMAT}: use the version it is from")
    return key


def read_answers(path, key):
    """One rater's file: {"rater", "hears", "answers": {video: answer}}.

    Raises InputError if it is of another study, out of range, incomplete, or not as the page saved it.
    """
    found = read_json(path, "answer file")
    if not {"format", "study", "rater", "hears", "answers", "check"} <= found.keys():
        raise InputError(f"{path} is no answer file: give the file that the page saved")
    if found["study"] != key["study"]:
        raise InputError(f"{path} answers study {found['study']}, the key is that of study {key['study']}")
    if found["format"] != FORMAT:
        raise InputError(f"{path} has format {found['format']}, this code reads {FORMAT}: use the version it is from")
    rater, answers = found["rater"], found["answers"]
    if not whole(rater, 1, 9999):
        raise InputError(f"{path}: its rater is {rater!r}, not a number from 1 to 9999")
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise InputError(f"{path}: its answers are no list of answers: {AGAIN}")
    for answer in answers:
        check_answer(path, answer, key)
    names = [answer["item"] for answer in answers]
    wanted = shown(key["items"], len(key["methods"]), rater)
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: video {twice[0]} is answered twice: {AGAIN}")
    if others := [name for name in names if name not in wanted]:
        raise InputError(f"{path}: video {others[0]} was not shown to rater {rater}: {AGAIN}")
    if len(names) < len(wanted):
        raise InputError(
            f"{path} is incomplete: rater {rater} answered {len(names)} of {len(wanted)} videos. "
            "Ask them to go on, in the same browser; or leave the file out"
        )
    if found["check"] != checksum(found["study"], rater, found["hears"], answers):
        raise InputError(f"{path} was changed after the page saved it (its check does not fit): {AGAIN}")
    return {"rater": rater, "hears": found["hears"], "answers": {answer["item"]: answer for answer in answers}}


def whole(value, least, most):
    """True for a whole number in a range; true and false are none."""
    return type(value) is int and least <= value <= most


def check_answer(path, answer, key):
    """Raises InputError for an answer to no video of the study, and for one that the page does not allow."""
    name = answer.get("item")
    item = key["items"].get(name) if isinstance(name, str) else None
    if item is None:
        raise InputError(f"{path}: the study has no video {name!r}: {AGAIN}")
    for question in QUESTIONS[item["part"]]:
        given = answer.get(question.key)
        if not (whole(given, 1, 5) or (question.skip and given is None)):
            raise InputError(f"{path}: video {name}: {question.key} is {given!r}, not a number from 1 to 5")
    words = answer.get("words", "")
    if item["part"] == READ and not (isinstance(words, str) and "words" in answer and len(words) <= 500):
        raise InputError(f"{path}: video {name}: its words are {str(words)[:40]!r}, not a sentence")


def read_all(paths, key):
    """The files of all raters, in the order of their numbers. Raises InputError for a rater who comes twice."""
    raters = {}
    for path in paths:
        found = read_answers(path, key)
        if found["rater"] in raters:
            other, number = raters[found["rater"]][0], found["rater"]
            raise InputError(f"{path} and {other} are both of rater {number}: keep one, a number is for one person")
        raters[found["rater"]] = path, found
    return [raters[number][1] for number in sorted(raters)]


def spoken(text):
    """A sentence as it is compared: lower case, without punctuation other than apostrophes; may be empty."""
    return " ".join(re.sub(r"[^\w' ]+", " ", text.replace("\u2019", "'").lower()).split())


def opinion(values):
    """Mean and 95 % interval of one number per rater: {"value", "low", "high", "raters"}.

    Student's t over raters. Not over ratings: one person's ratings share that person's habits, so they are not
    independent, and an interval over them would be too narrow. low and high are None for one rater.
    """
    from scipy import stats

    mean, low, high = sum(values) / len(values), None, None
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
        low, high = mean - half, mean + half
    return {"value": mean, "low": low, "high": high, "raters": len(values)}


def error_rate(counts):
    """All errors by all words, with a 95 % interval by bootstrap over raters. counts: (errors, words) of each rater."""
    from evaluation.bootstrap import estimate

    return estimate(counts, resamples=RESAMPLES) | {"raters": len(counts)}


def score(key, raters):
    """Mean opinion scores, and human WER and CER as shares: {method: {measure: see `opinion`}}.

    A measure that nobody answered for a method is left out. key: see `read_key`; raters: see `read_all`.
    """
    scores = {}
    for method in key["methods"]:
        own = {name: item for name, item in key["items"].items() if item["method"] == method}
        scores[method] = {}
        for part in (RATE, READ):
            for question in QUESTIONS[part]:
                given = [answered(each["answers"], own, part, question.key) for each in raters]
                means = [sum(values) / len(values) for values in given if values]
                if means:
                    scores[method][question.key] = opinion(means) | {"ratings": sum(map(len, given))}
        scores[method] |= word_errors(key, raters, own)
    return scores


def answered(answers, own, part, question):
    """The numbers that one rater gave to a question about the videos `own`, without those left out as null."""
    given = [answers[name][question] for name, item in own.items() if item["part"] == part and name in answers]
    return [value for value in given if value is not None]


def word_errors(key, raters, own):
    """Human WER and CER of one method, `own` its videos: {"wer": ..., "cer": ...}, or nothing without lip reading."""
    from experts.lip_reader import error_rates

    counts, sentences = {WER: [], CER: []}, 0
    for each in raters:
        names = [name for name, item in own.items() if item["part"] == READ and name in each["answers"]]
        if names:
            said = [spoken(key["words"][own[name]["clip"]]) for name in names]
            rates = error_rates(said, [spoken(each["answers"][name]["words"]) for name in names])
            for measure, length in ((WER, sum(len(s.split()) for s in said)), (CER, sum(map(len, said)))):
                counts[measure].append((rates[measure] * length, length))
            sentences += len(names)
    return {name: error_rate(found) | {"ratings": sentences} for name, found in counts.items() if found}


NAMES = {question.key: question.name for part in (RATE, READ) for question in QUESTIONS[part]}
NAMES |= {WER: "Human WER", CER: "Human CER"}


def cell(measure, found):
    """A number with its interval, as a table's cell."""
    if not found:
        return ""
    if measure in (WER, CER):
        return f"{found['value']:.1%}" + ("" if found["low"] is None else f" [{found['low']:.1%}, {found['high']:.1%}]")
    return f"{found['value']:.3f}" + ("" if found["low"] is None else f" ± {found['high'] - found['value']:.3f}")


def table(key, raters, scores):
    """The scores as a Markdown table (table 2 of CALS, table 5 of SyncTalklip), and what its numbers are."""
    measures = [measure for measure in NAMES if any(measure in found for found in scores.values())]
    lines = [f"| Method | {' | '.join(NAMES[m] for m in measures)} |", "|---" * (1 + len(measures)) + "|"]
    for method, found in scores.items():
        lines.append(f"| {method.replace('|', '/')} | {' | '.join(cell(m, found.get(m)) for m in measures)} |")
    heard = max((found["sync"]["raters"] for found in scores.values() if "sync" in found), default=0)
    several = len(raters) > 1
    interval = "± is half of Student's 95 % interval over raters" if several else "one rater gives no interval"
    lines += [
        "",
        f"Study {key['study']}: {len(key['clips'])} clips of each method, raters: {len(raters)} (lip sync: {heard}). "
        f"Scores from 1 to 5: the mean over raters of each rater's own mean; {interval}.",
    ]
    if WER in measures:
        interval = ", [95 % interval by bootstrap over raters]" if several else ""
        lines.append(f"Human WER and CER: sound off, all errors by all words (jiwer){interval}.")
    return "\n".join(lines)


def write_csv(path, scores):
    """Writes the scores with a line for each method and measure."""
    import io

    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["method", "measure", "value", "low", "high", "raters", "ratings"])
    for method, found in scores.items():
        for measure, each in found.items():
            out.writerow([method, measure, *(each[name] for name in ("value", "low", "high", "raters", "ratings"))])
    make_folder(path.parent)
    write_text(path, text.getvalue())
