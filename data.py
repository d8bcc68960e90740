"""Reads a data root made by preprocess.py: clips for training, each draw a function of the seed and its number."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from clip import FORMAT, SUFFIX, Clip
from faces import mouth_region
from hparams import InputError

PUBLISHED_SHARE = 0.08  # of a clip's frames: so many windows are drawn where --windows is 0


def one_thread(_):
    """Keeps OpenCV to one thread in a process that reads clips, however it was started."""
    cv2.setNumThreads(0)


class Clips(Dataset):
    """The clips of one split of a data root, as an endless sequence of draws.

    Raises InputError if the root is not one, the split is empty, or a listed clip is missing.
    """

    def __init__(self, root, split, hp):
        root = Path(root)
        about = root / "dataset.json"
        if not about.is_file():
            raise InputError(f"{root}: not a data root (no dataset.json). Make one with preprocess.py.")
        try:
            self.about = dict(json.loads(about.read_text()))
        except ValueError as error:
            raise InputError(f"{about} is broken ({error}): preprocess again") from error
        if self.about.get("format") != FORMAT:
            raise InputError(
                f"{root}: format {self.about.get('format')}, this code reads {FORMAT}: preprocess it again"
            )
        self.listed = root / f"{split}.txt"
        if not self.listed.is_file() or not self.listed.read_text().strip():
            raise InputError(f"{self.listed}: no clips in this split")
        self.names = inside(filter(None, self.listed.read_text(encoding="utf-8").split("\n")), self.listed)
        self.paths = [root / "clips" / f"{name}{SUFFIX}" for name in self.names]
        if missing := [path for path in self.paths if not path.is_file()]:
            raise InputError(
                f"{root}: {len(missing)} listed clips are missing, the first is {missing[0]}: preprocess again"
            )
        self.hp = hp
        self.speakers = {}
        for i, name in enumerate(self.names):
            self.speakers.setdefault(name.rpartition("/")[0], []).append(i)

    def __len__(self):
        return len(self.names)

    def check(self, drawn=True):
        """Raises InputError that names the clips of which no sample can be made, without decoding a picture of them.

        drawn: windows are drawn from the clips, as in training; in validation they are taken whole.
        """
        faults = {}
        for name, path in zip(self.names, self.paths, strict=True):
            try:
                self.check_clip(Clip(path), drawn)
            except InputError as error:
                faults[name] = str(error)
        if faults:
            first, *others = faults
            also = f"; the others: {', '.join(others[:20])}" if others else ""
            also += f" and {len(others) - 20} more" if len(others) > 20 else ""
            count = f"{len(faults)} of {len(self)} clips cannot be used"
            raise InputError(f"{self.listed}: {count}, take them out of it: {faults[first]}{also}")

    def check_clip(self, clip, drawn):
        """Raises InputError for a clip with no two places for a window; see `check`."""
        if drawn and len(clip) <= self.hp.window:
            raise InputError(f"{clip.path}: a clip of {len(clip)} frames is too short for windows of {self.hp.window}")

    def __getitem__(self, draw):
        """Training sample number `draw` of a run: the same for the same seed, in any worker, resumed or not.

        See `sample` for what it holds. Windows lie apart where the clip is long enough; the identity is a window
        elsewhere, as published.
        """
        hp, rng = self.hp, np.random.default_rng((self.hp.seed, 1, draw))
        clip = Clip(self.paths[self._which(draw, rng)])
        self.check_clip(clip, drawn=True)
        last = len(clip) - hp.window + 1  # number of places for a window
        starts, windows = rng.permutation(last), hp.windows or max(int(PUBLISHED_SHARE * len(clip)), 1)
        apart = [starts[0]]
        for start in starts[1:]:
            if len(apart) < windows and min(abs(start - other) for other in apart) >= hp.window:
                apart.append(start)
        starts = np.resize(apart, windows)  # a short clip repeats its windows
        elsewhere = [rng.choice(np.delete(np.arange(last), start)) for start in starts]
        frames = (starts[:, None] + np.arange(hp.window)).ravel()
        identity = (np.array(elsewhere)[:, None] + np.arange(hp.window)).ravel()
        return self.build(clip, frames, identity, Look(hp.augment, rng), draw)

    def build(self, clip, frames, identity, look, draw):
        """The sample of a draw whose frames and look are chosen, see `sample`; `Lessons` add to it."""
        return sample(clip, frames, identity, self.hp, self.about, look)

    def _which(self, draw, rng):
        """The clip of a draw: each once an epoch in shuffled order, or, sometimes, of a speaker chosen first."""
        if rng.random() < self.hp.rare_speakers:
            names = sorted(self.speakers)
            return rng.choice(self.speakers[names[rng.integers(len(names))]])
        epoch, place = divmod(draw, len(self))
        return np.random.default_rng((self.hp.seed, 0, epoch)).permutation(len(self))[place]

    def validation(self, i, faces=8):
        """A fixed sample of clip `i`: `faces` frames spread over it, the identity its first frame, as published."""
        clip = Clip(self.paths[i])
        frames = np.linspace(0, len(clip) - 1, faces).astype(int)
        return sample(clip, frames, np.zeros(faces, int), self.hp, self.about, Look(0.0, None))


def inside(ids, path):
    """The clip ids of a filelist, as a list; raises InputError for one that leads out of the root."""
    ids = list(ids)
    if out := [name for name in ids if leads_out(name)]:
        raise InputError(f"{path}: {out[0]!r} leads out of the root: clip ids look like speaker/clip")
    return ids


def leads_out(name):
    """Whether a clip id, joined to a root, can be a place outside it."""
    return Path(name).is_absolute() or ".." in Path(name).parts


def sample(clip, frames, identity, hp, about, look):
    """What a generator is given and should draw, for chosen frames of a clip.

    frames, identity: (T,) the frames to draw, and those that show what the person looks like.
    look: a `Look`, how all pictures of this sample are altered.
    Returns face (T, 6, H, W) in [0, 1]: pose prior, then identity;  target (T, 3, H, W) in [0, 1];
    mouth (T, 1, H, W): 1 inside the mouth region;  audio (L, 104) with index (T,) the row heard at each frame, or
    (T, 1, 80, 16) with index 0 to T - 1 for the local encoder;  lips (L or T, LIP_NUMBERS): their outline at each row.
    """
    px, border = hp.face_size, (about["crop_px"] - about["face_px"]) / 2
    to_face = look.matrix(px, px / about["face_px"], border)
    target = np.stack([look.paint(cv2.warpAffine(clip.picture(i), to_face, (px, px))) for i in frames])
    to_identity = look.matrix(px, px / about["face_px"], border, jitter=True)
    shown = np.stack([look.paint(cv2.warpAffine(clip.picture(i), to_identity, (px, px))) for i in identity])
    mesh = clip.meshes[frames] * about["face_px"] + border - 0.5  # (T, 468, 2), pixels of the stored crop
    mesh = mesh @ to_face[:, :2].T + to_face[:, 2]
    if look.flip:
        target, shown = target[:, :, ::-1], shown[:, :, ::-1]
        mesh = mesh * [-1, 1] + [px - 1, 0]
    target, shown = to_tensor(target), to_tensor(shown)
    pose = target.clone()
    pose[:, :, px // 2 :] = 0
    heard, index = clip.hear(frames, hp.speech)
    return {
        "face": torch.cat([pose, shown], dim=1),
        "target": target,
        "mouth": mouth_mask(mesh, px),
        "audio": torch.from_numpy(heard),
        "lips": torch.from_numpy(clip.lips(np.arange(len(heard)) if hp.speech == "global" else frames)),
        "index": torch.from_numpy(index),
    }


def to_tensor(pictures):
    """(T, H, W, 3) uint8 -> (T, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).contiguous().float().div_(255)


