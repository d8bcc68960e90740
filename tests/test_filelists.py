"""Filelists are read in the forms that people write them in, or refused in one line."""

import codecs

import pytest
from corpus_clips import write_lists
from test_layouts import tree

import preprocess
from corpora.corpus import Corpus, RawClip
from corpora.data_root import check_data_root
from corpora.filelists import cleaned, filelists, in_two, name_in
from corpora.layouts import read_corpus
from corpora.report import listed_clips
from errors import InputError
from media.clip import inside
from media.files import read_text

IDS = {"train": ["55/00001", "55/00002"], "val": ["66/00001"]}
FORMS = {
    "with .mp4": dict(form="{}.mp4"),
    "with .MP4": dict(form="{}.MP4"),
    "with main/": dict(form="main/{}.mp4"),
    "from above": dict(form="mvlrs_v1/main/{}"),
    "with ./": dict(form="./{}"),
    "quoted": dict(form='"{}.mp4"'),
    "with a comment": dict(head="# clips of March\n\n"),
    "with a mark": dict(form="{} NF"),
    "UTF-16": dict(code="utf-16"),
    "UTF-16, big end first": dict(code="utf-16-be", mark=codecs.BOM_UTF16_BE),
    "UTF-16 without a mark": dict(code="utf-16-le"),
    "UTF-32": dict(code="utf-32"),
    "a byte-order mark and CRLF": dict(code="utf-8-sig", end="  \r\n"),
    "twice": dict(form="{0}\n{0}"),
    "with backslashes": dict(slash="\\"),
}


def write(path, ids, form="{}", head="", end="\n", code="utf-8", mark=b"", slash="/"):
    text = head + "".join(form.format(each.replace("/", slash)) + end for each in ids)
    path.write_bytes(mark + text.encode(code))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["lrs2", "folder"])
def test_lists_are_read_in_every_form(tmp_path, kind, form):
    part = "main/" if kind == "lrs2" else ""
    root = tree(tmp_path, *(f"{part}{name}.mp4" for names in IDS.values() for name in names))
    for split, names in IDS.items():
        write(root / f"{split}.txt", names, **FORMS[form])
    corpus = read_corpus(root, kind)
    assert corpus.lists == IDS and not corpus.refused and corpus.kind == kind
    assert all(raw.video.is_file() for raw in corpus.clips.values())


def test_a_list_of_lrs2_may_name_clips_of_both_parts(tmp_path):
    root = tree(tmp_path, "main/55/1.mp4", "pretrain/55/1.mp4", train="main/55/1\npretrain/55/1\n", pretrain="55/1\n")
    corpus = read_corpus(root)
    assert corpus.lists == {"train": ["55/1", "pretrain/55/1"], "pretrain": ["pretrain/55/1"]}
    assert corpus.clips["pretrain/55/1"].video == root / "pretrain/55/1.mp4"


def test_capitals_do_not_matter_where_they_tell_nothing_apart(tmp_path):
    root = tree(tmp_path, "S7/a.mp4", "s8/a.mp4", "S8/a.mp4", train="s7/A\nS8/a\n", val="s8/A\n")
    corpus = read_corpus(root, "folder")
    assert corpus.lists == {"train": ["S7/a", "S8/a"]} and list(corpus.refused) == ["s8/A"]


def test_a_clip_is_found_without_its_folder_where_no_other_has_its_name(tmp_path):
    root = tree(tmp_path, "S7/a.mp4", "S7/b.mp4", "s8/b.mp4", train="A.mp4\nb\n", val="s8/b\n")
    corpus = read_corpus(root, "folder")
    assert corpus.lists == {"train": ["S7/a"], "val": ["s8/b"]}
    assert corpus.refused == {"b": "several videos have this name: write it with its folder"}


def test_lists_of_bare_names_that_are_no_clips_are_told(tmp_path):
    root = tree(tmp_path, "S7/a.mp4", "test_1.mp4", train="x1\nx2.mp4\n", test_1="hello\n")
    with pytest.raises(InputError, match="its lists name none of its videos, the first 'x1'; S7/a is one"):
        read_corpus(root, "folder")


