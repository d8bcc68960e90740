"""Transcripts as the corpora write them: the sentence of a clip, its words and their times."""

import re

import numpy as np

from errors import InputError

GRID_HZ = 25_000  # unit of GRID's .align files: samples of its sound
GRID_SILENCE = ("sil", "sp")
LRW_S = 1.16  # length of LRW's clips: 29 frames, the word in their middle


def read_transcript(path, kind):
    """Reads a transcript file.

    kind: a key of `KINDS`, how the file is written.
    Returns the sentence, its words as a list and, where the file has them, their times: (N, 2) float32, start and end
    in s; without times the list of words is empty too. Raises InputError for a file that is not such a transcript.
    """
    if not path.is_file():
        raise InputError(f"its transcript is missing: there is no {path.name}")
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        sentence, rows = KINDS[kind](lines, path)
        times = np.array([[float(start), float(end)] for _, start, end in rows], np.float32).reshape(-1, 2)
    except ValueError as error:
        raise InputError(f"{path}: the start or end of a word is no number ({error})") from error
    if not np.isfinite(times).all() or (times[:, 1] < times[:, 0]).any():
        raise InputError(f"{path}: a word ends before it starts, or its time is not finite")
    return sentence, [word for word, _, _ in rows], times


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
    rows = [(word, int(start) / GRID_HZ, int(end) / GRID_HZ) for start, end, word in rows if word not in GRID_SILENCE]
    return " ".join(word for word, _, _ in rows).upper(), [(word.upper(), *times) for word, *times in rows]


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
