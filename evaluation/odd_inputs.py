"""Makes odd and broken inputs of many kinds, runs the commands' own code on them, and counts what happens.

python -m evaluation.odd_inputs --cases 450
"""

import argparse
import contextlib
import hashlib
import io
import random
import shutil
import sys
import traceback
import wave
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import checkpoint
import inference
import preprocess
import train
import train_expert
from corpora.filelists import filelists
from corpora.transcripts import KINDS as LAYOUTS
from corpora.transcripts import read_transcript
from errors import InputError, exit_code
from evaluation import evaluate, kills
from hparams import ExpertHParams, HParams
from media.pairs import read_pairs
from models import build_generator

NARROW = {"width": 1 / 16, "speech": "local"}  # an untrained generator: what it draws does not matter here
RATE, LOUD, LIT = 48_000, 2000, 128  # Hz of the made sound; levels above which there is a beep, a flash
EVERY_S, LASTS_S = 1.0, 0.12  # beeps and flashes
SLACK_S = 0.15  # by which a coder may lengthen a sound
CONTAINERS = {  # suffix: (video codecs, sound codecs) that go into it
    ".mp4": (("libx264", "mpeg4"), ("aac", "mp3")),
    ".mov": (("libx264", "mjpeg"), ("aac", "pcm_s16le")),
    ".mkv": (("libx264", "mpeg4", "mjpeg"), ("aac", "flac", "mp3", "pcm_s16le")),
    ".avi": (("mpeg4", "mjpeg"), ("mp3", "pcm_s16le")),
    ".ts": (("libx264", "mpeg2video"), ("aac", "mp2")),
}
RATES = ("8", "12", "15", "24000/1001", "24", "25", "30000/1001", "30", "50", "60")
STILLS = (".png", ".jpg", ".bmp", ".tif", ".webp")
CODES = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32", "cp1251")
FILES = ("videos", "stills", "damaged videos", "damaged weights", "transcripts", "lists")
TRAINED = ("data roots", "runs", "flags")  # for which a small data root, and a run on it, are made first
KINDS = FILES + TRAINED
FEW = ("--max_steps", 3, "--log_every", 1, "--save_every", 1, "--valid_every", 2, "--device", "cpu")
TASKS = {"pretrain": (), "words": ("--model", "words"), "sync": ("--model", "sync", "--shrink", 2)}
RUNS = {"train": ["--name", "r", *kills.flags(kills.TRAIN), *FEW]} | {
    f"train_expert {task}": [task, "--name", "r", *kills.flags(kills.EXPERT), *more, *FEW]
    for task, more in TASKS.items()
}
ODD_VALUES = {  # of a knob, by its type; the last are of other types
    int: ("-1", "0", "1", "2", "3", "7", "50", "nan", "x"),
    float: ("-1", "0", "1e-30", "0.1", "0.5", "1", "3", "nan", "inf", "x"),
    str: ("x", "", "1"),
}
OUTCOMES = ("worked", "refused", "traceback", "length", "step", "lost")
HEAD = "| kind | cases | worked | refused in one line | tracebacks | wrong lengths | out of step | files lost |"


def draw(rng):
    """How a video of flashes and a sound of beeps is made: a dict of choices."""
    suffix = rng.choice(list(CONTAINERS))
    pictures, sounds = CONTAINERS[suffix]
    how = {
        "suffix": suffix,
        "picture": rng.choice(pictures),
        "sound": rng.choice(sounds),
        "fps": Fraction(rng.choice(RATES if suffix != ".ts" else RATES[3:])),
        "size": (2 * rng.randint(32, 90), 2 * rng.randint(32, 90)),
        "seconds": rng.uniform(1.3, 2.6),
        "layout": rng.choice(("mono", "stereo")),
        "late_s": rng.choice((0.0, 0.0, 0.3, 0.7)),
        "hole": rng.choice(((0, 0), (0, 0), (0.5, 0.9))),
        "b_frames": rng.choice((0, 2)),  # pictures in a row that are decoded after the next
    }
    if suffix == ".avi":  # which has no times of its sound
        how["late_s"] = 0.0
    if how["picture"] == "mjpeg":
        how["b_frames"] = 0
    if suffix == ".avi" or suffix == ".mov" and "pcm" in how["sound"]:  # where a hole cannot be written
        how["hole"] = (0, 0)
    return how


