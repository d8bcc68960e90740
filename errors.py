"""What goes wrong by the user's fault: one exception, and how scripts end with it."""

import sys


class InputError(Exception):
    """A fault of the user's file or flag: scripts print it in one line, without a traceback, and exit with 1."""


def exit_code(script, work, if_stopped="stopped"):
    """Does a script's `work` and returns its exit code: 0, 1 for a fault of the user's, which is told in one line, 130
    for Ctrl-C, answered with `if_stopped`. Any other exception is a bug and keeps its traceback."""
    try:
        work()
    except InputError as error:
        reason = str(error).split("hparams.InputError: ")[-1]  # torch sends a loader's error wrapped in its traceback
        print(f"{script}: {' '.join(reason.split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{script}: {if_stopped}", file=sys.stderr)
        return 130
    return 0
