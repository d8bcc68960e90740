"""Makes the videos of a list from their own sound, offline and as streams, to be compared by evaluation.evaluate.

python -m evaluation.streamed --videos grid --list data/grid/val.txt --out videos/ --ahead_s 0.2 0.4
python -m evaluation.evaluate --real data/grid --split val --compare videos/offline videos/ahead_0.2 videos/ahead_0.4
"""

import argparse
import sys
import time
from pathlib import Path

import inference
from errors import InputError, exit_code
from hparams import WEIGHTS
from media.files import make_folder
from media.sound import read_audio
from media.writer import Writer
from talklip.stream import HEARD_S, TalkingFace

BLOCK = 800  # samples of sound that come in at once


def streamed(args, ahead_s, loaded):
    """Writes a clip as a stream makes it; returns (core seconds of work, seconds of sound). args: of inference.py."""
    face, wav = TalkingFace(inference.live_renderer(args, args.face, loaded), ahead_s), read_audio(args.face)
    start = time.process_time()
    with Writer(args.outfile, face.renderer.video.like, audio=args.face, crf=args.crf) as out:
        for frame, _ in face.frames_of(wav[i : i + BLOCK] for i in range(0, len(wav), BLOCK)):
            out.write(frame)
    return time.process_time() - start, float(face.frames / face.fps)


def make(videos, names, out, aheads_s, checkpoint_path):
    """Makes the videos of clips; prints the work of each kind of stream. Those that are there already stay."""
    import torch

    from distributed import device_of, one_core_left
    from renderer import load

    loaded = load(checkpoint_path, device_of(None), "auto")
    for ahead_s in (None, *aheads_s):
        worked = sounded = 0
        for name in names:
            path = out / ("offline" if ahead_s is None else f"ahead_{ahead_s:g}") / f"{name}.mp4"
            if path.is_file():
                continue
            make_folder(path.parent)
            words = ["--face", videos / f"{name}.mp4", "--audio", videos / f"{name}.mp4", "--outfile", path, "--quiet"]
            args = inference.parse([str(word) for word in [*words, "--checkpoint_path", checkpoint_path]])
            if ahead_s is None:
                inference.lip_sync(args, loaded)
                continue
            with one_core_left():  # as --live
                threads, (work_s, sound_s) = torch.get_num_threads(), streamed(args, ahead_s, loaded)
            worked, sounded = worked + work_s, sounded + sound_s
        if sounded:
            how = f"{threads} threads, {HEARD_S:g} s of sound heard for each block"
            print(f"{ahead_s:g} s ahead: {worked / sounded:.2f} core seconds for a second, encoding included ({how})")


def main(argv=None):
    """Parses the flags and makes the videos; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos", required=True, type=Path, metavar="DIR", help="the corpus, in LRS2's layout")
    add("--list", required=True, type=Path, help="text file: a clip a line")
    add("--out", required=True, type=Path, help="folder for the videos, one folder in it for each way of making them")
    add("--ahead_s", nargs="+", type=float, default=[0.2, 0.4], help="look-aheads, s (default: 0.2 0.4)")
    add("--checkpoint_path", default=WEIGHTS["generator"], type=Path, help="generator (default: ours)")
    args = parser.parse_args(argv)

    def work():
        if not args.list.is_file():
            raise InputError(f"--list {args.list}: there is no such file")
        names = [line.split()[0] for line in args.list.read_text(encoding="utf-8").splitlines() if line.strip()]
        inside = args.videos / "main" if (args.videos / "main").is_dir() else args.videos
        make(inside, names, args.out, args.ahead_s, args.checkpoint_path)

    return exit_code("evaluation.streamed", work)


if __name__ == "__main__":
    sys.exit(main())
