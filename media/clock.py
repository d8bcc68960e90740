"""The clock of a media file: when each of its pictures and sounds is shown or heard, also where its times are broken.

All that is known about times in files is here, for pictures and sound, for inference and preprocessing alike. A hole is
time that passes. A clock that jumps back, as where two recordings were joined, goes on; one that jumps far ahead while
nothing is shown or heard goes on without the gap.
"""

from collections import deque
from functools import lru_cache
from itertools import chain

from errors import InputError
from media.files import open_media, pictures_of, sound_of
from media.sound_frame import finite, rest_of, silence

BACK_S = 0.2  # a track whose time goes back by more has jumped
NEAR_S = 1.0  # a track that is ahead by more is looked at twice: its time may be a single packet's fault
FAR_S = 300.0  # a hole of more, in which the other track has nothing either, is a jump
INTERLEAVED_S = 10.0  # how far the tracks of a file may lie apart in it
REORDERED_S = 10.0  # how much later than decoded a picture may be shown
MOST_HELD = 16  # pictures that a decoder holds back to bring them into order
JITTER_S = 0.03  # less than a frame: sound that is off by less is not moved
TICK_S = 0.002  # the same, right after a damaged packet or a jump
MOST_WAITING = 2000  # packets that are read ahead to see how a track goes on
MOST_SHIFTS = 8  # last ones, to which a track may return


class Track:
    """Where one stream of a file is: the time of its next packet, s, and which of the clock's shifts it has."""

    def __init__(self, stream):
        rate = stream.guessed_rate if stream.type == "video" else None
        self.next_s, self.shift, self.length_s, self.reordered = None, 0, float(1 / rate) if rate else 0.0, 0
        self.undated = MOST_HELD if stream.type == "video" else 0  # packets that may not say when they are decoded

    def begins(self, packet):
        """Whether a packet is one of the first of a track, of which Matroska says when they are shown, not decoded.

        Their times are in no order, so the clock cannot go by them.
        """
        undated = self.undated > 0 and packet.dts is None and packet.pts is not None
        self.undated = self.undated - 1 if undated else 0
        return undated

    def length_of(self, packet):
        """How long a packet lasts, s. In an mp4 the packet before a hole is as long as that: it lasts as others do."""
        length_s = float((packet.duration or 0) * packet.time_base)
        if 0 < length_s <= NEAR_S:
            self.length_s = length_s
        return self.length_s


