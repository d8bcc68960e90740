"""Files: folders made, files written whole or not at all, logs, local media opened and decoded with PyAV."""

import codecs
import fcntl
import hashlib
import json
import os
import platform
import shutil
import uuid
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from errors import InputError
from media import kinds

MARKS = (  # byte-order marks
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def make_folder(path):
    """Makes a folder, and those above it, where there is none. Raises InputError where there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made a folder: {error.strerror}") from error


def check_place(path, flag, is_ours):
    """Raises InputError, before any work is done, for a file that cannot be written, or would replace somebody's own.

    is_ours: whether a file, by its path, is an earlier output, which may be replaced. So may an empty file.
    """
    folder = path.parent
    try:
        if path.is_dir():
            raise InputError(f"{flag} {path} is a folder: name a file in it")
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{flag} {path}: {folder} is no folder that can be written to")
        if path.exists() and not path.is_file() or path.exists() and path.stat().st_size and not is_ours(path):
            raise InputError(f"{flag} {path} is there and no earlier output of this command: name another file")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(f"{flag} {path}: {error.strerror}") from error


def check_paths(inputs, places):
    """Raises InputError, before any work is done, for files that are missing, would be overwritten or not written.

    inputs: {flag: path}.  places: {flag: (path, whether a file that is there is an earlier output, see `check_place`)}.
    """
    try:
        for flag, path in inputs.items():
            if not path.exists() and flag != "--checkpoint_path":  # whose reader says more
                raise InputError(f"{flag} {path}: there is no such file")
        for output, (written, is_ours) in places.items():
            if not written.parent.is_dir() or not os.access(written.parent, os.W_OK):
                raise InputError(f"{written}: the folder {written.parent} does not exist or cannot be written to")
            for flag, path in inputs.items():
                if written.exists() and path.exists() and os.path.samefile(path, written):
                    raise InputError(f"{flag} {path} would be overwritten by {written}: write under another name")
            check_place(written, output, is_ours)
            remove_left(written.parent)
        if len({os.path.realpath(path) for path, _ in places.values()}) < len(places):
            both = places["--report"][0]
            raise InputError(f"{both} can't be both the video and its report: name another --outfile or --report")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(f"{error.filename}: {error.strerror}") from error


@contextmanager
def only_one(folder):
    """Keeps a folder for this process, without what killed ones have left. Raises InputError where another has it."""
    with ExitStack() as held:
        try:
            lock = os.open(folder, os.O_RDONLY)
            held.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            why = "another process is at work on it: wait for its end, or give another --name"
            raise InputError(f"{folder}: {why}") from error
        except OSError:  # a file system without locks
            pass
        remove_left(folder)
        yield


@cache
def processes():
    """A word for the machine, or the container, among whose processes this one is."""
    space = Path("/proc/self/ns/pid")  # of Linux
    return hashlib.sha256(f"{platform.node()} {space.exists() and space.readlink()}".encode()).hexdigest()[:8]


def partial_of(path):
    """The place of a new file that is to become `path`, named after the process that writes it."""
    return path.with_name(f".{processes()}-{os.getpid()}-{uuid.uuid4().hex[:16]}.partial{path.suffix}")


def is_left(partial):
    """Whether a partial file, or folder, is of a process of this machine that was killed."""
    where, process, _ = f"{partial.name[1:]}--".split("-", 2)
    with suppress(PermissionError, OverflowError, ValueError):  # another user's process; no number
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return where == processes()
    return False


def remove_left(folder):
    """Removes the partial files in a folder whose processes were killed, which could not do so."""
    for partial in folder.glob(".*-*-*.partial*"):
        if partial.is_file() and is_left(partial):
            with suppress(OSError):  # another run does the same, or the folder may not be written to
                partial.unlink()


@contextmanager
def replacing(path, before=None):
    """Gives the path of a new file or folder beside `path` to write to, which takes its place in one step at the end.

    Its ending is that of `path`. On any exception it is removed and `path` is as it was.
    before: where the file that it replaces is kept; at no moment is there none at `path`.
    """
    path = Path(path)
    partial = partial_of(path)
    try:
        yield partial
        if before and path.exists():
            doubled(path, before)
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def doubled(path, other):
    """Makes `other`, in the same folder, a file with the contents of `path`, in one step."""
    partial = partial_of(other)
    try:
        try:
            os.link(path, partial)  # takes no room
        except OSError:  # of a file system without links
            shutil.copyfile(path, partial)
        os.replace(partial, other)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path, text):
    """Writes a text file, UTF-8, whole or not at all. Raises InputError where it cannot be written."""
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def read_text(path):
    """A text file of anyone's as a str: UTF-8, or UTF-16 and UTF-32 where a byte-order mark or zeros tell so.

    Raises InputError for a file that cannot be read, or whose bytes are no such text.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    code = next((code for mark, code in MARKS if data.startswith(mark)), "utf-8")
    if code == "utf-8" and data.count(0) * 3 > len(data) and not len(data) % 2:  # UTF-16 without a mark
        code = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    try:
        text = data.decode(code)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        why = f"line {line} has the byte 0x{data[error.start]:02x}"
        raise InputError(f"{path} is no text in {code.upper()} ({why}): save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{path} is no text: it has the character U+0000. Save it as UTF-8")
    return text


@contextmanager
def regular(path):
    """Gives `path`, or a copy of what comes out of it if it is a pipe, which could be read only once.

    The copy lies in the folder for temporary files and goes away at the end; errors name the pipe.
    """
    if not path.is_fifo():
        yield path
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "pipe"
        try:
            with open(path, "rb") as source, open(copy, "wb") as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            raise InputError(f"{path} cannot be copied to {folder}: {error.strerror}") from error
        try:
            yield copy
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(path))) from error


