"""Redraws the mouth of the face in a video or a picture so that it fits a sound track.

python inference.py --face x.mp4 --audio y.wav
python inference.py --face x.mp4 --preview faces.jpg
python inference.py --face x.mp4 --audio 0=y.wav 1=z.wav
python inference.py --list pairs.csv
arecord -f S16_LE -r 16000 | python inference.py --face x.mp4 --live | ffplay -
"""

import argparse
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from errors import InputError, exit_code
from hparams import ARTICULATION, WEIGHTS
from media.disclosure import SYNTHETIC, XMP, is_earlier_report, is_earlier_video
from media.files import check_paths, make_folder, regular, replacing, write_text
from workers import ahead, progress_bar, steady_memory

PICKS = ("largest", "left", "right", "speaking")  # see `faces.people.picked`
PADS = {"wav2lip": [0, 10, 0, 0]}  # trained with room below the chin; the others without
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


def report_of(args):
    """The place of the report of a run."""
    return args.report or args.outfile.parent / (args.outfile.stem + ".json")


def voices_of(args):
    """The sound of each person who speaks, by their numbers; None stands for the one person whom other flags choose."""
    return args.audio if isinstance(args.audio, dict) else {None: args.audio}


def lip_sync(args, loaded=None, out=None, bar=progress_bar):
    """Makes `args.outfile` and its report; returns the report as a dict. What comes out of a pipe is copied first.

    loaded: what `renderer.load` gave, where many videos are made.  out: takes the frames instead of a file, as a
    `Writer` does; then no report is written either.  bar: shows the progress, see `workers.progress_bar`.
    """
    sounds = {"--audio" if n is None else f"--audio {n}": path for n, path in voices_of(args).items()}
    inputs = {"--face": args.face, **sounds, "--checkpoint_path": args.checkpoint_path}
    places = {"--outfile": (args.outfile, is_earlier_video), "--report": (report_of(args), is_earlier_report)}
    check_paths(inputs, {} if out else places)
    from media.sound import together  # slow

    with ExitStack() as stack:
        face = stack.enter_context(regular(args.face))
        voices = {number: stack.enter_context(regular(path)) for number, path in voices_of(args).items()}
        heard = stack.enter_context(together(list(voices.values()), args.max_seconds))
        report = redraw(args, face, voices, heard, loaded, out, bar)
    if not out:
        write_text(report_of(args), json.dumps(report, indent=1, default=str) + "\n")
    return report


def redraw(args, face, voices, heard, loaded=None, out=None, bar=progress_bar):
    """Makes `args.outfile` of files that can be read more than once; returns the report as a dict.

    Two passes over the video, in constant memory: the first finds the faces, the second renders and writes.
    voices: {number of a person, see `voices_of`: path}.  heard: a file in which they are heard at once.
    loaded, out, bar: see `lip_sync`.
    """
    clock, start = Clock(), time.perf_counter()
    steady_memory()
    with clock("start"):  # slow imports are here, so that --help answers at once
        import numpy as np
        import torch

        import audio
        from distributed import device_of, one_core_left
        from media import disclosure, signature, sound
        from media.report import describe
        from media.writer import Writer
        from renderer import SpeechTrack, load, renderer_of

        video = face_video(args, face)
        wavs = {number: sound.read_audio(voice, most_s=args.max_seconds) for number, voice in voices.items()}
        said = {"metadata": {"comment": SYNTHETIC}, "xmp": XMP, "sign": signature.signer(args.c2pa, args.outfile)}
        writer = out or Writer(args.outfile, video.like, audio=heard, crf=args.crf, **said)
        generator, hp, model = loaded or load(args.checkpoint_path, device_of(args.device), args.precision)
    samples = max(map(len, wavs.values()))
    count = max(1, round(samples / audio.RATE * video.fps))
    how = {"desc": "finding faces", "disable": args.quiet}
    with torch.inference_mode(), one_core_left(), bar(2 * count, "frame", **how) as progress:
        with clock("find faces"):
            targets = find_targets(video, count, args, hp, progress)
        with clock("encode audio"):
            speech = {}
            for number in list(wavs):
                wav = wavs.pop(number)  # an hour is 0.1 GB: each is let go of once it is embedded
                short = samples - len(wav)  # who has said all is silent
                wav = np.pad(wav, (0, short)) if short else wav
                speech[number] = SpeechTrack(generator, hp, wav, args.articulation)
            del wav
        with clock("render and write"):
            searched = next(iter(targets.values())).searched
            progress.total, progress.n = searched + count, searched
            progress.set_description("rendering")
            renderers = {n: renderer_of(generator, hp, targets[n], video, track) for n, track in speech.items()}
            mark = disclosure.labelled if args.label else lambda frame: frame
            passed = render_frames(renderers, writer, count, args.batch_size, progress, mark)
    seconds = clock.seconds | {"all": time.perf_counter() - start}
    tracks = {number: sound.about_track(voice) for number, voice in voices.items()}
    return describe(args, voices_of(args), model, renderers, count, passed | {"sound_track": tracks}, seconds)


