"""Training samples of a generator, from a data root; each is a function of the seed and its number."""

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

import audio
import checkpoint
from errors import InputError
from faces import mouth
from faces.augment import Augmentation, match_lighting
from faces.crop import UPPER_SHARE
from faces.landmarks import mouth_opening, mouth_region
from faces.shape import HeadShape, distant_references, random_references
from media.augment import SoundAugmentation
from media.clip import FORMAT, FPS, SUFFIX, Clip, inside
from media.files import read_text
from models.decoder import END, PAD
from models.whisper import embed

# Parts of a sample that belong to faces.
WINDOWED = ("face", "target", "mouth", "points", "resting", "turns", "told", "index", "frames", "to_face", "sync_mel")
FILL = {"tokens": PAD, "clusters": -1, "said": PAD}  # what stands after the end of other parts: 0
PUBLISHED_SHARE = 0.08  # of a clip's frames: so many windows are cut where --windows is 0


def evenly(count, most):
    """At most so many of `count` places, spread over them: a list of int."""
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


class Clips(Dataset):
    """The clips of one split of a data root, as an endless sequence of draws.

    faces: more clips, which may be silent, for a share `faces_share` of the draws.
    Raises InputError if the root is not one, the split is empty, a listed clip is missing, or faces have another size.
    """

    guided = False

    def __init__(self, root, split, hp, faces=None):
        root = Path(root)
        about = root / "dataset.json"
        if not about.is_file():
            raise InputError(f"{root}: not a data root (no dataset.json). Make one with preprocess.py.")
        try:
            self.about = dict(json.loads(about.read_text()))
        except ValueError as error:
            raise InputError(f"{about} is broken ({error}): preprocess again") from error
        if (found := self.about.get("format")) != FORMAT:
            raise InputError(f"{root}: format {found}, this code reads {FORMAT}: preprocess it again")
        self.listed = root / f"{split}.txt"
        self.names = inside(read_text(self.listed).split("\n"), self.listed) if self.listed.is_file() else []
        if not self.names:
            raise InputError(f"{self.listed}: no clips in this split")
        self.paths = [root / "clips" / f"{name}{SUFFIX}" for name in self.names]
        if missing := [path for path in self.paths if not path.is_file()]:
            raise InputError(f"{root}: {len(missing)} listed clips are missing, first {missing[0]}: preprocess again")
        self.hp, self.faces = hp, faces
        if faces and any(self.about[px] != faces.about[px] for px in ("face_px", "crop_px")):
            raise InputError(f"{root} has faces of {self.about['face_px']} px, --faces of {faces.about['face_px']} px")
        self._keep(self.names, self.paths)

    def _keep(self, names, paths):
        """Makes these clips the ones that samples are of."""
        self.names, self.paths, self.speakers = names, paths, {}
        for i, name in enumerate(names):
            self.speakers.setdefault(name.rpartition("/")[0], []).append(i)

    def __len__(self):
        return len(self.names)

    def unusable(self, windows=True):
        """{clip: why no sample can be made of it}, found without decoding a picture.

        windows: they are cut from the clips, as in training; in validation clips are taken whole.
        """
        faults = {}
        for name, path in zip(self.names, self.paths, strict=True):
            try:
                self.check_clip(Clip(path), windows)
            except InputError as error:
                faults[name] = str(error)
        return faults

    def leave_out(self, windows=True):
        """Takes the clips out of which no sample can be made; returns {clip: why}, see `unusable`."""
        faults = self.unusable(windows)
        kept = [(name, path) for name, path in zip(self.names, self.paths, strict=True) if name not in faults]
        self._keep([name for name, _ in kept], [path for _, path in kept])
        return faults

    def check(self):
        """Raises InputError that names the clips of which no sample can be made, without decoding a picture of them."""
        if faults := self.unusable():
            first, *others = faults
            also = f"; the others: {', '.join(others[:20])}" if others else ""
            also += f" and {len(others) - 20} more" if len(others) > 20 else ""
            count = f"{len(faults)} of {len(self)} clips cannot be used"
            raise InputError(f"{self.listed}: {count}, take them out of it: {faults[first]}{also}")

    def check_clip(self, clip, windows):
        """Raises InputError for a clip with no two places for a window; see `check`."""
        if windows and len(clip) <= self.hp.window:
            raise InputError(f"{clip.path}: a clip of {len(clip)} frames is too short for windows of {self.hp.window}")
        if self.hp.speech == "whisper":
            clip.check_whisper()

    def __getitem__(self, draw):
        """Training sample number `draw` of a run: the same for the same seed, in any worker, resumed or not.

        See `sample` for what it holds, `window_places` and `identity_place` for where its frames lie.
        """
        hp, rng = self.hp, np.random.default_rng((self.hp.seed, 1, draw))
        clip = Clip(self._silent_face(draw) or self.paths[self._which(draw, rng)])
        self.check_clip(clip, windows=True)
        starts = window_places(clip, hp, rng)
        frames = (starts[:, None] + np.arange(hp.window)).ravel()
        bends = hp.model == "warp" and not self.guided  # the way from the mouth ROI to the face knows no bends
        if hp.model == "warp":
            each = [random_references(len(clip), start, hp.window, hp.references, rng) for start in starts]
            identity = np.repeat(each, hp.window, axis=0)
        else:
            elsewhere = np.array([[identity_place(clip, start, hp, rng)] for start in starts])
            identity = (elsewhere + np.arange(hp.window)).ravel()
        return self.build(clip, frames, identity, Augmentation(hp.augment, rng, bends, bends and clip.silent), draw)

    def build(self, clip, frames, identity, augmentation, draw):
        """The sample of a draw whose frames and augmentation are chosen, see `sample`; `GuidedClips` add to it."""
        alteration = None  # numbers of its own: pictures are the same with and without it
        if self.hp.sound_augment and draw is not None:
            alteration = SoundAugmentation(self.hp.sound_augment, np.random.default_rng((self.hp.seed, 5, draw)))
        chance = self.hp.told if self.guided else 0
        told = draw is None or np.random.default_rng((self.hp.seed, 6, draw)).random() < chance
        return sample(clip, frames, identity, self.hp, self.about, augmentation, alteration, told)

    def _silent_face(self, draw):
        """The file of one of the `faces`, or None, by numbers of its own: other draws are the same without them."""
        if not self.faces:
            return None
        rng = np.random.default_rng((self.hp.seed, 7, draw))
        chosen = rng.random() < self.hp.faces_share
        return self.faces.paths[rng.integers(len(self.faces))] if chosen else None

    def _which(self, draw, rng):
        """The clip of a draw: each once an epoch in shuffled order, or, sometimes, of a speaker chosen first."""
        if rng.random() < self.hp.rare_speakers:
            names = sorted(self.speakers)
            return rng.choice(self.speakers[names[rng.integers(len(names))]])
        epoch, place = divmod(draw, len(self))
        return np.random.default_rng((self.hp.seed, 0, epoch)).permutation(len(self))[place]

    def validation(self, i, faces=8):
        """A fixed sample of clip `i`: `faces` frames spread over it."""
        clip = Clip(self.paths[i])
        frames = np.linspace(0, len(clip) - 1, faces).astype(int)
        return sample(clip, frames, fixed_identity(clip, frames, self.hp), self.hp, self.about, Augmentation(0.0, None))

    def whole(self, i):
        """A fixed batch of clip `i`, for validation by an expert: all its frames are generated."""
        clip = Clip(self.paths[i])
        frames = np.arange(len(clip))
        identity = fixed_identity(clip, frames, self.hp)
        return collate([self.build(clip, frames, identity, Augmentation(0.0, None), None)], len(clip))


