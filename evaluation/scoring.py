"""Scores of clips: every measure of every row, of all clips of a split, on several processes."""

import hashlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import checkpoint
import distributed
from data import mouth_mask
from errors import InputError
from evaluation import comparison_page, landmarks, visual
from evaluation.identity import IdentityScorer
from evaluation.rows import TRUTH, Corpus, GeneratedRows, baseline_rows
from evaluation.videos import crops_of, framed, frames_of, teachers_of, unlike
from evaluation.wer import EvaluationReaders
from experts import lse
from workers import local, on_ray


@dataclass(frozen=True)
class Setup:
    """The files and settings that a split is scored with; plain values, to be sent to other processes.

    methods: the names of the rows that are compared, in their order: each is in `fakes` or in `weights`.
    fakes: {row: {clip id: path of its video}}.  weights: {row: the file that generates it}.
    generator: the weights whose rows of other sounds are wanted too.
    readers: see `wer.EvaluationReaders`.  sync: (file or None, protocol).
    other: how many places down the list the clip is whose sound and lips are taken.  slack: see `videos.frames_of`.
    page: whether pictures for the page are kept.  articulation: see `renderer.SpeechTrack`; of the generator's rows.
    """

    root: Path
    split: str
    videos: Path | None
    methods: tuple
    fakes: dict
    weights: dict
    generator: Path | None
    measures: tuple
    readers: dict
    sync: tuple
    other: int | None = None
    slack: int = 1
    talklip_psnr: bool = False
    device: str = "cpu"
    page: bool = False
    articulation: float = 1.0


@dataclass
class Scored:
    """The scores of one clip.

    rows: {row: {measure: (sum, weight)}}.  read: {row: {reader: sentence}}.  sha256: of each row's video or generated
    pictures.  notes: lines about it.  media: {row: (JPEG strip, MP4)} for the page.
    """

    rows: dict
    read: dict = field(default_factory=dict)
    sha256: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    media: dict = field(default_factory=dict)


class ClipScorer:
    """Scores the clips of a split. Raises InputError for files that do not hold what they should."""

    def __init__(self, setup):
        self.setup, self.corpus = setup, Corpus(setup.root, setup.split, setup.videos)
        self.shift = shift_of(setup, len(self.corpus.names))
        wants = set(setup.measures)
        self.generators = {row: GeneratedRows(path, setup.device) for row, path in setup.weights.items()}
        self.generated = GeneratedRows(setup.generator, setup.device, setup.articulation) if setup.generator else None
        self.mesher = landmarks.Mesher() if "landmarks" in wants else None
        self.readers = EvaluationReaders(setup.readers, setup.device) if "reading" in wants else None
        self.sync = sync_scorer(setup) if "sync" in wants else None
        self.identity = IdentityScorer(self.corpus) if "identity" in wants else None
        self.teachers = {row: self.teacher(row) for row in setup.methods}
        if self.generated:
            self.teachers[self.generated.name] = self.generated.about.get("taught_by")
        judges = {name: reader.about for name, reader in (self.readers.readers if self.readers else {}).items()}
        check_judges(self.teachers, judges | ({"sync": self.sync.about} if self.sync else {}))

    def teacher(self, row):
        """What `videos.teachers_of` returns, for a row that is compared."""
        maker = self.generators.get(row)
        return maker.about.get("taught_by") if maker else teachers_of(self.setup.fakes[row].values())

    def fault(self, name):
        """The reason why a clip cannot be compared, as far as headers and transcripts say, or None."""
        clip, setup = self.corpus.clip(name), self.setup
        if name in self.corpus.faults:
            return self.corpus.faults[name]
        for paths in setup.fakes.values():
            if name in paths and (why := unlike(paths[name], clip, setup.slack)) is not None:
                return why
        return self.readers.fault(clip) if self.readers else None

    def other(self, name):
        """The id of the clip whose lips and sound stand in for this clip's own."""
        names = self.corpus.names
        return names[(names.index(name) + self.shift) % len(names)]

    def rows_of(self, name):
        """A `Real`, the crops of all rows, cut to the shortest, the whole frames of videos, and their hashes."""
        setup, real, other = self.setup, self.corpus.real(name), self.corpus.real(self.other(name))
        rows, frames, sha256, generated = baseline_rows(real, other), {TRUTH: real.frames}, {}, {}
        for row in setup.methods:
            if maker := self.generators.get(row):
                rows[row] = generated[row] = maker.generate(real, maker.track(real.clip.wav))
                continue
            path = setup.fakes[row][name]
            frames[row] = frames_of(path, real.clip, setup.slack)
            boxes = real.clip.boxes[: len(frames[row])]
            rows[row] = crops_of(frames[row], boxes, real.crops.shape[1], real.margin)
            sha256[row] = checkpoint.sha256(path)
        if self.generated:
            generated |= self.generated.rows(real, other, self.corpus.minute(name))
        sha256 |= {row: hashlib.sha256(crops.tobytes()).hexdigest() for row, crops in generated.items()}
        rows |= generated
        count = min(map(len, rows.values()))
        return real, {row: crops[:count] for row, crops in rows.items()}, frames, sha256

    def score(self, name):
        """All that is measured on a clip, as a `Scored`. Raises InputError for a clip that cannot be compared."""
        real, rows, frames, sha256 = self.rows_of(name)
        scored, count = Scored({row: {} for row in rows}, sha256=sha256), len(rows[TRUTH])
        if count < len(real.crops):
            scored.notes.append(f"its rows are compared on the first {count} of {len(real.crops)} frames")
        if "visual" in self.setup.measures:
            self.score_pictures(scored, real, rows, frames)
        if self.mesher:
            self.score_landmarks(scored, real, rows)
        if self.sync:
            self.score_sync(scored, real, rows, frames)
        for row, found in (self.identity(real, rows, TRUTH) if self.identity else {}).items():
            scored.rows[row] |= found
        if self.readers:
            self.score_reading(scored, real, rows)
        if self.setup.page:
            scored.media = {
                row: comparison_page.encoded(real.faces(crops), real.clip.wav) for row, crops in rows.items()
            }
        return scored

    def score_pictures(self, scored, real, rows, frames):
        """Adds the visual measures, means over the frames; of rows that are videos the sharpness at their size too."""
        truth = real.faces(rows[TRUTH])
        count, px = truth.shape[:2]
        meshes, boxes = real.clip.meshes[:count].astype(np.float32), real.clip.boxes[:count, None]
        inside, mouth = meshes * px - 0.5, mouth_mask(meshes * px - 0.5, px)
        whole = meshes * (boxes[..., 2:] - boxes[..., :2]) + boxes[..., :2] - 0.5  # px of the frame
        for row, crops in rows.items():
            faces = real.faces(crops)
            found = visual.compare(faces, truth, mouth, self.setup.talklip_psnr)
            scored.rows[row] |= {measure: (each.mean().item(), 1) for measure, each in found.items()}
            scored.rows[row] |= visual.sharpness(list(map(visual.energies, faces, truth, inside)))
            if real.frames is not None and row in frames:
                height, width = real.frames.shape[1:3]  # of a video, an odd size may be made even
                own = map(visual.energies, frames[row][:count, :height, :width], real.frames[:count], whole)
                scored.rows[row] |= {f"{measure}_own": pair for measure, pair in visual.sharpness(list(own)).items()}

    def score_landmarks(self, scored, real, rows):
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

    def score_sync(self, scored, real, rows, frames):
        """Adds the sync measures, against the clip's own sound in every row."""
        clip, count = real.clip, len(rows[TRUTH])
        for row, crops in rows.items():
            whole = frames.get(row) if real.frames is not None else None
            if whole is None:
                whole = framed(crops, clip.boxes[:count], real.margin, real.frames, clip.size)
            found = self.sync(whole[:count, : clip.size[0], : clip.size[1]], clip.wav, clip)
            scored.rows[row] |= {f"sync_{name}": (float(value), 1) for name, value in found.items()}

    def score_reading(self, scored, real, rows):
        """Adds the error rates of the lip readers and the words named right, and keeps the sentences."""
        found, scored.read = self.readers(rows, real.clip, real.margin)
        if "words" in self.readers.readers and not len(real.clip.times):
            scored.notes.append("its transcript has no word times: it does not count in words right")
        for row, measures in found.items():
            scored.rows[row] |= measures


