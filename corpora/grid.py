"""GRID (Cooke et al. 2006) in any layout: whose a video is, which alignment belongs to it, and what its name says."""

import re
from collections import Counter
from itertools import chain

from corpora.corpus import Corpus, RawClip, speaker, videos, walk
from corpora.filelists import divide_by_lists

UNSEEN = ("s1", "s2", "s20", "s22")  # speakers that LipNet's authors hold out (arXiv:1611.01599)
SPEAKER = re.compile(r"(?<![0-9a-z-])(?:s|spk|speaker|talker)[ _-]?0?(\d{1,2})(?![0-9a-z-])", re.IGNORECASE)


def grid(root):
    """GRID as distributed or uploaded again: videos and .align files below folders named after the speaker, s1 to s34.

    Lists beside them decide where there are any. Otherwise LipNet's four unseen speakers are test_unseen, if others
    are here, and of the others some clips of each are held out.
    """
    corpus, aligned = Corpus("grid"), {}
    for path in walk(root, (".align",), corpus):
        aligned.setdefault(path.stem.lower(), []).append(path)
    found = videos(root, corpus)
    nobodys = Counter(video.stem for video in found if not grid_speaker(video, root))
    for video in found:
        who, name = grid_speaker(video, root), video.stem
        if who:
            name = f"{who}/{video.stem}"
        elif nobodys[video.stem] > 1:
            name = video.relative_to(root).with_suffix("").as_posix()
        transcript = alignment(video, who, root, aligned.get(video.stem.lower(), []), nobodys)
        corpus.add(RawClip(name, video, transcript=transcript, kind="grid"))
    if not divide_by_lists(corpus, root):
        unseen = [name for name in corpus.clips if speaker(name) in UNSEEN]
        unseen = unseen if len(unseen) < len(corpus.clips) else []
        corpus.divide(names=[name for name in sorted(corpus.clips) if name not in set(unseen)])
        if unseen:
            corpus.lists["test_unseen"] = sorted(unseen)
    return corpus


def grid_speaker(path, root):
    """The speaker of a GRID file, s1 to s34: the nearest folder below the root in whose name one stands, or the root.

    For instance s1, S1, s1_processed, s1.mpg_vcd, speaker01. Returns "" where there is none.
    """
    inside = reversed(path.parent.relative_to(root).parts)
    found = chain((SPEAKER.search(part) for part in inside), [SPEAKER.match(root.resolve().name)])
    return next((f"s{int(match[1])}" for match in found if match), "")


def alignment(video, who, root, paths, nobodys):
    """The alignment of a video, or where one is missing.

    It lies beside the video or in a folder below, or it is the only one of that name of the same speaker; never is one
    taken that may be of another. who: the video's speaker.  paths: of all alignments of the video's name.  nobodys:
    how many videos of each name have no speaker.
    """
    beside = [path for path in paths if path.parent == video.parent]
    below = [path for path in paths if path.is_relative_to(video.parent) and grid_speaker(path, root) == who]
    same = [path for path in paths if grid_speaker(path, root) == who]
    if not who and nobodys[video.stem] > 1:
        same = []
    for found in (beside, below, same):
        if found and len({path.read_bytes() for path in found}) == 1:
            return found[0]
        if found:
            break
    return video.with_suffix(".align")
