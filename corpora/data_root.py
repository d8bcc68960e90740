"""A data root while it is made: its clips, the reasons why others were left out, and the lists of the usable ones.

Progress is kept in files alone, each written in one step: any number of runs may work on one root, and a run that is
killed loses at most the clips it was at.
"""

import json
import shlex
import time
from contextlib import suppress
from pathlib import Path

from corpora.layouts import layout_of
from errors import InputError
from media.clip import FORMAT, FPS, SUFFIX
from media.files import make_folder, read_text, write_text

ROUNDS = 3  # times that the lists are written again because another run has finished clips meanwhile
ATTEMPTS = 2  # times that a clip's extraction may begin without ending in a result or a reason
STALE_S = 3600  # age of a partial file that nobody is writing any more


def check_data_root(folder, script):
    """Raises InputError with the command to type if a folder that `script` is to train on is no data root."""
    folder = Path(folder)
    if (folder / "dataset.json").is_file():
        check_lists(folder)
        return
    out = Path("data") / folder.resolve().name
    if out.resolve() == folder.resolve():
        out = Path(f"{out}_root")
    here, name = shlex.quote(str(folder)), shlex.quote(str(out))
    then = f"python {script} --data_root {name}"
    if (out / "dataset.json").is_file():
        raise InputError(f"{folder} is no data root, {name} is one: {then}")
    try:
        layout = layout_of(folder)
    except InputError as error:
        other = "is no folder" if folder.exists() else "does not exist"
        what = "has no videos and is no data root" if folder.is_dir() else other
        make = "python preprocess.py --data_root FOLDER_OF_VIDEOS --out data/NAME"
        raise InputError(f"{folder} {what}: first {make}, then python {script} --data_root data/NAME") from error
    make = f"python preprocess.py --data_root {here} --out {name}"
    raise InputError(f"{folder} is a corpus ({layout}) that is not preprocessed yet: first {make}, then {then}")


def check_lists(folder):
    """Raises InputError for a list of a data root that was saved in another encoding than UTF-8."""
    for path in sorted(folder.glob("[!.]*.txt")):
        text = read_text(path)
        try:
            path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            first = next(iter(text.split()), "")
            raise InputError(
                f"{path} is in another encoding than UTF-8 (it begins {first!r}): save it as UTF-8"
            ) from error


def escaped(name):
    """A clip's name as one line of text: line breaks and bytes that are no UTF-8 are escaped."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


class DataRoot:
    """A data root that is being made in a folder. See `data.Clips` for reading one.

    settings: of all of its clips, such as corpus and face_px, a dict for JSON.
    Raises InputError for a folder that holds a data root of other settings.
    """

    def __init__(self, folder, settings):
        self.folder, about = Path(folder), {"format": FORMAT, "fps": FPS, **settings}
        path = self.folder / "dataset.json"
        make_folder(self.folder)
        try:
            if not path.exists():
                if own := sorted(self.folder.glob("[!.]*.txt")):
                    raise InputError(f"{folder} has lists of its own ({own[0].name}) and is no data root: name another")
                write_text(path, json.dumps(about) + "\n")
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
        """The path of a clip that is stored."""
        return self.folder / "clips" / f"{name}{SUFFIX}"

    def marker(self, raw):
        """The path of the note on a clip that is not stored: its attempts, or the reason why it was left out."""
        return self.folder / "clips" / f"{raw.name}.skipped"

    def begin(self, raw):
        """Notes that a clip's extraction begins, and how often it did: a clip may end the process that reads it."""
        self._note(raw, {"begun": self._noted(raw).get("begun", 0) + 1})

    def take_back(self, raw):
        """Takes a note of `begin` back: the user has stopped the run, and the clip is not at fault."""
        begun = self._noted(raw).get("begun", 0) - 1
        if begun > 0:
            self._note(raw, {"begun": begun})
        else:
            self.marker(raw).unlink(missing_ok=True)

    def skip(self, raw, reason):
        """Notes the reason why a clip is left out."""
        self._note(raw, {"reason": " ".join(reason.split())})

    def _note(self, raw, facts):
        path = self.marker(raw)
        make_folder(path.parent)
        write_text(path, json.dumps(facts | {"files": stamp(raw)}))

    def _noted(self, raw):
        """The note on a clip, empty where its files have changed since."""
        try:
            note = dict(json.loads(self.marker(raw).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError):
            return {}
        return note if note.get("files") == stamp(raw) else {}

    def reason(self, raw):
        """The reason why a clip was left out, or None: nobody tried it, or its files have changed since."""
        note = self._noted(raw)
        if note.get("begun", 0) >= ATTEMPTS:
            return f"it ended the process that read it, {note['begun']} times"
        return note.get("reason")

    def finish(self, corpus, splits):
        """Writes skipped.txt and the lists of `splits` from the clips that are there now; returns {name: reason}.

        Another run may finish meanwhile, so they are compared once more; the last run to finish lists all clips.
        """
        written = None
        for _ in range(ROUNDS):
            found = self._state(corpus, splits)
            if found == written:
                break
            written = found
            for path, text in found[0].items():
                write_text(self.folder / path, text)
        for partial in self.folder.rglob("*.partial*"):  # of runs that were killed
            with suppress(FileNotFoundError):  # another run has just finished it
                if time.time() - partial.stat().st_mtime > STALE_S:
                    partial.unlink()
        return found[1]

    def _state(self, corpus, splits):
        names = dict.fromkeys(name for part in corpus.lists.values() for name in part)
        usable = {name for name in names if self.clip(name).is_file()}
        skipped = {escaped(name): reason for name, reason in corpus.refused.items()}
        for name in names:
            if name not in usable and (reason := self.reason(corpus.clips[name])):
                skipped[name] = reason
        files = {"skipped.txt": "".join(f"{name}\t{skipped[name]}\n" for name in sorted(skipped))}
        for split in splits:
            files[f"{split}.txt"] = "".join(f"{name}\n" for name in corpus.lists[split] if name in usable)
        return files, skipped


def stamp(raw):
    """Size and time of change, of rights too, of a clip's files: a clip is tried again when they change."""
    found = []
    for path in (raw.video, raw.sound, raw.transcript, *raw.pictures[1:]):
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
