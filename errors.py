"""The exception for what goes wrong by the user's fault, and the exit codes of scripts."""

import sys


class InputError(Exception):
    """A fault of the user's file or flag: scripts print it in one line, without a traceback, and exit with 1."""


def exit_code(script, work, if_stopped="stopped"):
    """Does the `work` of a script and returns its exit code.

    0; 1 for a fault of the user's, which is printed in one line; 130 for Ctrl-C, answered with the line `if_stopped`.
    Any other exception is a bug and keeps its traceback.
    """
    try:
        work()
    except InputError as error:
        reason = str(error).split("errors.InputError: ")[-1]  # torch sends a loader's error wrapped in its traceback
        print(f"{script}: {' '.join(reason.split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{script}: {if_stopped}", file=sys.stderr)
        return 130
    return 0
