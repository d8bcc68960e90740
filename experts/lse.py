"""Sync scores of a clip: LSE-C, LSE-D and offset by SyncNet v2, or our own numbers by the compact model.

The papers' LSE numbers come from two protocols, which give different numbers for the same video. Here each has a name:
`lrs` gives SyncNet the whole frame, as for the tables on LRS2 and LRS3; `track` gives it the face, as for videos in
the wild. The compact model has its own, `mouths`. The columns are named by them.
"""

from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

from errors import InputError
from experts.sync import SAMPLES, Compact, Sync, load_sync, mouths, score, windows_of
from faces import crop
from faces.detect import BlazeFace
from faces.track import Tracker, interpolated

PROTOCOLS = "lrs", "track"
PX = 224  # of SyncNet's pictures
SMOOTH = 13  # frames over which the median of the face's place and size is taken
SURROUNDINGS = 0.4  # of the crop: how much of the face's size is left around it
GREY = 110  # what lies outside the picture


def jpegs(frames):
    """The frames as JPEG files, by FFmpeg's encoder with its defaults, as the published evaluation stores them.

    frames: (L, H, W, 3) uint8, RGB. Returns a list of bytes. The quality follows a bit rate, as in `ffmpeg -f image2`.
    Differs: the encoder gets colours back from RGB, not the video's own planes: about a grey level apart.
    """
    import av

    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuvj420p", Fraction(1, 25), Fraction(25)
    encoder.thread_count = 1
    packets = []
    for at, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuvj420p")
        picture.pts, picture.time_base = at, encoder.time_base
        packets += encoder.encode(picture)
    return [bytes(packet) for packet in [*packets, *encoder.encode(None)]]


def decoded(files):
    """JPEG files as SyncNet's input: (L, 224, 224, 3) uint8, RGB, the whole picture at any shape."""
    pictures = (cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) for file in files)
    return np.stack([cv2.resize(picture, (PX, PX))[..., ::-1] for picture in pictures])


def face_crops(frames, boxes):
    """The face of each frame as SyncNet's pipeline cuts it out for videos in the wild: (L, 224, 224, 3) uint8, RGB.

    frames: (L, H, W, 3) uint8, RGB.  boxes: (L, 4): x1, y1, x2, y2 in px.
    Differs: the boxes are ours, from the mesh, not those of the detector S3FD; the crop is not stored as a video in
    between; faces below 100 px and tracks below 100 frames, which are left out there, have scores here.
    """
    from scipy.signal import medfilt

    x1, y1, x2, y2 = np.asarray(boxes, np.float64).T
    values = (np.maximum(x2 - x1, y2 - y1) / 2, (x1 + x2) / 2, (y1 + y2) / 2)
    crops = []
    for frame, half, x, y in zip(frames, *(median(each, medfilt) for each in values), strict=True):
        around = int(half * (1 + 2 * SURROUNDINGS))
        wide = cv2.copyMakeBorder(frame, *[around] * 4, cv2.BORDER_CONSTANT, value=[GREY] * 3)
        top, left = y + around - half, x + around - half * (1 + SURROUNDINGS)
        side = half * (2 + 2 * SURROUNDINGS)
        part = wide[max(int(top), 0) : int(top + side), max(int(left), 0) : int(left + side)]
        if not part.size:
            raise InputError("the face's box lies outside the picture: it is of another video or size")
        crops.append(cv2.resize(part, (PX, PX)))
    return np.stack(crops)


def median(values, medfilt):
    """Median over `SMOOTH` frames; the ends are mirrored, where the published one puts zeros."""
    side = SMOOTH // 2
    return medfilt(np.pad(values, side, mode="reflect"), SMOOTH)[side : len(values) + side]


