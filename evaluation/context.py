"""CALS' experiments on phonetic context: a masked span of sound, in pictures and numbers, and windows of sound.

python -m evaluation.context strip --data_root data/grid --rows baseline=b.safetensors a2l=a.safetensors
python -m evaluation.context spans --data_root data/grid --rows baseline=b.safetensors a2l=a.safetensors
python -m evaluation.context window --data_root data/grid --rows a2l=a.safetensors baseline=b.safetensors
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

import audio
import distributed
from audio import RATE
from corpora.corpus import speaker
from data import to_tensor
from distributed import device_of
from errors import InputError, exit_code
from evaluation.bootstrap import difference, estimate
from evaluation.figures import named_paths, plot
from evaluation.landmarks import Mesher, lmd
from evaluation.rows import Corpus, GeneratedRows
from media.clip import FPS
from media.files import write_text
from media.frame import write_picture
from renderer import SpeechTrack, like
from workers import progress_bar

WHOLE, MASKED, NOISE, SILENCE = CORRUPTIONS = "whole sound", "masked", "noise", "silence"
SAMPLES = RATE // FPS  # of sound in a frame
WINDOWS_S = tuple(round(0.2 * n, 1) for n in range(1, 11))
RED = torch.tensor([0.8, 0.1, 0.1])  # above the frames whose sound is masked
BAR_PX = 4


def corrupted(wav, span, how, rng):
    """A sound of which a span is noise as loud as all of it, or digital silence: (samples,) int16.

    span: its first frame, and the one after its last.
    """
    wav, part = wav.copy(), slice(SAMPLES * span[0], SAMPLES * span[1])
    loud, wav[part] = np.sqrt(np.mean(wav.astype(np.float64) ** 2)), 0
    if how == NOISE:
        wav[part] = rng.normal(0, loud, len(wav[part])).round().clip(-32768, 32767)
    return wav


def mel_rows(clip):
    """What Audio-to-Lip is given of a clip: (L, 320) float32."""
    return audio.mel_rows(audio.fast_mel_spectrogram(clip.wav, audio.MELS["cals"]))


@torch.inference_mode()
def speech_of(method, clip, frames, span, how, rng):
    """The speech of frames of a clip, a span of whose sound is corrupted: (T, D).

    method: a `GeneratedRows`.  span: its first frame, and the one after its last.  how: of `CORRUPTIONS`.
    Masked as Audio-to-Lip's training masks it; a generator without it knows no mask and gets silence, whose mel is as
    low as it can be.
    """
    if how == MASKED and method.hp.speech == "utterance":
        rows = mel_rows(clip)
        masked = torch.zeros(1, len(rows), audio.JOINED, dtype=torch.bool)
        masked[:, span[0] : span[1]] = True
        rows = like(method.generator, rows)[None]
        units = method.generator.speech(rows, masked=masked.flatten(1).to(rows.device))[0]
        return units[np.minimum(frames, len(units) - 1)]
    wav = clip.wav if how == WHOLE else corrupted(clip.wav, span, how, rng)
    return SpeechTrack(method.generator, method.hp, wav)(np.asarray(frames) / FPS)


class Lmd:
    """Measures LMD of frames, generated against real; the real ones' meshes are found once a clip."""

    def __init__(self, real):
        self.real, self.mesher, self.known = real, Mesher(), {}

    def found(self, crops, frames):
        """The meshes of crops of these frames, and whether there is a face."""
        clip = self.real.clip
        return self.mesher(crops, clip.meshes[frames], clip.boxes[frames], self.real.margin)

    def __call__(self, crops, frames):
        """The LMD of each frame, % of eye distance, NaN where one has no face: (T,)."""
        key = tuple(frames)
        if key not in self.known:
            self.known[key] = self.found(self.real.crops[frames], frames)
        (mesh, seen), (real_mesh, real_seen) = self.found(crops, frames), self.known[key]
        return np.where(seen & real_seen, lmd(mesh, real_mesh), np.nan)


def methods_of(args):
    """The generators that --rows names: {name: `GeneratedRows`}. Raises InputError for one that warps."""
    device = device_of(args.device)
    found = {name: GeneratedRows(path, device) for name, path in named_paths(args.rows).items()}
    for name, method in found.items():
        if method.hp.model == "warp":
            raise InputError(f"--rows {name}: a generator that warps has no context to be measured here")
    return found


def spans_of(clip, count, frames, rng):
    """So many spans of a clip's frames at random places, within its words where their times are known: (count, 2)."""
    low, high = 0, len(clip)
    if len(clip.times):
        low, high = int(clip.times.min() * FPS), min(int(np.ceil(clip.times.max() * FPS)), high)
    if high - low < frames:
        low, high = 0, len(clip)
    if high - low < frames:
        raise InputError(f"{clip.path}: {len(clip)} frames, fewer than the span's {frames}: lower --span_s")
    starts = rng.integers(low, high - frames + 1, count)
    return np.stack([starts, starts + frames], axis=1).tolist()


