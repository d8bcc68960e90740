"""Jobs run on many processes, of this machine or of a Ray cluster, and a process that dies is told."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from corpus_clips import BAD, write_corpus

from errors import InputError
from media.clip import SUFFIX, Clip
from workers import local, on_ray

ROOT = Path(__file__).parents[1]


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


def test_a_process_that_dies_is_told_in_one_line():
    with pytest.raises(InputError, match="a worker process died.*--workers"):
        list(local(killer, range(4), 1))


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install -r requirements-cluster.txt"):
        list(on_ray(partial(adder, 0), [1], "local"))


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
