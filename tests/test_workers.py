"""Jobs run on many processes, of this machine or of a Ray cluster; one that dies is reported; progress is shown."""

import ctypes
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import begun
from corpus_clips import BAD, write_corpus

from errors import InputError, exit_code
from media.clip import SUFFIX, Clip
from workers import MALLOC, local, on_ray, progress_bar, steady_memory

ROOT = Path(__file__).parents[1]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def adder(number):
    return partial(int.__add__, number)


def killer():
    return lambda item: os._exit(3) if item == 2 else item


def test_every_item_is_done_once_on_every_number_of_processes():
    for workers in (1, 2):
        assert sorted(local(partial(adder, 10), range(5), workers)) == [10, 11, 12, 13, 14]
    assert list(local(partial(adder, 10), [], 2)) == []


def test_who_stops_early_leaves_nothing_running():
    results = local(partial(adder, 0), range(200), 1)
    next(results)
    results.close()
    with pytest.raises(StopIteration):
        next(results)


def test_a_process_that_dies_is_reported_in_one_line():
    with pytest.raises(InputError, match="a worker process died.*--workers"):
        list(local(killer, range(4), 1))


def sleeper(folder):
    """A job that notes when it begins and when it is stopped."""

    def sleep(item):
        (folder / f"{item}.begun").touch()
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            (folder / f"{item}.stopped").touch()
            raise

    return sleep


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_workers_at_once_and_nothing_else_begins(tmp_path, number):
    def stop():
        while not list(tmp_path.iterdir()):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert exit_code("x.py", lambda: list(local(partial(sleeper, tmp_path), range(9), 1))) > 128
    signal.signal(signal.SIGINT, before)
    assert names(tmp_path) == ["0.begun", "0.stopped"]


ORPHANS = """
import sys
from functools import partial
from pathlib import Path

from test_workers import sleeper
from workers import local

if __name__ == "__main__":
    list(local(partial(sleeper, Path(sys.argv[1])), range(2), 2))
"""


def test_workers_whose_parent_was_killed_put_their_items_back(tmp_path):
    folder, script = tmp_path / "notes", tmp_path / "main.py"
    folder.mkdir()
    script.write_text(ORPHANS)
    work = begun([script, folder], env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    until = time.monotonic() + 250
    while len(names(folder)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    work.kill()
    while len(names(folder)) < 4 and time.monotonic() < until:
        time.sleep(0.05)
    assert names(folder) == ["0.begun", "0.stopped", "1.begun", "1.stopped"]


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install ray, as in requirements-extra.txt"):
        list(on_ray(partial(adder, 0), [1], "local"))


def piped_bar(**how):
    """What 1000 updates of a bar with a description write where stderr is no terminal."""
    with progress_bar(1000, "clip", desc="count", **how) as bar:
        for _ in range(1000):
            bar.update()
    for _ in progress_bar(3, "clip", iterable=range(3), desc="loop", **how):
        pass


def test_a_piped_bar_is_a_few_whole_lines_that_end_with_the_total(capsys):
    piped_bar()
    printed = capsys.readouterr().err
    assert "\r" not in printed and printed.endswith("\n")
    lines = printed.splitlines()
    assert [line.split(":")[0] for line in lines] == ["count", "count", "loop", "loop"]
    assert "0/1000" in lines[0] and "1000/1000" in lines[1] and "3/3" in lines[3]


def test_a_piped_bar_tells_of_its_progress_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr("workers.SELDOM_S", 0.05)
    with progress_bar(20, "clip") as bar:
        for _ in range(20):
            time.sleep(0.02)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    counts = [int(re.search(r"(\d+)/20", line)[1]) for line in lines]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 20 and 4 <= len(counts) <= 12


def test_a_hidden_bar_writes_nothing(capsys):
    piped_bar(disable=True)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_is_drawn_in_place(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar(9, "clip") as bar:
        bar.update(9)
    printed = capsys.readouterr().err
    assert "\r" in printed and printed.count("\n") == 1


HEAP = """
from pathlib import Path

from workers import steady_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

steady_memory()
start = held()
small, frame = [bytes(50_000) for _ in range(600)], bytearray(b"x") * (50 << 20)
full = held() - start
del frame
without = held() - start
del small
print(full, without, held() - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is glibc's")
def test_freed_frames_go_back_to_the_system_and_small_arrays_stay():
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, cwd=ROOT, check=True)
    full, without, small = map(int, done.stdout.split())  # MiB
    assert full > 70 and 20 < without < 40
    assert small > 20, "glibc gave back the end of its heap, to ask for it again with the next frame"


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

import preprocess

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    code = preprocess.main([*sys.argv[1:], "--ray", cluster.address])
    cluster.shutdown()
    sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_ray_cluster_of_two_workers_does_the_same(tmp_path):
    corpus, out, script = write_corpus(tmp_path / "corpus"), tmp_path / "out", tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    words = ["--data_root", str(corpus), "--out", str(out), "--max_skipped", "1"]
    done = subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    assert (printed["clips"], printed["done_now"], printed["skipped"]) == (7, 2, 5)
    assert [line.split("\t")[0] for line in (out / "skipped.txt").read_text().splitlines()] == BAD
    assert len(Clip(out / "clips" / "ann" / f"one{SUFFIX}")) == 12


@pytest.mark.parametrize(
    "system, library", [("linux", "glibc"), ("linux", "musl"), ("darwin", "glibc"), ("win32", None)]
)
def test_malloc_is_told_where_it_is_glibcs_and_nothing_is_raised_elsewhere(monkeypatch, system, library):
    told = {}

    class Library:
        """A C library."""

        def __init__(self, name):
            if not library:
                raise TypeError("LoadLibrary() argument 1 must be str, not None")
            if library == "glibc":
                self.mallopt = told.__setitem__

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", Library)
    steady_memory()
    assert told == (MALLOC if (system, library) == ("linux", "glibc") else {})
