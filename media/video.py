"""The frames of any video or still, chosen by presentation time."""

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path

from errors import InputError
from media import clock, kinds
from media.files import check_codec, open_media, pictures_of, tiles_of
from media.frame import TAGS, Frame, display_matrix, upright

EARLY = 0.1  # of a frame: how much after its time a frame may begin, by the rounding of its clock
HELD_BYTES = 256 << 20  # most that playing backward keeps in memory
HELD_FRAMES = 64
FASTEST = 1000  # frames a second; a header that has more has another unit there


@dataclass(frozen=True)
class Video:
    """The facts of a video or still that are known before all of it is read."""

    path: Path
    width: int  # px, upright
    height: int
    fps: Fraction  # average rate; 25 for a still
    said_fps: Fraction | None  # by its header, which may be wrong
    frames: int | None  # by its header, so an estimate
    duration_s: float | None
    rotation: int  # degrees counterclockwise that the frames are turned by to stand upright; already applied to them
    pix_fmt: str  # of the frames as `read_frames` gives them
    tags: dict  # color_range, colorspace, color_primaries, color_trc: numbers as in H.273
    pixel_aspect: Fraction  # width of a pixel over its height
    has_audio: bool
    still: bool


def probe(path):
    """The `Video` facts of a file, by its header and its first picture. Raises InputError if it has none."""
    with open_media(path) as container:
        stream = _stream(container, path)
        raw, second = (next(pictures, None) for pictures in [_decoded(container, stream)] * 2)
        if raw is None:
            raise InputError(f"{path}: none of its pictures can be decoded{kinds.named(path)}")
        still = second is None
        if still and kinds.is_cut_off(path):
            raise InputError(f"{path}: this JPEG is cut off, so a part of the picture is missing: get the whole file")
        fps = Fraction(25) if still else _fps(stream)
        picture = upright(raw, display_matrix(raw), still)
        duration_s = float(stream.duration * stream.time_base) if stream.duration else None
        if duration_s is None and container.duration:
            duration_s = container.duration / 1e6
        if still:
            duration_s = float(1 / fps)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return Video(
            path=Path(path),
            width=picture.width,
            height=picture.height,
            fps=fps,
            said_fps=stream.average_rate,
            frames=1 if still else stream.frames or (round(duration_s * fps) if duration_s else None),
            duration_s=duration_s,
            rotation=raw.rotation % 360,
            pix_fmt=picture.format.name,
            tags={name: int(getattr(picture, name)) for name in TAGS},
            pixel_aspect=1 / aspect if raw.rotation % 180 else aspect,
            has_audio=bool(container.streams.audio),
            still=still,
        )


def check_pixels(path, most):
    """Raises InputError, before a picture is decoded, for a video or still with more pixels than `most`."""
    with open_media(path) as container:
        size = _stream(container, path).codec_context
        if size.width * size.height > most:
            raise InputError(f"{path}: {size.width}x{size.height} px are more than {most}, the most allowed here")


def read_frames(path, from_s=0.0):
    """Yields the Frames of a video, or the one of a still, in order of time and constant memory.

    A truncated file gives what can be decoded. from_s: frames before this time may be left out, to save work.
    Raises InputError if the file cannot be read or holds no picture that can be decoded.
    """
    with open_media(path) as container:
        stream = _stream(container, path)
        stream.thread_type, stream.codec_context.thread_count = "AUTO", 2
        sought = from_s > 0 and stream.start_time is not None and clock.is_steady(container, Path(path))
        period = float(1 / _fps(stream))
        if sought:  # one frame earlier: an interlaced one wants the one before it
            container.seek(stream.start_time + int(max(from_s - period, 0) / stream.time_base), stream=stream)
        start = None if stream.start_time is None else float(stream.start_time * stream.time_base)
        time_s = place = None
        pictures = _decoded(container, stream, sought)
        first, second = next(pictures, None), next(pictures, None)
        still = second is None and not sought
        for raw in chain(filter(None, (first, second)), pictures):
            start = start if start is not None or raw.pts is None else raw.time
            known = raw.pts is not None and start is not None
            time_s = raw.time - start if known else 0.0 if time_s is None else time_s + period
            if sought and time_s > from_s + period / 2:
                break  # the file's index is wrong: read from its beginning
            sought = False
            place = place or display_matrix(raw)
            yield Frame(upright(raw, place, still), time_s)
    if time_s is None and from_s == 0:
        raise InputError(f"{path}: none of its pictures can be decoded{kinds.named(path)}")
    if sought:
        yield from read_frames(path)


