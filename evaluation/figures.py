"""The figures of TalkLip's supplement: embeddings of words that are confused, strips of frames; and curves of training.

python -m evaluation.figures embeddings --data_root data/grid --words B P --rows l=ablation/talklip_l.safetensors
python -m evaluation.figures strips --data_root data/grid --rows g+c=ablation/talklip_g_c.safetensors
python -m evaluation.figures curves --rows l=runs/ablation/talklip_l g+c=runs/ablation/talklip_g_c
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from data import Clips, audio_features, sample, to_tensor
from errors import InputError, exit_code
from faces.augment import Augmentation
from hparams import HParams
from media.clip import FPS, Clip
from media.files import make_folder, step_of
from media.frame import write_picture
from renderer import load

COLOURS = "tab:red", "tab:blue", "tab:green"

# matplotlib and scikit-learn are imported where they are used: both are slow.


def named_paths(rows):
    """["l=path", ...] as {"l": Path}; raises InputError for one without a name, or that is not there."""
    found = {}
    for row in rows:
        name, equals, path = row.rpartition("=")
        if not equals or not Path(path).exists():
            raise InputError(f"--rows {row}: say NAME=PATH of what is there, such as l=runs/ablation/talklip_l")
        found[name] = Path(path)
    return found


def clips_of(root, splits):
    """Every clip of some splits."""
    return [Clip(path) for split in splits for path in Clips(root, split, HParams()).paths]


def plot(out, panels, width=4.0, height=3.6):
    """Axes for so many panels side by side, and a function that writes them to `out`, a .png or .svg file.

    Raises InputError for a suffix of another kind.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height), layout="constrained")
    if out.suffix.lower().removeprefix(".") not in FigureCanvasAgg(figure).get_supported_filetypes():
        raise InputError(f"--out {out}: its suffix is no picture's, say .png or .svg")

    def write():
        make_folder(out.parent)
        figure.savefig(out, dpi=150)
        print(out)

    return figure.subplots(1, panels, squeeze=False)[0], write


@torch.inference_mode()
def embedded(generator, hp, clips, words):
    """The audio encoder's embeddings of words: (frames, D), and the number of the word in each of them, (frames,)."""
    rows, labels = [], []
    for clip in clips:
        for said, (start_s, end_s) in zip(clip.words, clip.times, strict=False):
            if said.upper() in words:
                frames = np.arange(round(start_s * FPS), max(round(end_s * FPS), round(start_s * FPS) + 1))
                sound, index, _ = audio_features(clip, frames.clip(0, len(clip) - 1), hp.speech)
                speech = generator.encode_audio(torch.from_numpy(sound)[None].to(next(generator.parameters()).dtype))[0]
                rows.append(speech[torch.from_numpy(index)].float())
                labels += [words.index(said.upper())] * len(frames)
    if len(set(labels)) < len(words):
        raise InputError(f"--words {' '.join(words)}: not all of them are said, with times, in these splits")
    return torch.cat(rows).numpy(), np.array(labels)


def embeddings(args):
    """Figures 1 and 3: t-SNE of audio embeddings of confusable words, and the accuracy of 5 nearest neighbours."""
    from sklearn.manifold import TSNE
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    rows, words = named_paths(args.rows), [word.upper() for word in args.words]
    clips = clips_of(args.data_root, args.splits)
    if not 2 <= len(words) <= len(COLOURS):
        raise InputError(f"--words {' '.join(words)}: give two or three")
    axes, write = plot(args.out, len(rows))
    print("| row | frames | accuracy of 5 nearest neighbours |\n|---|---|---|")
    for axis, (name, path) in zip(axes, rows.items(), strict=True):
        generator, hp, _ = load(path, "cpu", "float32")
        vectors, labels = embedded(generator, hp, clips, words)
        least = int(np.bincount(labels).min())
        if least < 5:
            raise InputError(f"--words {' '.join(words)}: one has {least} frames in these splits, 5 is the least")
        places = TSNE(perplexity=min(30, (len(labels) - 1) / 3), random_state=0, init="pca").fit_transform(vectors)
        score = cross_val_score(KNeighborsClassifier(5), vectors, labels, cv=5, scoring="balanced_accuracy").mean()
        for number, (word, colour) in enumerate(zip(words, COLOURS, strict=False)):
            axis.scatter(*places[labels == number].T, s=9, color=colour, label=word)
        axis.set(title=f"TalkLip ({name})", xticks=[], yticks=[])
        axis.legend()
        print(f"| {name} | {len(labels)} | {score:.1%} |")
    write()


