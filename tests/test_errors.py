"""Scripts end with a code and, where the user is at fault, with one line."""

import pytest
from torch._utils import ExceptionWrapper

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
