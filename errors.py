"""The exception for what goes wrong by the user's fault, the exit codes of scripts, and how a user stops them."""

import errno
import os
import select
import signal
import sys
import threading
from contextlib import contextmanager

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, a batch system, a terminal that is closed
SOON_S, AGAIN_S = 0.05, 5.0  # until a stop is tried again: one that came at a bad moment, one without effect
FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk
BARRED = (errno.EACCES, errno.EPERM, errno.EROFS)  # of a file that is not this user's to touch


class InputError(Exception):
    """A fault of the user's file or flag: scripts print it in one line, without a traceback, and exit with 1."""


def exit_code(script, work, if_stopped="stopped"):
    """Does the `work` of a script and returns its exit code.

    0; 1 for a fault of the user's, a full disk or a file that this user may not open, in one line; 130 for Ctrl-C, 143
    for SIGTERM, 129 for SIGHUP, with the line `if_stopped`; 141, as of SIGPIPE, where nobody reads standard output any
    more, as after `| head`. Any other exception is a bug and keeps its traceback.
    """
    with stoppable() as stops:
        try:
            work()
            if sys.stdout:  # which a shell's >&- closes
                sys.stdout.flush()  # else its end comes to light when Python exits
        except InputError as error:
            reason = str(error).split("errors.InputError: ")[-1]  # torch sends a loader's error in its traceback
        except KeyboardInterrupt:
            print(f"{script}: {if_stopped}", file=sys.stderr)
            return 128 + next(iter(stops), signal.SIGINT)
        except BrokenPipeError:
            if is_read(sys.stdout):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes when it exits
            return 128 + signal.SIGPIPE
        except OSError as error:
            if error.errno not in FULL + BARRED:
                raise
            what = "written" if error.errno in FULL else "opened"
            reason = f"{error.filename or 'its output'} cannot be {what}: {error.strerror}"
        else:
            return 0
    print(f"{script}: {' '.join(reason.split())}", file=sys.stderr)
    return 1


def is_read(stream):
    """Whether somebody still reads what we write to a stream, which may be a pipe."""
    watch = select.poll()
    watch.register(stream.fileno(), select.POLLERR)
    return not watch.poll(0)


@contextmanager
def stoppable():
    """Within it each of `STOPS` raises KeyboardInterrupt, and again until the stop has come through.

    Gives a list of the signals that came. Signals that are ignored, as in the background of a shell's script or under
    nohup, stay ignored. Python's own handler raises wherever the main thread is, also where a lock has been taken and
    is not yet given back, on which other threads then wait for ever, or where nobody takes notice of exceptions.
    """
    stops, process = [], os.getpid()

    def stop(number, frame):
        if os.getpid() != process:  # a loader's
            raise KeyboardInterrupt
        stops.extend([number] if number != signal.SIGALRM else [])
        waits = is_deaf(frame)
        signal.setitimer(signal.ITIMER_REAL, SOON_S if waits else AGAIN_S)
        if not waits:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone can have handlers
        yield stops
        return
    numbers = [getattr(signal, name) for name in STOPS]
    numbers = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, stop) for number in [*numbers, signal.SIGALRM]}
    try:
        yield stops
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def is_deaf(frame):
    """Whether a KeyboardInterrupt here would leave a lock taken, or be lost: in __enter__, __exit__ and __del__."""
    if frame.f_code.co_name in ("__enter__", "__exit__"):
        return True
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None
