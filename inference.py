"""Redraws the mouth of the face in a video or a picture so that it fits a sound track.

python inference.py --face x.mp4 --audio y.wav
"""

import argparse
import ctypes
import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from errors import InputError, exit_code
from hparams import ARTICULATION, WEIGHTS
from media.files import check_place, regular, write_text
from workers import ahead, progress_bar

SYNTHETIC = "Synthetic media: the mouth in this video was redrawn by a neural network to fit its sound."
M_MMAP_THRESHOLD = -3  # malloc.h
PADS = {"talklip": [0, 0, 0, 0], "wav2lip": [0, 10, 0, 0]}  # the latter was trained with room below the chin
NO_BOX = (-1, -1, -1, -1)  # --box that is not given


class Clock:
    """Adds up the seconds spent in each stage of a run."""

    def __init__(self):
        self.seconds = {}

    @contextmanager
    def __call__(self, stage):
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def is_earlier_report(path):
    """Whether a file is a report of this command."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["synthetic"] == SYNTHETIC
    except (KeyError, TypeError, ValueError):
        return False


def is_earlier_video(path):
    """Whether a file is a video that this command has made."""
    from media.files import open_media

    try:
        with open_media(path) as container:
            return SYNTHETIC in container.metadata.values()
    except InputError:
        return False


def check_paths(inputs, outfile, report):
    """Raises InputError, before any work is done, for files that are missing, would be overwritten or not written.

    inputs: {flag: path}. Of files that are there already only earlier outputs of this command are replaced.
    """
    try:
        for flag, path in inputs.items():
            if not path.exists() and flag != "--checkpoint_path":  # whose reader says more
                raise InputError(f"{flag} {path}: there is no such file")
        for written in (outfile, report):
            if written.is_dir():
                raise InputError(f"{written} is a folder: name a file in it")
            if not written.parent.is_dir() or not os.access(written.parent, os.W_OK):
                raise InputError(f"{written}: the folder {written.parent} does not exist or cannot be written to")
            for flag, path in inputs.items():
                if written.exists() and path.exists() and os.path.samefile(path, written):
                    raise InputError(f"{flag} {path} would be overwritten by {written}: write under another name")
        if os.path.realpath(outfile) == os.path.realpath(report):
            raise InputError(f"{report} can't be both the video and its report: name another --outfile or --report")
        check_place(outfile, "--outfile", is_earlier_video)
        check_place(report, "--report", is_earlier_report)
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(f"{error.filename}: {error.strerror}") from error


def steady_memory():
    """Keeps memory flat over a long video: freed frames go back to the system at once.

    Otherwise glibc soon keeps arrays of a frame's size in its heap, where small ones that stay fragment it.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
        if mallopt:
            mallopt(M_MMAP_THRESHOLD, 1 << 20)


def lip_sync(args):
    """Makes `args.outfile` and its report; returns the report as a dict. What comes out of a pipe is copied first."""
    report_path = args.report or args.outfile.parent / (args.outfile.stem + ".json")
    inputs = {"--face": args.face, "--audio": args.audio, "--checkpoint_path": args.checkpoint_path}
    check_paths(inputs, args.outfile, report_path)
    with ExitStack() as stack:
        report = redraw(args, *(stack.enter_context(regular(path)) for path in (args.face, args.audio)))
    write_text(report_path, json.dumps(report, indent=1, default=str) + "\n")
    return report


