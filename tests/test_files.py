"""Files are written whole or not at all, folders are made, and what cannot be is one clear line."""

import os
import subprocess
import sys

import pytest

from errors import InputError
from media.files import check_place, make_folder, only_one, partial_of, processes, remove_left, replacing, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_text_is_written_as_it_is(tmp_path):
    write_text(tmp_path / "a.txt", "früh\nspät\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "früh\nspät\r\n".encode()
    assert names(tmp_path) == ["a.txt"]


def test_a_text_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none/a\.txt cannot be written: No such file or directory"):
        write_text(tmp_path / "none" / "a.txt", "x")


def test_what_stops_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_what_killed_processes_have_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    own = partial_of(tmp_path / "a.mp4")
    left = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    elsewhere = left.with_name(left.name.replace(processes(), "another0"))
    for path in (own, left, elsewhere, tmp_path / ".mine.partial.mp4"):
        path.touch()
    remove_left(tmp_path)
    assert names(tmp_path) == sorted([own.name, elsewhere.name, ".mine.partial.mp4"])


def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path):
    for fails in (True, False):
        try:
            with replacing(tmp_path / "study") as partial:
                (partial / "inner").mkdir(parents=True)
                (partial / "inner" / "a.txt").write_text("x")
                if fails:
                    raise InputError("stopped")
        except InputError:
            assert names(tmp_path) == []
    assert names(tmp_path) == ["study"] and (tmp_path / "study" / "inner" / "a.txt").read_text() == "x"


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file/inner cannot be made a folder"):
        make_folder(tmp_path / "file" / "inner")


def test_a_place_is_free_or_holds_an_earlier_output(tmp_path):
    own, empty = tmp_path / "own.json", tmp_path / "empty.json"
    own.write_text("{}")
    empty.touch()
    for path in (tmp_path / "new" / "folder" / "a.json", empty):
        check_place(path, "--out", lambda _: False)
    check_place(own, "--out", lambda path: path == own)
    os.mkfifo(tmp_path / "pipe")
    faults = {
        own: "--out .*own.json is there and no earlier output",
        tmp_path / "pipe": "is there and no earlier output",
        tmp_path: "is a folder: name a file in it",
        own / "a.json": "own.json is no folder that can be written to",
        tmp_path / ("x" * 300): "File name too long",
    }
    for path, words in faults.items():
        with pytest.raises(InputError, match=words):
            check_place(path, "--out", lambda _: False)


def test_the_second_who_wants_a_folder_is_told(tmp_path):
    with only_one(tmp_path):
        with pytest.raises(InputError, match="another process is at work on it"), only_one(tmp_path):
            pass
    with only_one(tmp_path):
        pass
    with pytest.raises(OSError, match="of what is done inside"), only_one(tmp_path):
        raise OSError("of what is done inside")
    assert names(tmp_path) == []
