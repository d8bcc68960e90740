"""The layouts of corpora: each function takes the folder of one as it was unpacked and returns its `Corpus`."""

import csv
import re

from corpora.corpus import SPLITS, STILLS, VIDEOS, Corpus, RawClip, speaker, videos, walk
from corpora.filelists import PARTS, divide_by_lists, filelists, without_suffix
from corpora.grid import grid
from errors import InputError
from media.files import read_text


def lrs2(root):
    """LRS2 (mvlrs_v1): main/ and pretrain/, <video>/<clip>.mp4 with .txt; lists beside them or a folder above."""
    home = root / "mvlrs_v1" if (root / "mvlrs_v1" / "main").is_dir() else root
    folders = {home, home.parent} if home != root or home.name == "mvlrs_v1" else {home}
    corpus, lists = Corpus("lrs2"), filelists(*sorted(folders))
    if not lists:
        raise InputError(f"{root}: no filelists (train.txt, val.txt, ...) here. They stand beside the folder main/.")
    for split, lines in lists.items():
        for line in lines:
            each = without_suffix(line.split()[0])  # after the id, test.txt marks some clips with NF or MV
            named, each = PARTS.match(each), PARTS.sub("", each)
            part = named[1] if named else "pretrain" if split == "pretrain" else "main"
            video = home / part / f"{each}.mp4"
            name = f"pretrain/{each}" if part == "pretrain" else each  # both parts number clips from 00001 on
            corpus.add(RawClip(name, video, transcript=video.with_suffix(".txt"), kind="lrs"), split)
    return corpus


def lrs3(root):
    """LRS3: trainval/, test/ and pretrain/, <video>/<clip>.mp4 with .txt. Some of trainval's videos become val."""
    corpus = Corpus("lrs3")
    for part in ("trainval", "test", "pretrain"):
        for video in videos(root / part, corpus):
            clip = video.relative_to(root / part).with_suffix("").as_posix()
            name = clip if part == "trainval" else f"{part}/{clip}"
            split = None if part == "trainval" else part
            corpus.add(RawClip(name, video, transcript=video.with_suffix(".txt"), kind="lrs"), split)
    trainval = [name for name, raw in corpus.clips.items() if raw.video.is_relative_to(root / "trainval")]
    corpus.divide_known(trainval, speaker)
    return corpus


def lrw(root):
    """LRW: <WORD>/train|val|test/<WORD>_00001.mp4, each with a .txt that has the length of the word."""
    home, corpus = root / "lipread_mp4" if (root / "lipread_mp4").is_dir() else root, Corpus("lrw")
    for video in videos(home, corpus):
        word, split, name = (video.relative_to(home).with_suffix("").parts + ("", ""))[:3]
        if split in SPLITS and name.rpartition("_")[0].upper() != word.upper():
            corpus.refused[f"{word}/{split}/{name}"] = f"its name says another word than its folder {word}"
        elif split in SPLITS:
            raw = RawClip(f"{word}/{split}/{name}", video, transcript=video.with_suffix(".txt"), kind="lrw")
            corpus.add(raw, split)
    return corpus


def hdtf(root):
    """HDTF: its lists (xx_annotion_time.txt, xx_crop_wh.txt, xx_resolution.txt), and the videos or the cut clips.

    A whole video <name>.mp4 is cut at the times of the list and to the region of each clip; clips that are cut already,
    <name>_<number>.mp4, are taken as they are. Videos, which stand for their people, are held out whole.
    """
    corpus, tables = Corpus("hdtf"), {"annotion_time": {}, "crop_wh": {}, "resolution": {}}
    for what, table in tables.items():
        for path in walk(root, (f"_{what}.txt",), corpus):
            rows = (line.split() for line in read_text(path).splitlines())
            table.update({row[0].removesuffix(".mp4"): row[1:] for row in rows if row})
    here = {re.sub(r"^(RD|WDA|WRA)_", "", path.stem): path for path in videos(root, corpus)}
    for video, spans in tables["annotion_time"].items():
        for k, span in enumerate(spans):
            name = f"{video}_{k}"
            cut = here.get(name) or here.get(f"{video}_{k:03}")  # as the lists' authors number them, or a downloader
            if cut:
                corpus.add(RawClip(f"{video}/{name}", cut))
            elif video not in here:
                corpus.refused[f"{video}/{name}"] = f"neither {video}.mp4 nor {name}.mp4 is here"
            elif raw := hdtf_clip(f"{video}/{name}", here[video], span, tables):
                corpus.add(raw)
            else:
                corpus.refused[f"{video}/{name}"] = f"its list has {span!r} for its times, or letters for its region"
    if not divide_by_lists(corpus, root):
        corpus.divide(speaker)
    return corpus


def hdtf_clip(name, video, span, tables):
    """The part of a whole HDTF video that is one clip; `span` is like 00:30-01:00. None where the lists are garbled."""
    start_s, stop_s = (seconds(part) for part in span.split("-", 1)) if "-" in span else (None, None)
    numbers = tables["crop_wh"].get(name.rpartition("/")[2], [])
    height = tables["resolution"].get(speaker(name), [])[:1]
    if start_s is None or stop_s is None or stop_s <= start_s or not all(map(str.isdecimal, numbers + height)):
        return None
    region = tuple(int(numbers[i]) for i in (0, 2, 1, 3)) if len(numbers) == 4 else None  # listed x, width, y, height
    times = {"start_s": start_s, "stop_s": stop_s}
    return RawClip(name, video, **times, region=region, region_height=int(height[0]) if height else None)


