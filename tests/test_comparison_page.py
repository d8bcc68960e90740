"""The page of a comparison: whole in one file, its numbers right, and sorted as asked in a headless browser."""

import json
import re
import shutil
import subprocess
from urllib.parse import quote

import numpy as np
import pytest
from drawn_faces import write_data_root
from judged import blurred, still, write_videos

import checkpoint
from evaluation.comparison_page import encoded, html_table, page
from evaluation.evaluate import main
from evaluation.scoring import Scored
from evaluation.table import COLUMNS
from hparams import HParams
from models import build_generator

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOCAL = HParams(speech="local", width=1 / 16)
CLIPS = {"s1/a": (31.0, 0.5), "s1/b": (29.5, 0.0), "s<2>/c": (35.25, 1.0)}  # PSNR, WER
SHOWN = {name: COLUMNS[name] for name in ("psnr", "wer_1")}


def example_page():
    faces = np.random.default_rng(0).integers(0, 255, (6, 96, 96, 3)).astype(np.uint8)
    media = encoded(faces, np.zeros(9600, np.int16))
    scored = {
        name: Scored(
            {"real": {"psnr": (100.0, 1), "wer_1": (0, 6)}, "ours & more": {"psnr": (psnr, 1), "wer_1": (6 * wer, 6)}},
            read={"ours & more": {"reader1": "set <blue>"}},
            media={"real": media, "ours & more": media},
        )
        for name, (psnr, wer) in CLIPS.items()
    }
    said = dict.fromkeys(CLIPS, "set blue")
    return page("A page", ["| x | PSNR |\n|---|---|\n| ours | **3.0** ±1 |"], scored, said, SHOWN)


def order(text):
    return re.findall(r'data-name="([^"]+)"', text)


def opened(path, order=""):
    """The page as a browser without a network shows it, after its script has run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    command = [BROWSER, *flags, f"--user-data-dir={path.parent / 'browser'}", f"file://{path}#{order}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_nothing_of_the_page_lies_outside_it():
    text = example_page()
    assert not re.search(r"https?:|//cdn|<link|@import", text)
    assert set(re.findall(r'src="([^;"]+)', text)) == {"data:image/jpeg", "data:video/mp4"}
    assert "default-src 'none'" in text


def test_names_and_sentences_cannot_become_markup():
    text = example_page()
    assert "s&lt;2&gt;/c" in text and "set &lt;blue&gt;" in text and "ours &amp; more" in text
    assert "<blue>" not in text and "s<2>" not in text


def test_a_video_has_all_frames_and_its_sound(tmp_path):
    from media.sound import read_audio
    from media.video import frames_at

    faces = np.zeros((10, 96, 96, 3), np.uint8) + np.arange(10, dtype=np.uint8)[:, None, None, None] * 20
    picture, film = encoded(faces, np.full(16_000, 3000, np.int16))
    (tmp_path / "x.mp4").write_bytes(film)
    shown = [frame.rgb() for _, frame in frames_at(tmp_path / "x.mp4", 25)]
    assert len(shown) == 10 and np.abs(np.stack(shown).astype(int) - faces).max() < 8
    assert len(read_audio(tmp_path / "x.mp4")) >= 10 * 640
    assert picture[:3] == b"\xff\xd8\xff"


def test_a_markdown_table_becomes_html_with_its_bold_cells():
    found = html_table("| x | PSNR |\n|---|---|\n| a&b | **3.0** ±1 |")
    assert found == "<table><tr><th>x</th><th>PSNR</th></tr><tr><td>a&amp;b</td><td><b>3.0</b> ±1</td></tr></table>"


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_a_browser_sorts_clips_by_any_measure_of_any_row(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(example_page(), encoding="utf-8")
    rising = opened(path, quote("psnr,ours & more,0", safe=","))
    assert order(rising) == ["s1/b", "s1/a", "s&lt;2&gt;/c"]
    assert order(opened(path, quote("wer_1,ours & more,1", safe=","))) == ["s&lt;2&gt;/c", "s1/a", "s1/b"]


def test_compare_puts_methods_side_by_side_with_differences_and_a_page(tmp_path, capsys):
    (tmp_path / "root").mkdir()
    root = write_data_root(tmp_path / "root", {"test": {"ann/one": 12, "bob/two": 12}})
    soft, frozen = (write_videos(root, "test", tmp_path / change.__name__, change) for change in (blurred, still))
    out, weights = tmp_path / "out", tmp_path / "drawn.safetensors"
    checkpoint.export(weights, build_generator(LOCAL), LOCAL)
    command = ["--real", root, "--compare", soft, weights, frozen, "--out", out, "--measures", "visual"]
    assert main([str(word) for word in [*command, "--workers", "1"]]) == 0
    printed = capsys.readouterr().out
    assert "| drawn - blurred |" in printed and "| still - blurred |" in printed and "**" in printed
    text = (out / "page.html").read_text(encoding="utf-8")
    assert text.count("<video") == 2 * 6  # clips, rows
    report = json.loads((out / "evaluation.json").read_text())
    assert report["weights"]["drawn"]["sha256"] == checkpoint.sha256(weights)
    alone = [str(word) for word in ["--real", root, "--generator", weights, "--measures", "visual", "--workers", "1"]]
    assert main([*alone, "--out", str(tmp_path / "alone")]) == 0
    rows = json.loads((tmp_path / "alone" / "evaluation.json").read_text())["splits"]["test"]["rows"]
    assert rows["drawn"] == report["splits"]["test"]["rows"]["drawn"]
    assert order(text) == ["ann/one", "bob/two"]


def test_methods_of_one_name_are_called_by_their_folders(tmp_path):
    from errors import InputError
    from evaluation.evaluate import names_of

    assert names_of([tmp_path / "a" / "out", tmp_path / "b" / "out"]) == ["a/out", "b/out"]
    with pytest.raises(InputError, match="rename one"):
        names_of([tmp_path / "a" / "out", tmp_path / "x" / "a" / "out"])