def window_places(clip, hp, rng):
    """The first frames of a draw's windows: (windows,), which lie apart where the clip is long enough.

    With the knob `speech_windows`, windows at least half of which is said in words are preferred that often. `rng`
    gives the same numbers for a published draw, whatever knobs there are beside.
    """
    starts, windows = rng.permutation(len(clip) - hp.window + 1), hp.windows or max(int(PUBLISHED_SHARE * len(clip)), 1)
    wanted, spoken = np.zeros(windows, bool), None
    if hp.speech_windows and len(clip.times):
        wanted = rng.random(windows) < hp.speech_windows
        spoken = np.convolve(clip.in_words, np.ones(hp.window), "valid")[starts] >= hp.window / 2
    free, apart = np.ones(len(starts), bool), []
    for preferred in wanted:
        choice = np.flatnonzero(free & spoken) if preferred else np.flatnonzero(free)
        choice = choice if len(choice) else np.flatnonzero(free)
        if len(choice):
            apart.append(starts[choice[0]])
            free &= np.abs(starts - apart[-1]) >= hp.window
    return np.resize(apart, windows)  # a short clip repeats its windows


def identity_place(clip, start, hp, rng):
    """The first frame of the identity that goes with the window at `start`: any other, as published.

    With the knob `identity_apart` it is so far away, or as far as the clip goes, and one of the third most open or, as
    often, of the third most closed there: a generator that knew what the identity's mouth is like could copy it.
    """
    places = np.arange(len(clip) - hp.window + 1)
    if not hp.identity_apart:
        return rng.choice(np.delete(places, start))
    away = np.abs(places - start)
    places = places[away >= min(hp.window - 1 + hp.identity_apart, away.max())]
    opening = np.convolve(mouth_opening(clip.meshes), np.ones(hp.window), "valid")[places]
    ranked, third = places[np.argsort(opening, kind="stable")], -(-len(places) // 3)
    return rng.choice(ranked[-third:] if rng.random() < 0.5 else ranked[:third])


def fixed_identity(clip, frames, hp):
    """The identity of validation: the first frame, as published; of references those of the other half of the clip."""
    if hp.model == "warp":
        return distant_references(mouth_opening(clip.meshes), frames, hp.references)
    return np.zeros_like(frames)


def sample(clip, frames, identity, hp, about, augmentation, alteration=None, told=True):
    """The inputs and the target of a generator for chosen frames of a clip.

    frames: (T,) to generate.  identity: (T,) those that show the identity, or (T, K) references.
    augmentation: how the pictures of this sample are altered: all in geometry and colour, the inputs in sharpness too,
    but not those whose pixels become the output.  alteration: a `SoundAugmentation` of its sound, or None.
    told: whether the lips take the shape that the sound tells, or, to learn to warp, the true one.
    Returns face (T, 6, H, W) in [0, 1]: pose prior, then identity;  target (T, 3, H, W) in [0, 1];
    mouth (T, 1, H, W): 1 inside the mouth region;  audio (L, 104) with index (T,) the row of each frame, or
    (T, 1, 80, 16) with index 0 to T - 1 for the local encoder;  lips (L or T, LIP_NUMBERS): their shape at each row.
    For a sync expert: frames (T,), and sync_mel (T, 1, 80, S), the clip's own 0.2 s from each on, NaN past its end.
    To warp, face is (T, 3 + 3K, H, W), whole crops, with points, resting, turns and told, see `ReferenceWarp.generate`.
    """
    (px, scale, border), warps = crop_of(hp, about), hp.model == "warp"
    margin = (about["crop_px"] / about["face_px"] - 1) / 2
    head = HeadShape(clip.meshes, clip.boxes, margin)
    border_mode = cv2.BORDER_REPLICATE if warps else cv2.BORDER_CONSTANT
    to_face = augmentation.matrix(px, scale, border)
    to_identity = to_face if warps else augmentation.matrix(px, scale, border, jitter=True)

    def pictures(frames, matrix):
        different, place = np.unique(frames, return_inverse=True)
        warped = [augmentation.warp(clip.picture(i), matrix, px, border_mode) for i in different]
        return np.stack([augmentation.recolour(each) for each in warped])[place.ravel()]

    def placed(points):
        points = points * about["crop_px"] - 0.5
        points = augmentation.bend(points @ to_face[:, :2].T + to_face[:, 2], px)
        return points * [-1, 1] + [px - 1, 0] if augmentation.flip else points

    target, shown = pictures(frames, to_face), pictures(np.ravel(identity), to_identity)
    prior = target
    if not warps:
        prior, shown = (np.stack([augmentation.degrade(rgb) for rgb in each]) for each in (target, shown))
    if augmentation.flip:
        target, prior, shown = (each[:, :, ::-1] for each in (target, prior, shown))
    if warps:
        own, there = placed(head.points[frames])[:, None], placed(head.points[identity])  # (T, 1, P, 2), (T, K, P, 2)
        shown, there = augmentation.reshape(shown, there.reshape(len(shown), -1, 2))
        points = np.concatenate([own, there.reshape(*identity.shape, -1, 2)], axis=1)
    target, prior, shown = map(to_tensor, (target, prior, shown))
    if warps:
        found = {"face": torch.cat([prior, shown.unflatten(0, (len(prior), -1)).flatten(1, 2)], 1)}
        turn = np.diag([-1 if augmentation.flip else 1, 1]) @ to_face[:, :2] * about["crop_px"] / px
        found["points"] = to_float((points + 0.5) / px)
        found["resting"] = to_float((placed(head.resting[frames]) + 0.5) / px)
        found["turns"] = to_float(turn @ head.turns[frames])
        found["told"] = torch.full((len(frames),), told)
    else:
        found = {"face": generator_input(prior, shown)}
    if hp.synced:
        mels = audio.known_mel_windows(clip.mel_by(audio.MELS[hp.mel]), frames, audio.MELS[hp.mel])
        found |= {"sync_mel": torch.from_numpy(mels), "frames": torch.from_numpy(frames)}
    mesh = placed((clip.meshes[frames] + margin) / (1 + 2 * margin))
    sound, index, places = audio_features(clip, frames, hp.speech, alteration)
    places = np.full(len(places), np.nan) if clip.silent else places  # no sound says what these lips do
    return found | {
        "target": target,
        "mouth": mouth_mask(mesh, px),
        "audio": torch.from_numpy(sound),
        "lips": torch.from_numpy(head.shapes_at(places)),
        "index": torch.from_numpy(index),
    }


def crop_of(hp, about):
    """What of a stored crop a generator takes: side of its pictures in px, their scale, the border that it leaves."""
    if hp.model == "warp":
        return hp.face_size, hp.face_size / about["crop_px"], 0
    return hp.face_size, hp.face_size / about["face_px"], (about["crop_px"] - about["face_px"]) / 2


def to_float(array):
    """A numpy array as a tensor of 32 bits."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def generator_input(face, identity):
    """The face input of a generator: the pose prior, which is the face with its lower half black, and the identity.

    face, identity: (T, 3, H, W) in [0, 1], RGB. Returns (T, 6, H, W).
    """
    pose = face.clone()
    pose[:, :, int(UPPER_SHARE * face.shape[2]) :] = 0
    return torch.cat([pose, identity], dim=1)


def audio_features(clip, frames, speech, alteration=None):
    """The input of the audio encoder `speech` for chosen frames, its row for each of them, and what each row is of.

    frames: (T,).  alteration: a `SoundAugmentation`; sound that it alters has features of its own, not the stored ones.
    Returns mel windows (T, 1, 80, 16) and 0 to T - 1 for "local"; for the others (L, 104), "whisper" (L, 768) or
    "utterance" (L, 320), and (T,); then the place in the clip of each row, in frames, NaN in added silence: (L,), for
    "local" (T,).
    """
    times_s, wav, timing = np.asarray(frames) / FPS, None, None
    if alteration:
        timing = alteration.retiming(len(clip.wav) / audio.RATE, times_s, clip.times)
        if alteration.alters or timing.alters:
            wav, times_s = timing.apply(alteration.apply(clip.wav, clip.times)), timing.heard_at(times_s)
    if speech == "local":
        mel = clip.mel if wav is None else audio.fast_mel_spectrogram(wav)
        return audio.mel_windows(mel, times_s), np.arange(len(frames)), np.asarray(frames)
    if speech == "whisper":
        rows = audio.pairs(clip.whisper if wav is None else embed(whisper_encoder(), wav).numpy())
    elif speech == "utterance":
        rows = audio.mel_rows(audio.fast_mel_spectrogram(clip.wav if wav is None else wav, audio.MELS["cals"]))
    else:
        rows = audio.stack(clip.logfbank if wav is None else audio.fast_log_filter_banks(wav))
    at_s = np.arange(len(rows)) / audio.ROW_RATE
    shown = FPS * (at_s if wav is None else timing.shown_at(at_s))
    return rows, audio.rows_at(times_s + 0.5 / audio.ROW_RATE, len(rows)), shown


@cache
def whisper_encoder():
    """Whisper's encoder, one in each process, for sound whose features are not stored."""
    return checkpoint.load_whisper()[0]


def to_tensor(pictures):
    """(T, H, W, 3) uint8 -> (T, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).contiguous().float().div_(255)


def mouth_mask(mesh, px):
    """1 inside the mouth region of each face, 0 outside. mesh: (T, 468, 2) px. Returns (T, 1, px, px) float32."""
    mask = torch.zeros(len(mesh), 1, px, px)
    for t, (x1, y1, x2, y2) in enumerate(mouth_region(mesh).round().astype(int)):
        mask[t, :, max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)] = 1
    return mask


class GuidedClips(Clips):
    """The clips of a split with what a lip reader needs to read them, beside what a generator is given.

    tokenizer: an `experts.tokenizer.Tokenizer`.  roi: "aligned" or "lrs2".  longest: frames that the lip reader takes.
    """

    guided = True

    def __init__(self, root, split, hp, tokenizer, roi, longest):
        super().__init__(root, split, hp)
        self.tokenizer, self.roi, self.longest = tokenizer, roi, longest

    def check_clip(self, clip, windows):
        """The tokens of a clip; raises InputError for one too long or short, without known text, or without its ROI."""
        super().check_clip(clip, windows)
        if len(clip) > self.longest:
            raise InputError(f"{clip.path}: {len(clip)} frames, the lip expert takes {self.longest}: cut it")
        clip.check_roi(self.roi)
        try:
            return self.tokenizer.encode(clip.text, strict=not self.hp.faithful)
        except InputError as error:
            raise InputError(f"{clip.path}: {error}") from error

    def build(self, clip, frames, identity, augmentation, draw):
        """The sample of a draw, see `data.sample`, with what the expert is shown and should read.

        roi: (L, 1, 88, 88) grey in [0, 1], the real mouth.  frames: (T,) the frames that are generated.
        to_face: (T, 2, 3) from the ROI to the face that is to be generated, [0, 1] x [0, 1].  tokens: (N,) with END.
        Raises InputError as `check_clip`.
        """
        tokens = self.check_clip(clip, windows=False)
        real, whole = clip.mouth_windows(self.roi), np.tile(np.eye(2, 3), (len(clip), 1, 1))
        windows = clip.windows if self.roi == "aligned" else mouth.lrs2(clip.boxes, clip.size)
        # Numbers of its own: a draw is the same with and without the expert. Twice the same, for the same part is read.
        alter = draw is not None and self.hp.augment
        rngs = [np.random.default_rng((self.hp.seed, 4, draw)) if alter else None for _ in range(2)]
        inner, to_box = mouth.inner(whole, rngs[0]), mouth.inner(windows, rngs[1])
        real = torch.from_numpy(match_lighting(real, clip, frames, augmentation))[:, None] / 255
        parts = {
            "roi": mouth.cut(real, torch.from_numpy(inner)),
            "frames": torch.from_numpy(frames),
            "to_face": torch.from_numpy(self.to_generated(to_box[frames], augmentation)),
            "tokens": torch.tensor(tokens),
        }
        return super().build(clip, frames, identity, augmentation, draw) | parts

    def to_generated(self, to_box, augmentation):
        """Matrices (T, 2, 3) from the ROI to the face box, made to end in the augmented face."""
        face_px, border = self.about["face_px"], (self.about["crop_px"] - self.about["face_px"]) / 2
        px, scale, left_out = crop_of(self.hp, self.about)
        to_face = augmentation.matrix(px, scale, left_out)  # pixels of the stored crop to those of the face
        linear = to_face[:, :2] * face_px / px
        shift = (to_face[:, :2] @ np.full(2, border - 0.5) + to_face[:, 2] + 0.5) / px
        if augmentation.flip:
            linear, shift = linear * [[-1], [1]], shift * [-1, 1] + [1, 0]
        matrices = linear @ to_box
        matrices[..., 2] += shift
        return matrices.astype(np.float32)


def collate(samples, window=0):
    """Samples of a generator, a lip reader or a sync model as a batch.

    What belongs to a face is cut into windows, each a row, of which `clip` (W,) tells the clip: face, target, mouth,
    index and, with experts, frames, to_face, sync_mel, (W, window, ...). A window that a short clip repeats is left
    out. All else has a row for each clip, padded to the longest: `audio_padding` (B, L) is True after the end of
    its sound, `roi_padding` (B, L) after that of its pictures, of which there are `lengths` (B,); `previous` (B, N) is
    the token before each.
    """
    rows = {name: [] for name in WINDOWED if name in samples[0]}
    clips = []
    for number, sample in enumerate(samples if rows else ()):
        kept = different(sample.get("frames"), len(sample["face"]) // window, window)
        clips += [number] * len(kept)
        for name, parts in rows.items():
            parts.append(sample[name].unflatten(0, (-1, window))[kept])
    batch = {name: torch.cat(parts) for name, parts in rows.items()} | ({"clip": torch.tensor(clips)} if rows else {})
    for name in (name for name in samples[0] if name not in rows):
        parts = [sample[name] for sample in samples]
        batch[name] = torch.stack(parts) if not parts[0].ndim else pad_sequence(parts, True, FILL.get(name, 0))
    for name in ("audio", "roi"):
        if name in batch:
            lengths = torch.tensor([len(sample[name]) for sample in samples])
            batch[f"{name}_padding"] = torch.arange(batch[name].shape[1]) >= lengths[:, None]
    if "roi" in batch:
        batch["lengths"] = lengths
    if "tokens" in batch:
        tokens = batch["tokens"]
        previous = torch.cat([torch.full_like(tokens[:, :1], END), tokens[:, :-1]], dim=1)
        batch["previous"] = previous.masked_fill(tokens == PAD, PAD)
    return batch


def different(frames, windows, window):
    """The numbers of a clip's windows without those that begin where another one does; all where `frames` is None."""
    starts = list(range(windows)) if frames is None else frames[::window].tolist()
    return [i for i, start in enumerate(starts) if start not in starts[:i]]
