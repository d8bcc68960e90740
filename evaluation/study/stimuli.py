"""The videos of a rating study: the same clips of every method, copied without anything that gives a method away."""

from dataclasses import replace
from pathlib import Path

from errors import InputError
from media.files import open_media, pictures_of, sound_of
from media.video import frames_at, probe
from media.writer import Writer
from models.published import archive

SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"}
PICTURES, SOUNDS = {"h264", "vp9", "av1"}, {"aac", "mp3", "opus"}  # what browsers play in an mp4
MARK = "Part of a rating study: this may be synthetic media"
CLIPS = 10  # of a study, where no number is given
PIX_FMTS = {"yuv420p", "yuvj420p"}
LONGER_S, LARGER_PX = 0.1, 1  # how much videos of one clip may differ: odd sizes are written with one row more


def folders(named):
    """The methods of a command line: ["ours=results/ours", ...] as {name: folder}. Raises InputError for a bad one."""
    methods = {}
    for each in named:
        name, equals, folder = each.partition("=")
        if not (equals and name and folder):
            raise InputError(f"{each!r} is no method: write NAME=FOLDER")
        if name in methods:
            raise InputError(f"two methods are called {name!r}: give each its own name")
        if not Path(folder).is_dir():
            raise InputError(f"{each}: there is no folder {folder}")
        methods[name] = Path(folder)
    if len(methods) < 2:
        raise InputError(f"a study compares methods: give two or more NAME=FOLDER, not {len(methods)}")
    return methods


