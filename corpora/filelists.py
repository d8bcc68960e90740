"""The filelists of corpora: which clips are in which split, in all the forms that people write them in."""

import os
import re

from corpora.corpus import SPLITS, VIDEOS
from errors import InputError
from media.clip import leads_out
from media.files import read_text

PARTS = re.compile(r"^(?:mvlrs_v1/)?(main|pretrain)/(?=.)")  # of LRS2, which its own lists leave out


def filelists(*folders, known=()):
    """The filelists in folders: {split: [line, ...]}; valid.txt is val. Texts that list no clips are ignored.

    Comments are left out, and what Windows and shells put around a name is taken off.
    known: names of clips; a text whose first line has no slash must list one of them, or one word a line, unless it is
    beside a clip of its name, whose transcript it is.
    Raises InputError where two files name one split, or one is in no encoding that is known.
    """
    lists, found = {}, {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.txt"))):
        split = {"valid": "val"}.get(path.stem, path.stem)
        if split not in (*SPLITS, "pretrain") and not split.startswith(("test", "val_")):
            continue
        lines = [cleaned(line) for line in read_text(path).splitlines()]
        lines = [line for line in lines if line and (line[0] != "#" or name_in(line, known))]
        if not lines or not (
            "/" in lines[0].split()[0]
            or any(name_in(line, known) for line in lines)
            or path.stem not in known
            and all(len(line.split()) == 1 for line in lines)
        ):
            continue
        if lists.get(split, lines) != lines:
            raise InputError(f"{path} and {found[split]} are two lists of one split: take one away")
        lists[split], found[split] = lines, path
    return lists


def cleaned(line):
    """A line of a list with slashes, and without a byte-order mark, quotes, and ./ in front."""
    line = line.replace("\ufeff", "").strip().strip("\"'").replace("\\", "/")
    return re.sub(r"^(\./+)+", "", line)


def name_in(line, known):
    """The name of the clip that a line of a list means, of those that are known, or None.

    A line may have the ending of the video, a mark behind the name, and LRS2's main/ in front.
    """
    for each in (line, *line.split()[:1]):
        for name in (each, without_suffix(each), PARTS.sub("", without_suffix(each))):
            if name in known:
                return name
    return None


def divide_by_lists(corpus, root):
    """Divides a corpus by the filelists in its root; ids without a video are refused. Returns whether there are lists.

    A clip is also found by its name without its folder, and in other capitals, if no other clip's is the same.
    Raises InputError for lists that name none of its clips.
    """
    lists = filelists(root, known=corpus.clips)
    found = {}
    for name in corpus.clips:
        for short in {name.casefold(), name.casefold().rpartition("/")[2]}:
            found[short] = None if short in found else name
    for split, lines in lists.items():
        for line in lines:
            short = name_in(line.casefold(), found)
            name = name_in(line, corpus.clips) or found.get(short)
            if name:
                corpus.lists.setdefault(split, []).append(name)
                continue
            name, why = line.split()[0], "there is no such video"
            if short:
                why = "several videos have this name: write it with its folder"
            corpus.refused[name] = "its path leads out of the root" if leads_out(name) else why
    if lists and not corpus.lists:
        first = next(iter(lists.values()))[0]
        raise InputError(
            f"{root}: its lists name none of its videos, the first {first!r}; {next(iter(corpus.clips))} is one"
        )
    return bool(lists)


def without_suffix(line):
    """A line of a list without the ending of a video's name."""
    return os.path.splitext(line)[0] if line.lower().endswith(VIDEOS) else line


def in_two(lists):
    """The clips that are in more than one list: {name: [split, ...]}."""
    splits = {}
    for split, names in lists.items():
        for name in dict.fromkeys(names):
            splits.setdefault(name, []).append(split)
    return {name: found for name, found in splits.items() if len(found) > 1}
