"""Turns a folder of talking videos into a data root: face crops, boxes, meshes, sound features and transcripts.

python preprocess.py --data_root lrs2 --out data/lrs2
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

import audio
import faces
import video
from data import FORMAT, FPS, inside
from hparams import InputError, exit_code

FACE_PX, CROP_PX = 96, 128  # a stored crop shows the face box at FACE_PX and its surroundings up to CROP_PX
LONGEST_GAP = 5  # frames without a face that are filled from those around


def read_transcript(path):
    """The words of an LRS2 transcript and, where given, their times.

    Returns the sentence, the words as a list, and (N, 2) float32 start and end in s; all empty without a file.
    Raises InputError for a time that is no number.
    """
    if not path.is_file():
        return "", [], np.zeros((0, 2), np.float32)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    sentence = next((line.removeprefix("Text:").strip() for line in lines if line.startswith("Text:")), "")
    start = next((i + 1 for i, line in enumerate(lines) if line.startswith("WORD START END")), len(lines))
    rows = [line.split() for line in lines[start:] if len(line.split()) >= 3]
    try:
        times = np.array([[float(row[1]), float(row[2])] for row in rows], np.float32).reshape(-1, 2)
    except ValueError as error:
        raise InputError(f"{path}: the start or end of a word is no number ({error})") from error
    return sentence, [row[0] for row in rows], times


def follow_one_face(frames, detector):
    """The mesh of the one face of a clip in every frame: (L, 468, 2) px.

    Raises InputError for a clip without a face, with a scene cut, or with a gap longer than `LONGEST_GAP` frames.
    """
    tracker = faces.Tracker(detector)
    for frame in frames:
        tracker.add(frame)
    if len(tracker.shots) > 1:
        raise InputError("a scene cut within the clip")
    if not tracker.shots[0]:
        raise InputError(f"no face in any of {len(frames)} frames")
    meshes = tracker.largest()[0].meshes
    seen = np.array(sorted(meshes))
    gaps = np.diff(np.concatenate([[-1], seen, [len(frames)]])) - 1
    if gaps.max() > LONGEST_GAP:
        where = int(np.concatenate([[-1], seen])[gaps.argmax()]) + 1
        raise InputError(f"no face in {gaps.max()} frames from frame {where} on")
    known = np.stack([meshes[i] for i in seen]).reshape(len(seen), -1)
    at = np.clip(np.interp(np.arange(len(frames)), seen, np.arange(len(seen))), 0, len(seen) - 1)
    low, share = np.floor(at).astype(int), (at % 1)[:, None]
    high = np.minimum(low + 1, len(seen) - 1)
    return ((1 - share) * known[low] + share * known[high]).reshape(-1, 468, 2).astype(np.float32)


def preprocess_clip(source, detector):
    """Everything that is stored of one clip, as a dict of arrays; raises InputError with the reason to skip it.

    faces, ends: JPEG files of the crops joined, and where each ends.  boxes: (L, 4) px.  size: height, width, px.
    mesh: (L, 468, 2), the face box as [0, 1] x [0, 1].  logfbank: (100 a s, 26).  mel: (80, 80 a s).
    wav: int16, 16 kHz.  text, words, word_times: the transcript.
    """
    frames = [frame.rgb() for _, frame in video.frames_at(source, FPS)]
    wav = audio.read_audio(source)
    meshes = follow_one_face(frames, detector)
    found = faces.face_boxes(dict(enumerate(meshes)))
    boxes = np.stack([found[i] for i in range(len(frames))]).astype(np.float32)
    crops = [faces.crop(frame, box, CROP_PX, CROP_PX / FACE_PX) for frame, box in zip(frames, boxes, strict=True)]
    jpegs = [cv2.imencode(".jpg", c[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel() for c in crops]
    text, words, word_times = read_transcript(source.with_suffix(".txt"))
    return {
        "faces": np.concatenate(jpegs),
        "ends": np.cumsum([len(jpeg) for jpeg in jpegs]),
        "boxes": boxes,
        "size": np.array(frames[0].shape[:2]),
        "mesh": np.stack([faces.to_crop(m, b) for m, b in zip(meshes, boxes, strict=True)]).astype(np.float16),
        "logfbank": audio.log_filter_banks(wav),
        "mel": audio.mel_spectrogram(wav),
        "wav": wav,
        "text": np.array(text),
        "words": np.array(words, dtype=str),
        "word_times": word_times,
    }


_detector = None


def _start_worker():
    global _detector
    cv2.setNumThreads(1)
    _detector = faces.BlazeFace()


def _work(source, target):
    """Does one clip in a worker process; returns the reason why it was skipped, or None."""
    try:
        arrays = preprocess_clip(source, _detector)
    except InputError as error:
        return str(error)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, target)
    return None


def read_lists(root):
    """The filelists of an LRS2-layout root: {split: [clip id, ...]} from every `<split>.txt` beside `main/`.

    Left out: LRS2's pretrain.txt, whose clips are not in main/, and texts that list no speaker/clip, such as a licence.
    """
    lists = {}
    for path in sorted(root.glob("*.txt")):
        ids = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.stem == "pretrain" or not ids or "/" not in ids[0]:
            continue
        lists[path.stem] = inside(ids, path)
    if not lists:
        raise InputError(f"{root}: no filelists (train.txt, val.txt, ...) here. They stand beside the folder main/.")
    return lists


def preprocess(data_root, out, workers):
    """Preprocesses each listed clip that is not yet in `out`, in parallel; prints a summary as JSON."""
    data_root, out = Path(data_root), Path(out)
    if not (data_root / "main").is_dir():
        raise InputError(f"{data_root}: no folder main/ here. An LRS2 root has main/<speaker>/<clip>.mp4 and .txt")
    if out.resolve() == data_root.resolve():
        raise InputError(f"--out {out} is the corpus itself, whose filelists would be overwritten: name another folder")
    if workers < 1:
        raise InputError(f"--workers {workers} must be at least 1")
    lists = read_lists(data_root)
    faces.BlazeFace()  # a missing package is told here, once: a worker that cannot start says nothing
    names = sorted({name for ids in lists.values() for name in ids})
    target = {name: out / "clips" / f"{name}.npz" for name in names}
    todo = [name for name in names if not target[name].is_file()]
    out.mkdir(parents=True, exist_ok=True)
    about = {"format": FORMAT, "fps": FPS, "face_px": FACE_PX, "crop_px": CROP_PX}
    (out / "dataset.json").write_text(json.dumps(about) + "\n")
    skipped = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        jobs = {pool.submit(_work, data_root / "main" / f"{name}.mp4", target[name]): name for name in todo}
        try:
            for job in tqdm(as_completed(jobs), total=len(jobs), unit="clip", desc="preprocess"):
                if reason := job.result():
                    skipped[jobs[job]] = " ".join(reason.split())
        except BaseException:  # Ctrl-C too: what has begun is finished, the rest is not begun
            pool.shutdown(cancel_futures=True)
            raise
    (out / "skipped.txt").write_text("".join(f"{name}\t{skipped[name]}\n" for name in sorted(skipped)))
    for split, ids in lists.items():
        (out / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids if name not in skipped))
    result = {"clips": len(names), "done_now": len(todo) - len(skipped), "skipped": len(skipped)}
    if names and len(skipped) == len(names):
        raise InputError(f"none of {len(names)} clips could be used: see {out / 'skipped.txt'}")
    print(json.dumps(result))


def main(argv=None):
    """Parses the flags and preprocesses a corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, type=Path, help="LRS2 layout: main/<speaker>/<clip>.mp4, .txt")
    parser.add_argument("--out", required=True, type=Path, help="the data root to write; run again to go on")
    parser.add_argument("--workers", default=os.cpu_count(), type=int, help="processes (default: %(default)s)")
    args = parser.parse_args(argv)

    def work():
        preprocess(args.data_root, args.out, args.workers)

    return exit_code(parser.prog, work, if_stopped="stopped; the same command goes on with the clips that are missing")


if __name__ == "__main__":
    sys.exit(main())
