"""Files: folders made, files written whole or not at all, logs, local media opened and decoded with PyAV."""

import json
import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path

from errors import InputError


def make_folder(path):
    """Makes a folder, and those above it, where there is none. Raises InputError where there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made a folder: {error.strerror}") from error


@contextmanager
def replacing(path):
    """Gives the path of a new file or folder beside `path` to write to, which takes its place in one step at the end.

    Its ending is that of `path`. On any exception it is removed and `path` is as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def write_text(path, text):
    """Writes a text file, UTF-8, whole or not at all. Raises InputError where it cannot be written."""
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


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
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        options = {"protocol_whitelist": "none"}
        with open(path, "rb") as file, av.open(file, container_options=options, metadata_errors="ignore") as container:
            if container.format.name == "tty":  # FFmpeg would show a text file as a video
                raise InputError(f"{path} is a text, not a media file")
            last = [stream.index_entries[-1] for stream in container.streams if len(stream.index_entries)]
            size, indexed = path.stat().st_size, max((entry.pos + entry.size for entry in last), default=0)
            if indexed > size:
                raise InputError(
                    f"{path} is cut off: it has {size} bytes, its own index names {indexed}. Copy it again"
                )
            yield container
    except av.FFmpegError as error:
        raise InputError(
            f"{path} cannot be read as a media file: damaged, or of another kind ({error.strerror})"
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error


def decoded(container, stream):
    """Yields the frames of a stream in order of time. Broken packets are skipped, as players do."""
    import av

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        yield from frames


def pictures_of(container):
    """The container's video stream, or None: the cover picture of a song is not a video."""
    from av.stream import Disposition

    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


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