def tracked(frames):
    """The longest face track of a clip: (its first frame, boxes (n, 4) px, meshes (n, 468, 2) as `Clip` has them).

    Frames within it in which the face was lost are filled in. Raises InputError for a clip without a face.
    """
    tracker = Tracker(BlazeFace())
    for frame in frames:
        tracker.add(frame)
    tracks = [track for shot in tracker.shots for track in shot]
    if not tracks:
        raise InputError(f"no face in any of {len(frames)} frames: sync cannot be told")
    meshes = max(tracks, key=lambda track: (len(track.meshes), track.size)).meshes
    first = min(meshes)
    whole = interpolated(meshes, np.arange(first, max(meshes) + 1))
    found = crop.face_boxes(dict(enumerate(whole)))
    boxes = np.stack([found[i] for i in range(len(whole))])
    return first, boxes, np.stack([crop.to_crop(m, b) for m, b in zip(whole, boxes, strict=True)])


def located(frames, wav, clip):
    """The part of a clip with a face, and its places: (frames, wav, boxes, meshes), all of one length but the sound.

    clip: a `Clip` of the same head at the same places, or None. Raises InputError for one of another size.
    """
    if clip is None:
        first, boxes, meshes = tracked(frames)
        return frames[first : first + len(boxes)], wav[first * SAMPLES :], boxes, meshes
    size = frames.shape[1:3]
    if clip.size and tuple(clip.size) != size:
        raise InputError(f"frames of {size[1]}x{size[0]} px, the real clip has {clip.size[1]}x{clip.size[0]}")
    count = min(len(frames), len(clip.boxes))
    return frames[:count], wav, clip.boxes[:count], clip.meshes[:count]


def judge(sync, protocol, frames, wav, clip=None):
    """The scores of one clip: {"c": confidence, "d": distance, "offset": frames}; for its sign see `Score`.

    sync: see `experts.sync.load_sync`.  protocol: "lrs", "track" or, for the compact model, "mouths".
    frames: (L, H, W, 3) uint8, RGB, 25 a second.  wav: (samples,) int16, 16 kHz.
    clip: the `Clip` whose boxes and meshes say where the face is; None: it is detected. "lrs" needs neither.
    Raises InputError for a clip under 6 frames of picture or sound, without a face, or of another size than `clip`.
    """
    windows_of(min(len(frames), len(wav) // SAMPLES), len(frames), wav)
    if protocol == "lrs":
        pictures = frames
    else:
        frames, wav, boxes, meshes = located(frames, wav, clip)
        pictures = mouths(frames, boxes, meshes) if protocol == "mouths" else face_crops(frames, boxes)
    if protocol != "mouths":
        pictures = decoded(jpegs(pictures))
    return score(sync.distances(pictures, wav))._asdict()


@dataclass
class Scorer:
    """A sync model with its protocol: called with (frames, wav, clip), see `judge`, it gives a clip's scores.

    columns: what "c", "d" and "offset" are called; the model and the protocol are in the names.
    """

    sync: Sync
    protocol: str

    @property
    def columns(self):
        """{"c": name, "d": name, "offset": name}."""
        way = f" ({self.protocol})" if self.protocol in PROTOCOLS else ""
        return {key: name + way for key, name in self.sync.columns.items()}

    @property
    def about(self):
        """Facts that a report must carry: the model's name, its kind, its sha256, the protocol."""
        return {"name": self.sync.name, "protocol": self.protocol, **self.sync.about}

    def __call__(self, frames, wav, clip=None):
        """The scores of one clip, see `judge`."""
        return judge(self.sync, self.protocol, frames, wav, clip)


def scorer(path=None, protocol="lrs", device="cpu"):
    """A `Scorer` by the sync model of a file; None takes the compact model in weights/.

    protocol: "lrs" or "track", for SyncNet v2; the compact model has one way only, "mouths", whatever is asked for.
    Raises InputError for a file without a sync model and for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol}: choose one of {', '.join(PROTOCOLS)}")
    sync = load_sync(path, device)
    return Scorer(sync, "mouths" if isinstance(sync, Compact) else protocol)
