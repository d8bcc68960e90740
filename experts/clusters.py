"""Cluster targets: the clusters of sound, and later of the model's own features, that masked pre-training predicts."""

import zlib
from zipfile import BadZipFile

import numpy as np
import torch

import distributed
from errors import InputError
from media.clip import Clip
from media.files import make_folder, replacing

CEPSTRA = 13


def cepstra(clip):
    """Mel-frequency cepstra with their first and second differences, one row per frame: (L, 39) float32.

    Differs: the published ones are 100 a second; these are the mean of the four that a frame lasts. They are made of
    the data root's log filter banks, without python_speech_features' liftering and its energy in place of the first.
    """
    from scipy.fft import dct

    rows = dct(clip.logfbank, type=2, axis=1, norm="ortho")[:, :CEPSTRA]
    rows = np.concatenate([rows, np.gradient(rows, axis=0), np.gradient(np.gradient(rows, axis=0), axis=0)], axis=1)
    rows = np.pad(rows, ((0, -len(rows) % 4), (0, 0)), mode="edge").reshape(-1, 4, rows.shape[1]).mean(1)
    return rows[np.minimum(np.arange(len(clip)), len(rows) - 1)].astype(np.float32)


@torch.no_grad()
def features(reader, sample, depth):
    """A reader's own features of a clip's sound and video: (L, D) float32, the output of block `depth` (0: the last).

    reader: a `TrainedLipReader` over AV-HuBERT. sample: see `experts.data.Utterances`.
    """
    device = next(reader.net.parameters()).device
    roi, audio = sample["roi"][None].to(device), sample["audio"][None].to(device)
    with distributed.autocast(device, reader.hp.amp):
        return reader.net.encode(roi, None, audio, depth=depth)[0].float().cpu().numpy()


def cluster(rows, count, seed):
    """K-means over the rows of all clips, each dimension scaled to variance 1.

    rows: a list of (L, F) features.
    Returns a function from (L, F) features to (L,) int16 targets. Raises InputError for fewer rows than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    every = np.concatenate(rows)
    if len(every) < count:
        raise InputError(f"{len(every)} frames cannot make {count} clusters: lower --clusters, or give more clips")
    mean, deviation = every.mean(0), every.std(0) + 1e-5
    means = MiniBatchKMeans(count, batch_size=10_000, n_init=5, random_state=seed).fit((every - mean) / deviation)
    return lambda each: means.predict((each - mean) / deviation).astype(np.int16)


def cluster_targets(splits, hp, path, teacher=None):
    """The targets of all clips of `splits`, the first of which decides the clusters; kept at `path` for the next time.

    splits: a list of `Utterances`. teacher: a `TrainedLipReader` whose features are clustered, or None for the sound's.
    Returns {clip id: (L,) int16}. Raises InputError for a teacher of another family and for clips without targets.
    """
    names = [split.names for split in splits]
    if path.is_file():
        targets = kept_at(path)
        if missing := [name for ids in names for name in ids if name not in targets]:
            raise InputError(f"{path} has no targets of {missing[0]}: give its own --data_root, or another --name")
        return targets
    if teacher and (teacher.hp.model != "avhubert" or hp.depth > teacher.hp.layers):
        found = f"{teacher.hp.layers} blocks of --model {teacher.hp.model}"
        raise InputError(f"--teacher has {found}: block {hp.depth or 'last'} of an avhubert is clustered, see --depth")
    if teacher is None:
        rows = [[cepstra(Clip(each)) for each in split.paths] for split in splits]
    else:
        teacher.net.eval()
        rows = [[features(teacher, split[i, None], hp.depth) for i in range(len(split))] for split in splits]
    predict = cluster(rows[0], hp.clusters, hp.seed)
    targets = {
        name: predict(each) for part, ids in zip(rows, names, strict=True) for name, each in zip(ids, part, strict=True)
    }
    make_folder(path.parent)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **targets)
    return targets


def kept_at(path):
    """The targets that `cluster_targets` wrote. Raises InputError for a file that is broken."""
    try:
        with np.load(path) as kept:
            return dict(kept)
    except (AttributeError, BadZipFile, EOFError, TypeError, ValueError, zlib.error) as error:
        again = "remove it and say the same command again, with --teacher if the run was begun with one"
        raise InputError(f"{path} is broken ({error}): {again}") from error
