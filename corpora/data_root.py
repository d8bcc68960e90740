"""A data root while it is made: its clips, why others were left out, and the lists of what can be used.

All that is known of progress are files, each written in one step: any number of runs may work on one root, and a run
that is killed has lost at most the clips it was at.
"""

import json
import shlex
import time
from contextlib import suppress
from pathlib import Path

from corpora.layouts import layout_of
from errors import InputError
from media.clip import FORMAT, FPS, SUFFIX
from media.files import replacing

LOOKS = 3  # at what other runs may have finished meanwhile
OFTEN = 2  # times that reading a clip was begun and not ended, by a result or a reason, after which it is left alone
LITTER_S = 3600  # age of a partial file that nobody is writing any more


def write(path, text):
    """Writes a text file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_data_root(folder, script):
    """Raises InputError with the command to type if a folder that `script` is to train on is no data root."""
    folder = Path(folder)
    if (folder / "dataset.json").is_file():
        return
    name = shlex.quote(f"data/{folder.resolve().name}")
    here, then = shlex.quote(str(folder)), f"python {script} --data_root {name}"
    if (Path("data") / folder.resolve().name / "dataset.json").is_file():
        raise InputError(f"{folder} is no data root, {name} is one: {then}")
    try:
        layout = layout_of(folder)
    except InputError as error:
        what = "has no videos and is no data root" if folder.is_dir() else "does not exist"
        make = "python preprocess.py --data_root FOLDER_OF_VIDEOS --out data/NAME"
        raise InputError(f"{folder} {what}: first {make}, then python {script} --data_root data/NAME") from error
    make = f"python preprocess.py --data_root {here} --out {name}"
    raise InputError(f"{folder} is a corpus ({layout}) that is not preprocessed yet: first {make}, then {then}")


def escaped(name):
    """A clip's name as one line of text: line breaks and bytes that are no UTF-8 are spelled out."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


class DataRoot:
    """A data root that is being made in a folder. See `data.Clips` for reading one.

    settings: what must be the same for all of its clips, such as corpus and face_px.
    Raises InputError for a folder that holds a data root of other settings.
    """

    def __init__(self, folder, settings):
        self.folder, about = Path(folder), {"format": FORMAT, "fps": FPS, **settings}
        path = self.folder / "dataset.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                if own := sorted(self.folder.glob("*.txt")):
                    raise InputError(f"{folder} has lists of its own ({own[0].name}) and is no data root: name another")
                write(path, json.dumps(about) + "\n")
            found = dict(json.loads(path.read_text()))
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path} is broken ({error}): name another folder, or remove this one") from error
        for name in about:
            if found.get(name) != about[name]:
                was = f"was made with {name} {found.get(name)}, this run has {about[name]}"
                raise InputError(f"{folder} {was}: name another folder, or remove this one")

    def clip(self, name):
        """Where a clip is stored."""
        return self.folder / "clips" / f"{name}{SUFFIX}"

    def marker(self, source):
        """Where it is noted why a clip was left out."""
        return self.folder / "clips" / f"{source.name}.skipped"

    def begin(self, source):
        """Notes that a clip is being read, and how often that was begun: a clip may end the process that reads it."""
        self._note(source, {"begun": self._noted(source).get("begun", 0) + 1})

    def skip(self, source, reason):
        """Notes why a clip is left out."""
        self._note(source, {"reason": " ".join(reason.split())})

    def _note(self, source, what):
        path = self.marker(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(what | {"files": stamp(source)}))

    def _noted(self, source):
        """What was noted of a clip, if its files are still the same."""
        try:
            note = dict(json.loads(self.marker(source).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError):
            return {}
        return note if note.get("files") == stamp(source) else {}

    def reason(self, source):
        """Why a clip was left out, or None: nobody tried it, or its files are others now."""
        note = self._noted(source)
        if note.get("begun", 0) >= OFTEN:
            return f"it ended the process that read it, {note['begun']} times"
        return note.get("reason")

    def finish(self, corpus, splits):
        """Writes skipped.txt and the lists of `splits` from what is there now; returns {name: reason} of the skipped.

        Another run may finish meanwhile, so it looks once more; the last run to finish sees all clips.
        """
        written = None
        for _ in range(LOOKS):
            found = self._state(corpus, splits)
            if found == written:
                break
            written = found
            for path, text in found[0].items():
                write(self.folder / path, text)
        for partial in self.folder.rglob("*.partial*"):  # of runs that were killed
            with suppress(FileNotFoundError):  # another run has just finished it
                if time.time() - partial.stat().st_mtime > LITTER_S:
                    partial.unlink()
        return found[1]

    def _state(self, corpus, splits):
        names = dict.fromkeys(name for part in corpus.lists.values() for name in part)
        usable = {name for name in names if self.clip(name).is_file()}
        skipped = {escaped(name): reason for name, reason in corpus.refused.items()}
        for name in names:
            if name not in usable and (reason := self.reason(corpus.sources[name])):
                skipped[name] = reason
        files = {"skipped.txt": "".join(f"{name}\t{skipped[name]}\n" for name in sorted(skipped))}
        for split in splits:
            files[f"{split}.txt"] = "".join(f"{name}\n" for name in corpus.lists[split] if name in usable)
        return files, skipped


def stamp(source):
    """Size and time of change of a clip's files, of their rights too: a clip is tried again when they change."""
    found = []
    for path in (source.video, source.sound, source.transcript):
        try:
            status = path.stat() if path else None
        except OSError:
            status = None
        found.append([status.st_size, status.st_ctime_ns] if status else None)
    return found


def general(reason):
    """A reason without paths and numbers, so that like reasons count together."""
    words = ("..." if "/" in word else "N" if any(c.isdigit() for c in word) else word for word in reason.split())
    return " ".join(words)
