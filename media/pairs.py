"""Lists of pairs of a face and a sound, one a line: what is made of each, and where."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

from errors import InputError
from media.clip import leads_out
from media.files import read_text

COLUMNS = ("face", "audio", "outfile")


class Pair(NamedTuple):
    """A line of a list: its number, and its files, in the folder of the list."""

    line: int
    face: Path
    audio: Path
    outfile: Path


def read_pairs(path):
    """The `Pair`s of a CSV file with the columns face, audio and outfile; a line of their names may order them anew.

    Empty lines and comments, which begin with #, are left out; the columns may be apart by commas, semicolons or tabs.
    Raises InputError, which names the line, for one that has other columns or leads out of the list's folder, and for
    an outfile that is named twice.
    """
    pairs, named, columns = [], {}, COLUMNS
    for line, cells in rows_of(path):
        if not any(cells) or cells[0].startswith("#"):
            continue
        if sorted(names := [cell.lower() for cell in cells]) == sorted(COLUMNS):
            columns = names
            continue
        where = f"{path}, line {line}"
        if len(cells) != len(COLUMNS) or not all(cells):
            raise InputError(f"{where}: {len([c for c in cells if c])} columns, it needs {', '.join(COLUMNS)}")
        if out := [cell for cell in cells if leads_out(cell)]:
            raise InputError(f"{where}: {out[0]!r} leads out of the folder of the list: name files inside it")
        pair = Pair(line, **{name: path.parent / cell for name, cell in zip(columns, cells, strict=True)})
        if other := named.get(pair.outfile):
            raise InputError(f"{where}: line {other} has the same outfile: give each pair its own")
        named[pair.outfile] = line
        pairs.append(pair)
    if not pairs:
        raise InputError(f"{path} lists no pairs: each line has a face, a sound and an outfile")
    return pairs


def rows_of(path):
    """The rows of a CSV file, whatever stands between its columns: [(number of the line, [cell])]."""
    lines = read_text(path).replace("\ufeff", "").splitlines()
    first = next((line for line in lines if line.strip() and line[0] != "#"), "")
    reader = csv.reader(lines, delimiter=max(",;\t", key=first.count))
    try:
        return [(reader.line_num, [cell.strip().replace("\\", "/") for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def is_made(pair, report):
    """Whether the video of a pair is there, and its report, a path, says that it is of the same files."""
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        return pair.outfile.is_file() and (found["face"], found["audio"]) == (str(pair.face), str(pair.audio))
    except (KeyError, OSError, TypeError, ValueError):
        return False
