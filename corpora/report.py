"""A report on a data root: its numbers and pictures, why clips were left out, and whether it can be trained on."""

import json
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from corpora.data_root import general
from corpora.extract import LEAST_FRAMES
from errors import InputError
from media.clip import FORMAT, FPS, SUFFIX, Clip, inside
from media.files import read_text, write_text
from media.frame import write_pixels
from workers import progress_bar

SHEET = (6, 8)  # rows and columns of the contact sheet
WINDOW, LEAST_S = 5, 1.0  # frames of a window, and s for which reading windows is timed


def examine(path, crop_px):
    """The facts of one clip, a dict of numbers; raises InputError that names it, for what would break training."""
    clip = Clip(path)
    length, seconds = len(clip), len(clip.wav) / 16_000
    parts = {"boxes": (length, 4), "meshes": (length, 468, 2), "windows": (length, 2, 3)}
    for name, shape in parts.items():
        array = getattr(clip, name)
        if array.shape != shape or not np.isfinite(array).all():
            raise InputError(
                f"{path}: {name} is {array.shape}, or not finite; {shape} was expected: preprocess it again"
            )
    if length < LEAST_FRAMES:
        raise InputError(f"{path}: {length} frames, {LEAST_FRAMES} are needed: take it off the lists")
    if seconds < 0.8 * length / FPS:
        raise InputError(f"{path}: {seconds:.2f} s of sound for {length / FPS:.2f} s of pictures: preprocess it again")
    for name in ("logfbank", "mel"):
        if not np.isfinite(getattr(clip, name)).all():
            raise InputError(f"{path}: {name} is not finite: its sound is broken, preprocess it again")
    if len(clip.words) != len(clip.times):
        raise InputError(f"{path}: {len(clip.words)} words but {len(clip.times)} times: correct its transcript")
    pictures, mouths = clip.pictures(), clip.mouths()
    if pictures.shape != (length, crop_px, crop_px, 3) or len(mouths) != length:
        raise InputError(f"{path}: its pictures are {pictures.shape}, {len(mouths)} mouths: preprocess it again")
    sizes = clip.boxes[:, 2:] - clip.boxes[:, :2]
    if sizes.min() < 1:
        raise InputError(f"{path}: a face box of {sizes.min():.1f} px: preprocess it again")
    facts = {"frames": length, "boxes": len(sizes), "words": len(clip.text.split())}
    facts["face_px"] = float(np.sqrt(sizes.mean(0).prod()))
    named = {name: clip.about.get(name, 0) for name in ("source_fps", "offset", "others")}
    return facts | named | {"vocabulary": clip.text.lower().split(), "motion": mouth_motion(mouths)}


def mouth_motion(mouths):
    """The change of mouth windows from frame to frame: mean absolute difference, grey levels of 255."""
    return float(np.abs(np.diff(mouths.astype(np.int16), axis=0)).mean())