def seconds(text):
    """01:35, 1:02:03 or 95 in seconds, or None."""
    parts = text.split(":")
    if not all(part.replace(".", "", 1).isdecimal() for part in parts) or len(parts) > 3:
        return None
    return sum(float(part) * 60**k for k, part in enumerate(reversed(parts)))


def voxceleb2(root):
    """VoxCeleb2: dev/mp4 and test/mp4, or mp4 alone with vox2_meta.csv: <person>/<video>/<clip>.mp4; sound in aac/.

    Some people of dev are held out for val.
    """
    corpus, sets = Corpus("voxceleb2"), {}
    for path in root.rglob("vox2_meta.csv"):
        rows = list(csv.reader(read_text(path).splitlines()))
        sets = {row[0].strip(): row[-1].strip() for row in rows[1:] if row}
    for home in (root / "dev" / "mp4", root / "test" / "mp4", root / "mp4"):
        for video in videos(home, corpus):
            clip = video.relative_to(home).with_suffix("")
            sound = home.parent / "aac" / clip.with_suffix(".m4a")
            is_test = home.parent.name == "test" or sets.get(clip.parts[0]) == "test"
            raw = RawClip(clip.as_posix(), video, sound=sound if sound.is_file() else None)
            corpus.add(raw, "test" if is_test else None)
    test = set(corpus.lists.get("test", ()))
    corpus.divide_known([name for name in corpus.clips if name not in test], person_of)
    return corpus


def person_of(name):
    """The person of a VoxCeleb2 clip: the first part of its name."""
    return name.partition("/")[0]


def folder(root):
    """Any folder of videos, each perhaps with its transcript in a .txt of the same name."""
    corpus = Corpus("folder")
    for video in videos(root, corpus):
        text = video.with_suffix(".txt")
        name = video.relative_to(root).with_suffix("").as_posix()
        corpus.add(RawClip(name, video, transcript=text if text.is_file() else None))
    if not divide_by_lists(corpus, root):
        corpus.divide(speaker)
    return corpus


def pictures(root):
    """Pictures of people, without sound: numbered ones are a clip in their order, <person>/1.jpg, 2.jpg, ...

    Of other names, what stands before the first _ is the clip: 001_neutral.jpg and 001_smiling.jpg are 001. Of whom
    there is one picture, it is there twice.
    """
    corpus, clips = Corpus("pictures"), {}
    for path in walk(root, STILLS, corpus):
        name = path.parent if path.stem.isdecimal() else path.parent / path.stem.partition("_")[0]
        clips.setdefault(name.relative_to(root).as_posix(), []).append(path)
    for name, paths in clips.items():
        ordered = sorted(paths, key=lambda path: (len(path.stem) * path.stem.isdecimal(), path.stem))
        ordered *= 2 if len(ordered) == 1 else 1  # a picture and, to warp, its reference
        corpus.add(RawClip(name, ordered[0], pictures=tuple(ordered)))
    if not divide_by_lists(corpus, root):
        corpus.divide()
    return corpus


LAYOUTS = {
    "lrs2": lrs2,
    "lrs3": lrs3,
    "lrw": lrw,
    "hdtf": hdtf,
    "voxceleb2": voxceleb2,
    "grid": grid,
    "folder": folder,
    "pictures": pictures,
}


def layout_of(root):
    """The key of LAYOUTS for a folder, detected from what is in it.

    Raises InputError for one without any video or picture.
    """
    if any((root / part / "main").is_dir() for part in ("", "mvlrs_v1")):
        return "lrs2"
    if (root / "trainval").is_dir():
        return "lrs3"
    if (root / "lipread_mp4").is_dir() or any(root.glob("[A-Z]*/train/[A-Z]*_[0-9]*.mp4")):
        return "lrw"
    if walk(root, ("_annotion_time.txt",), Corpus("")):
        return "hdtf"
    if any(any(root.glob(f"{part}mp4/id*")) for part in ("", "dev/", "test/")):
        return "voxceleb2"
    if walk(root, (".align",), Corpus("")):
        return "grid"
    if videos(root, Corpus("")):
        return "folder"
    if walk(root, STILLS, Corpus("")):
        return "pictures"
    some = ", ".join(VIDEOS[:6])
    raise InputError(f"{root}: no video below this folder ({some}, ...), no picture, and no corpus that is known here")


def read_corpus(root, kind="auto"):
    """The `Corpus` in a folder. kind: a key of LAYOUTS, or "auto". Raises InputError where there is none."""
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    corpus = LAYOUTS[layout_of(root) if kind == "auto" else kind](root)
    corpus.lists = {split: list(dict.fromkeys(names)) for split, names in corpus.lists.items()}
    if not corpus.clips:
        why = next(iter(corpus.refused.values()), "nothing has the names that this layout asks for")
        raise InputError(f"{root}: no clip of {corpus.kind} here ({why})")
    return corpus
