"""Trains every compact row of every paper, once for each seed, and makes all of their tables and figures.

python -m evaluation.experiments --data_root data/grid --dry
python -m evaluation.experiments --data_root data/grid --seeds 0 1 2

Experts come first, then each seed's rows, which share what steps they share (`evaluation.ablation`), then the tables.
The same command resumes where it stopped; what is done is not done again, unless its command has changed.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from errors import InputError, exit_code
from evaluation.ablation import BEGINNINGS, ROOT, ROWS, flags_of, given, knobs_of, parting, trunks
from hparams import WEIGHTS, HParams, add_flags
from media.files import make_folder, write_text

FACES_A_SECOND = {"talklip": 23, "wav2lip": 23, "cals": 23, "warp": 10}  # on two cores: docs/talklip.md, docs/warp.md
ADVERSARIAL_S = 0.8 / 32  # more for a face, where the discriminator trains
SCORE_S = 2.0  # to generate the faces of a clip and to measure them
TEACHER_H = 0.6  # an expert
BASELINE_ROWS = 3  # of a table
UNDER_AVSYNCNET = "", "_freeze", "_wo_novel", "_wo_contrastive", "_wo_lip"  # SyncTalklip's rows
# fmt: off
TEACHERS = {  # the experts that are not in weights/: the words of train_expert.py
    "wav2lip_sync":   ("sync", "--preset", "compact_wav2lip_sync"),
    "cals_sync":      ("sync", "--preset", "compact_cals_sync"),
    "avsyncnet":      ("finetune", "--preset", "compact_avsyncnet", "--init", WEIGHTS["expert"]),
    "avsyncnet_conv": ("finetune", "--preset", "compact_avsyncnet_conv", "--init", WEIGHTS["expert"]),
}
# fmt: on


class Group(NamedTuple):
    """Rows that are trained together, under the same experts, by `evaluation.ablation`."""

    rows: tuple
    expert: str = ""  # a name in `TEACHERS`, or that in weights/
    sync_expert: str = ""


GROUPS = {
    "talklip": Group(ROWS),
    "wav2lip": Group(("wav2lip", "wav2lip_gan"), sync_expert="wav2lip_sync"),
    "cals_baseline": Group(("cals_baseline",), sync_expert="wav2lip_sync"),
    "cals": Group(("cals_a2l", "cals_a2l_av", "cals_a2l_av_vv"), sync_expert="cals_sync"),
    "synctalklip": Group(tuple(f"synctalklip{each}" for each in UNDER_AVSYNCNET), expert="avsyncnet"),
    "synctalklip_conv": Group(("synctalklip_conv",), expert="avsyncnet_conv"),
    "synctalklip_hubert": Group(("synctalklip_wo_avsyncnet",)),
    "warp": Group(("warp", "warp_wo_expert", "warp_wo_adv", "warp_wo_whisper", "warp_wo_pixels")),
}
PAPERS = {  # a table each: its groups, and the row that the others are compared with
    "talklip": (("talklip",), "talklip_l"),
    "wav2lip": (("wav2lip",), "wav2lip"),
    "cals": (("cals_baseline", "cals"), "cals_baseline"),
    "synctalklip": (("synctalklip", "synctalklip_conv", "synctalklip_hubert"), "synctalklip"),
    "warp": (("warp",), "warp"),
}


class Job(NamedTuple):
    """One command of the experiments: its name, its words after `python`, and its estimated hours on two cores."""

    name: str
    words: list
    hours: float

    @property
    def command(self):
        """Its words as text."""
        return [str(word) for word in self.words]


def step_seconds(hp, step):
    """The estimated seconds of a step of a run, on two cores."""
    now = hp.paced(step)
    faces = now.batch_size * now.window * max(now.windows, 1)
    adversarial = hp.adv_weight and step >= hp.adv_from
    return faces * (1 / FACES_A_SECOND[hp.model] + (ADVERSARIAL_S if adversarial else 0))


def training_hours(rows, knobs):
    """The estimated hours of training rows, with what they share trained once."""
    begun, joins = trunks(rows, knobs), parting(rows, knobs)
    runs = [(trunk, 0, joins) for trunk in dict.fromkeys(begun.values())]
    runs += [(row, joins, knobs_of(row, knobs).max_steps) for row in rows]
    every = {row: knobs_of(row, knobs) for row in rows}
    return sum(step_seconds(every[row], step) for row, first, last in runs for step in range(first, last)) / 3600


def clips_of(args):
    """How many clips the lists have that are evaluated."""
    from data import Clips  # torch is slow, and --help answers at once

    return sum(len(Clips(args.data_root, split, HParams()).names) for split in args.splits)


def rows_of(paper):
    """The rows of a paper's table, each with its group: [(group, row)]."""
    return [(group, row) for group in PAPERS[paper][0] for row in GROUPS[group].rows]


