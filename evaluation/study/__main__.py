"""A study with people: a page on which raters score videos blindly and type what they lip-read, and its results.

python -m evaluation.study make --out study real=data/videos ours=results/ours --clips 10 --words_from data/grid
python -m evaluation.study read --key study/key.json --answers answers/*.json
"""

import argparse
import json
import secrets
import sys
from hashlib import sha256
from pathlib import Path

from errors import InputError, exit_code
from evaluation.study import ratings
from evaluation.study.page import FORMAT, RATE, page, plan
from media.files import make_folder, replacing, write_text

# Slow imports are inside the functions, so that --help answers at once.
PAGE, VIDEOS, KEY = "for_raters", "videos", "key.json"


def make(args):
    """Copies the videos, writes the page and, apart from it, the key."""
    import numpy as np

    from evaluation.study import stimuli

    for flag, value, least in (("clips", args.clips, 1), ("seed", args.seed, 0)):
        if value is not None and value < least:
            raise InputError(f"--{flag} {value} must be at least {least}")
    if args.out.exists():
        raise InputError(f"{args.out} is there already, and a study is never overwritten: give another --out")
    seed = secrets.randbits(64) if args.seed is None else args.seed
    rng = np.random.default_rng(seed)
    methods = stimuli.folders(args.methods)
    chosen = stimuli.choose(methods, args.list, args.clips, rng)
    clips = list(next(iter(chosen.values())))
    words = stimuli.transcripts(args.words_from, clips) if args.words_from else {}
    items = plan(clips, list(methods), bool(words), rng)
    try:
        with replacing(args.out) as partial:
            coded = copy_all(partial / PAGE / VIDEOS, items, chosen)
            study = sha256(json.dumps([seed, items]).encode()).hexdigest()[:10]
            text = page(study, items, len(methods), args.title, args.note)
            (partial / PAGE / "index.html").write_text(text, encoding="utf-8")
            folders = {name: str(folder) for name, folder in methods.items()}
            key = {"format": FORMAT, "study": study, "seed": seed, "methods": folders, "clips": clips}
            (partial / KEY).write_text(json.dumps(key | {"words": words, "items": items}, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{args.out} cannot be made: {error.strerror}") from error
    print_next_steps(args.out, len(methods), len(clips), bool(words), coded)


def copy_all(folder, items, chosen):
    """Copies every video of a study to `folder` under its random name, and puts its sha256 and size into its item.

    The size in px, the same for all methods, keeps the page from moving when the video has been loaded.

    chosen: {method: {clip: path}}. Returns how many had to be coded again.
    """
    from evaluation.study import stimuli
    from media.video import probe

    folder.mkdir(parents=True)
    seen = {clip: probe(path) for clip, path in next(iter(chosen.values())).items()}
    coded = 0
    for name, item in items.items():
        target = folder / f"{name}.mp4"
        coded += stimuli.copy(chosen[item["method"]][item["clip"]], target, sound=item["part"] == RATE)
        item["size"] = [seen[item["clip"]].width, seen[item["clip"]].height]
        item["sha256"] = sha256(target.read_bytes()).hexdigest()
    return coded


def print_next_steps(out, methods, clips, reading, coded):
    """Prints what was made, and what to do next."""
    each = f"{methods * clips} videos to rate" + (f", {clips} to lip-read" if reading else "")
    print(f"{out / PAGE}: send this folder to every rater, with a number of their own: 1, 2, 3 and so on ({each})")
    print(f"{out / KEY}: keep this, it says which video is whose")
    if reading:
        print(f"Raters in multiples of {methods} let every method be lip-read in every clip equally often.")
    else:
        print("Without --words_from nothing is lip-read.")
    if coded:
        print(f"{coded} videos had to be coded again, as browsers do not play their format.")


def read(args):
    """Checks the answers and prints what they say of each method."""
    key = ratings.read_key(args.key)
    raters = ratings.read_all(args.answers, key)
    scores = ratings.score(key, raters)
    print(ratings.table(key, raters, scores))
    if args.csv:
        ratings.write_csv(args.csv, scores)
    if args.json:
        report = {name: key[name] for name in ("study", "methods", "clips")}
        report |= {"raters": [each["rater"] for each in raters], "scores": scores}
        report |= {"interval": "Student's t over raters; WER and CER: bootstrap over raters"}
        report |= {"sha256": {str(p): sha256(p.read_bytes()).hexdigest() for p in [args.key, *args.answers]}}
        make_folder(args.json.parent)
        write_text(args.json, json.dumps(report, indent=1) + "\n")


def main(argv=None):
    """Parses the flags, and makes a study or reads its answers."""
    parser = argparse.ArgumentParser("evaluation.study", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    tasks = parser.add_subparsers(dest="task", required=True, metavar="task")
    sub = tasks.add_parser("make", help="a page for raters, and the key to it")
    sub.add_argument("methods", nargs="+", metavar="NAME=FOLDER", help="a method and its videos; two or more")
    sub.add_argument("--out", required=True, type=Path, help="folder to be made")
    sub.add_argument("--clips", type=int, help="of each method, at random (default: 10, or all)")
    sub.add_argument("--list", type=Path, help="choose among the clips in this list only, such as a split's test.txt")
    sub.add_argument("--words_from", type=Path, help="data root that knows what is said: raters lip-read, too")
    sub.add_argument("--title", default="Rating talking faces", help="of the page (default: %(default)s)")
    sub.add_argument("--note", default="", help="what raters read first, such as the language and the topic")
    sub.add_argument("--seed", type=int, help="decides clips, names and orders; kept in the key (default: at random)")
    sub.set_defaults(job=make)
    sub = tasks.add_parser("read", help="the answers: mean opinion scores and human word error rates")
    sub.add_argument("--key", required=True, type=Path, help="key.json of the study")
    sub.add_argument("--answers", required=True, nargs="+", type=Path, help="the files that raters sent, one each")
    sub.add_argument("--csv", type=Path, help="write the scores here, a line for each method and measure")
    sub.add_argument("--json", type=Path, help="write all of it here")
    sub.set_defaults(job=read)
    args = parser.parse_args(argv)
    return exit_code(parser.prog, lambda: args.job(args))


if __name__ == "__main__":
    sys.exit(main())
