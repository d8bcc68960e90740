"""Judges talking faces: how they look, how they fit their sound, whether their lips can be read. One table, four files.

python evaluation/evaluate.py --real data/grid --fake videos/
python evaluation/evaluate.py --real data/grid --generator weights/talklip_compact.safetensors --split test test_unseen
python evaluation/evaluate.py --real data/grid --compare videos_a/ videos_b/
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights"


def parse(argv):
    """The flags of the command line."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measures = "visual", "landmarks", "sync", "reading"
    add = parser.add_argument
    add("--real", required=True, type=Path, metavar="DATA_ROOT", help="the real clips, made by preprocess.py")
    add("--fake", type=Path, metavar="DIR", help="a method's videos, <speaker>/<clip>.mp4 or <clip>.mp4")
    add("--fake_other", type=Path, metavar="DIR", help="its videos for another clip's sound, for the leak")
    add("--fake_silence", type=Path, metavar="DIR", help="its videos for silence, for the leak")
    add("--compare", nargs="+", default=[], type=Path, metavar="DIR", help="methods side by side; also makes page.html")
    generator = {"nargs": "?", "const": WEIGHTS / "talklip_compact.safetensors", "type": Path, "metavar": "FILE"}
    add("--generator", **generator, help="draw the clips with these weights (without FILE: the ones in weights/)")
    add("--videos", type=Path, metavar="DIR", help="the corpus; without it the real crops are the data root's JPEGs")
    add("--split", nargs="+", default=["test"], help="lists of the data root (default: test)")
    add("--out", default=Path("results/evaluation"), type=Path, help="folder for the table (default: %(default)s)")
    add("--measures", nargs="+", choices=measures, default=list(measures), help="(default: all)")
    for name, what in (("observer1", "reader for WER 1"), ("observer2", "for WER 2, 3"), ("words", "for words")):
        add(f"--{name}", default=WEIGHTS / f"{name}_compact.safetensors", type=Path, metavar="FILE", help=what)
    add("--sync", type=Path, metavar="FILE", help="syncnet_v2.model, or ours (default: the compact model in weights/)")
    add("--sync_protocol", choices=("lrs", "track"), default="lrs", help="SyncNet sees the whole frame, or the face")
    add("--talklip_psnr", action="store_true", help="also PSNR as TalkLip's script prints it, wrapped in uint8")
    add("--published", metavar="SET", help="also the papers' numbers on LRS2, LRW or HDTF, and what sets them apart")
    add("--other", type=int, help="clips down the list to the other sound and lips (default: half the list)")
    add("--slack", default=1, type=int, help="frames by which a video's length may differ (default: %(default)s)")
    add("--leave_out", action="store_true", help="leave out clips that cannot be compared, in all rows, and list them")
    add("--page", action="store_true", help="make page.html: every clip's pictures and videos side by side")
    add("--workers", default=os.cpu_count(), type=int, help="processes (default: one a core)")
    add("--ray", metavar="ADDRESS", help="score the clips on this Ray cluster instead")
    add("--device", help="cpu, cuda, ... for the generator and the readers (default: cuda where there is one)")
    args = parser.parse_args(argv)
    if not (args.fake or args.compare or args.generator):
        parser.error("nothing to judge: give --fake DIR, --compare DIR DIR or --generator")
    if (args.fake_other or args.fake_silence) and not args.fake:
        parser.error("--fake_other and --fake_silence go with --fake")
    for flag, least in (("slack", 0), ("workers", 1)):
        if getattr(args, flag) < least:
            parser.error(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    return args


def main(argv=None):
    """Prints a table per split and writes it; returns the exit code."""
    args = parse(argv)
    from evaluation.table import evaluate  # slow, so that --help answers at once; and see below
    from hparams import exit_code

    return exit_code("evaluate.py", lambda: evaluate(args))


if __name__ == "__main__":
    if not __package__:  # run as a file: begin again as a module, which finds those beside this folder
        found = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "evaluation.evaluate", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONPATH": found})
    sys.exit(main())
