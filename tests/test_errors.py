"""Scripts end with a code and, where the user is at fault, with one line; a stop by the user always comes through."""

import errno
import signal
import subprocess
import threading
import time

import pytest
from conftest import begun
from torch._utils import ExceptionWrapper

import errors
from errors import InputError, exit_code


def raiser(error):
    def work():
        raise error

    return work


def test_a_fault_of_the_users_is_one_line_and_code_1(capsys):
    assert exit_code("train.py", raiser(InputError("a.mp4\nis empty"))) == 1
    assert capsys.readouterr().err == "train.py: a.mp4 is empty\n"


def test_a_fault_found_in_a_loaders_process_is_the_same_line(capsys):
    try:
        raise InputError("a.mp4 is empty")
    except InputError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    assert exit_code("train.py", wrapped.reraise) == 1
    assert capsys.readouterr().err == "train.py: a.mp4 is empty\n"


def test_ctrl_c_is_one_line_and_a_bug_keeps_its_traceback(capsys):
    assert exit_code("train.py", raiser(KeyboardInterrupt()), if_stopped="stopped; it resumes") == 130
    assert capsys.readouterr().err == "train.py: stopped; it resumes\n"
    with pytest.raises(ZeroDivisionError):
        exit_code("train.py", raiser(ZeroDivisionError()))
    assert exit_code("train.py", lambda: None) == 0


def test_a_full_disk_or_no_right_is_one_line_and_other_faults_of_files_are_bugs(capsys):
    assert exit_code("train.py", raiser(OSError(errno.ENOSPC, "No space left on device", "last.pt"))) == 1
    assert capsys.readouterr().err == "train.py: last.pt cannot be written: No space left on device\n"
    assert exit_code("train.py", raiser(PermissionError(errno.EACCES, "Permission denied", "a.png"))) == 1
    assert capsys.readouterr().err == "train.py: a.png cannot be opened: Permission denied\n"
    with pytest.raises(OSError, match="Is a directory"):
        exit_code("train.py", raiser(OSError(errno.EISDIR, "Is a directory")))


@pytest.mark.parametrize("lines, buffer", [(1, ""), (100_000, ""), (1, "1")])
def test_output_that_nobody_reads_any_more_ends_a_script_quietly(lines, buffer, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", buffer)
    script = "import sys, time; from errors import exit_code; print('first', flush=True); time.sleep(0.3); sys.exit("
    script += f"exit_code('a.py', lambda: [print('line') for _ in range({lines})]))"
    work = begun(["-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert work.stdout.readline() == b"first\n"
    work.stdout.close()
    assert work.stderr.read() == b"" and work.wait(30) == 141


def test_another_pipe_that_breaks_is_a_bug(capfd):
    with pytest.raises(BrokenPipeError):
        exit_code("train.py", raiser(BrokenPipeError()))


def test_output_may_be_closed(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert exit_code("train.py", lambda: print("a result")) == 0


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_way_to_stop_is_the_same_line(capsys, name, code):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    if name != "SIGINT":
        signal.signal(getattr(signal, name), signal.SIG_DFL)  # a shell may have had it ignored, as nohup does
    assert exit_code("train.py", lambda: (signal.raise_signal(getattr(signal, name)), time.sleep(9))) == code
    assert capsys.readouterr().err == "train.py: stopped\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and not signal.getitimer(signal.ITIMER_REAL)[0]
    signal.signal(signal.SIGINT, before)


def test_a_stop_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert exit_code("train.py", lambda: signal.raise_signal(signal.SIGHUP)) == 0
    signal.signal(signal.SIGHUP, before)


class Lock:
    """A lock whose taking and giving back are Python's own code, as those of `threading.Condition` are."""

    def __init__(self):
        self.lock = threading.Lock()

    def __enter__(self):
        self.lock.acquire()
        signal.raise_signal(signal.SIGTERM)

    def __exit__(self, *_):
        self.lock.release()


def test_a_stop_leaves_no_lock_taken():
    lock = Lock()

    def work():
        with lock:
            time.sleep(9)

    assert exit_code("train.py", work) == 143 and lock.lock.acquire(blocking=False)


class Deaf:
    """An object at whose end a stop comes, where Python takes no notice of exceptions."""

    def __del__(self):
        self.stop()

    def stop(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_stop_that_nobody_took_notice_of_comes_again(monkeypatch):
    def deaf():
        held = Deaf()
        del held
        time.sleep(9)

    assert exit_code("train.py", deaf) == 143
    monkeypatch.setattr(errors, "AGAIN_S", 0.2)

    def swallows():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            time.sleep(9)

    start = time.monotonic()
    assert exit_code("train.py", swallows) == 143 and time.monotonic() - start < 5


def test_ctrl_c_stops_a_process_that_tests_in_the_background_have_begun():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = begun(["-c", "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"])
    assert work.wait(30) == 0 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, before)
