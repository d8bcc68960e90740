"""Each corpus is detected from its layout, as it was unpacked, and divided as its makers or the field divide it."""

import os

import pytest

from corpora.corpus import Corpus, RawClip
from corpora.layouts import LAYOUTS, layout_of, read_corpus, seconds
from errors import InputError
from preprocess import CORPORA


def tree(root, *paths, **texts):
    """Makes empty files below a folder, and texts: `a__b` stands for a/b.txt."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    for path, text in texts.items():
        file = root / f"{path.replace('__', '/')}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_lrs2(tmp_path):
    root = tree(
        tmp_path,
        *(f"mvlrs_v1/main/55/{k:05}.{suffix}" for k in (1, 2, 3) for suffix in ("mp4", "txt")),
        "mvlrs_v1/pretrain/55/00001.mp4",
        train="55/00001\n",
        val="55/00002\n",
        test="55/00003 NF\n55/00009 MV\n",
        pretrain="55/00001\n",
        README="The BBC's terms\n",
    )
    assert layout_of(root) == "lrs2" and layout_of(root / "mvlrs_v1") == "lrs2"
    for each in (root, root / "mvlrs_v1"):
        corpus = read_corpus(each)
        assert corpus.lists == {
            "train": ["55/00001"],
            "val": ["55/00002"],
            "test": ["55/00003", "55/00009"],
            "pretrain": ["pretrain/55/00001"],
        }
        main, pretrain = corpus.clips["55/00001"], corpus.clips["pretrain/55/00001"]
        assert main.video == root / "mvlrs_v1/main/55/00001.mp4" and main.kind == "lrs"
        assert pretrain.video == root / "mvlrs_v1/pretrain/55/00001.mp4"
        assert main.transcript == root / "mvlrs_v1/main/55/00001.txt"


def test_valid_is_val_and_two_lists_of_one_split_are_refused(tmp_path):
    root = tree(tmp_path, "main/a/1.mp4", train="a/1\n", valid="a/1\n")
    assert sorted(read_corpus(root).lists) == ["train", "val"]
    (root / "val.txt").write_text("a/1\n")
    assert sorted(read_corpus(root).lists) == ["train", "val"], "they say the same"
    (root / "val.txt").write_text("a/2\n")
    with pytest.raises(InputError, match="valid.txt and .*val.txt are two lists"):
        read_corpus(root)


def test_people_who_are_held_out_have_lists_of_their_own(tmp_path):
    splits = {"train": "s1/a", "val": "s1/b", "val_unseen": "s2/a", "test_unseen": "s3/a", "validated": "s4/a"}
    videos = (f"main/{name}.mp4" for name in splits.values())
    root = tree(tmp_path, *videos, **{split: f"{name}\n" for split, name in splits.items()})
    assert read_corpus(root, "lrs2").lists.keys() == splits.keys() - {"validated"}


def test_lrs3_holds_videos_of_trainval_out(tmp_path):
    names = [f"trainval/talk{k:02}/{n:05}.mp4" for k in range(40) for n in (1, 2)]
    corpus = read_corpus(tree(tmp_path, *names, "test/x/00001.mp4", "pretrain/y/00001.mp4"))
    assert corpus.kind == "lrs3" and corpus.lists["test"] == ["test/x/00001"]
    assert corpus.lists["pretrain"] == ["pretrain/y/00001"]
    train, val = (set(corpus.lists[split]) for split in ("train", "val"))
    assert len(val) == 4 and len(train) == 76 and not train & val
    assert not {name.split("/")[0] for name in train} & {name.split("/")[0] for name in val}
    assert corpus.clips["talk00/00001"].transcript == tmp_path / "trainval/talk00/00001.txt"


@pytest.mark.parametrize("home", ["lipread_mp4/", ""])
def test_lrw(tmp_path, home):
    names = [
        f"{home}{word}/{s}/{word}_0000{k}.mp4" for word in ("ABOUT", "WORLD") for s in ("train", "val") for k in "12"
    ]
    corpus = read_corpus(tree(tmp_path, *names))
    assert corpus.kind == "lrw" and sorted(corpus.lists) == ["train", "val"]
    assert corpus.lists["val"] == [f"{w}/val/{w}_0000{k}" for w in ("ABOUT", "WORLD") for k in "12"]
    raw = corpus.clips["ABOUT/train/ABOUT_00002"]
    assert raw.kind == "lrw" and raw.transcript.name == "ABOUT_00002.txt" and raw.transcript.parent.name == "train"


def test_grid_pairs_videos_and_alignments(tmp_path):
    clips = [f"{who}.mpg_vcd/{who}/bbaf{k}n.mpg" for who in ("s1", "s3", "s20") for k in range(30)]
    aligned = [f"alignments/{who}/bbaf{k}n.align" for who in ("s1", "s3", "s20") for k in range(30)]
    corpus = read_corpus(tree(tmp_path, *clips, *aligned))
    assert corpus.kind == "grid" and len(corpus.clips) == 90
    raw = corpus.clips["s3/bbaf7n"]
    assert raw.transcript == tmp_path / "alignments/s3/bbaf7n.align" and raw.kind == "grid"
    assert {name.split("/")[0] for name in corpus.lists["test_unseen"]} == {"s1", "s20"}
    assert [len(corpus.lists[split]) for split in ("train", "val", "test", "test_unseen")] == [28, 1, 1, 60]


def test_grid_of_one_folder_with_lists(tmp_path):
    files = [f"s1/a{k}.{suffix}" for k in range(4) for suffix in ("mpg", "align")]
    corpus = read_corpus(tree(tmp_path, *files, train="s1/a0\ns1/a1\n", test="s1/a3\ns1/a9\n../x\n"))
    assert corpus.lists == {"train": ["s1/a0", "s1/a1"], "test": ["s1/a3"]}
    assert corpus.refused == {"s1/a9": "there is no such video", "../x": "its path leads out of the root"}
    assert corpus.clips["s1/a0"].transcript == tmp_path / "s1/a0.align"


def test_hdtf_cuts_whole_videos_and_takes_cut_clips(tmp_path):
    root = tree(
        tmp_path,
        "videos/Radio11.mp4",
        "clips/Obama_0.mp4",
        HDTF_dataset__RD_annotion_time="Radio11.mp4 00:30-01:00 1:01:30-1:02:30\nGone.mp4 00:00-00:10\n",
        HDTF_dataset__RD_crop_wh="Radio11_0.mp4 412 599 3 590\n",
        HDTF_dataset__RD_resolution="Radio11.mp4 720\n",
        HDTF_dataset__WDA_annotion_time="Obama.mp4 00:05-00:15\n",
    )
    corpus = read_corpus(root)
    assert corpus.kind == "hdtf" and sorted(corpus.clips) == [
        "Obama/Obama_0",
        "Radio11/Radio11_0",
        "Radio11/Radio11_1",
    ]
    first, second = corpus.clips["Radio11/Radio11_0"], corpus.clips["Radio11/Radio11_1"]
    assert (first.start_s, first.stop_s, first.region, first.region_height) == (30, 60, (412, 3, 599, 590), 720)
    assert (second.start_s, second.stop_s, second.region) == (3690, 3750, None)
    assert corpus.clips["Obama/Obama_0"].stop_s is None
    assert corpus.refused == {"Gone/Gone_0": "neither Gone.mp4 nor Gone_0.mp4 is here"}
    for lists, span in (("annotion_time", "Radio11.mp4 00:30-now\n"), ("crop_wh", "Radio11_0.mp4 a b c d\n")):
        path = root / f"HDTF_dataset/RD_{lists}.txt"
        before = path.read_text()
        path.write_text(span)
        assert "its list has" in read_corpus(root).refused["Radio11/Radio11_0"]
        path.write_text(before)


def test_hdtf_as_downloaders_name_it_and_in_a_linked_folder(tmp_path):
    there = tree(tmp_path / "there", "RD_Radio11_000.mp4", RD_annotion_time="Radio11.mp4 00:30-01:00\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "hdtf").symlink_to(there)
    corpus = read_corpus(tmp_path / "here")
    assert corpus.kind == "hdtf" and list(corpus.clips) == ["Radio11/Radio11_0"] and not corpus.refused


def test_voxceleb2(tmp_path):
    dev = [f"dev/mp4/id{k:05}/abc/00001.mp4" for k in range(30)]
    root = tree(tmp_path, *dev, "dev/aac/id00000/abc/00001.m4a", "test/mp4/id00099/xyz/00007.mp4")
    corpus = read_corpus(root)
    assert corpus.kind == "voxceleb2" and corpus.lists["test"] == ["id00099/xyz/00007"]
    assert len(corpus.lists["val"]) == 1 and len(corpus.lists["train"]) == 29
    assert corpus.clips["id00000/abc/00001"].sound == root / "dev/aac/id00000/abc/00001.m4a"
    assert corpus.clips["id00001/abc/00001"].sound is None


def test_voxceleb2_with_its_table(tmp_path):
    root = tree(tmp_path, *(f"mp4/id0000{k}/abc/00001.mp4" for k in range(6)))
    (root / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\nid00002 ,n1 ,f ,test\nid00003 ,n2 ,m ,dev\n"
    )
    corpus = read_corpus(root)
    assert corpus.lists["test"] == ["id00002/abc/00001"] and len(corpus.lists["train"]) == 4


def test_any_folder(tmp_path):
    root = tree(
        tmp_path, "a/one two.mp4", "a/b/three.MOV", "four.mkv", "notes.md", ".hidden.mp4", a__b__three="Hello\n"
    )
    corpus = read_corpus(root)
    assert corpus.kind == "folder" and sorted(corpus.clips) == ["a/b/three", "a/one two", "four"]
    assert corpus.clips["a/b/three"].transcript == root / "a/b/three.txt"
    assert corpus.clips["a/one two"].transcript is None
    assert sorted(map(len, corpus.lists.values())) == [1, 1, 1] and sorted(corpus.lists) == ["test", "train", "val"]
    tree(root, train="a/one two\n", val="four\na/b/three\n")
    assert read_corpus(root).lists == {"train": ["a/one two"], "val": ["four", "a/b/three"]}


def test_pictures_are_clips_of_their_people(tmp_path):
    root = tree(tmp_path, *(f"silent/ann/{k}.jpg" for k in (1, 10, 2)), "x/01_smiling.jpg", "x/01_calm.png", "x/7f.jpg")
    corpus = read_corpus(root)
    found = {name: [path.name for path in raw.pictures] for name, raw in corpus.clips.items()}
    assert found == {
        "silent/ann": ["1.jpg", "2.jpg", "10.jpg"],
        "x/01": ["01_calm.png", "01_smiling.jpg"],
        "x/7f": ["7f.jpg", "7f.jpg"],
    }
    assert corpus.kind == "pictures" and sorted(map(len, corpus.lists.values())) == [1, 1, 1]


def test_lists_as_people_write_them(tmp_path):
    root = tree(tmp_path, "a.mp4", "b.mp4", "c c.mp4", "s/d.mp4")
    (root / "train.txt").write_text("\ufeffa.mp4\ngone.mp4\n", encoding="utf-8")
    (root / "val.txt").write_text("gone\nc c\ns/d.mp4\n")
    corpus = read_corpus(root)
    assert corpus.lists == {"train": ["a"], "val": ["c c", "s/d"]} and sorted(corpus.refused) == ["gone", "gone.mp4"]
    (root / "train.txt").write_text("x/a\nx/b\n")
    (root / "val.txt").write_text("x/c\n")
    with pytest.raises(InputError, match="its lists name none of its videos, the first 'x/a'; a is one"):
        read_corpus(root)


def test_one_video_is_trained_on_and_validated_on(tmp_path):
    assert read_corpus(tree(tmp_path, "a.mp4")).lists == {"train": ["a"], "val": ["a"]}


def test_names_that_no_list_can_hold_are_refused(tmp_path):
    corpus = read_corpus(tree(tmp_path, "good.mp4", "two\nlines.mp4", " space.mp4", "good.avi", "x" * 240 + ".mp4"))
    assert list(corpus.clips) == ["good"] and len(corpus.refused) == 4
    assert "line break" in corpus.refused["two\nlines"] and "another video is named good" in corpus.refused["good.mp4"]
    assert "longer than 230 bytes" in corpus.refused["x" * 240]


def test_links_are_followed_but_not_in_circles(tmp_path):
    elsewhere = tree(tmp_path / "elsewhere", "x.mp4")
    root = tree(tmp_path / "root", "a/one.mp4")
    os.symlink(root, root / "a" / "round")
    os.symlink(elsewhere, root / "there")
    corpus = read_corpus(root)
    assert sorted(corpus.clips) == ["a/one", "there/x"]
    assert corpus.refused == {"a/round": "a link that leads in a circle"}


def test_ids_that_lead_out_of_the_root_are_refused(tmp_path):
    root = tree(tmp_path, "main/a/1.mp4", train="a/1\n../../etc/passwd\n/etc/passwd\na/../../x\n")
    corpus = read_corpus(root)
    assert corpus.lists == {"train": ["a/1"]} and len(corpus.refused) == 3
    assert set(corpus.refused.values()) == {"its path leads out of the root"}


def test_folders_without_a_corpus_are_told(tmp_path):
    for kind, why in (("auto", "no video below"), ("lrw", "no clip of lrw"), ("lrs2", "no filelists")):
        with pytest.raises(InputError, match=why):
            read_corpus(tmp_path, kind)
    with pytest.raises(InputError, match="no such folder"):
        read_corpus(tmp_path / "gone")
    known = {"lrs2", "lrs3", "lrw", "hdtf", "voxceleb2", "grid", "folder", "pictures"}
    assert set(LAYOUTS) == known == set(CORPORA) - {"auto"}


def test_what_is_held_out_depends_on_names_alone():
    names = [f"who{k}/{n}" for k in range(60) for n in range(3)]
    lists = []
    for order in (names, names[::-1]):
        corpus = Corpus("x", clips={name: RawClip(name, None) for name in order})
        corpus.divide(lambda name: name.split("/")[0])
        lists.append(corpus.lists)
    assert lists[0] == lists[1] and [len(lists[0][split]) for split in ("train", "val", "test")] == [162, 9, 9]


@pytest.mark.parametrize(
    "text, found", [("95", 95), ("01:35", 95), ("1:02:03.5", 3723.5), ("x", None), ("1:2:3:4", None)]
)
def test_times_of_hdtf(text, found):
    assert seconds(text) == found
