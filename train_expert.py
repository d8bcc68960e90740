"""Trains experts: the lip reader that teaches the generator, the observers that judge it, the sync model.

python train_expert.py tokenizer --data_root data/grid --out data/grid/tokenizer.model --size 64
python train_expert.py pretrain --data_root data/grid --preset compact --name units
python train_expert.py finetune --data_root data/grid --preset compact --name expert --init runs/units/best.pt
python train_expert.py words --data_root data/grid --preset compact_words --name words
python train_expert.py sync --data_root data/grid --preset compact_sync --name sync
"""

import argparse
import math
import sys
from pathlib import Path

from errors import InputError, exit_code
from hparams import ExpertHParams, add_flags, override

# Slow imports are inside the functions, so that --help answers at once.


def check(args):
    """Raises InputError, before any work is done, for flags that would only fail after it."""
    for flag, least in {"workers": 0, "stop": 1}.items():
        value = getattr(args, flag, None)
        if value is not None and value < least:
            raise InputError(f"--{flag} {value} must be at least {least}")
    for flag in ("export", "out"):
        path = getattr(args, flag, None)
        if path and path.is_dir():
            raise InputError(f"--{flag} {path} is a folder: name a file in it")


def make_folder(path):
    """Makes a folder, where there is none. Raises InputError where there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror}") from error


def make_tokenizer(args):
    """Learns a tokenizer from the transcripts of the training split and writes it."""
    from experts.tokenizer import train_tokenizer, transcripts

    make_folder(args.out.parent)
    tokenizer = train_tokenizer(transcripts(args.data_root, "train"), args.size, args.kind)
    args.out.write_bytes(tokenizer.model)
    print(f"{args.out}: {len(tokenizer)} tokens, sha256 {tokenizer.sha256}")


def tokenizer_of(args):
    """The tokenizer that --tokenizer names, by default the one in the data root."""
    from experts.tokenizer import Tokenizer

    path = args.tokenizer or args.data_root / "tokenizer.model"
    if not path.is_file():
        raise InputError(f"no tokenizer at {path}: make one with train_expert.py tokenizer --out {path}")
    try:
        return Tokenizer(path.read_bytes())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def start(args, folder):
    """Begins or resumes, in its folder, the run that the flags describe."""
    import torch

    import checkpoint
    import distributed
    from distributed import device_of
    from expert_run import ExpertRun
    from experts.lip_reader import load_reader

    last = folder / "last.pt"
    state = checkpoint.load(last) if last.is_file() else None
    if state and state.get("task") != args.task:
        raise InputError(f"{last} is a run of {state.get('task', 'train.py')}: give another --name")
    stored = checkpoint.knobs(last, state.get("hparams", {}), ExpertHParams) if state else ExpertHParams()
    hp = override(stored, args)
    tokenizer = tokenizer_of(args) if args.task == "finetune" else None
    for each in (folder, args.export.parent if args.export else folder):
        make_folder(each)
    device = distributed.join(torch.device(device_of(args.device)))
    if not state and distributed.rank()[0] == 0:
        (folder / "units.npz").unlink(missing_ok=True)  # of a start with maybe other flags that came to no checkpoint
    teacher = load_reader(args.teacher, whole=False) if args.teacher else None
    if teacher:
        teacher.net.to(device)
    run = ExpertRun(args.task, hp, device, args.data_root, folder, tokenizer, teacher)
    if state:
        run.resume(last, state)
    elif args.init:
        run.begin_with(args.init)
    elif args.task == "finetune" and hp.freeze:
        raise InputError(f"--freeze {hp.freeze} keeps an encoder that nobody has trained: give --init, or --freeze 0")
    return run


def work(args):
    """Trains the run that the flags describe, and exports it where that is asked for."""
    import cv2

    import distributed
    from expert_run import train
    from experts import lip_reader, sync

    cv2.setNumThreads(0)
    folder = args.runs / args.name
    run = start(args, folder)
    print(f"{folder}: {args.task}, step {run.step} of {run.hp.max_steps}", file=sys.stderr)
    train(run, folder, args.workers, args.stop)
    if args.export and distributed.rank()[0] == 0:
        validated = math.isfinite(run.best) and (folder / "best.pt").is_file()
        export = (sync if args.task == "sync" else lip_reader).export
        export(args.export, folder / ("best.pt" if validated else "last.pt"))
    distributed.leave()


def main(argv=None):
    """Parses the flags and makes a tokenizer, or trains or resumes a lip reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="task")
    notes = {
        "pretrain": "an encoder, by masked prediction of units",
        "finetune": "a lip reader, on transcripts",
        "words": "a classifier of single words",
        "sync": "a sync model, by telling each window's sound from all others",
    }
    own = {  # flags that not every task has; elsewhere they are None
        "init": (("pretrain", "finetune", "words"), "begin with the encoder of this run or lip reader"),
        "teacher": (("pretrain",), "cluster the features of this run, not the sound"),
        "tokenizer": (("finetune",), "(default: tokenizer.model in the data root)"),
        "export": (
            ("finetune", "words", "sync"),
            "write the model here at the end, as safetensors: the best one, or the last if none was validated",
        ),
    }
    for task, note in notes.items():
        sub = tasks.add_parser(task, help=note, description=note)
        sub.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
        sub.add_argument("--name", required=True, help="of the run; the same name resumes it")
        sub.add_argument("--runs", default=Path("runs"), type=Path, help="folder of all runs (default: %(default)s)")
        sub.set_defaults(**dict.fromkeys(own))
        for flag in own:
            if task in own[flag][0]:
                sub.add_argument(f"--{flag}", type=Path, help=own[flag][1])
        sub.add_argument("--workers", default=1, type=int, help="processes that read clips (default: %(default)s)")
        sub.add_argument("--stop", type=int, help="stop after this step, without changing the schedule")
        sub.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
        add_flags(sub, ExpertHParams)
    sub = tasks.add_parser("tokenizer", help="a tokenizer, from the transcripts of train.txt")
    sub.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    sub.add_argument("--out", required=True, type=Path, help="file to be written")
    sub.add_argument("--size", default=1000, type=int, help="tokens, at most (default: %(default)s)")
    sub.add_argument("--kind", default="unigram", help="unigram, bpe, word or char (default: %(default)s)")
    args = parser.parse_args(argv)
    job = make_tokenizer if args.task == "tokenizer" else work

    def checked():
        check(args)
        job(args)

    return exit_code(parser.prog, checked, if_stopped="stopped; the same command goes on from last.pt")


if __name__ == "__main__":
    sys.exit(main())
