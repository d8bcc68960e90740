"""A corpus of raw videos: its clips, the files they lie in, and the splits they are divided into."""

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
    """A raw clip: a video or a part of it, with its sound and its transcript."""

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
    """Clips, the lists that divide them into splits, and the clips that were refused: {name: reason}."""

    kind: str
    clips: dict = field(default_factory=dict)  # name -> RawClip
    lists: dict = field(default_factory=dict)  # split -> [name, ...]
    refused: dict = field(default_factory=dict)

    def add(self, raw, split=None):
        """Takes a `RawClip`, or refuses it for a name under which nothing can be stored or listed."""
        name = raw.name
        if leads_out(name):
            self.refused[name] = "its path leads out of the root"
        elif not name.isprintable() or name != name.strip():
            self.refused[name] = "its name has a line break or another character that lists cannot hold: rename it"
        elif max(len(part.encode()) for part in name.split("/")) > LONGEST_NAME:
            self.refused[name] = f"its name is longer than {LONGEST_NAME} bytes: rename it"
        elif name in self.clips and self.clips[name] != raw:
            self.refused[f"{name}{raw.video.suffix}"] = f"another video is named {name} too: rename one"
        else:
            self.clips[name] = raw
            if split:
                self.lists.setdefault(split, []).append(name)

    def divide(self, by=lambda name: name, names=None):
        """Divides clips into train, val and test, always the same way: by the checksum of their group, `by(name)`.

        A group stays together. One group in `HELD_OUT` is held out for val and as many for test, at least one each
        where there are three.
        """
        names = sorted(self.clips) if names is None else names
        groups = sorted({by(name) for name in names}, key=checksum)
        if len(groups) < 3:  # one or two people, or clips: single clips are held out, and one may serve twice
            groups, by = sorted(names, key=checksum), lambda name: name
        few = max(1, len(groups) // HELD_OUT) if len(groups) >= 3 else 0
        held = dict.fromkeys(groups[:few], "val") | dict.fromkeys(groups[few : 2 * few], "test")
        for name in names:
            self.lists.setdefault(held.get(by(name), "train"), []).append(name)
        if not few:
            self.lists["val"] = list(self.lists.get("train", []))

    def divide_known(self, names, by):
        """Divides the training part of a corpus that has a test set of its own into train and val, see `divide`."""
        part = Corpus(self.kind, clips={name: self.clips[name] for name in names})
        part.divide(by)
        for split, chosen in part.lists.items():
            self.lists.setdefault("train" if split == "test" else split, []).extend(chosen)


def checksum(text):
    """A sort key that depends on the text alone, and on no order of folders or versions of Python."""
    return zlib.crc32(text.encode()), text


def speaker(name):
    """The speaker, or the video, of a clip by its name: all but its last part."""
    return name.rpartition("/")[0]


def filelists(*folders, known=()):
    """The filelists in folders: {split: [line, ...]}; valid.txt is val. Texts that list no clips are ignored.

    known: names of clips; a text whose first line has no slash must list one of them.
    Raises InputError where two files name one split.
    """
    lists, found = {}, {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.txt"))):
        split = {"valid": "val"}.get(path.stem, path.stem)
        if split not in (*SPLITS, "pretrain") and not split.startswith(("test", "val_")):
            continue
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip()]
        if not lines or "/" not in lines[0].split()[0] and not any(without_suffix(line) in known for line in lines):
            continue
        if lists.get(split, lines) != lines:
            raise InputError(f"{path} and {found[split]} are two lists of one split: take one away")
        lists[split], found[split] = lines, path
    return lists


def divide_by_lists(corpus, root):
    """Divides a corpus by the filelists in its root; ids without a video are refused. Returns whether there are lists.

    Raises InputError for lists that name none of its clips.
    """
    lists = filelists(root, known=corpus.clips)
    for split, lines in lists.items():
        for line in lines:
            name = without_suffix(line)
            name = name if name in corpus.clips else line.split()[0]
            if name in corpus.clips:
                corpus.lists.setdefault(split, []).append(name)
            else:
                corpus.refused[name] = "its path leads out of the root" if leads_out(name) else "there is no such video"
    if lists and not corpus.lists:
        first = next(iter(lists.values()))[0]
        raise InputError(
            f"{root}: its lists name none of its videos, the first {first!r}; {next(iter(corpus.clips))} is one"
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
