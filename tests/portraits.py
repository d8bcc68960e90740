"""The portrait of examples/ as short clips, weights of narrow untrained generators, and runs of the command on them."""

import json
from pathlib import Path

import cv2
import numpy as np
from filling import filled

import audio
import checkpoint
import inference
from faces import detect
from faces.people import picked
from faces.target import TargetFace, followed
from hparams import HParams
from media import writer
from media.frame import planes
from media.sound import read_audio
from models import build_generator

ROOT = Path(__file__).parents[1]
HEAD = (105, 5, 230)  # x, y and side of the square around the head, px of the portrait
NARROW = {"width": 1 / 16, "audio_layers": 1, "audio_dim": 32, "audio_ffn": 64, "audio_heads": 4}
WEIGHTS = {  # the generators that inference.py knows how to use
    "talklip_g": NARROW,
    "talklip_l": {"width": 1 / 16, "speech": "local"},
    "wav2lip": {"width": 1 / 16, "model": "wav2lip", "speech": "local"},
    "cals": {**NARROW, "model": "cals", "speech": "utterance", "sync_dim": 16, "a2l_steps": 1},
}


def head(px=160, x=0.0, y=0.0):
    """The head of the portrait, (px, px, 3) uint8 RGB, moved by (x, y) of its pixels; its face is about px / 2 wide."""
    rgb = cv2.imread(str(ROOT / "examples" / "portrait.png"))[..., ::-1]
    left, top, side = HEAD
    scale = px / side
    matrix = np.float32([[scale, 0, x - left * scale], [0, scale, y - top * scale]])
    rgb = cv2.GaussianBlur(rgb, (0, 0), 0.4 / scale) if scale < 1 else rgb
    return cv2.warpAffine(rgb, matrix, (px, px), borderMode=cv2.BORDER_REPLICATE)


def moving_head(count, px=160):
    """Frames of a head that sways a little: (count, px, px, 3) uint8."""
    return np.stack([head(px, 4 * np.sin(k / 4), 3 * np.cos(k / 5)) for k in range(count)])


def export_narrow(path, **knobs):
    """Writes the weights of a narrow untrained generator; returns their path."""
    hp = HParams(**knobs)
    checkpoint.export(path, filled(build_generator(hp)), hp)
    return path


def command(face, sound, outfile, weights, *flags):
    """The words of a command line."""
    words = ["--face", face, "--audio", sound, "--outfile", outfile, "--checkpoint_path", weights, "--quiet", *flags]
    return [str(word) for word in words]


def run(*words):
    """Runs inference.py in this process; returns its report."""
    words = command(*words)
    assert inference.main(words) == 0
    outfile = Path(words[words.index("--outfile") + 1])
    return json.loads(outfile.with_suffix(".json").read_text(encoding="utf-8"))


def written_frames(monkeypatch):
    """A list that fills with the Frames that go to the encoder, before it changes their samples."""
    frames, write = [], writer.Writer.write
    monkeypatch.setattr(writer.Writer, "write", lambda self, frame: frames.append(frame) or write(self, frame))
    return frames


def searches(monkeypatch):
    """A list that fills with the detectors that are made."""
    made, make = [], detect.DETECTORS["blazeface"]
    monkeypatch.setitem(detect.DETECTORS, "blazeface", lambda device: made.append(device) or make(device))
    return made


def same(frame, other):
    """Whether two Frames have the same samples in every plane."""
    pairs = zip(planes(frame.picture), planes(other.picture), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def changed_region(frame, other):
    """The smallest (x1, y1, x2, y2), in px, that holds all samples in which two 4:2:0 Frames differ; None if none."""
    found = []
    for step, a, b in zip((1, 2, 2), planes(frame.picture), planes(other.picture), strict=True):
        ys, xs = np.nonzero(a != b)
        if len(xs):
            found.append((step * xs.min(), step * ys.min(), step * (xs.max() + 1), step * (ys.max() + 1)))
    return tuple(int(f(side)) for f, side in zip((min, min, max, max), zip(*found, strict=True), strict=True)) or None


def lower_half(box):
    """The lower half of a face box, widened to whole chroma samples and a pixel of rounding: (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = box
    low = [2 * int(np.floor((side - 0.1) / 2)) for side in (x1, (y1 + y2) / 2)]
    high = [2 * int(np.ceil((side + 1.1) / 2)) for side in (x2, y2)]
    return *low, *high


def inside(region, box):
    """Whether (x1, y1, x2, y2) `region` lies in `box`."""
    return region[0] >= box[0] and region[1] >= box[1] and region[2] <= box[2] and region[3] <= box[3]


def track_lengths(path):
    """Seconds of each track of a file, by kind, and the names of their codecs."""
    import av

    with av.open(str(path)) as container:
        seconds = {s.type: float(s.duration * s.time_base) for s in container.streams}
        return seconds, {s.type: s.codec_context.name for s in container.streams}


def seconds_of(path):
    """Seconds of sound in a file."""
    return len(read_audio(path)) / audio.RATE


def target_of(video, count, detector, pads=(0, 0, 0, 0)):
    """The `TargetFace` of the largest face of each shot in the first `count` frames of a `FaceVideo`."""
    tracker = followed(video, count, detector)
    return TargetFace.of(picked(tracker.shots), tracker.frames, video, pads)