class Clock:
    """Brings the times of a file's packets to one clock that goes on from its first picture to its end.

    A jump moves a track by a shift from then on. Both tracks of a file that jump together get the same shift.
    container: an open file.  stream: of it, whose packets are wanted; the other track is followed for its times alone.
    sought: the file is read from somewhere in its middle.
    """

    def __init__(self, container, stream, sought=False):
        found = [pictures_of(container), sound_of(container)]
        self.streams = [each for each in (stream, *found) if each is not None]
        self.streams = list({each.index: each for each in self.streams}.values())
        self.container, self.stream, self.sought = container, stream, sought
        self.tracks = {each.index: Track(each) for each in self.streams}
        self.shifts = [0.0]  # s that are added to the times in the file
        self.pictures_s = None  # when the pictures begin, where sound is heard with them
        if found[0] is not None and found[0].start_time is not None:
            self.pictures_s = float(found[0].start_time * found[0].time_base)

    def packets(self):
        """Yields the packets of the stream, with times that never jump."""
        packets, waiting = self.container.demux(*self.streams), deque()
        while (packet := waiting.popleft() if waiting else next(packets, None)) is not None:
            if not self.tracks[packet.stream.index].begins(packet):
                if self._is_off(packet):
                    self._mend(packet, following(packet, waiting, packets))
                self._place(packet)
            if packet.stream.index == self.stream.index:
                yield packet

    def jumped(self):
        """Whether the clock has jumped in what was read."""
        return len(self.shifts) > 1

    def _off_s(self, packet, shift=None):
        """How much later a packet is than its track goes on, s; 0 where that is not known."""
        track, time_s = self.tracks[packet.stream.index], time_of(packet)
        if time_s is None or track.next_s is None:
            return 0.0
        return time_s + self.shifts[track.shift if shift is None else shift] - track.next_s

    def _is_off(self, packet):
        return not -BACK_S <= self._off_s(packet) <= NEAR_S

    def _mend(self, packet, later):
        """Gives a packet the time at which its track goes on, if the packet after it goes on as if it had that time."""
        if later is None or time_of(later) is None:
            return
        track = self.tracks[packet.stream.index]
        length_s = track.length_of(packet)
        as_expected_s = abs(self._off_s(later) - length_s)
        if as_expected_s < min(NEAR_S, abs(time_of(later) - time_of(packet) - length_s)):
            packet.dts = round((track.next_s - self.shifts[track.shift]) / packet.time_base)
            packet.pts = packet.dts

    def _place(self, packet):
        """Moves a packet by the shift of its track, which a jump changes."""
        track, time_s = self.tracks[packet.stream.index], time_of(packet)
        if time_s is None:
            if track.next_s is not None:
                track.next_s += track.length_of(packet)
            return
        if packet.dts is not None and packet.pts is not None:
            self._reorder(packet, track)
        if track.shift < len(self.shifts) - 1 and self._follow(track, time_s):
            pass
        elif track.next_s is None:
            self._check_begin(packet, time_s)
        elif self._off_s(packet) < -BACK_S or self._is_far(packet):
            track.shift = self._shift_after_jump(packet, track, time_s)
        shift_s = self.shifts[track.shift]
        if shift_s:
            ticks = round(shift_s / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        track.next_s = time_s + shift_s + track.length_of(packet)

    def _reorder(self, packet, track):
        """Takes a picture that would be shown long before or after it is decoded to be shown as the one before it."""
        later = packet.pts - packet.dts
        if -NEAR_S <= later * packet.time_base <= max(REORDERED_S, 32 * track.length_s):
            track.reordered = later
        else:
            packet.pts = packet.dts + track.reordered

    def _others_s(self, track):
        """The time of the next packet of the other track, or None."""
        return max((t.next_s for t in self.tracks.values() if t is not track and t.next_s is not None), default=None)

    def _follow(self, track, time_s):
        """Jumps with the other track, if that brings this one nearer to it; returns whether it did."""
        if (now_s := self._others_s(track)) is None:
            return False
        recent = [track.shift, *range(max(track.shift + 1, len(self.shifts) - MOST_SHIFTS), len(self.shifts))]
        best = min(recent, key=lambda i: abs(time_s + self.shifts[i] - now_s))
        followed, track.shift = best != track.shift, best
        return followed

    def _is_far(self, packet):
        """Whether a track is further ahead than a hole can be: more than `FAR_S`, and the other one is not there."""
        track, off_s = self.tracks[packet.stream.index], self._off_s(packet)
        others_s = self._others_s(track)
        return off_s > FAR_S and (others_s is None or track.next_s + off_s > others_s + INTERLEAVED_S)

    def _shift_after_jump(self, packet, track, time_s):
        """The number of the shift with which a track goes on: one that it has had, or a new one."""
        off = {i: self._off_s(packet, i) for i in range(max(0, len(self.shifts) - MOST_SHIFTS), len(self.shifts))}
        back = [i for i, off_s in off.items() if -BACK_S <= off_s <= NEAR_S]
        if back:
            return min(back, key=lambda i: abs(off[i]))
        ends = [each.next_s for each in self.tracks.values() if each.next_s is not None]
        joined = self._off_s(packet) < 0  # what follows comes after all that was before it
        self.shifts.append((max(ends) if joined else track.next_s) - time_s)
        return len(self.shifts) - 1

    def _check_begin(self, packet, time_s):
        """Refuses sound that begins long after its pictures have ended: nobody could have meant that."""
        is_sound = packet.stream.type == "audio" and packet.stream.index == self.stream.index
        if not is_sound or self.sought or self.pictures_s is None:
            return
        pictures_end_s = self._others_s(self.tracks[packet.stream.index]) or self.pictures_s
        if time_s > pictures_end_s + FAR_S:
            late = f"its sound begins {time_s - self.pictures_s:.0f} s after its pictures"
            raise InputError(f"{late}, long after they end: its clock is broken. Give pictures and sound as two files")


def time_of(packet):
    """The time of a packet in its file, s, at which it is decoded; None if the file does not say."""
    stamp = packet.pts if packet.dts is None else packet.dts
    return None if stamp is None else float(stamp * packet.time_base)


def following(packet, waiting, packets):
    """The next packet of the same stream, or None; what is read until then is added to `waiting`."""
    read = (waiting.append(each) or each for each in packets)
    for each in chain(list(waiting), read):
        if each.stream.index == packet.stream.index:
            return each
        if len(waiting) >= MOST_WAITING:
            return None
    return None


def frames(container, stream, sought=False):
    """Yields the frames of a stream in order of time, on the file's clock.

    None stands where one may be missing: for a packet that is damaged, and where the clock jumps.
    Raises InputError for sound that begins long after its pictures have ended.
    """
    import av

    clock, shift = Clock(container, stream, sought), 0
    undated, first, late = container.format.name == "avi" and stream.type == "video", None, None
    for packet in clock.packets():
        if clock.tracks[stream.index].shift != shift:
            shift = clock.tracks[stream.index].shift
            yield None
        first = packet.dts if first is None else first
        try:
            found = packet.decode()
        except av.error.MemoryError:
            raise
        except av.FFmpegError:  # whatever the decoder says of one packet, the next may be whole
            first = None if late is None else first
            yield None
            continue
        for frame in found:
            late = _shown_as_decoded(frame, first, late) if undated else None
            yield frame


def _shown_as_decoded(frame, first, late):
    """Dates a picture of an AVI, which says when pictures are decoded, not shown: they are shown as they come out.

    first: when the first packet is decoded.  late: by how much later the first picture came out, None for itself.
    Returns `late`.
    """
    if late is None and None not in (frame.dts, first):
        late = frame.dts - first
    frame.pts = None if frame.dts is None or late is None else frame.dts - late
    return late


def is_steady(container, path):
    """Whether a place in a file can be sought by its time: its index tells the truth, and its clock never jumps."""
    name = container.format.name
    if "mpeg" in name:  # they have no index
        return False
    if name == "avi" and pictures_of(container).codec_context.has_b_frames:  # see `_shown_as_decoded`
        return False
    if name.startswith("mov"):  # times in its index are sums of lengths
        return True
    status = path.stat()
    return _never_jumps(str(path.absolute()), status.st_size, status.st_mtime_ns)


@lru_cache(256)
def _never_jumps(path, size, changed):
    """Reads the times of a whole file, and decodes nothing. size, changed: tell a file from what it was before."""
    with open_media(path) as container:
        clock = Clock(container, pictures_of(container))
        for _ in clock.packets():
            pass
        return not clock.jumped()


def gapless(frames):
    """Sound frames without times, one right after the other: silence in holes, nothing twice.

    frames: of `frames`.
    Returns when the first one begins, a Fraction of s or None, and an iterator; None twice without any frame.
    """
    frames = iter(frames)
    first = next((frame for frame in frames if frame is not None), None)
    if first is None:
        return None, None
    return (None if first.pts is None else first.pts * first.time_base), _filled(chain([first], frames))


def _filled(frames):
    begin_s, heard_s, exact = None, 0.0, False
    for frame in frames:
        if frame is None:
            exact = True
            continue
        off_s = 0.0
        if frame.pts is not None:
            time_s = float(frame.pts * frame.time_base)
            begin_s = time_s - heard_s if begin_s is None else begin_s
            off_s = time_s - begin_s - heard_s
        if off_s > (TICK_S if exact else JITTER_S):
            yield from silence(frame, off_s)
            heard_s += off_s
        elif off_s < -(TICK_S if exact else JITTER_S):
            frame = rest_of(frame, round(-off_s * frame.sample_rate))
        exact = False
        if frame is not None:
            heard_s += frame.samples / frame.sample_rate
            yield finite(frame)
