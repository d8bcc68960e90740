"""Several seeds of the same rows: their spread apart from that over clips, and orders that appear or cannot be told."""

import json

import pytest

from errors import InputError
from evaluation.rows import BASELINES
from evaluation.seeds import CLAIMS, compared, main, of_each_seed, over_seeds, read_reports, verdict
from evaluation.table import COLUMNS
from hparams import PRESETS

CLIPS = [f"{who}/{number}" for who in ("ann", "bob", "cid", "dan") for number in range(2)]


def write_report(folder, wer, clips=CLIPS):
    """A report of two rows: `wer` words of six wrong in each clip of the one, two more in the other."""
    rows = {"talklip_g": wer, "talklip_l": wer + 2}
    found = {}
    for k, name in enumerate(clips):
        found[name] = {row: {"wer_1": [1, 6]} for row in BASELINES}
        found[name] |= {row: {"wer_1": [errors + k % 2, 6], "psnr_mouth": [30 + k, 1]} for row, errors in rows.items()}
    folder.mkdir()
    path = folder / "evaluation.json"
    path.write_text(json.dumps({"splits": {"test": {"clips": found}}}))
    return path


@pytest.fixture
def reports(tmp_path):
    return [write_report(tmp_path / str(seed), wer) for seed, wer in enumerate((1.0, 1.2, 1.4))]


def test_seeds_are_added_up_clip_by_clip(reports):
    found, people = read_reports(reports)
    runs = found["test"]
    assert len(runs) == 3 and people["test"][:3] == ["ann", "ann", "bob"]
    assert over_seeds(runs, "talklip_g", "wer_1")[:2] == [(pytest.approx(3.6), 18), (pytest.approx(6.6), 18)]
    assert of_each_seed(runs, "talklip_g", "wer_1") == pytest.approx([1.5 / 6, 1.7 / 6, 1.9 / 6])
    assert of_each_seed(runs, "talklip_g", "wer_1", "talklip_l") == pytest.approx([-2 / 6] * 3)


def test_an_order_appears_where_clips_and_seeds_agree(reports):
    found, people = read_reports(reports)
    apart = compared(found["test"], people["test"], "talklip_g", "talklip_l", "wer_1")
    assert apart["clips"]["value"] == pytest.approx(-1 / 3) == apart["seeds"]["value"]
    assert verdict(apart, "low") == "yes" and verdict(apart, "high") == "no"
    unsure = {"clips": {"value": 1, "low": 0.5, "high": 1.5}, "seeds": {"value": 1, "low": -2.0, "high": 4.0}}
    assert verdict(unsure, "high") == "cannot be told: within the spread over seeds"
    unsure["seeds"] |= {"low": None, "high": None}
    assert verdict(unsure, "high") == "cannot be told: too few seeds"
    assert verdict({"clips": apart["clips"], "seeds": {"value": 1, "low": 0.5, "high": 2}}, "low").endswith("disagree")


def test_the_command_prints_rows_differences_and_orders(reports, tmp_path, capsys):
    out = tmp_path / "seeds.md"
    assert main([*map(str, reports), "--against", "talklip_l", "--measures", "wer_1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| test, 8 clips, 3 seeds | WER reader 1, free, % |" in printed
    assert "| ground truth | 16.7 ±0.0 |" in printed and "| talklip_g | 28.3 ±0.0 (seeds 3.3) |" in printed
    assert "| talklip_g | -33.3 ±0.0 (seeds 0.0) |" in printed
    assert "talklip_g better than talklip_l, WER reader 1, free, % | -33.3 |" in printed and "| yes |" in printed
    assert out.read_text().strip() == printed.strip()


def test_one_seed_is_told_apart_from_three(reports, capsys):
    assert main([str(reports[0]), "--measures", "wer_1"]) == 0
    printed = capsys.readouterr().out
    assert "1 seeds" in printed and "cannot be told: too few seeds" in printed and "(seeds" not in printed


def test_reports_that_are_no_seeds_of_the_same_are_refused(reports, tmp_path, capsys):
    other = write_report(tmp_path / "other", 1.0, CLIPS[:4])
    with pytest.raises(InputError, match="has other clips or rows than the first report's"):
        read_reports([reports[0], other])
    (tmp_path / "x.json").write_text("{}")
    assert main([str(tmp_path / "x.json")]) == 1 and "is no report" in capsys.readouterr().err
    assert main([str(reports[0]), "--against", "nobody"]) == 1 and "--against nobody" in capsys.readouterr().err


def test_every_order_is_of_rows_and_measures_that_there_are():
    for _, better, worse, measure in CLAIMS:
        assert better in PRESETS and worse in PRESETS and COLUMNS[measure].better