def write_picture(path, picture):
    """Writes a (3, H, W) tensor in [0, 1], RGB, as a picture file, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (picture.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    cv2.imwrite(str(path), pixels[..., ::-1])


def mouth_mask(mesh, px):
    """1 inside the mouth region of each face, 0 outside. mesh: (T, 468, 2) px. Returns (T, 1, px, px) float32."""
    mask = torch.zeros(len(mesh), 1, px, px)
    for t, (x1, y1, x2, y2) in enumerate(mouth_region(mesh).round().astype(int)):
        mask[t, :, max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)] = 1
    return mask


class Look:
    """One random way to film: flip, colour and gamma, a small affine, blur and compression, each with `chance`."""

    def __init__(self, chance, rng):
        def often():
            return chance > 0 and rng.random() < chance

        self.rng, self.flip = rng, often()
        self.affine, self.curves, self.sigma, self.quality = None, None, 0.0, 0
        if often():
            self.affine = rng.uniform(-1, 1, 6)
        if often():
            self.curves = self._curves()
        if often():
            self.sigma = rng.uniform(0.3, 1.2)
        if often():
            self.quality = int(rng.integers(30, 90))
        self.jittered = chance > 0
        self.paints = bool(self.curves is not None or self.sigma or self.quality)

    def matrix(self, px, scale, border, jitter=False):
        """The 2x3 matrix from a stored crop to a face of `px`. jitter: a little more of its own, for the identity."""
        sx = sy = scale
        turn = shear = dx = dy = 0.0
        if self.affine is not None:
            turn, shear, a, b, c, d = self.affine * [0.17, 0.08, 0.12, 0.12, 0.05, 0.05]
            sx, sy, dx, dy = scale * np.exp(a), scale * np.exp(b), c * px, d * px
        if jitter and self.jittered:
            a, dx2, dy2 = self.rng.uniform(-1, 1, 3) * [0.03, 0.02, 0.02]
            sx, sy, dx, dy = sx * np.exp(a), sy * np.exp(a), dx + dx2 * px, dy + dy2 * px
        cos, sin = np.cos(turn), np.sin(turn)
        linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[sx, shear * sx], [0, sy]])
        middle_in, middle_out = (px / scale) / 2 + border - 0.5, px / 2 - 0.5
        return np.column_stack([linear, [middle_out + dx, middle_out + dy] - linear @ [middle_in, middle_in]])

    def _curves(self):
        """A 3x256 table of output values and a saturation: gain and gamma per channel, brightness, in common or not."""
        rng = self.rng
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.85, 1.15, 3)
        gamma = np.exp(rng.uniform(-0.5, 0.5) + rng.uniform(-0.1, 0.1, 3))
        values = np.linspace(0, 1, 256)[None]
        table = gain[:, None] * values ** gamma[:, None] + rng.uniform(-0.1, 0.1)
        return (np.clip(table, 0, 1) * 255).astype(np.uint8), rng.uniform(0.2, 1.4)

    def paint(self, rgb):
        """Applies everything but the geometry to an (H, W, 3) uint8 picture."""
        if self.curves is not None:
            table, saturation = self.curves
            rgb = cv2.LUT(rgb, np.ascontiguousarray(table.T[:, None]).reshape(1, 256, 3))
            gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            rgb = cv2.addWeighted(rgb, saturation, gray, 1 - saturation, 0)
        if self.sigma:
            rgb = cv2.GaussianBlur(rgb, (5, 5), self.sigma)
        if self.quality:
            rgb = cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1], cv2.IMREAD_COLOR)
        return rgb


def collate(samples):
    """Stacks samples to a batch; clips of unlike length are padded and `padding` (B, L) says where."""
    batch = {name: torch.stack([each[name] for each in samples]) for name in ("face", "target", "mouth", "index")}
    batch |= {name: pad_sequence([each[name] for each in samples], batch_first=True) for name in ("audio", "lips")}
    rows = torch.tensor([len(each["audio"]) for each in samples])
    return batch | {"padding": torch.arange(batch["audio"].shape[1]) >= rows[:, None]}