def jobs_of(args):
    """All commands in their order: experts, the rows of each seed, their tables, then those over seeds, and figures."""
    groups = dict.fromkeys(group for paper in args.papers for group in PAPERS[paper][0])
    wanted = {name for group in groups for name in (GROUPS[group].expert, GROUPS[group].sync_expert)}
    jobs = [expert_job(args, name) for name in TEACHERS if name in wanted]
    if any(GROUPS[group].expert for group in groups):
        words = ["--data_root", args.data_root, "--out", tokenizer(args), "--kind", "word"]
        jobs = [Job("tokenizer", ["train_expert.py", "tokenizer", *words], 0), *jobs]
    for seed in args.seeds:
        jobs += [training_job(args, seed, group) for group in groups]
        jobs += [table_job(args, seed, paper) for paper in args.papers]
    for paper in args.papers:
        jobs += summaries(args, paper)
    return jobs


def shared_flags(args):
    """The flags that name the data root and, if one was given, the device."""
    return ["--data_root", args.data_root, *(["--device", args.device] if args.device else [])]


def teacher(args, name):
    """The file of an expert that the experiments train."""
    return args.out / "experts" / f"{name}.safetensors"


def tokenizer(args):
    """The file of the tokenizer of experts that are fine-tuned."""
    return args.out / "experts" / "tokenizer.model"


def expert_job(args, name):
    """The training of an expert, which all seeds have in common."""
    run = ["--name", name, "--runs", args.runs / "experts", "--export", teacher(args, name), *args.expert_flags]
    run += ["--tokenizer", tokenizer(args)] if TEACHERS[name][0] == "finetune" else []
    return Job(f"expert {name}", ["train_expert.py", *TEACHERS[name], *shared_flags(args), *run], TEACHER_H)


def training_job(args, seed, group):
    """The training of a group's rows with a seed."""
    rows, expert, sync_expert = GROUPS[group]
    words = ["-m", "evaluation.ablation", *shared_flags(args), "--rows", *rows]
    words += ["--runs", args.runs / f"seed{seed}" / group, "--out", args.out / f"seed{seed}" / group]
    words += ["--expert", teacher(args, expert)] if expert else []
    words += ["--sync_expert", teacher(args, sync_expert)] if sync_expert else []
    for name in BEGINNINGS:
        words += [f"--{name}", path] if (path := getattr(args, name)) else []
    words += ["--jobs", args.jobs, f"--seed={seed}", *flags_of(given(args))]
    return Job(f"seed {seed}, {group}: rows {len(rows)}", words, training_hours(rows, given(args)))


def weights_of(args, seed, paper):
    """The trained rows of a paper's table of a seed: {row: path}."""
    return {row: args.out / f"seed{seed}" / group / f"{row}.safetensors" for group, row in rows_of(paper)}


def table_job(args, seed, paper):
    """The table of a paper's rows of a seed, of the faces that they generate."""
    weights = weights_of(args, seed, paper).values()
    words = ["-m", "evaluation.evaluate", "--real", args.data_root, "--split", *args.splits]
    words += ["--device", args.device] if args.device else []
    words += ["--compare", *weights, "--out", args.out / f"seed{seed}" / "tables" / paper]
    hours = (len(weights) + BASELINE_ROWS) * clips_of(args) * SCORE_S / 3600
    return Job(f"seed {seed}, table of {paper}", words, hours)


def summaries(args, paper):
    """The commands of a paper's table over seeds, and of its figures, which are of the first seed."""
    first, out = f"seed{args.seeds[0]}", args.out
    reports = [out / f"seed{seed}" / "tables" / paper / "evaluation.json" for seed in args.seeds]
    runs = [f"{row}={args.runs / first / group / row}" for group, row in rows_of(paper)]
    weights = weights_of(args, args.seeds[0], paper)
    data = ["--data_root", args.data_root]
    found = {
        "over seeds": ["evaluation.seeds", *reports, "--against", PAPERS[paper][1], "--out", out / f"{paper}.md"],
        "visemes": ["evaluation.visemes", reports[0], "--out", out / f"{paper}_visemes.png"],
        "curves": ["evaluation.figures", "curves", "--rows", *runs, "--out", out / f"{paper}_curves.png"],
    }
    drawn = ["--split", args.splits[0], "--out", out / f"{paper}_masked.png"]
    if paper != "warp":  # whose generators paint no whole faces
        shown = [*data, "--splits", args.splits[0], "--rows", *(f"{row}={path}" for row, path in weights.items())]
        found["strips"] = ["evaluation.figures", "strips", *shown, "--out", out / f"{paper}_strips.png"]
    if paper == "talklip":
        heard = [*data, "--splits", "train", "--rows", *(f"{row}={weights[row]}" for row in ROWS if "base" not in row)]
        found["embeddings"] = ["evaluation.figures", "embeddings", *heard, "--out", out / "talklip_embeddings.png"]
    if paper == "cals":
        both = [*data, "--rows", *(f"{row}={weights[row]}" for row in ("cals_baseline", "cals_a2l_av_vv"))]
        found["masked sound"] = ["evaluation.context", "strip", *both, *drawn]
        found["masked spans"] = ["evaluation.context", "spans", *both, "--split", args.splits[0]]
    return [Job(f"{paper}: {what}", ["-m", *words], 0) for what, words in found.items()]


