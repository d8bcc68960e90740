"""Every measure of every row of a clip, and of all clips of a split, on several processes."""

import hashlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

import checkpoint
from data import mouth_mask
from errors import InputError
from evaluation import comparison_page, landmarks, visual
from evaluation.rows import TRUTH, Corpus, Drawer, baseline_rows
from evaluation.videos import crops_of, framed, frames_of, unlike
from evaluation.wer import EvaluationReaders
from experts.lse import PROTOCOLS, scorer
from workers import local, on_ray


@dataclass(frozen=True)
class Setup:
    """What a split is judged with; plain values, so that processes can be told it.

    fakes: {row: {clip id: path of its video}}.  observers: see `lips.Observers`.  sync: (file or None, protocol).
    other: how many places down the list the clip is whose sound and lips are taken.  slack: see `videos.frames_of`.
    page: whether pictures for the page are kept.
    """

    root: Path
    split: str
    videos: Path | None
    fakes: dict
    generator: Path | None
    measures: tuple
    observers: dict
    sync: tuple
    other: int | None = None
    slack: int = 1
    talklip_psnr: bool = False
    device: str = "cpu"
    page: bool = False


@dataclass
class Scored:
    """What was found in one clip.

    rows: {row: {measure: (sum, weight)}}.  read: {row: {observer: sentence}}.  sha256: of each row's video or drawn
    pictures.  notes: lines about it.  media: {row: (JPEG strip, MP4)} for the page.
    """

    rows: dict
    read: dict = field(default_factory=dict)
    sha256: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    media: dict = field(default_factory=dict)


class Judge:
    """Scores the clips of a split. Raises InputError for files that do not hold what they should."""

    def __init__(self, setup):
        self.setup, self.corpus = setup, Corpus(setup.root, setup.split, setup.videos)
        self.shift = shift_of(setup, len(self.corpus.names))
        wants = set(setup.measures)
        self.drawer = Drawer(setup.generator, setup.device) if setup.generator else None
        self.mesher = landmarks.Mesher() if "landmarks" in wants else None
        self.observers = EvaluationReaders(setup.observers, setup.device) if "reading" in wants else None
        self.sync = sync_scorer(setup) if "sync" in wants else None

    def fault(self, name):
        """Why a clip cannot be compared, as far as headers and transcripts tell, or None."""
        clip, setup = self.corpus.clip(name), self.setup
        if name in self.corpus.faults:
            return self.corpus.faults[name]
        for paths in setup.fakes.values():
            if name in paths and (why := unlike(paths[name], clip, setup.slack)) is not None:
                return why
        return self.observers.fault(clip) if self.observers else None

    def other(self, name):
        """The id of the clip that lends its lips and sound."""
        names = self.corpus.names
        return names[(names.index(name) + self.shift) % len(names)]

    def shown(self, name):
        """A `Real`, the crops of all rows, cut to the shortest, the whole frames of videos, and their hashes."""
        setup, real, other = self.setup, self.corpus.real(name), self.corpus.real(self.other(name))
        rows, frames, sha256 = baseline_rows(real, other), {TRUTH: real.frames}, {}
        for row, paths in setup.fakes.items():
            frames[row] = frames_of(paths[name], real.clip, setup.slack)
            boxes = real.clip.boxes[: len(frames[row])]
            rows[row] = crops_of(frames[row], boxes, real.crops.shape[1], real.margin)
            sha256[row] = checkpoint.sha256(paths[name])
        drawn = self.drawer.rows(real, other) if self.drawer else {}
        sha256 |= {row: hashlib.sha256(crops.tobytes()).hexdigest() for row, crops in drawn.items()}
        count = min(map(len, (rows | drawn).values()))
        return real, {row: crops[:count] for row, crops in (rows | drawn).items()}, frames, sha256

    def score(self, name):
        """All that is measured on a clip, as a `Scored`. Raises InputError for a clip that cannot be compared."""
        real, rows, frames, sha256 = self.shown(name)
        scored, count = Scored({row: {} for row in rows}, sha256=sha256), len(rows[TRUTH])
        if count < len(real.crops):
            scored.notes.append(f"its rows are compared on the first {count} of {len(real.crops)} frames")
        if "visual" in self.setup.measures:
            self.look(scored, real, rows)
        if self.mesher:
            self.find(scored, real, rows)
        if self.sync:
            self.hear(scored, real, rows, frames)
        if self.observers:
            scores, scored.read = self.observers(rows, real.clip, real.margin)
            if "words" in self.observers.readers and not len(real.clip.times):
                scored.notes.append("its transcript has no word times: it does not count in words right")
            for row, found in scores.items():
                scored.rows[row] |= found
        if self.setup.page:
            scored.media = {
                row: comparison_page.encoded(real.faces(crops), real.clip.wav) for row, crops in rows.items()
            }
        return scored

    def look(self, scored, real, rows):
        """Adds the visual measures, means over the frames."""
        truth = real.faces(rows[TRUTH])
        px = truth.shape[1]
        mouth = mouth_mask(real.clip.meshes[: len(truth)] * px - 0.5, px)
        for row, crops in rows.items():
            found = visual.compare(real.faces(crops), truth, mouth, self.setup.talklip_psnr)
            scored.rows[row] |= {measure: (each.mean().item(), 1) for measure, each in found.items()}

    def find(self, scored, real, rows):
        """Adds the measures of landmarks; a row without any face is a fault, one without some a note."""
        count = len(rows[TRUTH])
        meshes, boxes = real.clip.meshes[:count], real.clip.boxes[:count]
        found = {row: self.mesher(crops, meshes, boxes, real.margin) for row, crops in rows.items()}
        for row, (mesh, seen) in found.items():
            if not seen.any():
                raise InputError(f"{row}: no face in any of {count} frames")
            if not seen.all():
                first = int(np.flatnonzero(~seen)[0])
                scored.notes.append(f"{row}: no face in {(~seen).sum()} of {count} frames, the first is {first}")
            scored.rows[row] |= landmarks.compare((mesh, seen), found[TRUTH])

    def hear(self, scored, real, rows, frames):
        """Adds the sync measures, against the clip's own sound in every row."""
        clip, count = real.clip, len(rows[TRUTH])
        for row, crops in rows.items():
            whole = frames.get(row) if real.frames is not None else None
            if whole is None:
                whole = framed(crops, clip.boxes[:count], real.margin, real.frames, clip.size)
            found = self.sync(whole[:count, : clip.size[0], : clip.size[1]], clip.wav, clip)
            scored.rows[row] |= {f"sync_{name}": (float(value), 1) for name, value in found.items()}


