"""A list of pairs is read in every form that people write it in, and cannot leave its folder."""

import json

import pytest

from errors import InputError
from media.pairs import is_made, read_pairs

FORMS = {
    "plain": b"a.mp4,b.wav,out/a.mp4\nc d.mp4,b.wav,out/c.mp4\n",
    "named columns": b"face,audio,outfile\na.mp4,b.wav,out/a.mp4\nc d.mp4,b.wav,out/c.mp4\n",
    "another order": b"outfile,face,audio\nout/a.mp4,a.mp4,b.wav\nout/c.mp4,c d.mp4,b.wav\n",
    "a spreadsheet": b"\xef\xbb\xbfFace;Audio;Outfile\r\na.mp4;b.wav;out\\a.mp4\r\nc d.mp4;b.wav;out\\c.mp4\r\n",
    "tabs, comments, quotes": b'# mine\n\na.mp4\tb.wav\tout/a.mp4\n#x\n"c d.mp4"\tb.wav\tout/c.mp4',
    "utf-16": "a.mp4,b.wav,out/a.mp4\nc d.mp4,b.wav,out/c.mp4\n".encode("utf-16"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_pairs(tmp_path, form):
    path = tmp_path / "pairs.csv"
    path.write_bytes(FORMS[form])
    found = [tuple(str(each.relative_to(tmp_path)) for each in pair[1:]) for pair in read_pairs(path)]
    assert found == [("a.mp4", "b.wav", "out/a.mp4"), ("c d.mp4", "b.wav", "out/c.mp4")]


FAULTS = {
    "a.mp4,b.wav\n": "line 1: 2 columns, it needs face, audio, outfile",
    "a.mp4,,c.mp4\n": "line 1: 2 columns",
    "face,audio,outfile\n../a.mp4,b.wav,c.mp4\n": "line 2: '../a.mp4' leads out of the folder of the list",
    "a.mp4,/etc/b.wav,c.mp4\n": "'/etc/b.wav' leads out",
    "a.mp4,b.wav,x/../../c.mp4\n": "leads out",
    "a.mp4,b.wav,c.mp4\nd.mp4,b.wav,c.mp4\n": "line 2: line 1 has the same outfile",
    "# nothing\n": "lists no pairs",
    "a.mp4,b\0.wav,c.mp4\n": r"is no text: it has the character U\+0000",
    "a.mp4,b.wav,c.mp4\nd.mp4,b.wav," + 140_000 * "c": "line 2: field larger than field limit",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_name_their_line(tmp_path, text):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=FAULTS[text]):
        read_pairs(path)


def test_a_pair_is_made_when_its_video_and_the_report_of_the_same_files_are_there(tmp_path):
    (tmp_path / "pairs.csv").write_text("a.mp4,b.wav,c.mp4\n")
    ((pair,), report) = read_pairs(tmp_path / "pairs.csv"), tmp_path / "c.json"
    assert not is_made(pair, report)
    for facts, made in (({"face": str(pair.face), "audio": "other"}, False), ({"face": 1}, False), ([], False)):
        report.write_text(json.dumps(facts))
        pair.outfile.touch()
        assert is_made(pair, report) == made
    report.write_text(json.dumps({"face": str(pair.face), "audio": str(pair.audio)}))
    assert is_made(pair, report)
    pair.outfile.unlink()
    assert not is_made(pair, report)
