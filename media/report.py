"""The report of a run of inference.py, which says what was made of what."""

import platform

from media.disclosure import SYNTHETIC


def describe(args, voices, model, renderers, count, found, seconds):
    """The report of a run, a dict for JSON: its files and model, the places of the face, the seconds of each stage.

    voices: the path of each sound, {number of a person: path}; None stands for the one person who speaks.
    found: other facts, {name: {number of a person: value}}: the track that is heard, and the frames that show the
    video's own mouth. Where several people speak, the report has what is theirs by their numbers.
    """
    import av
    import cv2
    import torch

    def each(values):
        return values[None] if None in values else {str(number): value for number, value in values.items()}

    targets = {number: renderer.target for number, renderer in renderers.items()}
    boxes = {
        number: {str(i): [round(float(v), 1) for v in box] for i, box in sorted(target.boxes.items())}
        for number, target in targets.items()
    }
    some = next(iter(renderers.values()))
    redrawn = count - len(set.intersection(*map(set, found["passed_through"].values())))
    spans = ("passed_through", "turned_away")
    found |= {why: {number: ranges(frames) for number, frames in found[why].items()} for why in spans}
    return {
        "face": str(args.face),
        "audio": each({number: str(path) for number, path in voices.items()}),
        "outfile": str(args.outfile),
        "synthetic": SYNTHETIC,
        "model": model,
        "articulation": args.articulation,
        "fps": float(some.video.fps),
        "frames": count,
        "redrawn": redrawn,
        **{name: each(values) for name, values in found.items()},
        "source_frames": some.target.searched,
        "identity_frames": each({number: renderer.sources() for number, renderer in renderers.items()}),
        "boxes": each(boxes),
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
