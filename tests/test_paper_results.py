"""The papers' numbers are transcribed as printed, each once, and none stands beside ours without its protocol."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from errors import InputError
from evaluation.paper_results import COMPARABLE, METRICS, NOT_COMPARABLE, rows, table

ROOT = Path(__file__).parents[1]
PAPERS = sorted((ROOT.parent / "shared" / "seeds").glob("*.txt"))
RANGES = {  # what a number can be at all
    "PSNR": (20, 45), "SSIM": (0, 1), "LMD": (0, 10), "LSE-C": (0, 15), "LSE-D": (4, 15), "ACC": (0, 100),
    "WER1": (0, 150), "WER2": (0, 150), "FID": (0, 200), "MOS": (1, 5),
}  # fmt: skip


def test_every_row_has_a_plausible_value_a_source_and_a_protocol():
    for row in rows():
        low, high = RANGES[row["metric"].split()[0]]
        assert low <= row["value"] <= high, row
        assert row["plus_minus"] is None or row["metric"].startswith("MOS") and 0 < row["plus_minus"] < 2, row
        assert re.fullmatch(r"(TalkLip|CALS|SyncTalklip|Wav2Lip) \([A-Z]+( [A-Z]+)? \d{4}\), .+", row["source"]), row
        assert row["set"] in ("LRW", "LRS2", "HDTF", "not stated") and row["why"] and row["method"]
        assert row["measured_by"] in ("authors", "another paper", "listed by others")
        assert row["metric"] in METRICS or row["metric"].startswith("MOS ")


def test_every_protocol_is_used_and_is_either_comparable_or_not():
    assert {row["protocol"] for row in rows()} == COMPARABLE.keys() | NOT_COMPARABLE.keys()
    assert not COMPARABLE.keys() & NOT_COMPARABLE.keys()


def test_no_number_is_there_twice():
    counts = Counter((row["source"], row["method"], row["set"], row["metric"]) for row in rows())
    assert counts.most_common(1)[0][1] == 1


def test_each_table_has_all_its_numbers():
    counts = Counter(row["source"] for row in rows())
    assert list(counts.values()) == [
        12 * 9 - 2 - 2 * 3,  # TalkLip's methods; the ground truth has no PSNR, two have no ACC and WER
        10 * 2,
        6 * 15 - 3,  # CALS; the ground truth has no PSNR
        4 * 5,
        6 * 3,
        4 * 3,
        5,
    ]


def parsed(line):
    """A line of a table as (method without signs, its numbers)."""
    line = re.sub(r"<[^>]*>|\[\d+\]|mathcal|WER", "", line)
    name = re.split(r"\d+\.\d|N[./]A", line)[0]
    return re.sub(r"[^\w.+]", "", name), re.findall(r"\d+\.\d+", line)


@pytest.mark.skipif(not PAPERS, reason="needs the papers' texts")
def test_the_numbers_of_each_method_are_those_of_its_line_in_the_paper():
    lines = [parsed(line) for path in PAPERS for line in path.read_text(encoding="utf-8").splitlines()]
    tables = {}
    for row in (row for row in rows() if row["protocol"] != "cross-audio"):
        name = "" if row["method"].startswith("CALS:") else re.sub(r"^CALS$", "Proposed", row["method"])
        numbers = tables.setdefault((row["source"], row["method"], re.sub(r"[^\w.+]", "", name)), [])
        numbers += row["printed"].split(" ± ")
    assert len(tables) == 12 + 10 + 6 + 4 + 6 + 4
    for (source, method, name), numbers in tables.items():
        assert (name, numbers) in lines, (source, method)


def test_what_cannot_be_compared_is_marked():
    own = [row for row in rows() if row["method"] == "TalkLip (g+c)" and row["comparable"]]
    found = sorted(f"{row['set']} {row['metric']}" for row in own)
    assert found == ["LRS2 LSE-C", "LRS2 SSIM", "LRS2 WER1", "LRW LSE-C", "LRW LSE-D", "LRW SSIM"]
    assert not any(row["comparable"] for row in rows() if row["measured_by"] != "authors")
    assert not any(row["comparable"] for row in rows(metrics=["PSNR", "WER2", "ACC", "LMD", "FID"]))


def test_rows_are_chosen_by_set_and_metric():
    found = rows("LRS2", ["WER1", "WER2"])
    assert {(row["set"], row["metric"]) for row in found} == {("LRS2", "WER1"), ("LRS2", "WER2")}
    best = {row["metric"]: row["value"] for row in found if row["method"] == "TalkLip (g+c)"}
    assert best == {"WER1": 23.43, "WER2": 35.1}
    for wrong in ({"set": "LRS9"}, {"metrics": ["WER"]}):
        with pytest.raises(InputError, match="choose among"):
            rows(**wrong)


def test_the_table_refers_each_number_to_a_note():
    text = table("LRS2", ["LSE-C", "PSNR"])
    marks = set(re.findall(r"\d \(([a-z])\)", text))
    assert marks == set(re.findall(r"^- \(([a-z])\) (?:not comparable|comparable on)", text, re.MULTILINE))
    assert "| TalkLip (g+c) | 31.19 (" in text and "| Ground Truth |  | 8.25 (" in text


def test_the_module_prints_the_table():
    done = subprocess.run(
        [sys.executable, "-m", "evaluation.paper_results"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout == table() + "\n"
