"""Transcripts as the corpora write them: the sentence of a clip, its words and their times."""

import re
import unicodedata

import numpy as np

from errors import InputError
from media.files import read_text

GRID_HZ = 25_000  # unit of GRID's .align files: samples of its sound
GRID_SILENCE = ("sil", "sp")
GRID_NAME = re.compile(r"[blps][bgrw][abiw][a-z][1-9z][anps]")  # of a clip: what is said in it
GRID_WORDS = (  # by the letters of the name, but for the fourth, which is said itself
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    None,
    dict(zip("z123456789", "zero one two three four five six seven eight nine".split(), strict=True)),
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)
UNPRINTED = ("Cc", "Co", "Cn")  # kinds of characters that no text has, but for tabs
LRW_S = 1.16  # length of LRW's clips: 29 frames, the word in their middle


def read_transcript(path, kind):
    """Reads a transcript file.

    kind: a key of `KINDS`, how the file is written.
    Returns the sentence, its words as a list and, where the file has them, their times: (N, 2) float32, start and end
    in s; without times the list of words is empty too. Raises InputError for a file that is not such a transcript.
    """
    if not path.is_file():
        raise InputError(f"its transcript is missing: there is no {path.name}")
    text = unicodedata.normalize("NFC", read_text(path))
    lines = "".join(letter for letter in text if unicodedata.category(letter) != "Cf").splitlines()
    if bad := next((letter for line in lines for letter in line if is_wrong(letter)), None):
        raise InputError(f"{path} is no text: it has the character U+{ord(bad):04X}. Save it as UTF-8")
    try:
        sentence, rows = KINDS[kind](lines, path)
        times = np.array([[float(start), float(end)] for _, start, end in rows], np.float32).reshape(-1, 2)
    except ValueError as error:
        raise InputError(f"{path}: the start or end of a word is no number ({error})") from error
    if not np.isfinite(times).all() or (times[:, 1] < times[:, 0]).any():
        raise InputError(f"{path}: a word ends before it starts, or its time is not finite")
    return sentence, [word for word, _, _ in rows], times


def is_wrong(letter):
    """Whether a character tells that a text was read in an encoding that is not its own."""
    return letter == "\ufffd" or letter != "\t" and unicodedata.category(letter) in UNPRINTED


def lrs(lines, path):
    """LRS2 and LRS3: "Text:  THE WORDS", other facts, then maybe "WORD START END ..." and a line a word, in s."""
    sentence = next((line.removeprefix("Text:").strip() for line in lines if line.startswith("Text:")), None)
    if sentence is None:
        raise InputError(f"{path}: no line begins with 'Text:'")
    start = next((i + 1 for i, line in enumerate(lines) if line.startswith("WORD START END")), len(lines))
    rows = [line.split() for line in lines[start:]]
    return sentence, [(row[0], row[1], row[2]) for row in rows if len(row) >= 3]


def grid(lines, path):
    """GRID's .align: "0 23750 sil", a line a word, in samples at 25 kHz; silence between words is left out."""
    rows = [line.split() for line in lines if line.strip()]
    if bad := [row for row in rows if len(row) != 3]:
        raise InputError(f"{path}: {' '.join(bad[0])!r} is not a start, an end and a word")
    rows = [
        (word, float(start) / GRID_HZ, float(end) / GRID_HZ)
        for start, end, word in rows
        if word.lower() not in GRID_SILENCE
    ]
    name, said = path.stem.lower(), [word.lower() for word, _, _ in rows]
    if GRID_NAME.fullmatch(name) and said != (meant := named_sentence(name)):
        raise InputError(f"{path} says {' '.join(said)!r}, its name says {' '.join(meant)!r}: it is another clip's")
    return " ".join(word for word, _, _ in rows).upper(), [(word.upper(), *times) for word, *times in rows]


def named_sentence(name):
    """The six words that the name of a GRID clip stands for."""
    return [letter if words is None else words[letter] for letter, words in zip(name, GRID_WORDS, strict=True)]


def lrw(lines, path):
    """LRW: facts of the clip, among them "Duration: 0.53 seconds" of the word, which lies in the clip's middle."""
    word = path.stem.rpartition("_")[0]
    found = [re.match(r"Duration:\s*(\S+)", line) for line in lines]
    duration_s = next((float(match[1]) for match in found if match), None)
    if duration_s is None:
        raise InputError(f"{path}: no line says 'Duration: ... seconds', the length of the word")
    return word, [(word, (LRW_S - duration_s) / 2, (LRW_S + duration_s) / 2)]


def plain(lines, path):
    """A text file of anyone's: as LRS2's if it has a line "Text:", otherwise all of it is the sentence."""
    if any(line.startswith("Text:") for line in lines):
        return lrs(lines, path)
    return " ".join(" ".join(lines).split()), []


KINDS = {"lrs": lrs, "grid": grid, "lrw": lrw, "plain": plain}