def write_video(path, how):
    """Writes a video whose corner is lit while its sound beeps."""
    import av

    (width, height), fps, rate = how["size"], how["fps"], RATE
    frames, samples = round(how["seconds"] * fps), round(how["seconds"] * rate)
    t = np.arange(samples) / rate
    beeps = np.where(t % EVERY_S < LASTS_S, 12_000 * np.sin(2 * np.pi * 1000 * t), 0).astype(np.int16)
    with av.open(str(path), "w") as out:
        options = {"crf": "16", "preset": "ultrafast"} if how["picture"] == "libx264" else {"b": "4000000"}
        stream = out.add_stream(how["picture"], rate=fps, options=options)
        pix_fmt = "yuvj420p" if how["picture"] == "mjpeg" else "yuv420p"
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.max_b_frames = how["b_frames"]
        track = out.add_stream(how["sound"], rate=rate, layout=how["layout"])
        packets = []
        for k in range(frames):
            rgb = np.full((height, width, 3), 40, np.uint8)
            rgb[:24, :24] = 255 if float(k / fps) % EVERY_S < LASTS_S else 0
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pix_fmt)
            picture.pts, picture.time_base = k, 1 / fps
            packets += stream.encode(picture)
        packets += stream.encode(None)
        heard = [packet for part in pieces(beeps, how, track) for packet in track.encode(part)] + track.encode(None)
        start, end = how["hole"]
        packets += [p for p in heard if not start <= float((p.pts or 0) * p.time_base) < end]
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            out.mux(packet)


def pieces(beeps, how, track):
    """The sound as frames, from its beginning on, which may be late."""
    import av

    step, channels = track.codec_context.frame_size or 1024, 2 if how["layout"] == "stereo" else 1
    for start in range(round(how["late_s"] * RATE), len(beeps), step):
        part = np.ascontiguousarray(np.repeat(beeps[None, start : start + step], channels, 0))
        frame = av.AudioFrame.from_ndarray(part, format="s16p", layout=how["layout"])
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        yield frame


def events(path):
    """When a result is lit and when it beeps, s, how long it is, and how many frames a second it has."""
    import av

    lit, wav = [], []
    with av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate)
        resampler = av.AudioResampler("s16p", "mono", 16_000)
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                lit.append(frame.to_ndarray(format="gray")[4:20, 4:20].mean() > LIT)
            else:
                wav += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    loud = np.convolve(np.abs(np.concatenate(wav).astype(float)), np.ones(80) / 80, "same") > LOUD
    starts = [np.flatnonzero(np.diff(np.append(0, each).astype(int)) == 1) for each in (lit, loud)]
    return starts[0] / fps, starts[1] / 16_000, len(lit) / fps, fps


class Bug(Exception):
    """What ended a run otherwise than by an error in one line."""


@contextlib.contextmanager
def counted():
    """Around a run: what is no `InputError` becomes a `Bug`, and is shown."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        traceback.print_exc(file=sys.__stderr__)
        raise Bug(str(error)) from error


def run(words, main=inference.main, talks=False):
    """How a command ended: "worked", "refused", in one line, or "traceback". talks: it tells of its progress before."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()), counted():
            code = main([str(word) for word in words])
    except Bug:
        return "traceback"
    except SystemExit as end:  # of a flag that there is not, or that has another type
        code = 1 if end.code == 2 else end.code
        talks = True
    if code > 128:  # the user has stopped it, and means all of it
        raise KeyboardInterrupt
    lines = [line for line in told.getvalue().splitlines() if " pass through unchanged" not in line]
    if code == 0 or code == 1 and (len(lines) == 1 or talks and "Traceback" not in told.getvalue()):
        return "refused" if code else "worked"
    print(told.getvalue(), file=sys.__stderr__)
    return "traceback"


