"""Drawn heads: meshes whose named points lie where a face has them, pictures of them, and a data root of such clips."""

import json

import cv2
import numpy as np

from faces import landmarks, mouth
from faces.blend import JAW
from media import clip

FACE_PX, CROP_PX, FPS = 96, 128, 25
SPLITS = {
    "train": {"ann/one": 30, "ann/two": 36, "ann/three": 33, "bob/one": 24},  # clip: frames
    "val": {"ann/four": 30, "cid/one": 28},
    "test": {"cid/one": 28},
}
SKIN = {"ann": (225, 180, 150), "bob": (150, 105, 80), "cid": (205, 160, 120)}
LIPS = (150, 10, 30)  # much redder than any skin


def head_mesh(opening=0.0, middle=0.5):
    """A frontal head with the face box as [0, 1] x [0, 1]: (468, 2) float32.

    opening: gap between the lips, in boxes; the chin sinks by half of it. middle: of the mouth, from left to right.
    """
    angle, radius = np.arange(468) * 2.4, np.sqrt(np.arange(468) / 468)
    mesh = np.stack([0.5 + 0.45 * radius * np.cos(angle), 0.4 + 0.45 * radius * np.sin(angle)], axis=1)
    around = np.linspace(np.pi, 0, len(JAW))
    mesh[JAW] = np.stack([0.5 + 0.5 * np.cos(around), 0.35 + (0.61 + opening / 2) * np.sin(around)], axis=1)
    around = np.pi - np.arange(20) / 10 * np.pi  # from the right corner along the lower lip
    height = 0.04 + opening / 2
    mesh[landmarks.OUTER_LIPS] = np.stack([middle + 0.17 * np.cos(around), 0.76 + height * np.sin(around)], axis=1)
    mesh[landmarks.INNER_LIPS] = np.stack([middle + 0.13 * np.cos(around), 0.76 + opening / 2 * np.sin(around)], axis=1)
    mesh[landmarks.FOREHEAD], mesh[landmarks.MID_FOREHEAD] = (0.5, -0.15), (0.5, 0.0)
    mesh[landmarks.NOSE_TIP], mesh[landmarks.NOSE_BASE] = (0.5, 0.48), (0.5, 0.57)
    mesh[landmarks.RIGHT_EYE], mesh[landmarks.LEFT_EYE] = (0.22, 0.2), (0.78, 0.2)
    return mesh.astype(np.float32)


def draw_head(mesh, skin=SKIN["ann"], backdrop=(60, 110, 90)):
    """The stored crop of a head: (128, 128, 3) uint8, RGB. A mole on one cheek tells left from right."""
    px = np.round(mesh * FACE_PX + (CROP_PX - FACE_PX) / 2 - 0.5).astype(np.int32)
    rgb = np.full((CROP_PX, CROP_PX, 3), backdrop, np.uint8)
    rgb += np.arange(CROP_PX, dtype=np.uint8)[:, None, None] // 4
    cv2.ellipse(rgb, (64, 52), (50, 62), 0, 0, 360, (50, 40, 30), -1)
    cv2.fillPoly(rgb, [np.concatenate([px[JAW], [[100, 18], [64, 8], [27, 18]]])], skin)
    for eye in (landmarks.RIGHT_EYE, landmarks.LEFT_EYE):
        cv2.circle(rgb, px[eye].tolist(), 6, (250, 250, 250), -1)
        cv2.circle(rgb, px[eye].tolist(), 3, (30, 30, 60), -1)
    cv2.circle(rgb, (40, 68), 4, (70, 40, 40), -1)
    cv2.fillPoly(rgb, [px[landmarks.OUTER_LIPS]], LIPS)
    return rgb


def is_mouth(pictures):
    """The pixels of lips in (T, 3, H, W) pictures in [0, 1]: (T, 1, H, W) bool."""
    return (pictures[:, :1] - pictures[:, 1:2]) > 0.35


def write_clip(path, frames, seed):
    """One clip as `footage.record` makes it; its sound is as loud as its mouth is open."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(frames) / FPS
    loudness = np.abs(np.sin(2 * np.pi * rng.uniform(1, 3) * times_s + rng.uniform(0, 6)))
    meshes = np.stack([head_mesh(0.12 * loud, middle=rng.uniform(0.46, 0.47)) for loud in loudness])
    skin, backdrop = SKIN[path.parent.name], rng.integers(20, 200, 3).tolist()
    pictures = [draw_head(mesh, skin, backdrop) for mesh in meshes]
    boxes = np.tile(np.array([40, 30, 136, 126], np.float32), (frames, 1))
    windows, edge = mouth.aligned(meshes, boxes), (CROP_PX - FACE_PX) // 2
    inner = np.array([edge, edge, CROP_PX - edge, CROP_PX - edge], np.float32)  # the box in the crop
    greys = [cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY) for picture in pictures]

    def features(rate, bands):
        loud = np.interp(np.arange(frames * rate // FPS + 1) / rate, times_s, loudness)
        return 8 * loud[:, None] - 4 + rng.normal(0, 0.3, (len(loud), bands))

    arrays = {
        "boxes": boxes,
        "mesh": meshes.astype(np.float16),
        "mouth_windows": windows,
        "logfbank": features(100, 26).astype(np.float32),
        "mel": features(80, 80).T.clip(-4, 4).astype(np.float32),
        "wav": rng.integers(-3000, 3000, frames * 16_000 // FPS).astype(np.int16),
        "word_times": np.array([[0.1, 0.4], [0.4, 0.8]], np.float32),
    }
    arrays["faces"], arrays["face_ends"] = clip.joined([clip.encoded(picture) for picture in pictures])
    rois = [mouth.cut_window(grey, window, inner) for grey, window in zip(greys, windows, strict=True)]
    arrays["mouths"], arrays["mouth_ends"] = clip.joined([clip.encoded(window) for window in rois])
    arrays["whisper"] = features(50, 384).astype(np.float16)  # drawn last: what is before stays what it was
    about = {"text": "BIN BLUE AT F TWO NOW", "words": ["BIN", "BLUE"], "size": [288, 360], "source_fps": 25.0}
    clip.write_clip(path, arrays, about)


def write_data_root(root, splits=SPLITS):
    """A data root with the clips of `splits`; returns its path."""
    about = {"format": clip.FORMAT, "fps": FPS, "face_px": FACE_PX, "crop_px": CROP_PX}
    (root / "dataset.json").write_text(json.dumps(about))
    for split, clips in splits.items():
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in clips))
        for seed, (name, frames) in enumerate(clips.items()):
            write_clip(root / "clips" / f"{name}.safetensors", frames, seed + 10 * len(split))
    return root