def told(estimated):
    """A value and its interval, or that there is none."""
    if estimated["value"] is None:
        return "none"
    interval = "" if estimated["low"] is None else f" ({estimated['low']:.2f} to {estimated['high']:.2f})"
    return f"{estimated['value']:.2f}{interval}"


def counted(values):
    """The sum and the number of values that are no NaN, see `bootstrap.estimate`."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.sum()), len(known)


def write_report(args, methods, found):
    """Writes all numbers, and the SHA-256 of the weights they are of, where --json asks for it."""
    if args.json:
        weights = {name: method.about["sha256"] for name, method in methods.items()}
        write_text(args.json, json.dumps({"weights": weights, **found}, indent=1) + "\n")


def spans(args):
    """LMD within spans of sound that are masked, noise or silence: a row a generator, and its difference to the first.

    Every generator and corruption has the same spans; intervals are over clips.
    """
    methods, corpus = methods_of(args), Corpus(args.data_root, args.split)
    names, frames = corpus.names[: args.clips], max(round(args.span_s * FPS), 1)
    each = -(-args.spans // len(names))
    pairs = {name: {how: [] for how in CORRUPTIONS} for name in methods}
    people = [speaker(name) for name in names]
    with progress_bar(len(names), "clip") as bar:
        for number, clip_name in enumerate(names):
            real, rng = corpus.real(clip_name), np.random.default_rng((args.seed, number))
            measure, chosen = Lmd(real), spans_of(real.clip, each, frames, rng)
            for name, method in methods.items():
                for how in CORRUPTIONS:
                    values = []
                    for k, span in enumerate(chosen):
                        noise, inside = np.random.default_rng((args.seed, number, k)), np.arange(*span)
                        speech = speech_of(method, real.clip, inside, span, how, noise)
                        values.extend(measure(method.painted(real, speech, inside), inside))
                    pairs[name][how].append(counted(values))
            bar.update()
    first = next(iter(methods))
    print(f"LMD, % of eye distance, within {each * len(names)} spans of {args.span_s:g} s in {len(names)} clips\n")
    print(f"| row | {' | '.join(CORRUPTIONS)} |\n|{'---|' * (1 + len(CORRUPTIONS))}")
    found = {}
    for name, of in pairs.items():
        found[name] = {how: {"lmd": estimate(of[how], people)} for how in CORRUPTIONS}
        print(f"| {name} | {' | '.join(told(found[name][how]['lmd']) for how in CORRUPTIONS)} |")
        for how in CORRUPTIONS if name != first else ():
            found[name][how]["difference"] = difference(of[how], pairs[first][how], people)
        if name != first:
            print(f"| {name} - {first} | {' | '.join(told(found[name][how]['difference']) for how in CORRUPTIONS)} |")
    write_report(args, methods, {"spans": each * len(names), "span_s": args.span_s, "rows": found})


@torch.inference_mode()
def windowed(method, clip, centres, frames):
    """The speech of some frames of a clip, each of so many frames of sound around it alone: (T, D)."""
    if method.hp.speech != "utterance":  # it hears what it always hears
        return SpeechTrack(method.generator, method.hp, clip.wav)(centres / FPS)
    rows, half = like(method.generator, mel_rows(clip)), frames // 2
    windows = torch.stack([rows[centre - half : centre - half + frames] for centre in centres])
    return method.generator.encode_audio(windows)[:, half]


def stops_at(pairs, people=None):
    """The first window from which on no interval of its difference to the longest is above 0; the longest, if none is.

    pairs: {window: pairs of its clips}, from the shortest to the longest.  people: who is seen in each clip.
    """
    windows, stop = list(pairs), list(pairs)[-1]
    for window in reversed(windows[:-1]):
        low = difference(pairs[window], pairs[windows[-1]], people)["low"]
        if low is None or low > 0:
            break
        stop = window
    return stop


def window(args):
    """Figure 3: LMD of the middle frame of a window of sound, by the window's length, and where it stops improving."""
    methods, corpus = methods_of(args), Corpus(args.data_root, args.split)
    sizes = [max(round(FPS * each), 1) for each in args.windows_s]
    if sizes != sorted(set(sizes)):
        raise InputError("--windows_s: give them from the shortest to the longest, each once")
    names, room = corpus.names[: args.clips], sizes[-1] // 2 + 1
    pairs = {name: {each: [] for each in args.windows_s} for name in methods}
    people = [speaker(name) for name in names]
    with progress_bar(len(names), "clip") as bar:
        for clip_name in names:
            real = corpus.real(clip_name)
            length = min(len(real.clip), len(real.clip.wav) // SAMPLES)
            if length < 2 * room:
                raise InputError(f"{clip_name}: {length} frames with sound, --windows_s asks for {2 * room}")
            measure, centres = Lmd(real), np.linspace(room, length - room, args.centres).astype(int)
            for name, method in methods.items():
                for seconds, size in zip(args.windows_s, sizes, strict=True):
                    speech = windowed(method, real.clip, centres, size)
                    pairs[name][seconds].append(counted(measure(method.painted(real, speech, centres), centres)))
            bar.update()
    (axis,), write = plot(args.out, 1)
    found = {}
    print(f"| row | {' | '.join(f'{each:g} s' for each in args.windows_s)} | stops improving at |")
    print("|---" * (2 + len(sizes)) + "|")
    for name, of in pairs.items():
        estimates, stop = [estimate(of[each], people) for each in args.windows_s], stops_at(of, people)
        found[name] = {"lmd": dict(zip(args.windows_s, estimates, strict=True)), "stops_s": stop}
        print(f"| {name} | {' | '.join(map(told, estimates))} | {stop:g} s |")
        axis.plot(args.windows_s, [each["value"] for each in estimates], marker="o", label=name)
    axis.set(xlabel="window of sound, s", ylabel="LMD of the middle frame, % of eye distance")
    axis.legend()
    write()
    write_report(args, methods, {"clips": len(names), "centres": args.centres, "rows": found})


def strip(args):
    """Figure 2: frames whose sound is masked, by each generator; below, those by the whole sound, and the real ones."""
    methods, corpus = methods_of(args), Corpus(args.data_root, args.split)
    name = args.clip or corpus.names[0]
    if name not in corpus.names:
        raise InputError(f"--clip {name}: not in {args.split}.txt")
    real = corpus.real(name)
    first = round(args.start_s * FPS)
    span = first, first + max(round(args.span_s * FPS), 1)
    frames = np.arange(span[0] - args.around, span[1] + args.around, args.every)
    if not 0 <= frames[0] <= frames[-1] < len(real.clip):
        raise InputError(f"--start_s {args.start_s:g}: {name} has {len(real.clip)} frames, not {frames[-1] + 1}")
    lines, rng = [], np.random.default_rng(args.seed)
    for how in (MASKED, WHOLE):
        for method in methods.values():
            lines.append(method.painted(real, speech_of(method, real.clip, frames, span, how, rng), frames))
    lines.append(real.crops[frames])
    pictures = [to_tensor(real.faces(crops)) for crops in lines]
    pictures = [faces[:, :, faces.shape[2] // 2 :] for faces in pictures]
    bar = torch.ones(3, BAR_PX, pictures[0].shape[3] * len(frames))
    inside = torch.from_numpy((frames >= span[0]) & (frames < span[1])).repeat_interleave(pictures[0].shape[3])
    bar[:, :, inside] = RED[:, None, None]
    write_picture(args.out, torch.cat([bar, *(torch.cat(list(each), dim=2) for each in pictures)], dim=1))
    rows = [f"{row}, {how}" for how in (MASKED, WHOLE) for row in methods]
    print(f"{args.out}: {'; '.join([*rows, 'ground truth'])}, from top to bottom; {name}, frames {frames.tolist()}")


def parse(argv):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="task")
    for task, work in (("strip", strip), ("spans", spans), ("window", window)):
        sub = tasks.add_parser(task, help=work.__doc__.splitlines()[0].rstrip("."), description=work.__doc__)
        sub.set_defaults(work=work)
        add = sub.add_argument
        add("--data_root", required=True, type=Path, help="made by preprocess.py")
        add("--split", default="val", help="list of the data root (default: %(default)s)")
        add("--rows", required=True, nargs="+", help="NAME=PATH of generators")
        add("--device", help="cpu, cuda, ... (default: cuda where there is one)")
        add("--seed", default=0, type=int, help="decides spans and noise (default: %(default)s)")
        if task != "window":
            add("--span_s", default=0.6, type=float, help="s of sound that is corrupted (default: %(default)s)")
        if task != "spans":
            add("--out", default=Path(f"results/{task}.png"), type=Path, help="(default: %(default)s)")
        if task != "strip":
            add("--clips", type=int, help="the first of the list, so many (default: all)")
            add("--json", type=Path, help="write all numbers here")
    tasks.choices["spans"].add_argument("--spans", default=200, type=int, help="at least (default: %(default)s)")
    add = tasks.choices["window"].add_argument
    add("--windows_s", nargs="+", default=WINDOWS_S, type=float, help="(default: 0.2 to 2 s)")
    add("--centres", default=5, type=int, help="middle frames in a clip (default: %(default)s)")
    add = tasks.choices["strip"].add_argument
    add("--clip", help="(default: the first of the split)")
    add("--start_s", default=1.0, type=float, help="where the masked span begins (default: %(default)s)")
    add("--around", default=4, type=int, help="frames shown before and after it (default: %(default)s)")
    add("--every", default=2, type=int, help="frames from one picture to the next (default: %(default)s)")
    args = parser.parse_args(argv)
    for flag in ("clips", "spans", "centres", "every"):
        if getattr(args, flag, None) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} {getattr(args, flag)}: must be at least 1")
    return args


def main(argv=None):
    """Parses the flags and runs an experiment; returns the exit code."""
    args = parse(argv)
    distributed.one_thread()
    return exit_code("evaluation.context", lambda: args.work(args))


if __name__ == "__main__":
    sys.exit(main())