def redraw(args, face, voice):
    """Makes `args.outfile` of two files that can be read more than once; returns the report as a dict.

    Two passes over the video, in constant memory: the first finds the face, the second renders and writes.
    """
    clock, start = Clock(), time.perf_counter()
    steady_memory()
    with clock("start"):  # slow imports are here, so that --help answers at once
        import torch

        import audio
        from distributed import device_of
        from media import sound
        from media.face_video import FaceVideo
        from media.writer import Writer
        from renderer import FaceRenderer, SpeechTrack, WarpRenderer, load

        torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # one core is left for reading and writing
        device = device_of(args.device)
        video = FaceVideo(face, args.resize_factor, args.crop, args.rotate, args.static, args.fps)
        wav = sound.read_audio(voice)
        writer = Writer(args.outfile, video.like, audio=voice, crf=args.crf, metadata={"comment": SYNTHETIC})
        generator, hp, model = load(args.checkpoint_path, device, args.precision)
        warps = hp.model == "warp"
        pads = [0, 0, 0, 0] if warps else args.pads or PADS[hp.model]
    count = max(1, round(len(wav) / audio.RATE * video.fps))
    with torch.inference_mode(), progress_bar(2 * count, "frame", desc="finding faces", disable=args.quiet) as progress:
        with clock("find faces"):
            target = find_target(video, count, args, device, pads, progress, warps)
        with clock("encode audio"):
            speech = SpeechTrack(generator, hp, wav, args.articulation)
        with clock("render and write"):
            progress.total, progress.n = target.searched + count, target.searched
            progress.set_description("rendering")
            renderer = (WarpRenderer if warps else FaceRenderer)(generator, target, video, speech, hp.face_size)
            unchanged, turned = render_frames(renderer, writer, count, args.batch_size, progress)
    seconds = clock.seconds | {"all": time.perf_counter() - start}
    passed = {"passed_through": ranges(unchanged), "turned_away": ranges(turned)}
    return describe(args, model, renderer, count, passed | {"sound_track": sound.about_track(voice)}, seconds)


def find_target(video, count, args, device, pads, progress, warps):
    """The `TargetFace` to redraw: at --box, or the largest face that is found in the first `count` frames.

    warps: the generator needs the mesh at --box too.
    """
    from faces import detect
    from faces.target import TargetFace

    if tuple(args.box) != NO_BOX:
        box = video.region(args.box, "--box", video.first.size)
        mesher = detect.BlazeFace() if warps else None
        return TargetFace.placed(video, count, box, args.identity, progress, mesher, not args.nosmooth)
    detector = detect.DETECTORS[args.detector](device)
    return TargetFace.found(video, count, detector, pads, not args.nosmooth, args.identity, progress)


def render_frames(renderer, writer, count, batch_size, progress):
    """Renders and writes `count` frames; returns the numbers of those without the face, which are left unchanged, and
    of those in which the head is turned so far that their own mouth shows through.

    While the faces of one batch are generated, those of the batch before are put back and written on another thread.
    """

    def finish(batch, pairs):
        for frame in renderer.put_back(batch, pairs):
            out.write(frame)
        progress.update(len(batch))

    video, unchanged, turned, batch, job = renderer.video, [], [], [], None
    with writer as out, ThreadPoolExecutor(1) as other:
        for k, (index, frame) in enumerate(ahead(video.played(count))):
            batch.append((index, float(k / video.fps), frame))
            if index not in renderer.target.boxes:
                unchanged.append(k)
            elif renderer.is_turned(index):
                turned.append(k)
            if len(batch) == batch_size or k == count - 1:
                pairs = renderer.render(batch)
                if job:
                    job.result()  # at most one batch waits; its errors are raised here
                job = other.submit(finish, batch, pairs)
                batch = []
        job.result()
    return unchanged, turned


def describe(args, model, renderer, count, found, seconds):
    """The report of a run, a dict for JSON: its files and model, the places of the face, the seconds of each stage.

    found: other facts: the track that is heard, and {why: ranges of frames} that show the video's own mouth.
    """
    import av
    import cv2
    import torch

    return {
        "face": str(args.face),
        "audio": str(args.audio),
        "outfile": str(args.outfile),
        "synthetic": SYNTHETIC,
        "model": model,
        "articulation": args.articulation,
        "fps": float(renderer.video.fps),
        "frames": count,
        **found,
        "source_frames": renderer.target.searched,
        "identity_frames": renderer.sources(),
        "boxes": {str(i): [round(float(v), 1) for v in box] for i, box in sorted(renderer.target.boxes.items())},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "av": av.__version__,
        },
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
    }


def ranges(frames):
    """Frame numbers as a list of [first, last]."""
    runs = []
    for k in frames:
        if runs and k == runs[-1][1] + 1:
            runs[-1][1] = k
        else:
            runs.append([k, k])
    return runs


