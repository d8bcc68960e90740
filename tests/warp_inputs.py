"""Narrow generators that warp, and drawn heads as their inputs."""

import numpy as np
import torch
from drawn_faces import draw_head, head_mesh
from filling import filled, normal

from faces.shape import SIDE, HeadShape
from hparams import HParams
from models.warp import ReferenceWarp

K, D = 2, 16
BOX = np.array([[40, 30, 136, 126]], np.float32)


def knobs(**more):
    sizes = {"face_size": SIDE, "audio_dim": D, "audio_heads": 4, "references": K, "width": 1 / 8}
    return HParams(**{"model": "warp", "speech": "whisper"} | sizes | more)


def net(**more):
    """A narrow generator with made-up weights."""
    return filled(ReferenceWarp(knobs(**more))).eval()


def faces(openings=(0.0, 0.06), references=(0.02, 0.1)):
    """The inputs of `generate` but speech: one clip of drawn heads whose mouths open so far."""
    meshes = np.stack([head_mesh(opening) for opening in (*openings, *references)])
    head = HeadShape(meshes, np.repeat(BOX, len(meshes), 0), 1 / 6)
    pictures = torch.from_numpy(np.stack([draw_head(mesh) for mesh in meshes])).permute(0, 3, 1, 2).float() / 255
    points = torch.from_numpy(head.points).float()
    t, others = len(openings), list(range(len(openings), len(meshes)))
    face = torch.stack([torch.cat([pictures[i], *pictures[others]]) for i in range(t)])
    turns, resting = (torch.from_numpy(each[:t]).float()[None] for each in (head.turns, head.resting))
    found = {"face": face[None], "points": torch.stack([points[[i, *others]] for i in range(t)])[None]}
    return found | {"resting": resting, "turns": turns}


def speech(count=2, seed=1):
    return 0.3 * normal(seed, (1, count, D))


def parts_of(shown):
    """The inputs of `generate` as `layers` takes them."""
    return [each.flatten(0, 1) for each in shown.values()]