def stamp_of(args, job):
    """The file that says with which command a job was done, and in how many hours."""
    name = "".join(letter if letter.isalnum() else "_" for letter in job.name)
    return args.out / "stamps" / f"{name}.json"


def hours_of(args, job):
    """The hours in which a job was done by the command that it has now, the last time that it ended; None if not."""
    stamp = stamp_of(args, job)
    found = json.loads(stamp.read_text()) if stamp.is_file() else {"command": None}
    return found["hours"] if found["command"] == job.command else None


def run(args, jobs):
    """Runs every job that is not done, one by one. Raises InputError with the name of the first that fails."""
    make_folder(args.out / "experts")
    for number, job in enumerate(jobs, start=1):
        if hours_of(args, job) is not None:
            continue
        print(f"{number} of {len(jobs)}: {job.name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        if code := subprocess.run([sys.executable, *job.command], cwd=ROOT).returncode:
            raise InputError(f"{job.name} ended with {code}, see above; the same command resumes from there")
        make_folder(stamp_of(args, job).parent)
        hours = (time.perf_counter() - start) / 3600
        write_text(stamp_of(args, job), json.dumps({"command": job.command, "hours": hours}))


def listed(args, jobs):
    """Prints every command, and the hours that it has taken, or is estimated to take."""
    print("| what | hours | command |\n|---|---|---|")
    left = 0.0
    for job in jobs:
        took = hours_of(args, job)
        left += job.hours if took is None else 0
        hours = f"{job.hours:.1f}" if job.hours else ""
        command = shlex.join(["python", *job.command])
        print(f"| {job.name} | {hours if took is None else f'done in {took:.2f}'} | `{command}` |")
    print(f"\n{len(jobs)} commands, about {left:.0f} hours left on two cores")


def work(args):
    """Lists the jobs, or runs them."""
    for name in ("data_root", "runs", "out", *BEGINNINGS):
        # Scripts are called from the checkout's folder.
        if path := getattr(args, name):
            setattr(args, name, path.resolve())
    if args.jobs < 1 or len(set(args.seeds)) < len(args.seeds):
        raise InputError("--jobs must be at least 1, and --seeds differ")
    (listed if args.dry else run)(args, jobs_of(args))


def main(argv=None):
    """Parses the flags and runs the experiments; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_root", required=True, type=Path, help="made by preprocess.py")
    add("--seeds", nargs="+", default=[0, 1, 2], type=int, help="(default: 0 1 2)")
    add("--papers", nargs="+", default=list(PAPERS), choices=PAPERS, help="whose rows (default: all)")
    add("--splits", nargs="+", default=["test", "test_unseen"], help="lists (default: test test_unseen)")
    add("--runs", default=Path("runs/experiments"), type=Path, help="folder of runs (default: %(default)s)")
    add("--out", default=Path("results/experiments"), type=Path, help="folder (default: %(default)s)")
    add("--init_faces", type=Path, help="all rows begin with this generator but for its audio encoder")
    add("--init_discriminator", type=Path, help="and with this discriminator, those that have one")
    add("--jobs", default=1, type=int, help="rows at work at once (default: %(default)s)")
    add("--expert_flags", nargs="*", default=[], metavar="WORD", help="for train_expert.py, such as max_steps=2")
    add("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    add("--dry", action="store_true", help="list the commands with their hours, and run none")
    add_flags(parser)
    args = parser.parse_args(argv)
    if hasattr(args, "preset") or hasattr(args, "seed"):
        parser.error("--preset, --seed: every row has its own preset; say --seeds")
    args.expert_flags = [f"--{word}" for word in args.expert_flags]
    return exit_code("evaluation.experiments", lambda: work(args), if_stopped="stopped; the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
