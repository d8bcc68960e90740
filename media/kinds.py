"""What a file is, by its first bytes: for files that cannot be read, and for videos whose name does not say."""

import re

HEAD = 256  # bytes that tell
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # of a JPEG; the others stand within coded data
PHOTOGRAPHS = ("heic", "heix", "hevc", "mif1", "msf1", "avif", "avis")  # brands of ISO files that hold pictures
SONGS = ("M4A ", "M4B ", "M4P ")
VIDEO_HEADS = (
    b"\x1aE\xdf\xa3",
    b"FLV\x01",
    b"\0\0\x01\xba",
    b"\0\0\x01\xb3",
    b"0&\xb2u\x8ef\xcf\x11",
    b".RMF",
    b"\x06\x0e+4",
)
SAVE_PICTURE, SAVE_VIDEO = "save it as JPEG or PNG", "save it as mp4"
HEADS = (
    (b"%PDF", "a PDF document", SAVE_PICTURE),
    (b"8BPS", "a Photoshop file", SAVE_PICTURE),
    (b"\xff\x0a", "a JPEG XL picture", SAVE_PICTURE),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture", SAVE_PICTURE),
    (b"II*\0", "a TIFF picture or the raw file of a camera", SAVE_PICTURE),
    (b"MM\0*", "a TIFF picture or the raw file of a camera", SAVE_PICTURE),
    (b"II\xbc\x01", "a JPEG XR picture", SAVE_PICTURE),
    (b"FUJIFILMCCD-RAW", "the raw file of a camera", SAVE_PICTURE),
    (b"<svg", "an SVG drawing", SAVE_PICTURE),
    (b"<?xml", "an XML file, perhaps an SVG drawing", SAVE_PICTURE),
    (b"<!DOCTYPE", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
    (b"version https://git-lfs", "a Git-LFS pointer", "git lfs pull brings the file itself"),
    (b"#EXTM3U", "a play list", "name the file that it lists"),
    (b"PK\x03\x04", "a zip archive or an office document", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
)


def head_of(path):
    """The first bytes of a file."""
    with open(path, "rb") as file:
        return file.read(HEAD)


def named(path):
    """ ": it is KIND; DO" of a file that cannot be read as a media file, "" where its first bytes say nothing."""
    head = head_of(path)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:
        return f": it is an animated WebP; {SAVE_VIDEO}, or one picture of it as PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return f": it is a WebP picture, damaged or of a kind that is not known here; {SAVE_PICTURE}"
    if head[4:8] == b"ftyp" and head[8:12].decode("latin-1") in PHOTOGRAPHS:
        return f": it is a photograph in HEIF (HEIC, AVIF), of a kind that is not known here; {SAVE_PICTURE}"
    found = next((each for each in HEADS if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(each[0])), None)
    return f": it is {found[1]}; {found[2]}" if found else ""


def is_cut_off(path):
    """Whether a file is a JPEG that ends before its picture does; a film or so may follow a whole one."""
    with open(path, "rb") as file:
        if file.read(2) != b"\xff\xd8":
            return False
        data, at = file.read(), 0
    while marker := MARKER.search(data, at):
        if marker[1] == b"\xd9":
            return False
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")  # past its segment
    return True


def is_video(path):
    """Whether a file begins as the containers of videos do; False where it cannot be read."""
    try:
        head = head_of(path)
    except OSError:
        return False
    if head[4:8] == b"ftyp":
        return head[8:12].decode("latin-1") not in PHOTOGRAPHS + SONGS
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    packets = any(len(head) > size and head[0] == head[size] == 0x47 for size in (188,))  # of a transport stream
    return packets or head.startswith(VIDEO_HEADS)
