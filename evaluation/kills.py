"""Kills the commands at random moments, again and again, and checks that nothing is lost, left behind or different.

python -m evaluation.kills --times 50
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import torch

import checkpoint
import inference
import preprocess
import train
import train_expert
from errors import InputError, exit_code
from evaluation.benchmarks.inference import make_clip
from hparams import HParams
from media.clip import SUFFIX, Clip
from media.pairs import is_made, read_pairs
from media.video import frames_at, probe
from media.writer import Writer
from models import build_generator

HEIGHT, FPS, FRAMES = 270, 25, 25  # px, a second, and in all, of the made video
CLIPS, PAIRS = 8, 3
STOPS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
SIGNALS = signal.SIGKILL, signal.SIGKILL, *STOPS  # as often as they are here
STOPPED = {0, *(128 + number for number in STOPS), *(-number for number in SIGNALS)}  # negative: before it began
CLOCK = {"frames_a_second", "waiting"}  # of a log, what differs from run to run
SAID = "Text:  BIN BLUE AT F TWO NOW\n\nWORD START END ASDSCORE\nBIN 0.10 0.45 1.0\nBLUE 0.45 0.90 1.0\n"
SMALL = {"width": 1 / 16, "audio_layers": 1, "audio_dim": 32, "audio_ffn": 32, "audio_heads": 2}
RUN = {"max_steps": 24, "log_every": 1, "save_every": 2, "valid_every": 8, "valid_clips": 1}
TRAIN = (
    RUN
    | SMALL
    | {"batch_size": 2, "audio_from": 0, "audio_train_layers": 0, "preset": "compact_base_wo_lip", "workers": 0}
)
EXPERT = RUN | {
    "max_frames": 50,
    "width": 1 / 16,
    "layers": 1,
    "dim": 32,
    "ffn": 64,
    "heads": 2,
    "clusters": 5,
    "workers": 0,
}
COLUMNS = ("kills", "tracebacks", "left", "lost", "other")
LONGEST_S = 600  # for which a command is waited
HEAD = "| command | kills | tracebacks | left behind | lost or broken | other than undisturbed | s |"


class Stage(NamedTuple):
    """A command that is killed.

    main: of the script.  words: function of a folder that returns the command line that works in there.
    faults: function of that folder, that of the undisturbed run, and whether the command has come to its end now, that
    yields (column of the table, what is wrong).
    """

    main: object
    words: object
    faults: object


def flags(knobs):
    """Knobs as words of a command line."""
    return [word for name, value in knobs.items() for word in (f"--{name}", str(value))]


def make_inputs(root):
    """Makes a video, its sound, a corpus of it in LRS2's layout, and weights, in a folder."""
    video, sound = make_clip(root, FRAMES // FPS, HEIGHT)
    names = [f"ann/{k:02}" for k in range(CLIPS)]
    for name in names:
        path = root / "corpus" / "main" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with Writer(path, probe(video), audio=sound) as out:
            for _, frame in frames_at(video, FPS):
                out.write(frame)
        path.with_suffix(".txt").write_text(SAID)
    for split, part in {"train": names[:-2], "val": names[-2:-1], "test": names[-1:]}.items():
        (root / "corpus" / f"{split}.txt").write_text("".join(f"{name}\n" for name in part))
    hp = HParams(**SMALL)
    checkpoint.export(root / "weights.safetensors", build_generator(hp), hp)


def stages(root):
    """The `Stage`s, by their names. root: of `make_inputs`."""
    weights = ["--checkpoint_path", root / "weights.safetensors", "--quiet", "--device", "cpu"]
    inputs = ["--face", root / "face.mp4", "--audio", root / "speech.wav"]
    data = ["--data_root", root / "whole" / "preprocess" / "out"]

    def listed(folder):
        for name in ("face.mp4", "speech.wav"):
            shutil.copy(root / name, folder)
        rows = [f"face.mp4,speech.wav,out/{k}.mp4\n" for k in range(PAIRS)]
        (folder / "pairs.csv").write_text("".join(rows))
        return ["--list", folder / "pairs.csv", *weights]

    def one(folder):
        (folder / "out").mkdir(exist_ok=True)
        return [*inputs, "--outfile", folder / "out" / "0.mp4", *weights]

    def run_of(*words):
        return lambda folder: [*words, *data, "--runs", folder, "--name", "run", "--device", "cpu"]

    corpus = ["--data_root", root / "corpus", "--workers", 1]
    return {
        "preprocess": Stage(preprocess.main, lambda folder: [*corpus, "--out", folder / "out"], faults_of_root),
        "train": Stage(train.main, run_of(*flags(TRAIN)), faults_of_run),
        "train_expert": Stage(train_expert.main, run_of("pretrain", *flags(EXPERT)), faults_of_run),
        "inference": Stage(inference.main, one, faults_of_videos),
        "inference --list": Stage(inference.main, listed, faults_of_videos),
    }


def partials(folder, ended):
    """Partial files in a folder where there may be none: after a kill in one step those of the killed may lie there."""
    return [("left", str(path)) for path in folder.rglob("*.partial*") if ended]


def faults_of_root(folder, whole, ended):
    """What is wrong with a data root."""
    yield from partials(folder, ended)
    for path in (folder / "out").rglob(f"[!.]*{SUFFIX}"):
        try:
            frames = len(Clip(path))
        except (InputError, KeyError, OSError, ValueError) as error:
            frames = error
        if frames != FRAMES:
            yield "lost", f"{path}: {frames}"
    if ended:
        for path in sorted((whole / "out").rglob("*.*")):
            other = folder / "out" / path.relative_to(whole / "out")
            if not other.is_file() or other.read_bytes() != path.read_bytes():
                yield "other", str(other)
        yield from (("left", str(path)) for path in folder.rglob("*.skipped"))


def faults_of_run(folder, whole, ended):
    """What is wrong with a run of training."""
    yield from partials(folder, ended)
    last = folder / "run" / "last.pt"
    if last.is_file():
        try:
            state = checkpoint.load(last)
        except InputError as error:
            yield "lost", str(error)
            return
        if ended and not same(state, checkpoint.load(whole / "run" / "last.pt")):
            yield "other", f"{last}: step {state['step']}"
    if ended and logged(folder) != logged(whole):
        yield "other", str(folder / "run" / "metrics.jsonl")


def logged(folder):
    """The lines of a run's log, without what a clock says."""
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def same(one, other):
    """Whether two nested dicts and lists of tensors, numbers and words are the same bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def faults_of_videos(folder, whole, ended):
    """What is wrong with the results of inference."""
    out = folder / "out"
    yield from partials(folder, ended)
    for path in sorted(out.glob("[!.]*.mp4")):
        try:
            frames = sum(1 for _ in frames_at(path, FPS))
        except InputError as error:
            frames = error
        if frames != FRAMES:
            yield "lost", f"{path}: {frames}"
    found, wanted = ({path.name for path in (each / "out").glob("[!.]*")} for each in (folder, whole))
    if found - wanted or ended and found != wanted:
        yield "left" if found - wanted else "lost", f"{out}: {sorted(found)}"
    if ended and (folder / "pairs.csv").is_file():
        made = [is_made(pair, pair.outfile.with_suffix(".json")) for pair in read_pairs(folder / "pairs.csv")]
        yield from [("lost", f"{folder}: {made}")] if not all(made) else []


def begun(stage, folder, log):
    """The id of a process of its own in which a command works in a folder. It inherits all imports: most of a start."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in stage.words(folder)]
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # until it can take them
    child = os.fork()
    if child:
        os.setpgid(child, child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        return child
    code = 99  # a bug
    try:
        for number in STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        code = stage.main(words)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        raise
    finally:  # this process is nobody's but the command's
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child, within_s):
    """The exit code of a process that ends within so many seconds, or None; negative where a signal has ended it."""
    until = time.monotonic() + within_s
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.005)