def face_video(args, face):
    """The `FaceVideo` of a file, as the flags ask for it."""
    from media.face_video import FaceVideo
    from media.video import check_pixels

    if args.max_pixels:
        check_pixels(face, args.max_pixels)
    return FaceVideo(face, args.resize_factor, args.crop, args.rotate, args.static, args.fps)


def find_targets(video, count, args, hp, progress):
    """The `TargetFace`s to redraw, {number of a person: TargetFace}; None stands for the person whom the flags choose.

    At --box, or as they are followed through the first `count` frames.  hp: of the generator.
    """
    from checkpoint import sha256
    from distributed import device_of
    from faces import detect, people
    from faces.kept import followed_once
    from faces.target import TargetFace, followed

    warps = hp.model == "warp"  # which needs the mesh at --box too
    pads = [0, 0, 0, 0] if warps else args.pads or PADS.get(hp.model, [0, 0, 0, 0])
    if tuple(args.box) != NO_BOX:
        box = video.region(args.box, "--box", video.first.size)
        mesher = detect.BlazeFace() if warps else None
        return {None: TargetFace.placed(video, count, box, args.identity, progress, mesher, not args.nosmooth)}
    detector, chosen = detect.DETECTORS[args.detector](device_of(args.device)), {}
    if isinstance(args.audio, dict):
        seen, _ = people.people_of(video, detector)
        if missing := [number for number in args.audio if number >= len(seen)]:
            raise InputError(f"--audio {missing[0]}=...: {len(seen)} people are seen, from 0 on: see --preview")
    if args.cache:
        content = [sha256(video.path), args.resize_factor, args.crop, args.rotate, args.static, args.detector]
        tracker = followed_once(video, count, detector, progress, args.cache, [*content, str(video.fps)])
    else:
        tracker = followed(video, count, detector, progress)
    if isinstance(args.audio, dict):
        for n in args.audio:
            chosen[n] = people.at_points(tracker.shots, people.points_of(seen[n]), f"--audio {n}=...")
    elif args.face_at:
        x, y, seconds = args.face_at
        point = people.Point(x, y, None if seconds is None else round(seconds * video.fps))
        chosen[None] = people.at_points(tracker.shots, [point], "--face_at")
    else:
        loudness = people.loudness_of(video) if args.face_pick == "speaking" else None
        chosen[None] = people.picked(tracker.shots, args.face_pick, loudness)
    how = tracker.frames, video, pads, not args.nosmooth, args.identity
    return {number: TargetFace.of(tracks, *how) for number, tracks in chosen.items()}