def test_a_list_in_an_unknown_encoding_is_one_line(tmp_path):
    root = tree(tmp_path, "main/s1/a.mp4")
    (root / "train.txt").write_bytes("s1/a\ns1/café\n".encode("cp1252"))
    with pytest.raises(
        InputError, match=r"train.txt is no text in UTF-8 \(line 2 has the byte 0xe9\): save it as UTF-8"
    ):
        read_corpus(root)


def test_names_that_look_like_comments_are_names(tmp_path):
    root = tree(tmp_path, "#1/a.mp4", "b.mp4", train="#1/a\n# b\nb\n")
    assert read_corpus(root, "folder").lists == {"train": ["#1/a", "b"]}


@pytest.mark.parametrize(
    "line, name",
    [
        ("a/b", "a/b"),
        ("a/b.mts NF", "a/b"),
        ("main/a/b.mp4", "a/b"),
        ("c c.mov", "c c"),
        ("gone", None),
        ("a/b/c", None),
    ],
)
def test_a_line_means_a_clip(line, name):
    assert name_in(cleaned(line), {"a/b", "c c"}) == name


def test_a_clip_in_two_lists_is_named(tmp_path, capsys):
    assert in_two({"train": ["a", "b", "a"], "val": ["c"], "test": ["b"]}) == {"b": ["train", "test"]}
    preprocess.tell_of_two_lists({"train": ["a", "b"], "val": ["c"]})
    assert capsys.readouterr().err == ""
    preprocess.tell_of_two_lists({"train": ["a", "b"], "val": ["b"]})
    assert capsys.readouterr().err == "preprocess.py: one clip is in more than one list: b in train and val\n"


def test_an_id_twice_counts_once(tmp_path):
    root = tree(tmp_path, "main/a/1.mp4", train="a/1\na/1.mp4\n", val="a/1\n")
    assert read_corpus(root).lists == {"train": ["a/1"], "val": ["a/1"]}


def test_the_lists_of_a_data_root_may_be_edited(tmp_path):
    (tmp_path / "clips" / "#x").mkdir(parents=True)
    (tmp_path / "clips" / "#x" / "a.safetensors").touch()
    lines = ["\ufeff# mine", "s1/a ", "", "s1/b\r", "#x/a", "s1/a"]
    assert inside(lines, tmp_path / "train.txt") == ["s1/a", "s1/b", "#x/a"]
    with pytest.raises(InputError, match="leads out"):
        inside(["../a"], tmp_path / "train.txt")


def test_a_data_root_whose_lists_cannot_be_read_is_one_line(data_root, tmp_path):
    (tmp_path / "dataset.json").write_bytes((data_root / "dataset.json").read_bytes())
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_bytes(codecs.BOM_UTF8 + (data_root / f"{split}.txt").read_bytes())
    check_data_root(tmp_path, "train.py")
    names = listed_clips(data_root)[1]["train"]
    assert listed_clips(tmp_path)[1]["train"] == names
    (tmp_path / "train.txt").write_bytes("\n".join(names).encode("utf-16"))
    assert listed_clips(tmp_path)[1]["train"] == names
    with pytest.raises(InputError, match=f"train.txt is in another encoding than UTF-8 .it begins '{names[0]}'.: save"):
        check_data_root(tmp_path, "train.py")
    (tmp_path / "train.txt").write_bytes("s1/café\n".encode("cp1252"))
    for check in (lambda: check_data_root(tmp_path, "train.py"), lambda: listed_clips(tmp_path)):
        with pytest.raises(InputError, match="line 1 has the byte 0xe9"):
            check()


def test_texts_that_list_no_clips_are_ignored(tmp_path):
    tree(tmp_path, test_notes="nothing here\n", train="a/b\n")
    assert filelists(tmp_path) == {"train": ["a/b"]}
    write_lists(tmp_path)
    assert filelists(tmp_path)["test"] == ["ann/one"]


def test_a_name_may_not_be_written_as_text(tmp_path):
    corpus = Corpus("x")
    corpus.add(RawClip("caf\udce9", tmp_path / "a.mp4"))
    assert "lists cannot hold" in corpus.refused["caf\udce9"]


def test_texts_of_any_encoding(tmp_path):
    for code in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "a").write_bytes("früh\n".encode(code))
        assert read_text(tmp_path / "a") == "früh\n"
    with pytest.raises(InputError, match="gone cannot be read: No such file"):
        read_text(tmp_path / "gone")
