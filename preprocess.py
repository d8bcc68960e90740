"""Turns a corpus of talking videos into a data root: face crops, boxes, meshes, mouths, sound and transcripts.

python preprocess.py --data_root lrs2 --out data/lrs2
python preprocess.py --check data/lrs2
"""

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from errors import InputError, exit_code
from workers import processors, progress_bar

# Slow imports are inside the functions, so that --help answers at once.

CORPORA = ("auto", "lrs2", "lrs3", "lrw", "grid", "hdtf", "voxceleb2", "folder", "pictures")
FACE_SIZES = (96, 128, 256)


def check(args):
    """Raises InputError, before any work is done, for flags that do not go together or are out of bounds."""
    if args.check:
        return
    if not args.data_root or not args.out:
        raise InputError("give --data_root, a corpus, and --out, the data root to write; or --check, a data root")
    if args.out.resolve() == args.data_root.resolve():
        raise InputError(f"--out {args.out} is the corpus itself, whose filelists would be overwritten: name another")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers} must be at least 1")
    if not 0 <= args.max_offset <= 15:
        raise InputError(f"--max_offset {args.max_offset} must be from 0 to 15 frames, which are tried")
    if not 0 <= args.max_skipped <= 1:
        raise InputError(f"--max_skipped {args.max_skipped} is a share: from 0 to 1")