def live_renderer(args, face, loaded=None, bar=progress_bar):
    """The renderer of the face in all of a file, whose speech is a `SpeechStream`. loaded, bar: see `lip_sync`."""
    import torch

    from distributed import device_of
    from renderer import load, renderer_of
    from talklip.stream import SpeechStream

    steady_memory()
    video = face_video(args, face)
    generator, hp, _ = loaded or load(args.checkpoint_path, device_of(args.device), args.precision)
    how = {"desc": "finding faces", "disable": args.quiet}
    with torch.inference_mode(), bar(video.like.frames, "frame", **how) as progress:
        (target,) = find_targets(video, sys.maxsize, args, hp, progress).values()
        speech = SpeechStream(generator, hp, args.articulation)
        return renderer_of(generator, hp, target, video, speech)


def live(args):
    """Makes the face say what comes in on standard input, see `talklip.stream.live`; prints how it went."""
    check_paths({"--face": args.face, "--checkpoint_path": args.checkpoint_path}, {})
    from distributed import one_core_left  # slow
    from talklip import stream

    with regular(args.face) as face, one_core_left():
        print(f"inference.py: {stream.live(args, lambda: live_renderer(args, face))}", file=sys.stderr)


def render_frames(renderers, writer, count, batch_size, progress, mark):
    """Renders and writes `count` frames, for each of some people after the other. Returns {why: {number: [frame, ...]}}
    of those without the face, which are left unchanged, and of those in which the head is turned so far that their own
    mouth shows through.

    While the faces of one batch are generated, those of the batch before are put back and written on another thread.
    renderers: {number of a person: renderer}.  mark: changes a frame that is written.
    """

    def finish(batch, found):
        for renderer, pairs in zip(renderers.values(), found, strict=True):
            frames = renderer.put_back(batch, pairs)
            batch = [(index, time_s, frame) for (index, time_s, _), frame in zip(batch, frames, strict=True)]
        for _, _, frame in batch:
            out.write(mark(frame))
        progress.update(len(batch))

    from distributed import within_memory

    video, batch, job = next(iter(renderers.values())).video, [], None
    unchanged, turned = ({number: [] for number in renderers} for _ in range(2))
    with writer as out, ThreadPoolExecutor(1) as other:
        for k, (index, frame) in enumerate(ahead(video.played(count))):
            batch.append((index, float(k / video.fps), frame))
            for number, renderer in renderers.items():
                share = renderer.share(index)
                if not share:
                    unchanged[number].append(k)
                if share is not None and share < 1:
                    turned[number].append(k)
            if len(batch) == batch_size or k == count - 1:
                found = [within_memory(renderer.render, batch) for renderer in renderers.values()]
                if job:
                    job.result()  # at most one batch waits; its errors are raised here
                job = other.submit(finish, batch, found)
                batch = []
        job.result()
    return {"passed_through": unchanged, "turned_away": turned}


def yes_or_no(word):
    """The bool of a word: Wav2Lip's users type --static True."""
    if word.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"{word!r}: say True or False")
    return word.lower() in ("true", "1", "yes")