def shift_of(setup, count):
    """The number of places from a clip to its other clip, down a list of `count` clips: by default half of it, as
    neighbours in a sorted list say nearly the same. Raises InputError where that is each clip itself.
    """
    shift = count // 2 if setup.other is None else setup.other
    if shift % count == 0:
        where = f"{setup.split}.txt has {count} clips" if count > 1 else f"{setup.split}.txt has one clip"
        raise InputError(f"{where}: at --other {shift} each is its own other clip, whose sound and lips it takes")
    return shift


def sync_scorer(setup):
    """The sync model of a setup. Raises InputError if it must see whole frames and there are none."""
    found = lse.scorer(*setup.sync, setup.device)
    if found.protocol in lse.PROTOCOLS and not setup.videos:
        raise InputError(f"SyncNet ({found.protocol}) sees more than the stored crops: give the corpus, --videos DIR")
    return found


def check_judges(teachers, judges):
    """Raises InputError for a judge that has taught what it is to judge.

    teachers: {row: the SHA-256 of its experts, or None}.  judges: {flag: what is known of its file}.
    """
    for flag, about in judges.items():
        if taught := [row for row, known in teachers.items() if about["sha256"] in (known or ())]:
            raise InputError(f"--{flag} has taught {', '.join(taught)}: what it taught, it cannot judge; give another")


class Worker:
    """Scores clips by name in a process of its own: (name, `Scored` or why it cannot be compared)."""

    def __init__(self, setup=None, scorer=None):
        distributed.one_thread()
        self.scorer = scorer or ClipScorer(setup)

    def __call__(self, name):
        try:
            return name, self.scorer.score(name)
        except InputError as error:
            return name, str(error)


def score_clips(scorer, names, workers, leave_out, progress, ray=None):
    """Scores clips on `workers` processes or on a Ray cluster: ({name: Scored}, {name: why it was left out}).

    leave_out: whether a clip that cannot be compared is left out; otherwise it raises InputError.
    progress: called with 1 for each clip that is done.  ray: the cluster's address, see `workers.on_ray`.
    """
    make, found = partial(Worker, scorer.setup), {}
    if ray:
        results = on_ray(make, names, ray)
    elif min(workers, len(names)) > 1:
        results = local(make, names, min(workers, len(names)))
    else:
        results = map(Worker(scorer=scorer), names)
    for name, result in results:
        if isinstance(result, str) and not leave_out:
            raise InputError(f"{name}: {result}. Mend it, or say --leave_out to score the other clips")
        found[name] = result
        progress(1)
    scored = {name: found[name] for name in names if isinstance(found[name], Scored)}
    return scored, {name: found[name] for name in names if name not in scored}
