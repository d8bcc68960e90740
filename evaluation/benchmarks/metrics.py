"""Speed of PSNR, SSIM and LMD, beside the same measures taken one frame at a time, in turns.

python -m evaluation.benchmarks.metrics --data_root data/grid
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from data import mouth_mask, to_tensor
from errors import InputError, exit_code
from evaluation import landmarks, visual
from evaluation.benchmarks.timing import in_turns, medians
from evaluation.rows import OTHER_LIPS, TRUTH, Corpus, baseline_rows
from faces.detect import BlazeFace


class OneByOne:
    """The measures as a script takes them that handles one pair of frames after the other.

    PSNR and SSIM by torchmetrics, a pair a call, on the face and on the box around the mouth; LMD after finding
    the face in both pictures by the detector.
    """

    def __init__(self):
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        self.psnr, self.ssim = peak_signal_noise_ratio, structural_similarity_index_measure
        self.detector = BlazeFace()

    def visual(self, fake, real, mouths):
        """PSNR and SSIM of face and mouth: (T, 4). fake, real: (T, H, W, 3) uint8. mouths: (T, 1, H, W)."""
        found = []
        for a, b, mouth in zip(to_tensor(fake), to_tensor(real), mouths, strict=True):
            ys, xs = mouth[0].nonzero().T
            box = ..., slice(int(ys.min()), int(ys.max()) + 1), slice(int(xs.min()), int(xs.max()) + 1)
            parts = (a[None], b[None]), (a[None][box], b[None][box])
            found.append([measure(x, y, data_range=1.0).item() for x, y in parts for measure in (self.psnr, self.ssim)])
        return np.array(found)

    def lmd(self, fake, real):
        """LMD of each frame: (T,). fake, real: (T, P, P, 3) uint8; a frame without a face has nan."""
        found = []
        for pair in zip(fake, real, strict=True):
            rois = [self.detector.rois(rgb) for rgb in pair]
            if not all(rois):
                found.append(np.nan)
                continue
            meshes = [self.detector.mesh(rgb, roi[0][1])[0][None] for rgb, roi in zip(pair, rois, strict=True)]
            found.append(landmarks.lmd(*meshes)[0])
        return np.array(found)


def together(mesher, real, rows):
    """Two functions that take the visual and the landmark measures of all rows of a clip as evaluate.py does."""
    faces_of = {row: real.faces(crops) for row, crops in rows.items()}
    px = faces_of[TRUTH].shape[1]
    mouths = mouth_mask(real.clip.meshes * px - 0.5, px)

    def measure_pictures():
        return {row: visual.compare(shown, faces_of[TRUTH], mouths) for row, shown in faces_of.items()}

    def measure_landmarks():
        found = {row: mesher(crops, real.clip.meshes, real.clip.boxes, real.margin) for row, crops in rows.items()}
        return {row: landmarks.compare(each, found[TRUTH]) for row, each in found.items()}

    return measure_pictures, measure_landmarks, mouths


def compare(real, rows, rounds):
    """Times both ways on all rows of a clip, in turns; prints medians in ms a frame and their ratio."""
    slow, mesher = OneByOne(), landmarks.Mesher()
    pictures, meshes, mouths = together(mesher, real, rows)
    shown = {row: (real.faces(crops), crops) for row, crops in rows.items()}
    truth = shown[TRUTH]
    ways = {
        "PSNR, SSIM, face and mouth": (lambda: [slow.visual(f, truth[0], mouths) for f, _ in shown.values()], pictures),
        "LMD": (lambda: [slow.lmd(crops, truth[1]) for _, crops in shown.values()], meshes),
    }
    frames, total = len(rows) * len(real.crops), []
    print(f"| {len(rows)} rows of {len(real.crops)} frames | one at a time | as evaluate.py does | ratio |")
    print("|---|---|---|---|")
    for what, pair in ways.items():
        times = in_turns(pair, rounds) * 1000 / frames
        total.append(times)
        line(what, times)
    line("all", sum(total))


def line(what, times):
    """Prints a row of the table. times: (rounds, 2) ms."""
    slow, quick, ratio = medians(times)
    print(f"| {what} | {slow:.2f} ms | {quick:.2f} ms | {ratio:.1f} |", flush=True)


def main(argv=None):
    """Parses the flags and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="made by preprocess.py")
    parser.add_argument("--split", default="test", help="the list whose first clip is taken (default: %(default)s)")
    parser.add_argument("--rounds", default=5, type=int, help="the median of this many (default: %(default)s)")
    args = parser.parse_args(argv)

    def work():
        if args.rounds < 1:
            raise InputError(f"--rounds {args.rounds} must be at least 1")
        torch.set_num_threads(1)  # as in evaluate.py, whose processes take a clip each
        corpus = Corpus(args.data_root, args.split)
        real, other = (corpus.real(name) for name in (corpus.names[0], corpus.names[-1]))
        rows = baseline_rows(real, other)
        compare(real, rows | {"a method": rows[OTHER_LIPS]}, args.rounds)

    return exit_code(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
