"""Transcripts are read as each corpus writes them, and refused where they are not."""

import numpy as np
import pytest

from corpora.transcripts import read_transcript
from errors import InputError

LRS = """Text:  BIN BLUE AT F TWO NOW
Conf:  4

WORD START END ASDSCORE
BIN 0.10 0.25 5.1
BLUE 0.25 0.40 4.2
"""
LRS3 = """Text:  I WENT
Conf:  5
Ref:   0Fi83BHQsMA

FRAME  X Y W H
000001 0.39 0.147 0.206 0.366

WORD START END ASDSCORE
I 0.1 0.2 3.2
WENT 0.2 0.5 4.1
"""
ALIGN = "0 12000 sil\n12000 17000 bin\n17000 22500 blue\n22500 23000 sp\n23000 30000 f\n30000 74500 sil\n"


def read(tmp_path, text, kind, name="a.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_transcript(path, kind)


def test_lrs2_and_lrs3(tmp_path):
    sentence, words, times = read(tmp_path, LRS, "lrs")
    assert sentence == "BIN BLUE AT F TWO NOW" and words == ["BIN", "BLUE"] and times.dtype == np.float32
    np.testing.assert_allclose(times, [[0.1, 0.25], [0.25, 0.4]])
    sentence, words, times = read(tmp_path, LRS3, "lrs")
    assert sentence == "I WENT" and words == ["I", "WENT"]
    np.testing.assert_allclose(times, [[0.1, 0.2], [0.2, 0.5]], rtol=1e-6)
    assert read(tmp_path, "Text:  HELLO\nConf:  3\n", "lrs")[:2] == ("HELLO", [])


def test_grid_counts_in_samples_and_leaves_silence_out(tmp_path):
    sentence, words, times = read(tmp_path, ALIGN, "grid", "a.align")
    assert sentence == "BIN BLUE F" and words == ["BIN", "BLUE", "F"]
    np.testing.assert_allclose(times, [[0.48, 0.68], [0.68, 0.9], [0.92, 1.2]], rtol=1e-6)


def test_lrw_has_the_length_of_the_word_in_the_middle(tmp_path):
    text = "Disk reference: 6081\nChannel: BBC One\nDuration: 0.56 seconds\n"
    sentence, words, times = read(tmp_path, text, "lrw", "ABOUT_00001.txt")
    assert sentence == "ABOUT" and words == ["ABOUT"]
    np.testing.assert_allclose(times, [[0.3, 0.86]], rtol=1e-6)


def test_anyones_text_is_the_sentence(tmp_path):
    assert read(tmp_path, "Hello  there,\nyou.\n", "plain")[:2] == ("Hello there, you.", [])
    assert read(tmp_path, LRS, "plain")[1] == ["BIN", "BLUE"]
    assert read(tmp_path, "", "plain")[0] == ""


@pytest.mark.parametrize(
    "text, kind, why",
    [
        (LRS.replace("0.25 0.40", "0,25 0,40"), "lrs", "no number"),
        (LRS.replace("0.25 0.40", "0.40 0.25"), "lrs", "ends before it starts"),
        (LRS.replace("0.25 0.40", "0.25 nan"), "lrs", "not finite"),
        ("hello", "lrs", "no line begins with 'Text:'"),
        ("0 100 bin now", "grid", "'0 100 bin now' is not a start, an end and a word"),
        ("0 x bin", "grid", "no number"),
        ("Channel: BBC One", "lrw", "Duration"),
    ],
)
def test_anything_else_is_refused(tmp_path, text, kind, why):
    with pytest.raises(InputError, match=f"a.txt.*{why}"):
        read(tmp_path, text, kind)


def test_a_missing_transcript_is_reported(tmp_path):
    with pytest.raises(InputError, match="its transcript is missing: there is no b.txt"):
        read_transcript(tmp_path / "b.txt", "lrs")


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_transcripts_in_other_encodings(tmp_path, code):
    (tmp_path / "a.txt").write_bytes("Text:  BIN BLUE\r\nConf: 3\r\n".encode(code))
    assert read_transcript(tmp_path / "a.txt", "lrs")[0] == "BIN BLUE"
    (tmp_path / "a.align").write_bytes("0 100 sil\r\n100 200 bin\r\n".encode(code))
    assert read_transcript(tmp_path / "a.align", "grid")[0] == "BIN"


@pytest.mark.parametrize(
    "data, why",
    [
        ("café".encode("cp1252"), "line 1 has the byte 0xe9"),
        (b"bin blue\0\0 at f", "the character U\\+0000"),
        ("bin \ufffd blue".encode(), "the character U\\+FFFD"),
        (b"\xff\xfeb", "is no text in UTF-16"),
    ],
)
def test_what_does_not_decode_is_refused(tmp_path, data, why):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=f"a.txt.*{why}"):
        read_transcript(tmp_path / "a.txt", "plain")


def test_characters_that_nobody_sees_are_left_out(tmp_path):
    text = "bin\u00a0blue\u200b at\u2019s\tcafe\u0301\n"
    assert read(tmp_path, text, "plain")[0] == "bin blue at\u2019s caf\u00e9"


def test_the_words_of_grid_are_held_against_the_files_name(tmp_path):
    align = "0 100 SIL\n" + "".join(
        f"{k} {k + 9} {word}\n" for k, word in enumerate("Bin blue at f two now".split(), 100)
    )
    assert read(tmp_path, align, "grid", "bbaf2n.align")[0] == read(tmp_path, align, "grid", "BBAF2N.align")[0]
    for name in ("sbaf2n", "bbaf3n", "bbag2n", "bbafzn"):
        with pytest.raises(InputError, match=f"{name}.align says 'bin blue at f two now', its name says"):
            read(tmp_path, align, "grid", f"{name}.align")
    read(tmp_path, align, "grid", "mine.align")