def of_video(folder, rng, weights, damaged=False):
    """The outcomes of a case in which face and sound are one odd video."""
    how = draw(rng)
    path, out = folder / f"in{how['suffix']}", folder / "out.mp4"
    write_video(path, how)
    if damaged:
        path.write_bytes(damage(path.read_bytes(), rng))
    before = path.read_bytes()
    height, width = how["size"][1], how["size"][0]
    box = ("--box", height // 2, height - 4, width // 2, width - 4)
    words = ["--face", path, "--audio", path, "--outfile", out, "--checkpoint_path", weights, "--quiet"]
    found = [run([*words, *box, "--device", "cpu"])]
    found += ["lost"] if path.read_bytes() != before or (found[0] != "worked" and out.exists()) else []
    if found[0] == "worked" and not damaged:
        flashes, beeps, seconds, fps = events(out)
        if abs(seconds - how["seconds"]) > 1 / fps + SLACK_S:
            found.append("length")
        silent = [(0, how["late_s"]), how["hole"]]
        for time_s in flashes:
            quiet = any(start - LASTS_S <= time_s < end + 0.05 for start, end in silent if end)
            if (
                not quiet
                and time_s < how["seconds"] - LASTS_S
                and np.abs(beeps - time_s).min(initial=9) > 1 / fps + 0.01
            ):
                found.append("step")
    return found, how


def damage(data, rng):
    """A file cut off, with bytes changed, or with a part left out."""
    data, at = bytearray(data or b" "), rng.randrange(len(data) or 1)
    kind = rng.choice(("cut", "change", "hole"))
    if kind == "cut":
        return bytes(data[:at])
    if kind == "hole":
        return bytes(data[:at] + data[at + rng.randint(1, 3000) :])
    for _ in range(rng.randint(1, 60)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def of_still(folder, rng, weights):
    """The outcomes of a case in which the face is a picture."""
    import cv2

    path, sound = folder / f"in{rng.choice(STILLS)}", folder / "in.wav"
    channels = rng.choice((1, 3, 4))
    size = (rng.randint(17, 150), rng.randint(17, 150), channels)
    cv2.imwrite(str(path), np.random.default_rng(rng.randrange(99)).integers(0, 255, size, np.uint8))
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, rng.choice((8000, 16_000, 44_100)), 0, "NONE", ""))
        file.writeframes(bytes(rng.randrange(2, 16_000) // 2 * 2))
    words = ["--face", path, "--audio", sound, "--outfile", folder / "out.mkv", "--checkpoint_path", weights, "--quiet"]
    return [run([*words, "--box", 0, size[0], 0, size[1], "--device", "cpu"])], size


def read_by(reader, path):
    """How a reader of files takes one."""
    try:
        with counted():
            reader(path)
    except Bug:
        return "traceback"
    except InputError:
        return "refused"
    return "worked"


def of_weights(folder, rng, weights):
    """The outcomes of a case in which weights of ours are damaged."""
    path = folder / "w.safetensors"
    path.write_bytes(damage(Path(weights).read_bytes(), rng))
    return [read_by(checkpoint.load_generator, path)], path


def of_text(folder, rng, kind):
    """The outcomes of a case in which a transcript, or a list, is in an odd encoding, or damaged."""
    path = folder / ("train.txt" if kind == "lists" else "a.txt")
    words = "Text:  BIN BLUE AT F TWO NOW\nWORD START END ASDSCORE\nBIN 0.10 0.25 1.0\n"
    text = words if kind == "transcripts" else "main/s1/aa.mp4\r\n#x\ns1\\bb,NF,c.mp4\n"
    data = text.encode(rng.choice(CODES))
    path.write_bytes(damage(data, rng) if rng.random() < 0.6 else data)
    if kind == "transcripts":
        return [read_by(lambda each: read_transcript(each, rng.choice(list(LAYOUTS))), path)], data
    reader = rng.choice((read_pairs, lambda each: filelists(each.parent, known={"s1/aa", "s1/bb"})))
    return [read_by(reader, path)], data


def made_root(folder):
    """Makes a small data root and a run on it, each of `RUNS`, in a folder; returns the path of the root."""
    kills.make_inputs(folder)
    root = folder / "data"
    words = [["--data_root", folder / "corpus", "--out", root, "--workers", 1]]
    words += [["tokenizer", "--data_root", root, "--out", root / "tokenizer.model", "--size", 40, "--kind", "word"]]
    ends = [run(each, main, True) for each, main in zip(words, (preprocess.main, train_expert.main), strict=True)]
    for name, flags in RUNS.items():
        ends.append(run([*flags, "--data_root", root, "--runs", folder / name], main_of(name), True))
    if set(ends) != {"worked"}:
        raise InputError(f"a data root could not be made: {ends}")
    return root


def main_of(name):
    """The main function of one of `RUNS`."""
    return train.main if name == "train" else train_expert.main


def content(folder):
    """The SHA-256 of every file in a folder."""
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def of_root(folder, rng, root):
    """The outcomes of a case in which something in a data root is missing, damaged or odd."""
    shutil.copytree(root, folder / "data")
    path = rng.choice(sorted(path for path in (folder / "data").rglob("*") if path.is_file()))
    how = rng.choice(("gone", "empty", "damaged", "odd"))
    if how == "gone":
        path.unlink()
    elif how == "odd" and path.suffix == ".safetensors":
        how = odd_arrays(path, rng)
    elif how == "odd":
        extra = rng.choice(("", "# mine\r\n", "../../x\n", "ann/00 \n", "\n\n", "{}"))
        path.write_bytes((path.read_bytes().decode("latin-1") + extra).encode(rng.choice(CODES), "replace"))
    else:
        path.write_bytes(damage(path.read_bytes(), rng) if how == "damaged" else b"")
    before, name = content(folder / "data"), rng.choice([*RUNS, "evaluate", "check"])
    given = ["--data_root", folder / "data", "--runs", folder / "runs"]
    if name == "evaluate":
        words = ["--real", folder / "data", "--out", folder / "out", "--measures", "visual", "--workers", 1]
        found = [run(words, evaluate.main, True)]
    elif name == "check":
        found = [run(["--check", folder / "data"], preprocess.main, True)]
    else:
        found = [run([*RUNS[name], *given], main_of(name), True)]
    after = content(folder / "data")
    found += ["lost"] if any(after.get(path) != what for path, what in before.items()) else []
    return found, (name, path.name, how)


def odd_arrays(path, rng):
    """Makes one array of a stored clip odd; returns how."""
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(path, "np") as file:
        about = file.metadata()
    arrays = load_file(path)
    name, how = rng.choice(sorted(arrays)), rng.choice(("missing", "shorter", "none", "nan", "other type", "flat"))
    array = arrays.pop(name)
    if how == "nan":
        array = np.full_like(array, np.nan) if array.dtype.kind == "f" else np.full_like(array, 255)
    changed = {"shorter": array[:-1], "none": array[:0], "other type": array.astype(np.float64), "flat": array.ravel()}
    if how != "missing":
        arrays[name] = np.ascontiguousarray(changed.get(how, array))
    save_file(arrays, path, about)
    return f"{name} {how}"


def of_run(folder, rng, root):
    """The outcomes of a case in which a file of a run is damaged or missing, and the run is resumed."""
    name = rng.choice(list(RUNS))
    shutil.copytree(root.parent / name, folder / "runs")
    path = rng.choice(sorted(path for path in (folder / "runs" / "r").iterdir() if path.is_file()))
    path.write_bytes(damage(path.read_bytes(), rng) if rng.random() < 0.8 else b"")
    more = ["--max_steps", 4] if rng.random() < 0.5 else []
    given = ["--data_root", root, "--runs", folder / "runs", *more]
    return [run([*RUNS[name], *given], main_of(name), True)], (name, path.name, more)


def of_flags(folder, rng, root):
    """The outcomes of a case in which a knob has an odd value."""
    name = rng.choice(list(RUNS))
    knobs = fields(HParams if name == "train" else ExpertHParams)
    knob = rng.choice([knob for knob in knobs if knob.type in ODD_VALUES])
    value = rng.choice(ODD_VALUES[knob.type])
    given = ["--data_root", root, "--runs", folder, f"--{knob.name}={value}"]
    return [run([*RUNS[name], *given], main_of(name), True)], (name, knob.name, value)


def case_of(kind, folder, rng, weights, root=None):
    """Makes one case of a kind and judges it: (outcomes, what it was). root: of `made_root`, for kinds of `TRAINED`."""
    if kind in TRAINED:
        return {"data roots": of_root, "runs": of_run, "flags": of_flags}[kind](folder, rng, root)
    if kind in ("videos", "damaged videos"):
        return of_video(folder, rng, weights, damaged=kind != "videos")
    if kind == "stills":
        return of_still(folder, rng, weights)
    return of_weights(folder, rng, weights) if kind == "damaged weights" else of_text(folder, rng, kind)


def measure(args):
    """Runs all cases and prints the table; those that went wrong are named on stderr by their number."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    counts = {kind: dict.fromkeys(("cases", *OUTCOMES), 0) for kind in args.kinds}
    with TemporaryDirectory() as root:
        weights, hp = Path(root) / "narrow.safetensors", HParams(**NARROW)
        checkpoint.export(weights, build_generator(hp), hp)
        (Path(root) / "made").mkdir()
        data = made_root(Path(root) / "made") if set(args.kinds) & set(TRAINED) else None
        for number in range(args.first, args.first + args.cases):
            kind = args.kinds[number % len(args.kinds)]
            folder = Path(root) / str(number)
            folder.mkdir()
            found, what = case_of(kind, folder, random.Random(args.seed * 1_000_003 + number), weights, data)
            counts[kind]["cases"] += 1
            for outcome in found:
                counts[kind][outcome] += 1
            if set(found) - {"worked", "refused"}:
                print(f"case {number}, {kind}: {', '.join(found)}: {str(what)[:300]}", file=sys.stderr)
            shutil.rmtree(folder)
    print(HEAD + "\n" + "|---" * 8 + "|")
    for kind, row in counts.items():
        print(f"| {kind} | " + " | ".join(str(row[name]) for name in ("cases", *OUTCOMES)) + " |")


def main(argv=None):
    """Parses the flags and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=450, type=int, help="how many, of all kinds in turn (default: %(default)s)")
    parser.add_argument("--first", default=0, type=int, help="number of the first one, to see one again (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="(default: all)")
    parser.add_argument("--seed", default=0, type=int, help="decides all cases (default: %(default)s)")
    args = parser.parse_args(argv)
    return exit_code(parser.prog, lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
