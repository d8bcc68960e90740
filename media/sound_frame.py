"""Sound frames of PyAV: silent ones, cut ones, and ones whose samples are all numbers."""

import numpy as np


def silence(like, seconds):
    """Yields frames of silence, a second at most each, of the format, layout and rate of a frame."""
    samples = round(seconds * like.sample_rate)
    while samples > 0:
        part = min(samples, like.sample_rate)
        zero = b"\x80" if like.format.name.startswith("u8") else b"\0"
        yield sound_frame(like, part, [zero * (part * size) for size in sample_bytes(like)])
        samples -= part


def rest_of(frame, samples):
    """A frame without its first samples, or None if it has no others."""
    if samples >= frame.samples:
        return None
    sizes = sample_bytes(frame)
    planes = [bytes(p)[samples * n : frame.samples * n] for p, n in zip(frame.planes, sizes, strict=True)]
    return sound_frame(frame, frame.samples - samples, planes)


def sample_bytes(frame):
    """Bytes of a sample, of all channels in it, in each plane of a sound frame."""
    size = frame.format.bytes
    return [size] * len(frame.planes) if frame.format.is_planar else [size * len(frame.layout.channels)]


def sound_frame(like, samples, planes):
    """A sound frame of the format, layout and rate of another. planes: the bytes of each."""
    import av

    made = av.AudioFrame(format=like.format.name, layout=like.layout.name, samples=samples, align=1)
    made.sample_rate = like.sample_rate
    for plane, data in zip(made.planes, planes, strict=True):
        plane.update(data.ljust(plane.buffer_size, b"\0"))
    return made


def finite(frame):
    """A sound frame, in which samples that are no numbers, as broken tools write them, are silence.

    They would be heard as loud as can be. What is infinite is as loud as that.
    """
    if frame.format.name.removesuffix("p") not in ("flt", "dbl"):
        return frame
    kind = np.float32 if frame.format.bytes == 4 else np.float64
    sizes = sample_bytes(frame)
    planes = [
        np.frombuffer(p, kind, frame.samples * n // frame.format.bytes)
        for p, n in zip(frame.planes, sizes, strict=True)
    ]
    if all(np.isfinite(plane).all() for plane in planes):
        return frame
    planes = [np.nan_to_num(plane, nan=0.0, posinf=1.0, neginf=-1.0).tobytes() for plane in planes]
    return sound_frame(frame, frame.samples, planes)