def shift_of(setup, count):
    """How many places down a list of `count` clips the other clip is: by default half of it, as neighbours in a sorted
    list say nearly the same. Raises InputError where that is each clip itself.
    """
    shift = count // 2 if setup.other is None else setup.other
    if shift % count == 0:
        where = f"{setup.split}.txt has {count} clips" if count > 1 else f"{setup.split}.txt has one clip"
        raise InputError(f"{where}: at --other {shift} each is its own other clip, whose sound and lips it would get")
    return shift


def sync_scorer(setup):
    """The sync model of a setup. Raises InputError if it must see whole frames and there are none."""
    found = scorer(*setup.sync, setup.device)
    if found.protocol in PROTOCOLS and not setup.videos:
        raise InputError(f"SyncNet ({found.protocol}) sees more than the stored crops: give the corpus, --videos DIR")
    return found


class Worker:
    """Scores clips by name in a process of its own: (name, `Scored` or why it cannot be compared)."""

    def __init__(self, setup=None, judge=None):
        one_thread()
        self.judge = judge or Judge(setup)

    def __call__(self, name):
        try:
            return name, self.judge.score(name)
        except InputError as error:
            return name, str(error)


def one_thread():
    """Lets this process compute on one thread, so that numbers do not depend on how many processes share the work."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def score_clips(judge, names, workers, leave_out, progress, ray=None):
    """Scores clips on `workers` processes or on a Ray cluster: ({name: Scored}, {name: why it was left out}).

    leave_out: whether a clip that cannot be compared is left out; otherwise it raises InputError.
    progress: called with 1 for each clip that is done.  ray: the cluster's address, see `pool.on_ray`.
    """
    make, found = partial(Worker, judge.setup), {}
    if ray:
        results = on_ray(make, names, ray)
    elif min(workers, len(names)) > 1:
        results = local(make, names, min(workers, len(names)))
    else:
        results = map(Worker(judge=judge), names)
    for name, result in results:
        if isinstance(result, str) and not leave_out:
            raise InputError(f"{name}: {result}. Mend it, or say --leave_out to judge the other clips")
        found[name] = result
        progress(1)
    scored = {name: found[name] for name in names if isinstance(found[name], Scored)}
    return scored, {name: found[name] for name in names if name not in scored}
