"""GRID in any layout: the speaker is found, and no clip gets the words of another."""

import pytest
from test_layouts import tree

from corpora.corpus import NO_VIDEOS, VIDEOS
from corpora.grid import grid_speaker
from corpora.layouts import read_corpus


def words_of(corpus, root):
    """{clip: its alignment's path, "" where there is none}."""
    paths = {name: raw.transcript for name, raw in corpus.clips.items()}
    return {name: path.relative_to(root).as_posix() if path.is_file() else "" for name, path in paths.items()}


LAYOUTS = {
    "{who}/{clip}.mpg": "alignments/{who}/{clip}.align",
    "{who}.mpg_vcd/{who}/{clip}.mpg": "alignments/{who}/{clip}.align ",
    "{who}_processed/{clip}.mpg": "{who}_processed/align/{clip}.align",
    "{who}/video/mpg_6000/{clip}.mpg": "{who}/align/{clip}.align",
    "video/{who}.mpg_6000.part1/{clip}.mpg": "align/{who}/align/{clip}.align",
    "GRID/speaker{number:02}/{clip}.mp4": "GRID/speaker{number:02}/{clip}.align",
    "videos/{WHO}/{clip}.mp4": "words/{WHO}/{CLIP}.align",
    "{WHO}/{clip}.mp4": "align/{who}/{clip}.align",
    "Video_{who}/{clip}.mp4": "Align_{who}/{clip}.align",
}


@pytest.mark.parametrize("video", LAYOUTS)
def test_the_speaker_is_found_in_any_layout(tmp_path, video):
    facts = [{"who": f"s{k}", "WHO": f"S{k}", "number": k, "clip": "bbaf2n", "CLIP": "BBAF2N"} for k in (1, 7, 30)]
    videos, aligned = ([each.strip().format(**fact) for fact in facts] for each in (video, LAYOUTS[video]))
    corpus = read_corpus(tree(tmp_path / "s2", *videos, *aligned))
    assert corpus.kind == "grid" and not corpus.refused
    assert words_of(corpus, tmp_path / "s2") == dict(
        zip(["s1/bbaf2n", "s7/bbaf2n", "s30/bbaf2n"], aligned, strict=True)
    )


def test_words_are_never_taken_from_another_folder(tmp_path):
    root = tree(
        tmp_path, "ann/bbaf2n.mpg", "bob/bbaf2n.mpg", "ann/align/bbaf2n.align", "s3/lgbs5a.mpg", "s4/lgbs5a.align"
    )
    corpus = read_corpus(root)
    found = {"ann/bbaf2n": "ann/align/bbaf2n.align", "bob/bbaf2n": "", "s3/lgbs5a": ""}
    assert words_of(corpus, root) == found


def test_one_persons_folder_is_a_corpus_too(tmp_path):
    root = tree(tmp_path / "s5", "bbaf2n.mpg", "align/bbaf2n.align")
    assert words_of(read_corpus(root), root) == {"s5/bbaf2n": "align/bbaf2n.align"}
    root = tree(tmp_path / "mine", "video/bbaf2n.mpg", "align/bbaf2n.align")
    assert words_of(read_corpus(root), root) == {"bbaf2n": "align/bbaf2n.align"}


def test_two_alignments_of_one_clip_must_say_the_same(tmp_path):
    root = tree(tmp_path, "video/s1/bbaf2n.mpg", "a/s1/bbaf2n.align", "b/s1/bbaf2n.align")
    assert words_of(read_corpus(root), root)["s1/bbaf2n"].endswith("s1/bbaf2n.align")
    (root / "b/s1/bbaf2n.align").write_text("0 100 bin\n")
    assert words_of(read_corpus(root), root) == {"s1/bbaf2n": ""}


@pytest.mark.parametrize(
    "folder, who",
    [("s1", "s1"), ("S34", "s34"), ("s1-s8", ""), ("s123", ""), ("songs2", ""), ("x/s3/y", "s3"), ("talker 4", "s4")],
)
def test_names_of_folders(tmp_path, folder, who):
    assert grid_speaker(tmp_path / folder / "a.mpg", tmp_path) == who


def test_folders_above_the_corpus_name_nobody(tmp_path):
    root = tmp_path / "s9" / "corpus"
    root.mkdir(parents=True)
    assert grid_speaker(root / "a.mpg", root) == ""


def test_lists_may_name_speakers_as_their_folders_do(tmp_path):
    files = [f"S7/a{k}.{suffix}" for k in range(2) for suffix in ("mpg", "align")]
    root = tree(tmp_path, *files, train="S7/a0\n", val="s7/a1\n")
    assert read_corpus(root).lists == {"train": ["s7/a0"], "val": ["s7/a1"]}


def test_every_ending_of_a_video_is_taken(tmp_path):
    names = [
        f"ann/clip{k}{suffix}" for k, suffix in enumerate((".mts", ".3GP", ".ts", ".flv", ".wmv", ".ogv", ".m2ts"))
    ]
    corpus = read_corpus(tree(tmp_path, *names))
    assert corpus.kind == "folder" and len(corpus.clips) == 7
    assert not set(VIDEOS) & set(NO_VIDEOS)


def test_a_video_without_an_ending_is_listed(tmp_path):
    root = tree(tmp_path, "ann/one.mp4", "ann/notes.doc", one="x\n")
    head = b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2" + bytes(100)
    for name in ("two", "three.mp4.part", "four.json"):
        (root / "ann" / name).write_bytes(head)
    corpus = read_corpus(root)
    assert list(corpus.clips) == ["ann/one"]
    assert corpus.refused == dict.fromkeys(
        ("ann/three.mp4.part", "ann/two"), "a video by its content, not by its name: rename it"
    )
