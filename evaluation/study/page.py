"""The page on which raters watch, type and rate: its questions, who is shown which video, the check of its answers."""

import json
from pathlib import Path
from typing import NamedTuple

TEMPLATE = Path(__file__).with_name("page.html")
FORMAT = 1  # of pages, keys and answer files
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # of the videos' names: none looks like another
QUALITY = ("bad", "poor", "fair", "good", "excellent")  # ITU-T P.910, absolute category rating
DEGREE = ("not at all", "hardly", "partly", "mostly", "fully")
UNHEARD = "I cannot hear it"
READ, RATE = "read", "rate"  # the parts of a study: lip reading comes first, before the words have been heard


class Question(NamedTuple):
    """A question that is answered from 1 to 5."""

    key: str  # in the answer file
    name: str  # in the tables
    ask: str
    labels: tuple  # what 1 to 5 mean
    skip: str = ""  # the choice not to answer, where there is one; then the answer is null


# fmt: off
QUESTIONS = {  # the names are those of CALS' table 2; what is asked, of SyncTalklip's sec. 4.7
    READ: (
        Question("intelligibility", "Intelligibility", "How clearly can you understand what is said?", DEGREE),
    ),
    RATE: (
        Question("visual", "Visual quality", "How good is the picture: sharp, steady, free of flaws?", QUALITY),
        Question("sync", "Lip-sync quality", "How well do the lip movements match the speech?", QUALITY, UNHEARD),
        Question("realness", "Realness", "How similar is it to a video of a real person?", DEGREE),
    ),
}
# fmt: on
WORDS = {
    "name": "Which words do you lip-read?",
    "ask": "The video has no sound. Type what you can, in the order it is said; numbers as words. You may watch again.",
    "skip": "I could not read any word",
    "missing": "Please type the words that you lip-read, or tick that you could not read any.",
}
PARTS = {  # title; what the rater reads of it, after the number of videos
    READ: ("Read the lips", "videos without sound. Type the words that you can read off the lips."),
    RATE: ("Rate the video", "videos with sound. Say how good they look, how well the lips match, how real they seem."),
}


def plan(clips, methods, reading, rng):
    """Chooses the videos' names and who lip-reads which: {name: {"clip", "method", "part", "group"}}, in no order.

    Every rater rates each clip of every method. A sentence can be lip-read only once, so each rater reads each clip by
    one method: rater r those of group r mod len(methods), in which the methods take turns (a Latin square). As many
    raters as methods make each clip read by every method once.
    reading: whether words are to be lip-read. rng: a numpy Generator.
    """
    parts, items = ([READ] if reading else []) + [RATE], {}
    place = rng.permutation(len(methods))  # else groups would follow the order of the command
    for part in parts:
        for i, clip in enumerate(clips):
            for j, method in enumerate(methods):
                while (name := "".join(rng.choice(list(LETTERS), 8))) in items:
                    pass
                group = int(i + place[j]) % len(methods) if part == READ else 0
                items[name] = {"clip": clip, "method": method, "part": part, "group": group}
    return {name: items[name] for name in sorted(items)}


def shown(items, methods, rater):
    """The names of the videos that a rater answers. items: see `plan`. methods: how many there are."""
    group = {READ: rater % methods, RATE: 0}
    return {name for name, item in items.items() if item["group"] == group[item["part"]]}


def page(study, items, methods, title, note=""):
    """The page as HTML; it names no method and no clip.

    study: the study's name. items: see `plan`, with each video's "size" in px. note: what raters read first.
    """
    parts = []
    for key, (heading, what) in PARTS.items():
        groups = [[] for _ in range(methods if key == READ else 1)]
        for name, item in items.items():
            if item["part"] == key:
                groups[item["group"]].append(name)
        if groups[0]:
            asked = [question._asdict() for question in QUESTIONS[key]]
            parts.append({"key": key, "title": heading, "what": what, "words": key == READ, "questions": asked})
            parts[-1]["groups"] = groups
    data = {"format": FORMAT, "study": study, "title": title, "note": note, "words": WORDS, "parts": parts}
    data["sizes"] = {name: item["size"] for name, item in items.items()}
    packed = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # so that no text can end the script element
    return TEMPLATE.read_text(encoding="utf-8").replace("{{STUDY}}", packed)


def checksum(study, rater, hears, answers):
    """The "check" that an answer file must have: it reveals a file changed or cut by mistake, not a forger's."""
    text = json.dumps([study, rater, hears, answers], ensure_ascii=False, separators=(",", ":"))
    value = 0x811C9DC5  # 32-bit FNV-1a, as the page computes it
    for byte in text.encode("utf-8", "surrogatepass"):
        value = (value ^ byte) * 0x01000193 % 2**32
    return f"{value:08x}"