@contextmanager
def open_media(path):
    """Opens a local media file for reading with PyAV; what goes wrong inside becomes a one-line InputError.

    The file is handed over open and PyAV may open nothing else: a play list named .mp4 cannot reach other files or the
    network, and any name works (spaces, quotes, newlines, a leading dash). A file that ends before what its own index
    names (mp4, mov) is refused; where there is no index, what can be decoded is taken.
    """
    import av

    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: name a media file")
        if not path.exists():
            raise InputError(f"{path}: there is no such file")
        if not path.is_file():
            raise InputError(f"{path} is a pipe or a device: write it to a file first")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        options = {"protocol_whitelist": "none"}
        with open(path, "rb") as file, av.open(file, container_options=options, metadata_errors="ignore") as container:
            if container.format.name == "tty":  # FFmpeg would show a text file as a video
                raise InputError(f"{path} is a text, not a media file{kinds.named(path)}")
            last = [stream.index_entries[-1] for stream in container.streams if len(stream.index_entries)]
            size, indexed = path.stat().st_size, max((entry.pos + entry.size for entry in last), default=0)
            if indexed > size:
                raise InputError(
                    f"{path} is cut off: it has {size} bytes, its own index names {indexed}. Copy it again"
                )
            yield container
    except av.FFmpegError as error:
        kind = kinds.named(path) or f": damaged, or of another kind ({error.strerror})"
        raise InputError(f"{path} cannot be read as a media file{kind}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error


def pictures_of(container):
    """The container's video stream, or None: the cover of a song is not a video."""
    from av.stream import Disposition

    if container.metadata.get("major_brand") in kinds.SONGS:
        return None
    beside = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
    shown = [s for s in container.streams.video if not s.disposition & beside]
    return next((s for s in shown if s.frames > 1), next(iter(shown), None))  # of a moving AVIF the first is its cover


def sound_of(container):
    """The container's sound track, or None: the one that it marks as its default, otherwise the first."""
    from av.stream import Disposition

    tracks = container.streams.audio
    return next((s for s in tracks if s.disposition & Disposition.default), next(iter(tracks), None))


def tiles_of(container):
    """The number of tiles of a photograph that is cut into some, as phones do; 0 for anything else."""
    from av.stream import Disposition

    tiles = [s for s in container.streams.video if s.disposition & Disposition.dependent]
    return len(tiles) if len(tiles) > 1 else 0


def check_codec(stream, path, what):
    """Raises InputError for a stream, if there is one, that nothing here can decode. what: "pictures" or "sound"."""
    if stream is not None and stream.codec_context is None:
        unknown = f": its {what} are coded in a way that is not known here; {kinds.SAVE_VIDEO}"
        raise InputError(f"{path}{kinds.named(path) or unknown}")


def step_of(line):
    """The step of a line of a log; -1 for one that a crash, or somebody's editor, has left broken."""
    try:
        return int(json.loads(line)["step"])
    except (KeyError, OverflowError, TypeError, ValueError):
        return -1


def open_log(path, step):
    """The log of a run, opened to go on after `step`; what a killed run did beyond its last checkpoint is dropped."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    with replacing(path) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines if -1 < step_of(line) <= step))
    return path.open("a")
