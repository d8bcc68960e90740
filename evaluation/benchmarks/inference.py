"""Speed of the generator, and time and memory of a whole run of inference.py.

python -m evaluation.benchmarks.inference --preset talklip_g    frames a second, plain and as inference.py runs it
python -m evaluation.benchmarks.inference --seconds 10          inference.py on a 1280x720 clip of that length
python -m evaluation.benchmarks.inference --seconds 10 --checkouts . ../older      in turns with another revision
python -m evaluation.benchmarks.inference --seconds 3600 --height 144 --rounds 1      its memory over an hour
"""

import argparse
import subprocess
import sys
import tempfile
import time
import wave
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch

from errors import InputError, exit_code
from evaluation.benchmarks.timing import in_turns, medians, seconds
from hparams import PRESETS, preset
from models import build_generator
from models.layers import fold_norms

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT, FPS = 1280, 720, 25
FRAMES = 16  # of a batch
LEAST_S = 2.0  # for which a generator is timed
# A small process runs the command: a child's peak memory counts from what its parent held when it began.
WATCH = """import resource, subprocess, sys
ended = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
of = resource.getrusage(resource.RUSAGE_CHILDREN)
print(of.ru_utime, of.ru_stime, of.ru_maxrss)
sys.exit(ended)"""


def batch_maker(generator, hp, dtype):
    """A function that generates a batch of `FRAMES` faces for their sound."""
    shape = (1, FRAMES, 104) if hp.speech == "global" else (1, FRAMES, 1, 80, 16)
    audio, face = torch.randn(shape, dtype=dtype), torch.rand(1, FRAMES, 6, hp.face_size, hp.face_size, dtype=dtype)

    @torch.inference_mode()
    def work():
        generator(face, audio, torch.arange(FRAMES)[None])

    return work


def compare(name, rounds):
    """Times the preset `name` plainly (float32, as built) and as inference.py runs it, in turns; prints the medians."""
    hp = preset(name)
    if hp.model == "warp":
        raise InputError("--preset warp: batches of generators that paint are timed; --seconds times a whole run")
    plain = build_generator(hp).eval()
    fast = build_generator(hp).eval()
    fast.load_state_dict(plain.state_dict())
    fast = fold_norms(fast).to(torch.bfloat16, memory_format=torch.channels_last)
    ways = batch_maker(plain, hp, torch.float32), batch_maker(fast, hp, torch.bfloat16)
    slow, quick, ratio = medians(in_turns(ways, rounds, partial(seconds, least_s=LEAST_S)))
    print("| generator | float32, plain | bf16, channels_last, norms folded | ratio |\n|---|---|---|---|")
    fps = f"{FRAMES / slow:.1f} frames/s | {FRAMES / quick:.1f} frames/s"
    print(f"| {name}, {torch.get_num_threads()} threads | {fps} | {ratio:.2f} |")


def make_clip(folder, length_s, height=HEIGHT):
    """Makes a 16:9 video of the example portrait drifting about, and the example speech over and over.

    height: px. Returns the paths of both.
    """
    from media.frame import from_rgb
    from media.video import probe
    from media.writer import Writer

    portrait = cv2.imread(str(ROOT / "examples" / "portrait.png"))[..., ::-1]
    sound = folder / "speech.wav"
    with wave.open(str(ROOT / "examples" / "speech.wav")) as source, wave.open(str(sound), "wb") as target:
        target.setparams(source.getparams())
        once = np.frombuffer(source.readframes(source.getnframes()), np.int16)
        target.writeframes(np.resize(once, int(length_s * source.getframerate())).tobytes())
    scale, size = height / HEIGHT, (WIDTH * height // HEIGHT, height)
    like = replace(probe(ROOT / "examples" / "portrait.png"), width=size[0], height=height, still=False)
    portrait = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    place = scale * np.float64([[1 / scale, 0, 380], [0, 1 / scale, 100]])
    still = cv2.warpAffine(portrait, place, size, borderMode=cv2.BORDER_REPLICATE)
    with Writer(folder / "face.mp4", like, FPS) as out:
        for k in range(length_s * FPS):
            drift = scale * np.float64([[1 / scale, 0, 40 * np.sin(k / 20)], [0, 1 / scale, 20 * np.sin(k / 13)]])
            out.write(from_rgb(cv2.warpAffine(still, drift, size, borderMode=cv2.BORDER_REPLICATE)))
    return folder / "face.mp4", sound


def run_once(command):
    """Runs a command; returns its wall seconds, the processors' own and the system's for it, and peak memory in MiB.

    Raises `InputError` where it fails.
    """
    start = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", WATCH, *command], stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise InputError(f"{' '.join(map(str, command))} ended with {found.returncode}")
    wall_s = time.perf_counter() - start
    own_s, system_s, peak = map(float, found.stdout.split())
    return wall_s, own_s, system_s, peak / (2**20 if sys.platform == "darwin" else 2**10)


def whole_runs(length_s, rounds, height, checkpoints, checkouts):
    """Runs inference.py on a made clip in turns: of each checkout of the project, with each of its checkpoints.

    checkpoints: paths in a checkout, None for the default.
    Prints a Markdown table: medians of the wall seconds, start-up included, their share of the first's, the processors'
    seconds in the program and in the system, which hardly change where others are at work, and peak memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        face, sound = make_clip(Path(folder), length_s, height)
        out, ways = Path(folder) / "out.mp4", {}
        for checkout, path in product(checkouts, checkpoints):
            command = [sys.executable, checkout / "inference.py", "--quiet", "--face", face, "--audio", sound]
            command += ["--outfile", out, *(("--checkpoint_path", checkout / path) if path else ())]
            ways[f"{checkout}, {path or 'default'}"] = partial(run_once, command)
        measured = in_turns(list(ways.values()), rounds, lambda work: work(), warm=False)
    print(f"| {length_s} s of {WIDTH * height // HEIGHT}x{height}, {FPS} fps | s, median of {rounds} | ratio", end="")
    print(" | processors' s | system's s | MiB |\n|---|---|---|---|---|---|")
    for name, own in zip(ways, measured.swapaxes(0, 1), strict=True):
        wall_s, own_s, system_s, _ = np.median(own, axis=0)
        ratio = np.median(own[:, 0] / measured[:, 0, 0])
        print(f"| {name} | {wall_s:.1f} | {ratio:.2f} | {own_s:.1f} | {system_s:.1f} | {own[:, -1].max():.0f} |")


def main(argv=None):
    """Parses the flags and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, help="compare the two ways to run this generator, untrained")
    parser.add_argument("--seconds", type=int, help="run inference.py on a made clip of this length")
    parser.add_argument(
        "--height", default=HEIGHT, type=int, help="px of that clip, which is 16:9 (default: %(default)s)"
    )
    parser.add_argument("--checkpoints", nargs="+", default=[None], help="compare these paths in the project")
    parser.add_argument(
        "--checkouts", nargs="+", type=Path, default=[ROOT], help="compare these folders of the project"
    )
    parser.add_argument("--rounds", default=3, type=int, help="the median of this many (default: %(default)s)")
    args = parser.parse_args(argv)

    def work():
        if args.preset:
            compare(args.preset, args.rounds)
        if args.seconds:
            whole_runs(args.seconds, args.rounds, args.height, args.checkpoints, args.checkouts)

    return exit_code(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
