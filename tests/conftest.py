"""What the tests share: one thread, and made-up clips, sounds and data roots."""

import signal
import subprocess
import sys
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

for module, one_thread in (("torch", "set_num_threads"), ("cv2", "setNumThreads")):
    if find_spec(module):
        getattr(import_module(module), one_thread)(1)


def begun(words, **how):
    """A Python process that Ctrl-C can stop, also where tests in the background of a script ignore it.

    how: other arguments of Popen.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen([sys.executable, *map(str, words)], **how)
    finally:
        signal.signal(signal.SIGINT, before)


def make_wav(path, samples, rate=16_000):
    """Writes (samples,) or (channels, samples) int16 as a wav file, by PyAV."""
    import av

    samples = np.atleast_2d(samples)
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w", format="wav") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout=layout)
        _encode_sound(out, stream, samples, rate, layout)
    return path


def make_video(path, frames, fps=25, audio=None, rotation=0, pix_fmt="yuv420p", times=None, codec="libx264", **context):
    """Writes RGB frames as a video, with int16 mono sound at 16 kHz.

    frames: (n, H, W, 3) uint8. times: seconds of each frame, for a variable rate. rotation: of the display matrix.
    context: attributes of the encoder, for instance color_range=2.
    """
    import av

    fps = Fraction(fps)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=fps, options={"crf": "18", "preset": "ultrafast"} if "264" in codec else {})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        stream.codec_context.time_base = Fraction(1, 90_000) if times else 1 / fps
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        voice = out.add_stream("aac", rate=16_000, layout="mono") if audio is not None else None
        for k, rgb in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format=pix_fmt)
            picture.pts = round(times[k] * 90_000) if times else k
            picture.time_base = stream.codec_context.time_base
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
        if voice:
            _encode_sound(out, voice, np.atleast_2d(audio), 16_000, "mono")
    return path


def _encode_sound(out, stream, samples, rate, layout):
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.int16), format="s16p", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def numbered(count, height=48, width=64):
    """Frames that can be told apart after coding: grey level 20 + 3 k, with a brighter upper left quarter."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (20 + 3 * np.arange(count))[:, None, None, None]
    frames[:, : height // 2, : width // 2] += 20
    return frames


def number_of(rgb):
    """The k of a frame that `numbered` drew."""
    return round((float(rgb[-8:, -8:].mean()) - 20) / 3)


def buzz(seconds, rate=16_000):
    """A voice-like sound: harmonics of 120 Hz whose loudness rises and falls four times a second, int16."""
    t = np.arange(round(seconds * rate)) / rate
    tone = sum(np.sin(2 * np.pi * 120 * h * t) / h for h in range(1, 20))
    return (6000 * tone * np.abs(np.sin(2 * np.pi * 2 * t))).astype(np.int16)


@pytest.fixture(scope="session")
def talking_clip(tmp_path_factory):
    """A cartoon face, 160x120, 25 fps, 2 s, H.264, whose mouth opens with its 16 kHz AAC sound."""
    cv2 = pytest.importorskip("cv2")
    frames = []
    for k in range(50):
        rgb = np.full((120, 160, 3), (70, 110, 150), np.uint8)
        cv2.ellipse(rgb, (80, 60), (36, 48), 0, 0, 360, (225, 180, 150), -1)
        for x in (66, 94):
            cv2.circle(rgb, (x, 48), 5, (255, 255, 255), -1)
            cv2.circle(rgb, (x, 48), 2, (40, 30, 20), -1)
        mouth = 1 + round(9 * abs(np.sin(2 * np.pi * 2 * k / 25)))
        cv2.ellipse(rgb, (80, 86), (14, mouth), 0, 0, 360, (120, 20, 30), -1)
        frames.append(rgb)
    path = tmp_path_factory.mktemp("clips") / "talking.mp4"
    return make_video(path, np.stack(frames), 25, audio=buzz(2))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A data root of six drawn clips of three speakers, see drawn_faces.SPLITS. Read it, never write to it."""
    from drawn_faces import write_data_root

    return write_data_root(tmp_path_factory.mktemp("data_root"))


SPOKEN = {  # split: {clip: (frames, its words, each with its first frame and the one after its last)}
    "train": {
        "ann/one": (20, [("BIN", 3, 7), ("BLUE", 8, 12)]),
        "ann/two": (16, [("SET", 2, 6), ("RED", 6, 11)]),
        "bob/one": (24, [("BIN", 4, 9), ("RED", 9, 14), ("NOW", 15, 19)]),
        "bob/two": (12, [("LAY", 1, 5), ("BLUE", 6, 12)]),
    },
    "val": {"ann/three": (14, [("SET", 2, 6), ("BLUE", 7, 11)]), "cid/one": (18, [("LAY", 3, 8), ("NOW", 9, 16)])},
    "silent": {"cid/two": (12, [])},  # with a sentence, but without times of its words
}


def retell(path, **changes):
    """Puts other arrays into a stored clip, or, where they are no arrays, other facts."""
    from media.clip import Clip, write_clip

    clip = Clip(path)
    arrays, about = {name: clip.array(name) for name in clip.file.keys()}, dict(clip.about)
    for name, value in changes.items():
        (arrays if isinstance(value, np.ndarray) else about)[name] = value
    write_clip(path, arrays, about)


def write_spoken_root(root, splits):
    """A data root of clips that say `splits`, see SPOKEN, and a tokenizer of whole words; returns its path."""
    from drawn_faces import write_data_root

    from experts.tokenizer import train_tokenizer

    write_data_root(
        root, {split: {name: frames for name, (frames, _) in clips.items()} for split, clips in splits.items()}
    )
    texts = []
    for name, (_, spoken) in (each for clips in splits.values() for each in clips.items()):
        words = [word for word, _, _ in spoken]
        times = np.array([[first + 0.25, last - 0.25] for _, first, last in spoken], np.float32).reshape(-1, 2) / 25
        texts.append(" ".join(words) or "SET BLUE NOW")
        facts = {"text": texts[-1], "words": words, "word_times": times}
        retell(root / "clips" / f"{name}.safetensors", **facts)
    (root / "tokenizer.model").write_bytes(train_tokenizer(texts, 40, "word").model)
    return root


@pytest.fixture(scope="session")
def spoken_root(tmp_path_factory):
    """A data root of short clips that say different words at known times, see SPOKEN. Read it, never write to it."""
    return write_spoken_root(tmp_path_factory.mktemp("spoken_root"), SPOKEN)


@pytest.fixture(scope="session")
def swaying_clip(tmp_path_factory):
    """The head of the portrait, 160x160, 25 fps, 30 frames, with 1.2 s of sound."""
    from portraits import moving_head

    return make_video(tmp_path_factory.mktemp("clips") / "swaying.mp4", moving_head(30), 25, audio=buzz(1.2))


@pytest.fixture(scope="session")
def voice(tmp_path_factory):
    """A wav file of 0.6 s: 15 frames at 25 fps."""
    return make_wav(tmp_path_factory.mktemp("sounds") / "voice.wav", buzz(0.6))


@pytest.fixture(scope="session")
def narrow_weights(tmp_path_factory):
    """Weights of a narrow untrained TalkLip (g)."""
    from portraits import WEIGHTS, export_narrow

    return export_narrow(tmp_path_factory.mktemp("weights") / "narrow.safetensors", **WEIGHTS["talklip_g"])
