"""A corpus of raw videos: which clips it has, where they lie, and how they are divided for training."""

import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from errors import InputError
from media.clip import leads_out

VIDEOS = (".mp4", ".mpg", ".mpeg", ".mov", ".mkv", ".avi", ".webm", ".m4v")
SPLITS = ("train", "val", "test")
LONGEST_NAME = 230  # bytes: with what is added to it, file systems take 255
HELD_OUT = 20  # one in so many is held out for val, as many for test, where the corpus has no lists


@dataclass(frozen=True)
class RawClip:
    """A raw clip: which video, or which part of it, and where what is said in it is written."""

    name: str  # of the clip in the data root, "speaker/clip"
    video: Path
    sound: Path | None = None  # where it is not in the video
    transcript: Path | None = None  # None where the corpus has none
    kind: str = "plain"  # of transcript, a key of transcripts.KINDS
    start_s: float = 0.0
    stop_s: float | None = None
    region: tuple | None = None  # x, y, width, height of the part of the picture that is used, px; None: all of it
    region_height: int | None = None  # px of the picture that `region` was measured on, None: this one


@dataclass
class Corpus:
    """Clips, the lists that divide them into splits, and what was refused: {name: reason}."""

    kind: str
    sources: dict = field(default_factory=dict)  # name -> Source
    lists: dict = field(default_factory=dict)  # split -> [name, ...]
    refused: dict = field(default_factory=dict)

    def add(self, source, split=None):
        """Takes a clip, or refuses it for a name under which nothing can be stored or listed."""
        name = source.name
        if leads_out(name):
            self.refused[name] = "its path leads out of the root"
        elif not name.isprintable() or name != name.strip():
            self.refused[name] = "its name has a line break or another character that lists cannot hold: rename it"
        elif max(len(part.encode()) for part in name.split("/")) > LONGEST_NAME:
            self.refused[name] = f"its name is longer than {LONGEST_NAME} bytes: rename it"
        elif name in self.sources and self.sources[name] != source:
            self.refused[f"{name}{source.video.suffix}"] = f"another video is named {name} too: rename one"
        else:
            self.sources[name] = source
            if split:
                self.lists.setdefault(split, []).append(name)

    def divide(self, by=lambda name: name, names=None):
        """Divides clips into train, val and test, always the same way: by the checksum of `by(name)`, a whole each.

        One in `HELD_OUT` is held out for val and as many for test, one at least where there are three.
        """
        names = sorted(self.sources) if names is None else names
        units = sorted({by(name) for name in names}, key=lambda unit: (zlib.crc32(unit.encode()), unit))
        if len(units) < 3:  # one or two people, or clips: what is held out are clips, and a clip may serve twice
            units, by = sorted(names, key=lambda unit: (zlib.crc32(unit.encode()), unit)), lambda name: name
        few = max(1, len(units) // HELD_OUT) if len(units) >= 3 else 0
        held = dict.fromkeys(units[:few], "val") | dict.fromkeys(units[few : 2 * few], "test")
        for name in names:
            self.lists.setdefault(held.get(by(name), "train"), []).append(name)
        if not few:
            self.lists["val"] = list(self.lists.get("train", []))

    def divide_known(self, names, by):
        """Divides the training part of a corpus that has a test set: what would be test is trained on too."""
        part = Corpus(self.kind, sources={name: self.sources[name] for name in names})
        part.divide(by)
        for split, chosen in part.lists.items():
            self.lists.setdefault("train" if split == "test" else split, []).extend(chosen)


def speaker(name):
    """Whom or what a clip's name says it shows: all but its last part."""
    return name.rpartition("/")[0]


def filelists(*folders, known=()):
    """The filelists in folders: {split: [line, ...]}; valid.txt is val. Texts that list no clips are passed over.

    known: names of clips; without a slash in it, a first line must be one of them.
    Raises InputError where two files name one split.
    """
    lists, found = {}, {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.txt"))):
        split = {"valid": "val"}.get(path.stem, path.stem)
        if split not in (*SPLITS, "pretrain") and not split.startswith("test"):
            continue
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip()]
        if not lines or "/" not in lines[0].split()[0] and not any(without_suffix(line) in known for line in lines):
            continue
        if lists.get(split, lines) != lines:
            raise InputError(f"{path} and {found[split]} are two lists of one split: take one away")
        lists[split], found[split] = lines, path
    return lists


def listed(corpus, root):
    """Divides a corpus by the filelists in its root, where there are any; ids without a video are refused.

    Raises InputError for lists that name none of its clips.
    """
    lists = filelists(root, known=corpus.sources)
    for split, lines in lists.items():
        for line in lines:
            name = without_suffix(line)
            name = name if name in corpus.sources else line.split()[0]
            if name in corpus.sources:
                corpus.lists.setdefault(split, []).append(name)
            else:
                corpus.refused[name] = "its path leads out of the root" if leads_out(name) else "there is no such video"
    if lists and not corpus.lists:
        first = next(iter(lists.values()))[0]
        raise InputError(
            f"{root}: its lists name none of its videos, the first {first!r}; {next(iter(corpus.sources))} is one"
        )
    return bool(lists)


def without_suffix(line):
    """A line of a list without the ending of a video's name."""
    return os.path.splitext(line)[0] if line.lower().endswith(VIDEOS) else line


def videos(root, corpus):
    """Every video below a folder, in order."""
    return walk(root, VIDEOS, corpus)


def walk(root, suffixes, corpus):
    """Files below a folder whose names end so, in order; links are followed, one that leads in a circle is refused."""
    found, above = [], {}
    for place, folders, files in os.walk(root, followlinks=True):
        above[place] = (*above.get(os.path.dirname(place), ()), os.path.realpath(place))
        for name in list(folders):
            if os.path.realpath(os.path.join(place, name)) in above[place]:
                folders.remove(name)
                corpus.refused[os.path.relpath(os.path.join(place, name), root)] = "a link that leads in a circle"
        found += [Path(place, name) for name in files if name.lower().endswith(suffixes) and name[0] != "."]
    return sorted(found)