def yes_or_no(word):
    """The bool of a word: Wav2Lip's users type --static True."""
    if word.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"{word!r}: say True or False")
    return word.lower() in ("true", "1", "yes")


def parse(argv):
    """Parses the command line; flags mean what Wav2Lip's users expect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides = {"nargs": 4, "type": int, "metavar": ("TOP", "BOTTOM", "LEFT", "RIGHT")}
    add = parser.add_argument
    add("--face", required=True, type=Path, help="video or picture of one person")
    add("--audio", required=True, type=Path, help="any file with a sound track")
    add("--outfile", default=Path("result.mp4"), type=Path, help="mp4, mov or mkv (default: %(default)s)")
    add(
        "--checkpoint_path",
        default=WEIGHTS["generator"],
        type=Path,
        help="ours, TalkLip's or Wav2Lip's (default: in weights/)",
    )
    add("--static", nargs="?", const=True, default=False, type=yes_or_no, help="use only the first frame of the video")
    add("--fps", type=float, help="frames a second of a picture (default: 25) or, with --static, of a video")
    add("--pads", **sides, help="px added to the face box, not with the default weights (default: Wav2Lip's 0 10 0 0)")
    add("--resize_factor", default=1, type=int, help="shrink the video by this factor (default: %(default)s)")
    add("--crop", **sides, default=[0, -1, 0, -1], help="cut the video to this region, px; -1: to its end")
    add("--box", **sides, default=list(NO_BOX), help="the face is here in all frames, px; nothing is searched")
    add("--rotate", action="store_true", help="turn the video by 90 degrees clockwise")
    add("--nosmooth", action="store_true", help="do not smooth the face boxes over time")
    add(
        "--identity",
        choices=("best", "self"),
        default="best",
        help="its frame, of weights that take one (default: best)",
    )
    add("--articulation", default=1.0, type=float, help="over 1, lips move more: 0.5 to 2 (default: %(default)s)")
    add("--detector", choices=("blazeface", "batch-face"), default="blazeface", help="(default: %(default)s)")
    add("--batch_size", "--wav2lip_batch_size", default=16, type=int, help="frames at once (default: %(default)s)")
    add("--face_det_batch_size", type=int, help="of Wav2Lip; without effect: faces are followed frame by frame")
    add("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    add("--precision", choices=("auto", "bf16", "float32"), default="auto", help="(default: bf16 where it is fast)")
    add("--crf", default=18, type=int, help="H.264 quality: 0 lossless, 51 worst (default: %(default)s)")
    add("--report", type=Path, help="the JSON report (default: beside the output)")
    add("--quiet", action="store_true", help="show no progress")
    args = parser.parse_args(joined(argv, parser))
    for flag, low, high in (
        ("resize_factor", 1, 64),
        ("batch_size", 1, 4096),
        ("crf", 0, 51),
        ("fps", 1, 240),
        ("articulation", *ARTICULATION),
    ):
        value = getattr(args, flag)
        if value is not None and not low <= value <= high:
            parser.error(f"--{flag} {value}: must be between {low} and {high}")
    return args


def joined(argv, parser):
    """The words of `argv`, with a file name that begins with a dash joined to its flag by =, so that it is no flag."""
    flags = {name for action in parser._actions for name in action.option_strings}
    words = []
    for word in sys.argv[1:] if argv is None else argv:
        named = words and words[-1] in ("--face", "--audio", "--outfile", "--checkpoint_path", "--report")
        if named and word.startswith("-") and word.split("=")[0] not in flags:
            words[-1] += "=" + word
        else:
            words.append(word)
    return words


def main(argv=None):
    """Parses the flags and makes the video; returns the exit code."""
    args = parse(argv)

    def work():
        report = lip_sync(args)
        redrawn = report["frames"] - sum(last - first + 1 for first, last in report["passed_through"])
        print(f"{report['outfile']}: {report['frames']} frames, {redrawn} redrawn, {report['seconds']['all']:.1f} s")

    return exit_code("inference.py", work, if_stopped="stopped; nothing was written")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal can't show
    sys.exit(main())
