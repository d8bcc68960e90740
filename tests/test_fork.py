"""What README says under "Fork it": each of its diffs is applied to a copy of the tree, and the copy is run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import buzz, make_video, make_wav
from corpus_clips import portrait

from hparams import WEIGHTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "experts", "faces", "media", "corpora", "evaluation")
DIFFS = re.findall(r"^```diff\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
TINY = "--width 0.0625 --audio_layers 1 --audio_dim 32 --audio_ffn 32 --audio_heads 2 --audio_from 0".split()
TINY += "--audio_train_layers 0 --max_steps 2 --batch_size 2 --log_every 1 --valid_clips 1 --workers 0".split()


def hunks(diff):
    """(path, the lines that are there, the lines that take their place) of each part of a diff.

    A part begins with `--- path`; each line below it is kept (" "), added ("+") or removed ("-"), and those that are
    kept or removed stand one below the other in that file, and in one place alone.
    """
    for part in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        path, *lines = part.splitlines()
        assert lines and {line[:1] for line in lines} <= set(" +-"), part
        yield path, *("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in (" -", " +"))


def apply_diff(diff, tree):
    """Changes the files of `tree` as a diff says."""
    for name, before, after in hunks(diff):
        path = tree / name
        text = path.read_text(encoding="utf-8")
        assert before and f"\n{text}".count(f"\n{before}") == 1, f"{name} does not have these lines once:\n{before}"
        path.write_text(f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:], encoding="utf-8")


@pytest.fixture
def fork(request, tmp_path):
    """A copy of the code with README's diff number `request.param` in it."""
    tree = tmp_path / "fork"
    tree.mkdir()
    for script in ROOT.glob("*.py"):
        shutil.copy(script, tree)
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "weights").mkdir()
    (tree / "weights" / "whisper_tiny_en_encoder.safetensors").symlink_to(WEIGHTS["whisper"])
    apply_diff(DIFFS[request.param], tree)
    return tree


def of_diff(number):
    return pytest.mark.parametrize("fork", [number], indirect=True, ids=[f"diff {number + 1} of README.md"])


def run(tree, script, *flags):
    """Runs a script of a fork to its end; returns what it printed."""
    command = [sys.executable, script, *map(str, flags)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_has_a_loss_a_table_and_a_corpus():
    assert len(DIFFS) == 3
    assert [list(dict.fromkeys(path for path, _, _ in hunks(diff))) for diff in DIFFS] == [
        ["losses.py", "train.py", "hparams.py"],
        ["models/talklip.py"],
        ["corpora/layouts.py", "preprocess.py"],
    ]


@of_diff(0)
def test_a_loss_is_added(fork, data_root):
    run(fork, "train.py", "--data_root", data_root, "--preset", "compact_edge", *TINY)
    log = (fork / "runs" / "compact_edge" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, log) if "total" in line]
    assert len(steps) == 2 and all(0 < line["edge"] < 1 for line in steps)
    assert all(line["total"] >= 0.5 * line["edge"] for line in steps)


@of_diff(1)
def test_a_layer_table_is_changed(fork, data_root):
    flags = "--data_root", data_root, "--preset", "compact_base_wo_lip", "--name", "wider", *TINY
    run(fork, "train.py", *flags, "--export", fork / "wider.safetensors")
    state = torch.load(fork / "runs" / "wider" / "last.pt", weights_only=True)
    sizes = [weight.shape[0] for name, weight in state["generator"].items() if re.match(r"decoder\.5\..*conv", name)]
    assert state["step"] == 2 and 12 in sizes, "192 channels at a sixteenth of the width"


@of_diff(2)
def test_a_corpus_layout_is_added(fork, tmp_path):
    corpus = tmp_path / "corpus"
    for k, clip in enumerate(("ann/one", "bob/one", "cid/one")):
        path = corpus / f"{clip}.mp4"
        path.parent.mkdir(parents=True)
        make_video(path, portrait(3 * k))
        make_wav(path.with_suffix(".wav"), buzz(1))
    out = tmp_path / "out"
    printed = json.loads(
        run(fork, "preprocess.py", "--data_root", corpus, "--out", out, "--dataset", "mine", "--workers", 1)
    )
    assert (printed["corpus"], printed["clips"], printed["done_now"], printed["skipped"]) == ("mine", 3, 3, 0)
    assert sum(len((out / f"{split}.txt").read_text().split()) for split in ("train", "val", "test")) == 3