def videos_in(folder):
    """The videos in a folder and below: {clip: path}, a clip being called by its path in the folder, without suffix.

    The folder `main` of a corpus is left out of the names.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            clip = path.relative_to(folder).with_suffix("").as_posix().removeprefix("main/")
            if clip in found:
                raise InputError(f"{found[clip]} and {path} are both clip {clip}: keep one of them")
            found[clip] = path
    if not found:
        raise InputError(f"{folder} holds no video: {', '.join(sorted(SUFFIXES))}")
    return found


def listed_in(path, known):
    """The clips that a list names. Raises InputError for a list without any.

    known: those there are. A line that is none of them, nor its file's name, is a clip and remarks, as in LRS2's lists.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        clips = [line if {line, line.rpartition("/")[2]} & known else line.split()[0] for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of clips: {error}") from error
    if not clips:
        raise InputError(f"{path} names no clip")
    return list(dict.fromkeys(clips))


def only(found, listed, where):
    """Of a method's videos those that a list names, in its order; <speaker>/<clip> may also be called <clip> alone."""
    flat = [clip.rpartition("/")[2] for clip in listed]
    other = {clip: found.get(name) for clip, name in zip(listed, flat, strict=True) if flat.count(name) == 1}
    paths = {clip: found.get(clip) or other.get(clip) for clip in listed}
    if missing := [clip for clip, path in paths.items() if not path]:
        raise InputError(f"{where} lacks {archive.listing(missing)}, which the list names")
    return paths


def choose(methods, listed, count, rng):
    """The clips of a study, `count` at random of those that every method has: {method: {clip: path}} in one order.

    methods: {name: folder}. listed: a list of the clips to choose among, or None. count: None for up to CLIPS.
    Raises InputError where the methods' clips differ, and for more clips than there are.
    """
    videos = {name: videos_in(folder) for name, folder in methods.items()}
    (first, own), *others = videos.items()
    if listed:
        listed = listed_in(listed, set().union(*videos.values()))
        videos = {name: only(found, listed, f"{name}: {methods[name]}") for name, found in videos.items()}
    for name, found in others if not listed else ():
        if found.keys() != own.keys():
            sides = ((first, sorted(own.keys() - found.keys())), (name, sorted(found.keys() - own.keys())))
            apart = [f"{len(more)} only in {side} ({archive.listing(more)})" for side, more in sides if more]
            raise InputError(f"{first} and {name} have different clips: {', '.join(apart)}. Say which to use: --list")
    clips = listed or sorted(own)
    count = min(CLIPS, len(clips)) if count is None else count
    if count > len(clips):
        raise InputError(f"--clips {count}: every method has only {len(clips)}")
    clips = [clips[i] for i in rng.permutation(len(clips))[:count]]
    chosen = {name: {clip: found[clip] for clip in clips} for name, found in videos.items()}
    for clip in clips:
        check_alike({name: found[clip] for name, found in chosen.items()}, clip)
    return chosen


def check_alike(paths, clip):
    """Raises InputError if a clip's videos, {method: path}, differ in size or length, or one is silent."""
    first = None
    for name, path in paths.items():
        found = probe(path)
        if not found.has_audio:
            raise InputError(f"{name}: {path} has no sound track, so its lip sync cannot be rated")
        first = first or (name, found)
        if max(abs(found.width - first[1].width), abs(found.height - first[1].height)) > LARGER_PX:
            sizes = [f"{each.width}x{each.height}" for each in (found, first[1])]
            raise InputError(f"{clip}: {name} is {sizes[0]}, {first[0]} is {sizes[1]}: raters would notice")
        if found.duration_s and first[1].duration_s and abs(found.duration_s - first[1].duration_s) > LONGER_S:
            lengths = [f"{each.duration_s:.2f} s" for each in (found, first[1])]
            raise InputError(f"{clip}: {name} lasts {lengths[0]}, {first[0]} {lengths[1]}: raters would notice")


def copy(source, target, sound):
    """Copies a video as mp4, with nothing that reveals who made it. sound: whether its sound track comes too.

    Pictures and sound that browsers play are not coded again. Its metadata give way to MARK, the same for every method;
    encoders' notes in H.264 (SEI) stay behind. Returns whether it was coded again.
    Raises InputError if it cannot be read, or written.
    """
    with open_media(source) as container:
        streams = [pictures_of(container), *filter(None, [sound_of(container)] if sound else ())]
        names = [stream.codec.canonical_name for stream in streams]
        if names[0] in PICTURES and streams[0].codec_context.pix_fmt in PIX_FMTS and set(names[1:]) <= SOUNDS:
            try:
                remux(container, streams, target)
            except OSError as error:
                raise InputError(f"{source} cannot be copied to {target}: {error.strerror}") from error
            return False
    like = replace(probe(source), pix_fmt="yuv420p")
    with Writer(target, like, audio=source if sound else None, metadata={"comment": MARK}) as out:
        for _, frame in frames_at(source, like.fps):
            out.write(frame)
    return True


def remux(container, streams, target):
    """Writes some streams of an open file, the pictures first, to an mp4 as they are."""
    import av
    from av.bitstream import BitStreamFilterContext

    with av.open(f"file:{target}", "w", options={"movflags": "+faststart"}) as out:
        out.metadata["comment"] = MARK
        copies = {stream: out.add_stream_from_template(stream) for stream in streams}
        notes = "filter_units=remove_types=6" if streams[0].codec.canonical_name == "h264" else "null"
        clean = BitStreamFilterContext(notes, streams[0], copies[streams[0]])
        for packet in container.demux(streams):
            if packet.dts is None:  # the last one, which is empty
                continue
            stream = packet.stream
            for each in clean.filter(packet) if stream is streams[0] else [packet]:
                each.stream = copies[stream]
                out.mux(each)


def transcripts(root, clips):
    """The transcripts of the clips, from a data root: {clip: sentence}. Raises InputError where there is none."""
    from data import Clips
    from hparams import HParams
    from media.clip import Clip

    root, texts = Path(root), {}
    for listed in sorted(root.glob("*.txt")):
        if listed.name != "skipped.txt" and set(clips) & set(listed.read_text(encoding="utf-8").split("\n")):
            split = Clips(root, listed.stem, HParams())
            texts |= {n: Clip(p).text for n, p in zip(split.names, split.paths, strict=True) if n in set(clips)}
    if missing := [clip for clip in clips if clip not in texts]:
        raise InputError(f"{root}: its lists lack {archive.listing(missing)}, so what is said there is not known")
    if silent := [clip for clip in clips if not texts[clip].strip()]:
        raise InputError(f"{root}: {archive.listing(silent)} has no transcript: leave it out, see --list")
    return {clip: texts[clip] for clip in clips}