def killed(child, rng):
    """Ends a process, or all that it has begun too, by one of `SIGNALS`; returns its exit code."""
    number, everything = rng.choice(SIGNALS), rng.random() < 0.5
    (os.killpg if everything else os.kill)(child, number)
    return ended(child, 120)


def tried(stage, root, name, times, rng):
    """Kills a command so many times; returns the row of the table: {column: number}.

    What is left of it goes on, by the same command, until it is killed again or comes to its end; then one begins anew.
    """
    row, whole, log = dict.fromkeys(COLUMNS, 0), root / "whole" / name, root / "log"
    start = time.perf_counter()
    if ended(begun(stage, whole, log), LONGEST_S) != 0:
        raise InputError(f"{name} fails undisturbed: {log.read_text()[-600:]}")
    lasts_s, folders, code = time.perf_counter() - start, count(), 0
    while row["kills"] < times or code:
        if not code:
            folder = root / "killed" / name / str(next(folders))
        log.write_bytes(b"")
        child = begun(stage, folder, log)
        code = ended(child, rng.uniform(0, lasts_s) if row["kills"] < times else LONGEST_S)
        was_killed = code is None
        if was_killed:
            code = killed(child, rng)
            row["kills"] += 1
        if code not in STOPPED or code and not was_killed:
            row["tracebacks"] += 1
            print(f"{name}: exit code {code}: {log.read_text()[-2000:]}", file=sys.stderr)
            break
        for column, what in stage.faults(folder, whole, not code):
            row[column] += 1
            print(f"{name}, kill {row['kills']}: {column}: {what}", file=sys.stderr)
    return row | {"s": round(time.perf_counter() - start)}


def measure(args):
    """Kills each command its share of times and prints the table."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    print(HEAD + "\n" + "|---" * 7 + "|")
    with TemporaryDirectory() as root:
        root = Path(root)
        make_inputs(root)
        chosen = stages(root)
        for k, (name, stage) in enumerate(chosen.items()):
            times = args.times * (k + 1) // len(chosen) - args.times * k // len(chosen)
            is_asked = not args.commands or name in args.commands  # the data root of the first is always made
            row = tried(stage, root, name, times if is_asked else 0, random.Random(args.seed + k))
            if is_asked:
                print(f"| `{name}` | " + " | ".join(map(str, row.values())) + " |", flush=True)


def main(argv=None):
    """Parses the flags and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", default=50, type=int, help="kills, of all commands together (default: %(default)s)")
    parser.add_argument("--commands", nargs="+", help="only these rows of the table")
    parser.add_argument("--seed", default=0, type=int, help="decides the moments (default: %(default)s)")
    args = parser.parse_args(argv)
    return exit_code(parser.prog, lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
