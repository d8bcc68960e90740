"""A corpus of raw videos: its clips, the files they lie in, and the splits they are divided into."""

import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from media.clip import leads_out
from media.kinds import is_video

VIDEOS = tuple(  # endings of what PyAV opens and has pictures that move
    ".mp4 .m4v .mov .qt .mj2 .3gp .3g2 .f4v .ismv .psp .mkv .mk3d .webm .avi .divx .mpg .mpeg .mpe .m1v .m2v .mpv .vob"
    " .ts .mts .m2ts .m2t .tod .mod .wmv .asf .flv .kux .ogv .ogm .rm .rmvb .ivr .mxf .gxf .dv .dif .nut .ivf .y4m .amv"
    " .wtv .dav .ty .mjpg .mjpeg .h261 .h263 .h264 .h26l .264 .avc .h265 .265 .hevc .h266 .266 .vvc .obu .vc1 .viv"
    " .imx .smk .bik .roq .nsv .mvi .flm .cavs .avs .avs2 .avs3".split()
)
STILLS = ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif"  # endings of pictures that stand still
NO_VIDEOS = STILLS + tuple(  # endings of what lies beside videos, which is not looked into
    ".txt .align .csv .tsv .json .md .npy .npz .pkl .pt .pth .yaml .yml .xml .srt .vtt .lab .html .pdf .py .sh .h5 .mat"
    " .wav .mp3 .m4a .m4b .aac .flac .ogg .opus .wma .gif .heic"
    " .zip .tar .gz .safetensors".split()
)
SPLITS = ("train", "val", "test")
LONGEST_NAME = 230  # bytes: with what is added to it, file systems take 255
HELD_OUT = 20  # one in so many is held out for val, as many for test, where the corpus has no lists


@dataclass(frozen=True)
class RawClip:
    """A raw clip: a video or a part of it, with its sound and its transcript."""

    name: str  # of the clip in the data root, "speaker/clip"
    video: Path
    sound: Path | None = None  # where it is not in the video
    transcript: Path | None = None  # None where the corpus has none
    kind: str = "plain"  # of transcript, a key of transcripts.KINDS
    start_s: float = 0.0
    stop_s: float | None = None
    region: tuple | None = None  # x, y, width, height of the part of the picture that is used, px; None: all of it
    region_height: int | None = None  # px of the picture that `region` was measured on, None: this one
    pictures: tuple = ()  # of a person, in order, in place of a video: `video` is the first; it has no sound


@dataclass
class Corpus:
    """Clips, the lists that divide them into splits, and the clips that were refused: {name: reason}."""

    kind: str
    clips: dict = field(default_factory=dict)  # name -> RawClip
    lists: dict = field(default_factory=dict)  # split -> [name, ...]
    refused: dict = field(default_factory=dict)

    def add(self, raw, split=None):
        """Takes a `RawClip`, or refuses it for a name under which nothing can be stored or listed."""
        name = raw.name
        if leads_out(name):
            self.refused[name] = "its path leads out of the root"
        elif not name.isprintable() or name != name.strip():
            self.refused[name] = "its name has a line break or another character that lists cannot hold: rename it"
        elif max(len(part.encode()) for part in name.split("/")) > LONGEST_NAME:
            self.refused[name] = f"its name is longer than {LONGEST_NAME} bytes: rename it"
        elif name in self.clips and self.clips[name] != raw:
            self.refused[f"{name}{raw.video.suffix}"] = f"another video is named {name} too: rename one"
        else:
            self.clips[name] = raw
            if split:
                self.lists.setdefault(split, []).append(name)

    def divide(self, by=lambda name: name, names=None):
        """Divides clips into train, val and test, always the same way: by the checksum of their group, `by(name)`.

        A group stays together. One group in `HELD_OUT` is held out for val and as many for test, at least one each
        where there are three.
        """
        names = sorted(self.clips) if names is None else names
        groups = sorted({by(name) for name in names}, key=checksum)
        if len(groups) < 3:  # one or two people, or clips: single clips are held out, and one may serve twice
            groups, by = sorted(names, key=checksum), lambda name: name
        few = max(1, len(groups) // HELD_OUT) if len(groups) >= 3 else 0
        held = dict.fromkeys(groups[:few], "val") | dict.fromkeys(groups[few : 2 * few], "test")
        for name in names:
            self.lists.setdefault(held.get(by(name), "train"), []).append(name)
        if not few:
            self.lists["val"] = list(self.lists.get("train", []))

    def divide_known(self, names, by):
        """Divides the training part of a corpus that has a test set of its own into train and val, see `divide`."""
        part = Corpus(self.kind, clips={name: self.clips[name] for name in names})
        part.divide(by)
        for split, chosen in part.lists.items():
            self.lists.setdefault("train" if split == "test" else split, []).extend(chosen)


def checksum(text):
    """A sort key that depends on the text alone, and on no order of folders or versions of Python."""
    return zlib.crc32(text.encode()), text


def speaker(name):
    """The speaker, or the video, of a clip by its name: all but its last part."""
    return name.rpartition("/")[0]


def videos(root, corpus):
    """Every video below a folder, in order; one that is named as none, but begins as one, is refused."""
    found = []
    for path in walk(root, "", corpus):
        suffix = path.suffix.lower()
        if suffix in VIDEOS:
            found.append(path)
        elif suffix not in NO_VIDEOS and path.is_file() and is_video(path):
            corpus.refused[path.relative_to(root).as_posix()] = "a video by its content, not by its name: rename it"
    return found


def walk(root, suffixes, corpus):
    """Files below a folder whose names end so, in order; links are followed, one that leads in a circle is refused."""
    found, above = [], {}
    for place, folders, files in os.walk(root, followlinks=True):
        above[place] = (*above.get(os.path.dirname(place), ()), os.path.realpath(place))
        for name in list(folders):
            if os.path.realpath(os.path.join(place, name)) in above[place]:
                folders.remove(name)
                corpus.refused[os.path.relpath(os.path.join(place, name), root)] = "a link that leads in a circle"
        found += [Path(place, name) for name in files if name.lower().endswith(suffixes) and name[0] != "."]
    return sorted(found)