def flags():
    """The parser of the command line; flags mean what Wav2Lip's users expect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides = {"nargs": 4, "type": int, "metavar": ("TOP", "BOTTOM", "LEFT", "RIGHT")}
    add = parser.add_argument
    add("--face", type=Path, help="video or picture")
    add("--audio", nargs="+", metavar="FILE", help="a file with sound, or NUMBER=FILE of several people at once")
    add("--list", type=Path, help="make many: a CSV of face, audio and outfile, in its own folder; resumes")
    add("--live", nargs="?", const=0.4, type=float, metavar="S", help="hear standard input, S s (0.4) ahead: MPEG-TS")
    add("--preview", nargs="?", const=Path("faces.jpg"), type=Path, help="write a picture with all faces numbered")
    add("--face_at", type=place, metavar="X,Y[,SECONDS]", help="redraw the face at this place, px; the others stay")
    add("--face_pick", choices=PICKS, default="largest", help="or this one of each shot (default: %(default)s)")
    add("--outfile", default=Path("result.mp4"), type=Path, help="mp4, mov or mkv (default: %(default)s)")
    add("--checkpoint_path", default=WEIGHTS["generator"], type=Path, help="of any of the systems (default: ours)")
    add("--static", nargs="?", const=True, default=False, type=yes_or_no, help="use only the first frame of the video")
    add("--fps", type=float, help="frames a second of a picture (default: 25) or, with --static, of a video")
    add("--pads", **sides, help="px added to the face box, not with the default weights (default: Wav2Lip's 0 10 0 0)")
    add("--resize_factor", default=1, type=int, help="shrink the video by this factor (default: %(default)s)")
    add("--crop", **sides, default=[0, -1, 0, -1], help="cut the video to this region, px; -1: to its end")
    add("--box", **sides, default=list(NO_BOX), help="the face is here in all frames, px; nothing is searched")
    add("--rotate", action="store_true", help="turn the video by 90 degrees clockwise")
    add("--nosmooth", action="store_true", help="do not smooth the face boxes over time")
    add("--identity", choices=("best", "self"), default="best", help="its frame, of weights that take one")
    add("--articulation", default=1.0, type=float, help="over 1, lips move more: 0.5 to 2 (default: %(default)s)")
    add("--detector", choices=("blazeface", "batch-face"), default="blazeface", help="(default: %(default)s)")
    add("--batch_size", "--wav2lip_batch_size", default=16, type=int, help="frames at once (default: %(default)s)")
    add("--face_det_batch_size", type=int, help="of Wav2Lip; without effect: faces are followed frame by frame")
    add("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    add("--precision", choices=("auto", "bf16", "float32"), default="auto", help="(default: bf16 where it is fast)")
    add("--crf", default=18, type=int, help="H.264 quality: 0 lossless, 51 worst (default: %(default)s)")
    add("--cache", type=Path, help="folder that keeps where the faces are, for another dub of the same video")
    add("--c2pa", nargs=2, type=Path, metavar=("CERT", "KEY"), help="sign the result by C2PA: both PEM files")
    add("--label", action="store_true", help="write AI-generated into a corner of the picture")
    add("--max_pixels", type=int, help="refuse videos and pictures that have more, before they are decoded")
    add("--max_seconds", type=float, help="refuse sounds that are longer")
    add("--report", type=Path, help="the JSON report (default: beside the output)")
    add("--quiet", action="store_true", help="show no progress")
    return parser


def parse(argv, parser=None):
    """The checked flags of a command line, None for this process' own. parser: `flags()`, or one of its kind."""
    parser = parser or flags()
    args = parser.parse_args(joined(argv, parser))
    if not args.list and not (args.face and (args.audio or args.preview or args.live is not None)):
        parser.error("the following arguments are required: --face, --audio")
    if args.list and (args.face or args.audio or args.preview or args.report):
        parser.error("--list names --face, --audio and --outfile of each pair: leave them, --report and --preview out")
    if args.live is not None and (args.list or args.audio or args.preview or args.report or args.c2pa):
        parser.error("--live hears standard input: leave --audio, --list, --preview, --report and --c2pa out")
    if args.live is not None and args.outfile == parser.get_default("outfile"):
        args.outfile = None  # standard output
    chosen = isinstance(args.audio, list) and len(args.audio) > 1 or args.face_at or args.face_pick != "largest"
    if chosen and tuple(args.box) != NO_BOX:
        parser.error("--box says already where the one face is")
    args.audio = args.audio and voices(args.audio, parser)
    for flag, low, high in (
        ("resize_factor", 1, 64),
        ("batch_size", 1, 4096),
        ("crf", 0, 51),
        ("live", 0.1, 1),
        ("fps", 1, 240),
        ("articulation", *ARTICULATION),
        ("max_pixels", 1, 1 << 40),
        ("max_seconds", 0.01, 1e9),
    ):
        value = getattr(args, flag)
        if value is not None and not low <= value <= high:
            parser.error(f"--{flag} {value}: must be between {low} and {high}")
    return args