@torch.inference_mode()
def generated(path, clip, frames, about):
    """The faces that a generator makes for frames of a clip, identity its first frame: (T, 3, H, W) in [0, 1]."""
    generator, hp, _ = load(path, "cpu", "float32")
    if hp.model == "warp":
        raise InputError(f"{path}: strips are of generators that paint; --page of evaluation.evaluate shows any")
    batch = sample(clip, frames, np.zeros(len(frames), int), hp, about, Augmentation(0.0, None))
    fake = generator(batch["face"][None], batch["audio"][None], batch["index"][None])[0].float()
    return torch.nn.functional.interpolate(fake, size=(about["face_px"],) * 2, mode="bilinear", antialias=True)


def strips(args):
    """Figures 2 and 4: the same frames by each row, then the ground truth below; the mouth half of the face."""
    rows, clips = named_paths(args.rows), Clips(args.data_root, args.splits[0], HParams())
    name = args.clip or clips.names[0]
    if name not in clips.names:
        raise InputError(f"--clip {name}: not in {args.splits[0]}.txt")
    clip, about = Clip(clips.paths[clips.names.index(name)]), clips.about
    if args.frames < 1:
        raise InputError(f"--frames {args.frames} must be at least 1")
    frames = args.first + args.every * np.arange(args.frames)
    if not 0 <= frames[0] <= frames[-1] < len(clip):
        raise InputError(f"--first {args.first}: {name} has {len(clip)} frames, not {frames[-1] + 1}")
    edge = (about["crop_px"] - about["face_px"]) // 2
    real = np.stack([clip.picture(i)[edge : -edge or None, edge : -edge or None] for i in frames])
    pictures = [generated(path, clip, frames, about) for path in rows.values()] + [to_tensor(real)]
    half = about["face_px"] // 2
    lines = [torch.cat(list(each[:, :, half:]), dim=2) for each in pictures]
    write_picture(args.out, torch.cat(lines, dim=1))
    print(f"{args.out}: {', '.join([*rows, 'ground truth'])}, from top to bottom; {name}, frames {frames.tolist()}")


def smooth(values, share=0.05):
    """The running mean of values over a share of them."""
    size = max(1, round(share * len(values)))
    return np.convolve(np.pad(values, (size // 2, size - 1 - size // 2), mode="edge"), np.ones(size) / size, "valid")


def logged(lines, measure):
    """The steps and values of a measure in the lines of a log: two lists; those of a validation are "valid NAME"."""
    name = measure.removeprefix("valid ")
    lines = [line["valid"] | {"step": line["step"]} for line in lines if "valid" in line] if name != measure else lines
    found = [(line["step"], line[name]) for line in lines if name in line]
    return [list(each) for each in zip(*found, strict=True)] or [[], []]


def curves(args):
    """Losses of runs, step by step, and measures of their validations."""
    logs = {}
    for name, folder in named_paths(args.rows).items():
        log = folder / "metrics.jsonl"
        if not log.is_file():
            raise InputError(f"--rows {name}={folder}: no log of a run, {log}")
        logs[name] = [json.loads(line) for line in log.read_text(errors="replace").splitlines() if step_of(line) >= 0]
    axes, write = plot(args.out, len(args.measures))
    for axis, measure in zip(axes, args.measures, strict=True):
        for number, (name, lines) in enumerate(logs.items()):
            steps, values = logged(lines, measure)
            values = values if measure.startswith("valid ") or not values else smooth(values)
            dot = "o" if len(steps) == 1 else None  # a line through one point shows nothing
            axis.plot(steps, values, marker=dot, color=f"C{number}", label=name if steps else None)
        axis.set(title=measure, xlabel="step")
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    write()


def main(argv=None):
    """Parses the flags and makes a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="task")
    for task, work in (("embeddings", embeddings), ("strips", strips), ("curves", curves)):
        sub = tasks.add_parser(task, help=work.__doc__.rstrip("."), description=work.__doc__)
        sub.set_defaults(work=work)
        sub.add_argument("--rows", required=True, nargs="+", help="NAME=PATH: weights, or for curves folders of runs")
        sub.add_argument("--out", default=Path(f"results/{task}.png"), type=Path, help="(default: %(default)s)")
        if task == "curves":
            measures = ["l1", "lip", "valid mouth", "valid token_error"]
            sub.add_argument("--measures", nargs="+", default=measures, help="(default: %(default)s)")
            continue
        sub.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
        sub.add_argument("--splits", nargs="+", default=["test"], help="(default: test)")
        if task == "embeddings":
            sub.add_argument("--words", nargs="+", default=["B", "P"], help="two or three (default: B P)")
        else:
            sub.add_argument("--clip", help="(default: the first of the split)")
            sub.add_argument("--first", default=20, type=int, help="first frame (default: %(default)s)")
            sub.add_argument("--every", default=1, type=int, help="frames between two (default: %(default)s)")
            sub.add_argument("--frames", default=8, type=int, help="pictures in a row (default: %(default)s)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    return exit_code(parser.prog, lambda: args.work(args))


if __name__ == "__main__":
    sys.exit(main())
