"""The video or picture whose face is redrawn, edited and played as the flags of inference ask for."""

from dataclasses import replace
from fractions import Fraction

from errors import InputError
from media.video import FASTEST, frames_at, probe, timeline

WHOLE = (0, -1, 0, -1)  # --crop that cuts nothing


class FaceVideo:
    """The frames of a video or picture: shrunk, turned, cropped, or just the first one.

    path: any video or picture.  resize_factor: whole number.  crop: (top, bottom, left, right) px, -1 for the end.
    rotate: by 90 degrees clockwise.  static: only the first frame.
    fps: frames a second of a picture (25 by default) or of a static video; any other video keeps its own rate.
    Raises InputError if it cannot be read or the crop leaves the frame.
    """

    def __init__(self, path, resize_factor=1, crop=WHOLE, rotate=False, static=False, fps=None):
        self.path, self.resize_factor, self.crop, self.rotate = path, resize_factor, tuple(crop), rotate
        found = probe(path)
        self.still = found.still or static
        if not self.still and (found.said_fps or 0) > FASTEST:
            raise InputError(f"{path}: {float(found.said_fps):g} frames a second; {FASTEST} are the most. Slow it down")
        self.fps = Fraction(str(fps)).limit_denominator(1001) if self.still and fps else found.fps
        self.first = self._edited(next(frames_at(path, found.fps))[1])
        width, height = self.first.size
        pix_fmt, aspect = self.first.picture.format.name, found.pixel_aspect
        aspect = 1 / aspect if rotate else aspect
        self.like = replace(found, width=width, height=height, fps=self.fps, pix_fmt=pix_fmt, pixel_aspect=aspect)

    def _edited(self, frame):
        """The frame shrunk, turned and cropped, in Wav2Lip's order."""
        if self.resize_factor > 1:
            frame = frame.shrunk(self.resize_factor)
        if self.rotate:
            frame = frame.turned()
        if self.crop != WHOLE:
            frame = frame.cut(*self.region(self.crop, "--crop", frame.size))
        return frame

    @staticmethod
    def region(sides, flag, size):
        """(top, bottom, left, right) of a flag, -1 for the end, as (x1, y1, x2, y2) inside a frame of `size`."""
        (top, bottom, left, right), (width, height) = sides, size
        bottom, right = height if bottom == -1 else bottom, width if right == -1 else right
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            given = " ".join(map(str, sides))
            raise InputError(f"{flag} {given} does not fit the frame of {width}x{height} px: TOP BOTTOM LEFT RIGHT")
        return left, top, right, bottom

    def once(self, count):
        """Yields (index, Frame) in the video's own order: `count` frames, or all of them if they are fewer."""
        if self.still:
            yield 0, self.first
            return
        for index, frame in frames_at(self.path, self.fps, 0, count):
            yield index, self._edited(frame)

    def played(self, count):
        """Yields (index, Frame) for each of `count` frames of the result: forth, back, forth ..."""
        if self.still:
            yield from ((0, self.first) for _ in range(count))
            return
        for index, frame in timeline(self.path, count, self.fps):
            yield index, self._edited(frame)

    def at(self, index):
        """The frame with this index."""
        if self.still or index == 0:
            return self.first
        return self._edited(next(frames_at(self.path, self.fps, index, index + 1))[1])