def place(words):
    """(x, y, seconds or None) of the words X,Y or X,Y,SECONDS."""
    parts = words.split(",")
    try:
        x, y, seconds = (float(part) for part in (parts + ["-1"])[:3])
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{words!r}: say X,Y or X,Y,SECONDS") from error
    if len(parts) > 3 or min(x, y) < 0:
        raise argparse.ArgumentTypeError(f"{words!r}: say X,Y or X,Y,SECONDS, px from the top left corner")
    return x, y, seconds if len(parts) == 3 else None


def voices(words, parser):
    """The path of a sound, or {number of a person: path} of words NUMBER=FILE."""
    found = [re.fullmatch(r"(\d{1,3})=(.+)", word, re.DOTALL) for word in words]
    if len(words) == 1 and (not found[0] or Path(words[0]).exists()):
        return Path(words[0])
    if not all(found) or len({int(each[1]) for each in found}) < len(words):
        parser.error("--audio: name one file, or NUMBER=FILE for each person, with the numbers of --preview")
    return {int(each[1]): Path(each[2]) for each in found}


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


def preview(args):
    """Writes a picture with the faces of a video and their numbers, and prints where each is; returns how many."""
    from distributed import device_of
    from faces import detect, people

    check_paths({"--face": args.face}, {"--preview": (args.preview, people.is_sheet)})
    with regular(args.face) as face:
        video = face_video(args, face)
        found, frames = people.people_of(video, detect.DETECTORS[args.detector](device_of(args.device)))
    with replacing(args.preview) as partial:
        partial.write_bytes(people.contact_sheet(found, frames))
    for number, seen in enumerate(found):
        x, y, frame = people.points_of(seen)[0]
        where = f"--face_at {x:.0f},{y:.0f},{float(frame / video.fps):.2f}"
        print(f"{number}: {where}, in {len(seen)} of {len(frames)} frames")
    print(f"{args.preview}: {len(found)} " + ("person" if len(found) == 1 else "people"))
    return len(found)


def each_of_list(args):
    """Makes the videos of a list, with one model, and goes on after faults; those that are there already stay.

    Raises InputError at the end where any could not be made.
    """
    from distributed import device_of
    from media.pairs import is_made, read_pairs
    from renderer import load

    pairs, faults, loaded = read_pairs(args.list), 0, None
    for pair in pairs:
        own = argparse.Namespace(**vars(args) | {name: getattr(pair, name) for name in ("face", "audio", "outfile")})
        if is_made(pair, report_of(own)):
            print(f"{own.outfile}: is there")
            continue
        loaded = loaded or load(args.checkpoint_path, device_of(args.device), args.precision)
        try:
            make_folder(own.outfile.parent)
            say(lip_sync(own, loaded))
        except InputError as error:
            faults += 1
            print(f"{args.list}, line {pair.line}: {' '.join(str(error).split())}", file=sys.stderr)
    if faults:
        raise InputError(f"{args.list}: {faults} of {len(pairs)} pairs could not be made; the same command tries again")


def say(report):
    """Prints what a run has made, and warns where most of it shows the video's own mouth."""
    frames, redrawn = report["frames"], report["redrawn"]
    print(f"{report['outfile']}: {frames} frames, {redrawn} redrawn, {report['seconds']['all']:.1f} s")
    if 2 * redrawn < frames:
        passed = f"{frames - redrawn} of {frames} frames pass through unchanged"
        print(f"inference.py: {passed}, as no face was found there that can be redrawn", file=sys.stderr)


def main(argv=None):
    """Parses the flags and makes the video; returns the exit code."""
    args = parse(argv)

    def work():
        if args.list:
            each_of_list(args)
        elif args.preview:
            preview(args)
        elif args.live:
            live(args)
        else:
            say(lip_sync(args))

    stopped = "stopped; the same command goes on" if args.list else "stopped; nothing was written"
    return exit_code("inference.py", work, if_stopped=stopped)


if __name__ == "__main__":
    if sys.stdout:  # which a shell's >&- closes
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal can't show
    sys.exit(main())