def shard_of(text):
    """(I, N) of "I/N", the I-th of N parts. Raises InputError for anything else."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise InputError(f"--shard {text}: it is I/N, the I-th of N parts, from 1/N to N/N")
    return int(number), int(count)


def chosen_splits(corpus, splits):
    """The splits to preprocess, by default all of the corpus; raises InputError for one that it does not have."""
    if unknown := [split for split in splits or () if split not in corpus.lists]:
        raise InputError(f"--splits {unknown[0]}: this corpus has {', '.join(sorted(corpus.lists))}")
    return sorted(splits or corpus.lists)


def tell_of_two_lists(lists):
    """Names on stderr the clips that are in more than one list, where they are trained on and measured."""
    from corpora.filelists import in_two

    if twice := in_two(lists):
        first, splits = next(iter(twice.items()))
        count = f"{len(twice)} clips are" if len(twice) > 1 else "one clip is"
        print(f"preprocess.py: {count} in more than one list: {first} in {' and '.join(splits)}", file=sys.stderr)


def preprocess(args):
    """Extracts every clip of a corpus that is not yet in the data root; prints a summary as JSON."""
    import checkpoint
    from corpora.data_root import DataRoot, general
    from corpora.extract import Extractor
    from corpora.layouts import read_corpus
    from faces import detect
    from faces.crop import SURROUNDINGS
    from workers import local, on_ray

    number, count = shard_of(args.shard)
    if args.ray:  # its workers have other working folders
        args.data_root, args.out = args.data_root.resolve(), args.out.resolve()
    corpus = read_corpus(args.data_root, args.dataset)
    splits = chosen_splits(corpus, args.splits)
    tell_of_two_lists(corpus.lists)
    detect.DETECTORS[args.detector]("cpu")  # reports a missing package, which a worker that cannot start does not
    sync = sync_model(args)
    settings = {"face_px": args.face_px, "crop_px": round(args.face_px * SURROUNDINGS), "corpus": corpus.kind}
    settings["detector"] = args.detector
    settings["sync"] = [checkpoint.sha256(sync[0]), sync[1]] if sync else None
    root = DataRoot(args.out, settings)
    names = sorted({name for split in splits for name in corpus.lists[split]})[number - 1 :: count]
    refused = {name: corpus.refused[name] for name in sorted(corpus.refused)[number - 1 :: count]}
    most = args.max_skipped * (len(names) + len(refused)) - len(refused)
    todo = [corpus.clips[name] for name in names if not root.clip(name).is_file()]
    reasons = {raw.name: reason for raw in todo if (reason := root.reason(raw))}
    todo = [raw for raw in todo if raw.name not in reasons]
    random.Random(os.getpid()).shuffle(todo)  # so that two runs on one root seldom begin the same clip
    make = partial(Extractor, root, args.face_px, args.detector, sync)
    results = on_ray(make, todo, args.ray, args.workers) if args.ray else local(make, todo, workers(args))
    try:
        done = collect(results, reasons, len(todo), most)
        root.finish(corpus, splits)
    except OSError as error:
        raise InputError(f"{args.out} cannot be written: {error.strerror or error}") from error
    except BaseException:
        root.finish(corpus, splits)
        raise
    skipped = reasons | refused
    print(json.dumps({"corpus": corpus.kind, "clips": len(names), "skipped": len(skipped), **done}))
    if len(reasons) > most:
        (reason, times), path = Counter(map(general, skipped.values())).most_common(1)[0], args.out / "skipped.txt"
        why = f"{len(skipped)} of {len(names) + len(refused)} clips could not be used, {times} of them: {reason}"
        raise InputError(f"{why}. See {path}; if that is as it should be, raise --max_skipped {args.max_skipped:g}")


def sync_model(args):
    """The path of the sync model that was given and the most frames that the sound may be off, or None.

    Raises InputError for a file that holds none: here, once, and not in every worker.
    """
    if not args.sync_model:
        return None
    from experts.sync import load_sync

    load_sync(args.sync_model)
    return args.sync_model.resolve(), args.max_offset


def workers(args):
    """The number of processes on this machine: as many as asked for, by default one a processor."""
    return args.workers or processors()


def collect(results, reasons, total, most):
    """Collects the workers' results, and fills `reasons`, until more than `most` clips were skipped.

    Returns what this run did: clips, seconds of video, seconds it took, times faster than real time, and bytes.
    """
    done, seconds, size, start = 0, 0.0, 0, time.perf_counter()
    for result in progress_bar(total, "clip", iterable=results, desc="preprocess"):
        if result["reason"]:
            reasons[result["name"]] = result["reason"]
        else:
            done, seconds, size = done + (result["bytes"] > 0), seconds + result["seconds"], size + result["bytes"]
        if len(reasons) > most:
            results.close()  # clips that have begun are finished
            break
    took = time.perf_counter() - start
    rates = {"times_real_time": round(seconds / took, 2), "bytes_a_second": round(size / seconds) if seconds else 0}
    return {"done_now": done, "seconds": round(seconds, 2), "took_s": round(took, 2), **rates}


def main(argv=None):
    """Parses the flags and preprocesses a corpus, or reports on a data root."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, help="the corpus, as it was unpacked")
    parser.add_argument(
        "--dataset", default="auto", choices=CORPORA, help="its layout (default: detected from its files)"
    )
    parser.add_argument("--out", type=Path, help="the data root to write; the same command resumes")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="lists to preprocess (default: all there are)")
    parser.add_argument(
        "--face_px",
        default=96,
        type=int,
        choices=FACE_SIZES,
        help="height and width at which the face box is kept, px (default: %(default)s)",
    )
    parser.add_argument(
        "--detector", default="blazeface", choices=("blazeface", "batch-face"), help="(default: %(default)s)"
    )
    parser.add_argument("--sync_model", type=Path, help="measure how late the sound is by this model, and correct it")
    parser.add_argument(
        "--max_offset",
        default=5,
        type=int,
        help="frames: clips whose sound is further off are left out (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, help="processes at once (default: one a processor)")
    parser.add_argument("--ray", metavar="ADDRESS", help="work on this Ray cluster: its address, auto, or local")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="only the I-th of N parts, for an array of jobs")
    parser.add_argument(
        "--max_skipped",
        default=0.2,
        type=float,
        help="share of clips that may be left out before it stops (default: %(default)s)",
    )
    parser.add_argument(
        "--check", type=Path, metavar="ROOT", help="report on a data root: numbers, contact sheet, histograms"
    )
    args = parser.parse_args(argv)

    def work():
        check(args)
        if args.check:
            from corpora.report import report

            report(args.check)
        else:
            preprocess(args)

    return exit_code(parser.prog, work, if_stopped="stopped; the same command resumes with the clips that are missing")


if __name__ == "__main__":
    sys.exit(main())