def frames_at(path, fps, start=0, stop=None):
    """Yields (k, Frame) for k = start, start + 1, ...: the frame shown at k / fps, chosen by presentation time.

    At the video's own constant rate each frame comes once; a variable rate becomes constant without drift.
    """
    k, shown = start, None
    for frame in read_frames(path, float(start / fps)):
        slot = ceil(frame.time_s * fps - EARLY)
        while shown is not None and k < slot:
            if k == stop:
                return
            yield k, shown
            k += 1
        shown = frame
    if shown is not None and k != stop:
        yield k, shown


def bounce(k, n):
    """The frame of a video of n frames that output frame k shows: 0 ... n-1, n-2 ... 1, 0 ..., no end twice."""
    k %= max(1, 2 * n - 2)
    return min(k, 2 * n - 2 - k) if n > 1 else 0


def timeline(path, count, fps=None):
    """Yields (index in the video, Frame) for `count` output frames: plays the video forth and back until they are full.

    fps: the constant rate, the video's average by default. Memory stays bounded: played backward, the video is decoded
    again in short pieces from its end.
    """
    fps = fps or probe(path).fps
    k, done = 0, 0
    while done < count:
        for k, frame in frames_at(path, fps):
            if done == count:
                return
            yield k, frame
            done += 1
        if k == 0:
            yield from ((0, frame) for _ in range(count - done))
            return
        held = max(8, min(HELD_FRAMES, HELD_BYTES // sum(plane.buffer_size for plane in frame.picture.planes)))
        for stop in range(k, 1, -held):
            for back in reversed(list(frames_at(path, fps, max(1, stop - held), stop))):
                if done == count:
                    return
                yield back
                done += 1


def _stream(container, path):
    stream = pictures_of(container)
    if tiles := tiles_of(container):
        raise InputError(f"{path}: it is a photograph in {tiles} tiles (HEIC, AVIF); {kinds.SAVE_PICTURE}")
    check_codec(stream, path, "pictures")
    if stream is None:
        sound_file = "it is a sound file: it has no pictures"
        raise InputError(f"{path}: {sound_file if container.streams.audio else 'it has neither pictures nor sound'}")
    return stream


def _decoded(container, stream, sought=False):
    return progressive(frame for frame in clock.frames(container, stream, sought) if frame is not None)


def progressive(pictures):
    """Yields decoded pictures; of interlaced ones, as camcorders and television make, the lines are of one moment.

    As players do it goes by the flag of each picture: others come as they are, in the same samples. What is written is
    progressive, and nobody could take the two moments apart any more.
    """
    graph = of = None
    for picture in pictures:
        kind = picture.width, picture.height, picture.format.name, picture.time_base
        if graph and kind != of:
            yield from _pulled(graph, None)
            graph = None
        if graph is None and picture.interlaced_frame:
            graph, of = _deinterlacer(picture), kind
        if graph:
            yield from _pulled(graph, picture)
        else:
            yield picture
    if graph:
        yield from _pulled(graph, None)


def _deinterlacer(like):
    """A graph of filters that takes pictures such as this one.

    A PNG has that flag if it loads line by line: its lines are of one moment, and for swscale too it must be gone.
    """
    from av.filter import Graph

    is_yuv = len(like.format.components) > 2 and not like.format.is_rgb
    graph = Graph()
    source = graph.add_buffer(width=like.width, height=like.height, format=like.format, time_base=like.time_base)
    how = ("bwdif", "mode=send_frame:deint=interlaced") if is_yuv else ("setfield", "mode=prog")
    graph.link_nodes(source, graph.add(*how), graph.add("buffersink")).configure()
    return graph


def _pulled(graph, picture):
    """Yields what comes out of a graph of filters once it is given a picture, or None at the end."""
    import av

    graph.push(picture)
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield graph.pull()


def _fps(stream):
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return next((rate for rate in rates if rate and 1 <= rate <= FASTEST), Fraction(25))
