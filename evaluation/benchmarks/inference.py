"""Speed of the generator, and time and memory of a whole run of inference.py.

python -m evaluation.benchmarks.inference --preset talklip_g    frames a second, plain and as inference.py runs it
python -m evaluation.benchmarks.inference --seconds 10          inference.py on a 1280x720 clip of that length
python -m evaluation.benchmarks.inference --seconds 3600 --height 144 --rounds 1      its memory over an hour
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import wave
from dataclasses import replace
from functools import partial
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


def whole_run(length_s, rounds, height):
    """Runs inference.py on a made clip of this length; prints wall seconds and peak memory, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        face, sound = make_clip(Path(folder), length_s, height)
        command = [sys.executable, str(ROOT / "inference.py"), "--quiet", "--face", str(face), "--audio", str(sound)]
        command += ["--outfile", str(Path(folder) / "out.mp4")]
        work = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        times = in_turns([work], rounds, warm=False)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    what = f"{length_s} s of {WIDTH * height // HEIGHT}x{height}, {FPS} fps"
    print(f"{what}: median {np.median(times):.1f} s of {rounds}, peak {peak:.0f} MiB")


def main(argv=None):
    """Parses the flags and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, help="compare the two ways to run this generator, untrained")
    parser.add_argument("--seconds", type=int, help="run inference.py on a made clip of this length")
    parser.add_argument(
        "--height", default=HEIGHT, type=int, help="px of that clip, which is 16:9 (default: %(default)s)"
    )
    parser.add_argument("--rounds", default=3, type=int, help="the median of this many (default: %(default)s)")
    args = parser.parse_args(argv)

    def work():
        if args.preset:
            compare(args.preset, args.rounds)
        if args.seconds:
            whole_run(args.seconds, args.rounds, args.height)

    return exit_code(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
