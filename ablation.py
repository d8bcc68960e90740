"""Trains the six rows of TalkLip's table in compact size, for equal steps and seeds, and has them judged side by side.

python ablation.py --data_root data/grid --corpus lrs2/grid --runs runs/ablation

Rows whose knobs differ only in the expert's losses share the steps before it joins: those are trained once, and each
row goes on from there, bit for bit as if it had been trained alone. The same command goes on where it stopped.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from itertools import product
from pathlib import Path

from hparams import HParams, InputError, add_flags, exit_code, preset

ROOT = Path(__file__).resolve().parent
ROWS = ("base_wo_lip_gan", "base_wo_lip", "talklip_l", "talklip_l_c", "talklip_g", "talklip_g_c")
OF_THE_EXPERT = {"lip_weight", "contrastive_weight"}  # nothing before `lip_from` depends on these
KEPT = ("last.pt", "best.pt", "metrics.jsonl")  # of a trunk, by a row that goes on from it


def given(args):
    """The knobs that were given on the command line."""
    return {f.name: getattr(args, f.name) for f in fields(HParams) if hasattr(args, f.name)}


def trunks(rows, knobs):
    """{row: the first row that has the same steps before the expert joins}, for compact rows with other `knobs`."""

    def shared(row):
        hp = replace(preset(f"compact_{row}"), **knobs)
        later = OF_THE_EXPERT | ({"adv_weight"} if hp.adv_from >= hp.lip_from else set())
        return {name: value for name, value in asdict(hp).items() if name not in later}

    return {row: next(other for other in rows if shared(other) == shared(row)) for row in rows}


def call(command):
    """Runs a script of ours to its end, on one thread. Raises InputError with its name if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, env=environment).returncode:
        raise InputError(f"{command[0]} ended with {code}, see above; the same command goes on from there")


def at_once(jobs, do, *items):
    """Has `do` done with every item, so many at once. After a failure, or Ctrl-C, no other begins."""
    pool = ThreadPoolExecutor(jobs)
    try:
        list(pool.map(do, *items))
    finally:
        pool.shutdown(cancel_futures=True)


def train(args, name, row, *more):
    """Trains `row` under `name`, or goes on with it."""
    flags = [f"--{knob}={value}" for knob, value in given(args).items() if not isinstance(value, bool)]
    flags += [f"--{'' if value else 'no-'}{knob}" for knob, value in given(args).items() if isinstance(value, bool)]
    where = ["--data_root", args.data_root, "--runs", args.runs.resolve(), "--name", name]
    more = [*more, *(["--device", args.device] if args.device else [])]
    call(["train.py", *map(str, where), "--preset", f"compact_{row}", *flags, *map(str, more)])


def grow(args):
    """Trains every row: first what rows share, then each of them; returns {row: its exported weights}."""
    knobs, out = given(args), args.out.resolve()
    begun = trunks(args.rows, knobs)
    joins = replace(preset("compact_talklip_g"), **knobs).lip_from
    at_once(args.jobs, lambda row: train(args, f"trunk_{row}", row, "--stop", joins), dict.fromkeys(begun.values()))
    for row, trunk in begun.items():
        folder = args.runs / row
        if not (folder / "last.pt").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            for name in reversed(KEPT):  # last.pt comes last: with it, the row has begun
                if (args.runs / f"trunk_{trunk}" / name).is_file():
                    shutil.copyfile(args.runs / f"trunk_{trunk}" / name, folder / name)
    weights = {row: out / f"{row}.safetensors" for row in args.rows}
    at_once(args.jobs, lambda row: train(args, row, row, "--export", weights[row]), args.rows)
    return weights


def draw(args, weights):
    """Has inference.py redraw every clip of the splits with every row; returns the folders of videos."""
    clips = [
        name for split in args.splits for name in (args.data_root / f"{split}.txt").read_text().split("\n") if name
    ]
    filmed = {clip: args.corpus.resolve() / "main" / f"{clip}.mp4" for clip in clips}
    if missing := [path for path in filmed.values() if not path.is_file()]:
        raise InputError(f"{missing[0]}: no such video. --corpus is the folder that preprocess.py was given")

    def redraw(row, clip):
        drawn = args.out / "videos" / row / f"{clip}.mp4"
        if not drawn.is_file():
            drawn.parent.mkdir(parents=True, exist_ok=True)
            of = ["--face", filmed[clip], "--audio", filmed[clip], "--outfile", drawn]
            call(["inference.py", *map(str, of), "--checkpoint_path", str(weights[row]), "--quiet"])

    at_once(args.jobs, lambda each: redraw(*each), product(weights, clips))
    return [args.out / "videos" / row for row in weights]


def work(args):
    """Trains, draws and judges."""
    if "seed" not in given(args):
        args.seed = 0
    for folder in (args.runs, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    args.data_root, args.out = args.data_root.resolve(), args.out.resolve()
    weights = grow(args)
    if args.corpus:
        folders = [str(folder) for folder in draw(args, weights)]
        judge = ["evaluation/evaluate.py", "--real", str(args.data_root), "--split", *args.splits]
        call([*judge, "--compare", *folders, "--out", str(args.out / "table")])


def main(argv=None):
    """Parses the flags and trains the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--corpus", type=Path, help="what it was made of: the rows redraw its videos, and are judged")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="(default: all)")
    parser.add_argument("--splits", nargs="+", default=["test", "test_unseen"], help="(default: %(default)s)")
    parser.add_argument(
        "--runs", default=Path("runs/ablation"), type=Path, help="folder of runs (default: %(default)s)"
    )
    parser.add_argument("--out", default=Path("results/ablation"), type=Path, help="folder (default: %(default)s)")
    parser.add_argument("--jobs", default=1, type=int, help="rows, then clips, at work at once (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    add_flags(parser)
    args = parser.parse_args(argv)
    if hasattr(args, "preset"):
        parser.error("--preset: every row has its own")
    return exit_code(parser.prog, lambda: work(args), if_stopped="stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