def listed_clips(root):
    """The filelists of a data root: {split: [name, ...]}; raises InputError where training would find none."""
    about = root / "dataset.json"
    try:
        settings = dict(json.loads(about.read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"{root}: not a data root, its dataset.json cannot be read ({error})") from error
    if settings.get("format") != FORMAT or "crop_px" not in settings:
        raise InputError(f"{root}: format {settings.get('format')}, this code reads {FORMAT}: preprocess it again")
    lists = {}
    for path in sorted(root.glob("[!.]*.txt")):  # not a partial file of a run at work
        if path.name != "skipped.txt":
            lists[path.stem] = inside(read_text(path).split("\n"), path)
    for split in ("train", "val"):
        if not lists.get(split):
            raise InputError(f"{root / f'{split}.txt'}: no clips in this split, training needs some")
    if both := sorted(set(lists["train"]) & set(lists.get("test", ()))):
        raise InputError(f"{root}: {both[0]} is in train.txt and in test.txt: take it off one of them")
    return settings, lists


def summary(lists, facts, skipped):
    """The numbers of the report: a dict for JSON."""
    splits = {}
    for split, names in lists.items():
        clips = [facts[name] for name in names]
        splits[split] = {
            "clips": len(names),
            "hours": round(sum(each["frames"] for each in clips) / FPS / 3600, 3),
            "speakers": len({name.rpartition("/")[0] for name in names}),
            "words": sum(each["words"] for each in clips),
            "vocabulary": len({word for each in clips for word in each["vocabulary"]}),
            "without_transcript": sum(not each["words"] for each in clips),
        }
    every = list(facts.values())
    return {
        "splits": splits,
        "frames": sum(each["frames"] for each in every),
        "boxes": sum(each["boxes"] for each in every),
        "frame_rates": dict(Counter(f"{each['source_fps']:g}" for each in every).most_common()),
        "face_px": dict(
            zip(("5%", "50%", "95%"), np.percentile([e["face_px"] for e in every], (5, 50, 95)).round(1), strict=True)
        ),
        "other_faces": sum(each["others"] > 0 for each in every),
        "corrected_offsets": sum(each["offset"] != 0 for each in every),
        "skipped": dict(Counter(skipped).most_common()),
    }


def reasons(root):
    """The reasons why clips were left out, one a clip, without the numbers that differ from clip to clip."""
    path = root / "skipped.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [general(line.partition("\t")[2]) for line in lines]


def spread(paths, most):
    """At most so many clips of a root, of as many speakers as there are, in order."""
    speakers = {}
    for path in paths:
        speakers.setdefault(path.parent, []).append(path)
    firsts = [clips[0] for clips in speakers.values()]
    if len(firsts) >= most:
        return [firsts[i] for i in np.linspace(0, len(firsts) - 1, most).astype(int)]
    turns = sorted((place, path) for clips in speakers.values() for place, path in enumerate(clips))
    return sorted(path for _, path in turns[:most])


def contact_sheet(paths):
    """The middle frame of clips spread over the speakers of a root, in rows: (H, W, 3) uint8 RGB."""
    rows, columns = SHEET
    chosen = spread(paths, rows * columns)
    tiles = []
    for path in chosen:
        clip = Clip(path)
        face = cv2.resize(clip.picture(len(clip) // 2), (128, 128), interpolation=cv2.INTER_AREA)
        mouth = cv2.cvtColor(clip.mouths(slice(len(clip) // 2, len(clip) // 2 + 1))[0], cv2.COLOR_GRAY2RGB)
        tiles.append(np.hstack([face, cv2.copyMakeBorder(mouth, 16, 16, 0, 8, cv2.BORDER_CONSTANT, value=(255,) * 3)]))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def histograms(path, facts, left_out):
    """Draws histograms of the clips' seconds, face sizes, words and mouth motion, and the most frequent reasons.

    facts: {clip: see `examine`}.  left_out: the reasons of clips left out, see `reasons`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 5, figsize=(16, 3), layout="constrained")
    every = list(facts.values())
    shown = {
        "length, s": [each["frames"] / FPS for each in every],
        "face, px": [each["face_px"] for each in every],
        "words in a clip": [each["words"] for each in every],
        "change of the mouth, grey levels": [each["motion"] for each in every],
    }
    for axis, (title, values) in zip(axes, shown.items(), strict=False):
        axis.hist(values, bins=30, color="#4477aa")
        axis.set(title=title, ylabel="clips")
    counts = Counter(left_out).most_common(5)
    axes[-1].barh([reason[:32] for reason, _ in counts][::-1], [n for _, n in counts][::-1], color="#cc6677")
    axes[-1].set(title="left out", xlabel="clips")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def windows_a_second(paths):
    """The number of windows of 5 faces, at random places, that this process reads in a second."""
    rng, count, start = np.random.default_rng(0), 0, time.perf_counter()
    while time.perf_counter() - start < LEAST_S:
        clip = Clip(paths[rng.integers(len(paths))])
        first = int(rng.integers(len(clip) - WINDOW + 1))
        clip.pictures(slice(first, first + WINDOW))
        count += 1
    return round(count / (time.perf_counter() - start))


def report(root):
    """Examines every listed clip of a data root; writes report/ into it and prints the numbers as JSON.

    Raises InputError for the first thing that would break training, and names the clip.
    """
    root = Path(root)
    settings, lists = listed_clips(root)
    names = sorted({name for split in lists.values() for name in split})
    paths = [root / "clips" / f"{name}{SUFFIX}" for name in names]
    if missing := [path for path in paths if not path.is_file()]:
        raise InputError(
            f"{root}: {len(missing)} listed clips are missing, the first is {missing[0]}: preprocess again"
        )
    facts = {}
    with progress_bar(len(names), "clip", desc="check") as bar:
        for name, path in zip(names, paths, strict=True):
            facts[name] = examine(path, settings["crop_px"])
            bar.update()
    left_out = reasons(root)
    numbers = summary(lists, facts, left_out) | {"windows_a_second": windows_a_second(paths)}
    folder = root / "report"
    write_pixels(folder / "contact_sheet.jpg", contact_sheet(paths))
    histograms(folder / "histograms.png", facts, left_out)
    text = json.dumps(numbers, indent=1)
    write_text(folder / "report.json", text + "\n")
    print(text)
