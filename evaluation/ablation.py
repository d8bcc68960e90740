"""Trains rows of a paper's table in compact size, for equal steps and seeds, and evaluates them side by side.

python -m evaluation.ablation --data_root data/grid --corpus grid --runs runs/ablation

Rows that are the same until the expert joins share the steps before it: those are trained once, and each row resumes
from there, bit for bit as if it had been trained alone on as many threads. The same command resumes where it stopped.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from itertools import product
from pathlib import Path

from errors import InputError, exit_code
from hparams import PRESETS, HParams, add_flags, preset
from media.files import make_folder, replacing, write_text
from workers import processors

ROOT = Path(__file__).resolve().parents[1]
ROWS = ("base_wo_lip_gan", "base_wo_lip", "talklip_l", "talklip_l_c", "talklip_g", "talklip_g_c")
# Other papers' rows, under the experts that they ask for, and the default generator's.
OTHER_ROWS = tuple(n for n in PRESETS if n.startswith(("synctalklip", "wav2lip", "cals", "warp")))
BEGINNINGS = "init_faces", "init_discriminator"  # what all rows begin with, by train.py's flags
FILES = "expert", "sync_expert", *BEGINNINGS  # and what they are under
KEPT = ("last.pt", "best.pt", "metrics.jsonl")  # of a trunk, by a row that resumes from it


def given(args):
    """The knobs that were given on the command line."""
    return {f.name: getattr(args, f.name) for f in fields(HParams) if hasattr(args, f.name)}


def files_of(args):
    """The `FILES` that were given on the command line: {name: path as text}."""
    return {name: str(path) for name in FILES if (path := getattr(args, name))}


def flags_of(knobs):
    """The flags that give knobs."""
    switches = [f"--{'' if value else 'no-'}{name}" for name, value in knobs.items() if isinstance(value, bool)]
    return switches + [f"--{name}={value}" for name, value in knobs.items() if not isinstance(value, bool)]


def preset_of(row):
    """The preset that trains a row: the compact one, where the row has one."""
    return f"compact_{row}" if f"compact_{row}" in PRESETS else row


def knobs_of(row, knobs):
    """The settings of a row with other `knobs`."""
    return replace(preset(preset_of(row)), **knobs)


def parting(rows, knobs):
    """The first step at which an expert's loss counts that not all of the rows have, or else the adversarial one.

    0 where all have the same.
    """
    every = [knobs_of(row, knobs) for row in rows]
    losses = [f for f in fields(HParams) if f.metadata["since"] and len({getattr(hp, f.name) for hp in every}) > 1]
    losses = [f for f in losses if f.metadata["since"] != "adv_from"] or losses
    return min((getattr(hp, f.metadata["since"]) for f in losses for hp in every if getattr(hp, f.name)), default=0)


def trunks(rows, knobs):
    """{row: the first row that has the same steps before the rows part}, for rows with other `knobs`."""
    joins = parting(rows, knobs)

    def shared(row):
        hp, later = knobs_of(row, knobs), {"cav_audio", "supervisor"}  # which no step before the expert's depends on
        for f in fields(HParams):
            since = f.metadata["since"]
            if since and (getattr(hp, since) >= joins or not getattr(hp, f.name)):
                later |= {f.name} if since == "lip_from" else {f.name, since}  # `lip_from` also changes the batches
        return {name: value for name, value in asdict(hp).items() if name not in later}

    return {row: next(other for other in rows if shared(other) == shared(row)) for row in rows}


def call(args, command):
    """Runs a script of ours to its end, on its share of the cores. Raises InputError with its name if it fails."""
    share = max(processors() // args.jobs, 1)
    environment = {"OMP_NUM_THREADS": str(share)} | os.environ
    if code := subprocess.run([sys.executable, *command], cwd=ROOT, env=environment).returncode:
        raise InputError(
            f"{command[command[0] == '-m']} ended with {code}, see above; the same command resumes from there"
        )


def at_once(jobs, do, *items):
    """Has `do` done with every item, so many at once. After a failure, or Ctrl-C, no other begins."""
    pool = ThreadPoolExecutor(jobs)
    try:
        list(pool.map(do, *items))
    finally:
        pool.shutdown(cancel_futures=True)


def train(args, name, row, *more):
    """Trains `row` under `name`, or resumes it."""
    where = ["--data_root", args.data_root, "--runs", args.runs, "--name", name, "--workers", args.workers, *more]
    where += [word for name, path in files_of(args).items() for word in (f"--{name}", path)]
    call(args, ["train.py", "--preset", preset_of(row), *map(str, where), *flags_of(given(args)), *device(args)])


def device(args):
    """The flag that chooses where networks compute, if it was given."""
    return ["--device", args.device] if args.device else []


def begin(folder, trunk):
    """Lets the row in `folder` resume from where `trunk` is, unless it has begun."""
    if (folder / "last.pt").is_file():
        return
    for name in reversed(KEPT):  # last.pt comes last: with it, the row has begun
        if (trunk / name).is_file():
            make_folder(folder)
            with replacing(folder / name) as partial:
                shutil.copyfile(trunk / name, partial)


def train_rows(args):
    """Trains every row: first what rows share, then each of them; returns {row: its exported weights}."""
    knobs = given(args)
    begun, joins = trunks(args.rows, knobs), parting(args.rows, knobs)
    trunk_rows = list(dict.fromkeys(begun.values())) if joins else []
    at_once(args.jobs, lambda row: train(args, f"trunk_{row}", row, "--stop", joins), trunk_rows)
    for row, trunk in begun.items():
        begin(args.runs / row, args.runs / f"trunk_{trunk}")
    weights = {row: args.out / f"{row}.safetensors" for row in args.rows}
    at_once(args.jobs, lambda row: train(args, row, row, "--export", weights[row]), args.rows)
    return weights


def note_knobs(args):
    """Notes the knobs of these runs beside them; raises InputError if they were begun with others."""
    note, knobs = args.runs / "knobs.json", {"data_root": str(args.data_root), **files_of(args), **given(args)}
    make_folder(args.runs)
    before = json.loads(note.read_text()) if note.is_file() else knobs
    if other := sorted(name for name in before | knobs if before.get(name) != knobs.get(name)):
        was = ", ".join(f"{name} {before.get(name, 'not given')}" for name in other)
        raise InputError(f"{args.runs} was begun with {was}: say the same, or give another --runs")
    write_text(note, json.dumps(knobs))


def real_videos(args):
    """The real videos of the lists, {clip: path}. Raises InputError for a list or a video that is not there."""
    from data import Clips  # torch is slow, and --help answers at once
    from evaluation.videos import matched

    lists = args.splits or [name for name in ("test", "test_unseen") if (args.data_root / f"{name}.txt").is_file()]
    clips = [clip for split in lists for clip in Clips(args.data_root, split, HParams()).names]
    found, _, _ = matched(args.corpus, clips)
    if missing := [clip for clip in clips if clip not in found]:
        raise InputError(f"{args.corpus}: no video of {missing[0]}. --corpus is what preprocess.py was given")
    return lists, found


def weights_of(report):
    """The SHA-256 of the weights that made a video, by its report, JSON; None without one."""
    return json.loads(report.read_text())["model"]["sha256"] if report.is_file() else None


def generate(args, weights, videos):
    """Runs inference.py on videos, {clip: path}, with every row; returns the folders of the generated ones."""
    from checkpoint import sha256

    known = {row: sha256(path) for row, path in weights.items()}

    def lip_sync(row, clip):
        path = args.out / "videos" / row / f"{clip}.mp4"
        if weights_of(path.with_suffix(".json")) != known[row]:
            make_folder(path.parent)
            of = ["--face", videos[clip], "--audio", videos[clip], "--outfile", path, "--checkpoint_path", weights[row]]
            call(args, ["inference.py", *map(str, of), "--quiet", *device(args)])

    at_once(args.jobs, lambda each: lip_sync(*each), product(weights, videos))
    return [args.out / "videos" / row for row in weights]


def work(args):
    """Trains the rows, generates their videos and evaluates them."""
    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs} must be at least 1")
    if given(args).get("patience"):
        raise InputError("--patience: rows would leave their stages at different steps; say when, such as --lip_from")
    if "seed" not in given(args):
        args.seed = 0
    # Scripts are called from the checkout's folder.
    for name in ("data_root", "corpus", "runs", "out", *FILES):
        if path := getattr(args, name):
            setattr(args, name, path.resolve())
    lists, videos = real_videos(args) if args.corpus else ([], {})
    note_knobs(args)
    weights = train_rows(args)
    if videos:
        folders = [str(folder) for folder in generate(args, weights, videos)]
        command = ["-m", "evaluation.evaluate", "--real", str(args.data_root), "--split", *lists, *device(args)]
        call(args, [*command, "--compare", *folders, "--out", str(args.out / "table")])


def main(argv=None):
    """Parses the flags and trains the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--corpus", type=Path, help="what it was made of: rows generate its videos, and are evaluated")
    parser.add_argument("--rows", nargs="+", choices=ROWS + OTHER_ROWS, default=ROWS, help="(default: TalkLip's six)")
    parser.add_argument(
        "--splits", nargs="+", help="lists of the data root (default: test and, if it is there, test_unseen)"
    )
    parser.add_argument(
        "--runs", default=Path("runs/ablation"), type=Path, help="folder of runs (default: %(default)s)"
    )
    parser.add_argument("--out", default=Path("results/ablation"), type=Path, help="folder (default: %(default)s)")
    parser.add_argument("--jobs", default=1, type=int, help="rows, then clips, at work at once (default: %(default)s)")
    parser.add_argument("--workers", default=1, type=int, help="of each row, to read clips (default: %(default)s)")
    parser.add_argument("--expert", type=Path, help="lip-reading expert (default: the one in weights/)")
    parser.add_argument("--sync_expert", type=Path, help="sync expert, for rows of Wav2Lip and CALS")
    parser.add_argument("--init_faces", type=Path, help="all rows begin with this generator but for its audio encoder")
    parser.add_argument("--init_discriminator", type=Path, help="and with this discriminator, those that have one")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    add_flags(parser)
    args = parser.parse_args(argv)
    if hasattr(args, "preset"):
        parser.error("--preset: every row has its own")
    return exit_code(parser.prog, lambda: work(args), if_stopped="stopped; the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
