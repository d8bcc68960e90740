"""One picture of a video in its own YUV samples: read a region as RGB, change a patch, leave the rest as it is."""

from dataclasses import dataclass, replace

import numpy as np

from errors import InputError
from media.files import make_folder, replacing

CHROMA_STEPS = {"420p": (2, 2), "422p": (2, 1), "444p": (1, 1)}  # luma pixels per chroma sample: across, down
KEPT = {f"{yuv}{kind}" for yuv in ("yuv", "yuvj") for kind in CHROMA_STEPS}  # 8-bit formats that stay as they are
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # colour tag of a frame -> swscale's number of its YUV matrix
BACKGROUND = np.uint16(255)  # white, behind what is transparent
FULL = 2  # colour range 0 to 255; 1 is 16 to 235
MOST_KINDS = 40  # of blocks beside a frame: FFmpeg 8 numbers about 32
TAGS = ("color_range", "colorspace", "color_primaries", "color_trc")


@dataclass(frozen=True)
class Frame:
    """One upright picture, kept in the video's own 8-bit YUV samples, and its time after the first frame."""

    picture: object  # av.VideoFrame: read only, as the decoder may need it for other frames
    time_s: float

    @property
    def size(self):
        """(width, height) in px."""
        return self.picture.width, self.picture.height

    def rgb(self, x0=0, y0=0, x1=None, y1=None):
        """The pixels of a region, all by default: (y1 - y0, x1 - x0, 3) uint8, RGB. A part equals that part of all.

        Where the file does not name its colours, below 720 lines are taken for BT.601, others for BT.709, 16 to 235.
        """
        x1 = self.picture.width if x1 is None else x1
        y1 = self.picture.height if y1 is None else y1
        left, top = x0 - x0 % 2, y0 - y0 % 2
        part = cut(self.picture, left, top, x1 + x1 % 2, y1 + y1 % 2)  # swscale is exact on even sizes alone
        matrix, full = _colours(self.picture)
        part = part.reformat(
            format="rgb24", src_colorspace=matrix, src_color_range=full, dst_color_range=FULL, threads=1
        )
        return part.to_ndarray()[y0 - top : y1 - top, x0 - left : x1 - left]

    def paste(self, patch, x, y):
        """A copy with a patch whose top left is at (x, y). All samples of unchanged pixels stay bit-identical.

        patch: (h, w, 3) uint8, RGB, inside the frame. Pixels equal to those of `rgb` count as unchanged. Where
        pixels share a chroma sample, the unchanged neighbours of a changed pixel share its new one.
        """
        h, w = patch.shape[:2]
        if x < 0 or y < 0 or x + w > self.picture.width or y + h > self.picture.height:
            raise ValueError(f"a patch of {w}x{h} at ({x}, {y}) leaves the frame of {self.size}")
        across, down = _steps(self.picture)
        x0, y0 = x - x % across, y - y % down
        x1, y1 = min(x + w + -(x + w) % across, self.size[0]), min(y + h + -(y + h) % down, self.size[1])
        old = self.rgb(x0, y0, x1, y1)
        new = old.copy()
        new[y - y0 : y - y0 + h, x - x0 : x - x0 + w] = patch
        changed = (new != old).any(2)
        copy = cut(self.picture, 0, 0, *self.size)
        for plane, values, (sx, sy) in zip(planes(copy), _yuv(new, self.picture), _all_steps(copy), strict=True):
            here = plane[y0 // sy : -(-y1 // sy), x0 // sx : -(-x1 // sx)]
            mask = np.logical_or.reduce(_shared(changed, sx, sy))
            here[mask] = _mean(_shared(values, sx, sy))[mask]
        return replace(self, picture=copy)

    def cut(self, x0, y0, x1, y1):
        """The region from (x0, y0) on, brought to even numbers where pixels share chroma, as a Frame of its own."""
        across, down = _steps(self.picture)
        return replace(self, picture=cut(self.picture, x0 - x0 % across, y0 - y0 % down, x1, y1))

    def shrunk(self, factor):
        """The frame at 1 / factor of its width and height."""
        matrix, full = _colours(self.picture)
        width, height = max(self.size[0] // factor, 2), max(self.size[1] // factor, 2)
        same = {"src_colorspace": matrix, "dst_colorspace": matrix, "src_color_range": full, "dst_color_range": full}
        picture = self.picture.reformat(width=width, height=height, interpolation="AREA", threads=1, **same)
        for name in TAGS:
            setattr(picture, name, getattr(self.picture, name))
        return replace(self, picture=picture)

    def turned(self):
        """The frame turned by 90 degrees clockwise, sample by sample."""
        return replace(self, picture=_turn(self.picture, flip_x=True, flip_y=False, turned=True))


def from_rgb(rgb, time_s=0.0, pix_fmt="yuv420p"):
    """A Frame made of (H, W, 3) uint8 RGB pixels."""
    import av

    picture = av.VideoFrame(rgb.shape[1], rgb.shape[0], pix_fmt)
    for plane, values, (sx, sy) in zip(planes(picture), _yuv(rgb, picture), _all_steps(picture), strict=True):
        plane[:] = _mean(_shared(values, sx, sy))
    return Frame(picture, time_s)


def write_picture(path, picture):
    """Writes a (3, H, W) tensor in [0, 1], RGB, as a picture file, see `write_pixels`."""
    write_pixels(path, (picture.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8))


def write_pixels(path, pixels):
    """Writes (H, W, 3) uint8, RGB, or (H, W), grey, as a picture file, in a folder that is made if need be.

    Raises InputError where it cannot be written, and for a suffix that is no picture's.
    """
    import cv2

    make_folder(path.parent)
    try:
        data = cv2.imencode(path.suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1]
    except cv2.error as error:
        raise InputError(f"{path}: its suffix is no picture's, say .png or .jpg") from error
    try:
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def planes(picture):
    """The Y, U and V samples of a picture as writable (h, w) views."""
    planes = [(np.frombuffer(p, np.uint8).reshape(p.height, p.line_size), p.width) for p in picture.planes]
    return [samples[:, :width] for samples, width in planes]


def _steps(picture):
    return CHROMA_STEPS[picture.format.name[-4:]]


def _all_steps(picture):
    return (1, 1), _steps(picture), _steps(picture)


def _colours(picture):
    default = 1 if picture.height >= 720 else 5
    full = FULL if picture.format.name.startswith("yuvj") or picture.color_range == FULL else 1
    return MATRICES.get(picture.colorspace, default), full


def _yuv(rgb, like):
    """(H, W, 3) RGB as full size Y, U and V planes in the colours of `like`."""
    import av

    matrix, full = _colours(like)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return planes(picture.reformat(format="yuv444p", dst_colorspace=matrix, dst_color_range=full, threads=1))


def _shared(values, across, down):
    """The pixels of an (h, w) plane that share a chroma sample, as across * down smaller planes; odd edges repeat."""
    values = np.pad(values, ((0, -values.shape[0] % down), (0, -values.shape[1] % across)), mode="edge")
    return [values[y::down, x::across] for y in range(down) for x in range(across)]


def _mean(planes):
    return (np.sum(planes, 0, dtype=np.uint16) + len(planes) // 2) // len(planes)


def _blank(like, width, height):
    import av

    picture = av.VideoFrame(width, height, like.format.name)
    for name in TAGS:
        setattr(picture, name, getattr(like, name))
    return picture


def cut(picture, x0, y0, x1, y1):
    """A copy of a region that starts at even x0, y0; past the frame its last row and column are repeated."""
    part = _blank(picture, x1 - x0, y1 - y0)
    for source, target, (sx, sy) in zip(planes(picture), planes(part), _all_steps(picture), strict=True):
        source = source[y0 // sy :, x0 // sx :][: target.shape[0], : target.shape[1]]
        h, w = source.shape
        target[:h, :w] = source
        target[h:, :w] = source[-1:]
        target[:, w:] = target[:, w - 1 : w]
    return part


def display_matrix(raw):
    """The (a, b, c, d) that take a pixel (x, y) of a decoded frame to its place on the screen: (a x + c y, b x + d y).

    Call it once for a video: in PyAV it makes the frame part of a cycle, which stays in memory until it is collected.
    """
    try:
        matrix = raw.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18.1 fails on the EXIF block of a photograph; its angle would not tell a mirror
        matrix = _without_exif(raw).side_data.get("DISPLAYMATRIX")
    return (1, 0, 0, 1) if matrix is None else np.frombuffer(matrix, np.int32)[[0, 1, 3, 4]].tolist()


def _without_exif(raw):
    """A decoded frame without the blocks beside it that PyAV does not know."""
    from av.filter import Graph
    from av.sidedata.sidedata import Type

    graph = Graph()
    source = graph.add_buffer(width=raw.width, height=raw.height, format=raw.format, time_base=raw.time_base)
    unknown = set(range(MOST_KINDS)) - {kind.value for kind in Type}
    drops = [graph.add("sidedata", f"mode=delete:type={number}") for number in sorted(unknown)]
    graph.link_nodes(source, *drops, graph.add("buffersink")).configure()
    graph.push(raw)
    return graph.pull()


def upright(raw, place, still):
    """The picture in 8-bit YUV (stills: 4:2:0), turned and mirrored by its display matrix `place`, sample by sample.

    What is transparent lies on `BACKGROUND`: the colours under it were not meant to be seen.
    """
    picture, name = raw, raw.format.name
    if name not in KEPT or still and not name.endswith("420p"):
        matrix, full = _colours(raw)
        of_rgb = raw.format.is_rgb or name == "pal8"
        source = {} if of_rgb else {"src_colorspace": matrix, "src_color_range": full}
        target = {"dst_colorspace": matrix, "dst_color_range": 1 if of_rgb else full}
        picture = raw.reformat(format="yuv420p", threads=1, **source, **target)
        if (opaque := _laid_on_background(raw, source)) is not None:
            laid = opaque.reformat(format="yuv420p", threads=1, **target)
            for tag in TAGS:
                setattr(laid, tag, getattr(picture, tag))
            picture = laid
    a, b, c, d = place
    turned = abs(b) > abs(a)
    if not turned and a > 0 and d > 0:
        return picture
    flip_x, flip_y = (c < 0, b < 0) if turned else (a < 0, d < 0)
    return _turn(picture, flip_x, flip_y, turned)


def _laid_on_background(raw, colours):
    """A picture's colours where it is opaque, and `BACKGROUND` behind the rest, as an RGB picture; None if it is whole.

    colours: of its samples, for swscale.
    """
    import av

    if raw.format.name != "pal8" and not any(component.is_alpha for component in raw.format.components):
        return None
    rgba = raw.reformat(format="rgba", threads=1, dst_color_range=FULL, **colours).to_ndarray()
    alpha = rgba[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return None
    rgb = (rgba[..., :3] * alpha + BACKGROUND * (255 - alpha) + 127) // 255
    return av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format="rgb24")


def _turn(picture, flip_x, flip_y, turned):
    """A copy with rows and columns swapped (`turned`), then mirrored, sample by sample."""
    if turned and picture.format.name.endswith("422p"):
        picture = picture.reformat(format="yuv444p", threads=1)
    width, height = (picture.height, picture.width) if turned else (picture.width, picture.height)
    copy = _blank(picture, width, height)
    for source, target in zip(planes(picture), planes(copy), strict=True):
        source = source.T if turned else source
        target[:] = source[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return copy
