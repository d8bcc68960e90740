"""The table: cells, the best in bold, leak, differences of methods, and its files."""

import csv
import io

import pytest

from evaluation.rows import BASELINES
from evaluation.scoring import Scored
from evaluation.table import COLUMNS, as_csv, best_of, cell, columns_of, markdown, methods_of, summary

ROWS = [*BASELINES, "ours", "ours, other clip's sound", "ours, silence", "theirs"]


def scored(clips=5):
    """Clips whose numbers are known: method "theirs" is better by 1 dB, "ours" reads better by a word in six."""
    found = {}
    for i in range(clips):
        rows = {}
        for k, row in enumerate(ROWS):
            ours = row.startswith("ours")
            rows[row] = {
                "psnr_mouth": (25 + i + (1 if row == "theirs" else 0), 1),
                "l1_mouth": (0.02 if row == "ours" else 0.025, 1),
                "lip_travel": ({"ours": 0.5, "ours, silence": 0.1, "ours, other clip's sound": 0.4}.get(row, 1.0), 1.0),
                "follows": (0.1 * k, 1),
                "opening_mean": (0.03 if row.endswith("silence") else 0.1, 1),
                "opening_closed": (0.01 if row == "ground truth" else 0.02, 1),
                "wer_1": (1 if ours else 2, 6),
            }
        found[f"s/{i}"] = Scored(rows, notes=["ours: no face in 1 of 9 frames"] if i == 2 else [])
    return found


def result_of(clips):
    notes = [f"{name}: {note}" for name, each in clips.items() for note in each.notes]
    return {"clips": clips, "left_out": {"s/9": "no video"}, "notes": notes, **summary(clips)}


def test_a_cell_has_half_the_width_of_the_interval_and_the_unit_of_its_column():
    found = {"value": 0.1234, "low": 0.1, "high": 0.15}
    assert cell(found, COLUMNS["wer_1"]) == "12.3 ±2.5"
    assert cell(found, COLUMNS["wer_1"], bold=True) == "**12.3** ±2.5"
    assert cell(found, COLUMNS["wer_1"], signed=True) == "+12.3 [+10.0, +15.0]"
    assert cell({"value": 3.0, "low": None, "high": None}, COLUMNS["psnr"]) == "3.00"
    assert cell({"value": None, "low": None, "high": None}, COLUMNS["psnr"]) == cell(None, COLUMNS["psnr"]) == ""


def test_methods_are_the_rows_that_are_neither_baselines_nor_under_another_sound():
    assert methods_of(ROWS) == ["ours", "theirs"]


def test_leak_is_the_lip_travel_under_a_wrong_sound_as_a_share_of_that_under_the_right_one():
    leak = summary(scored())["leak"]["ours"]
    assert leak["silence"]["lip_travel"]["value"] == pytest.approx(0.2)
    assert leak["other clip's sound"]["lip_travel"]["value"] == pytest.approx(0.8)
    assert "theirs" not in summary(scored())["leak"]


def test_a_mouth_at_rest_is_that_under_silence_beside_the_real_one_when_closed():
    rest = summary(scored())["rest"]
    assert {name: each["value"] for name, each in rest["ours"].items()} == pytest.approx(
        {"silence": 0.03, "closed": 0.01, "apart": 0.02}
    )
    assert "theirs" not in rest  # it was not given silence
    lines = markdown("test", result_of(scored()), columns_of(scored())).splitlines()
    assert "| ours | 0.010 ±0.000 | 0.030 ±0.000 | 0.020 ±0.000 |  |  |" in lines


def test_gains_stand_over_the_copied_frame_and_over_another_sound():
    gains = summary(scored())["gains"]
    assert gains["theirs"]["psnr_mouth over the copy, dB"]["value"] == pytest.approx(1)
    assert gains["ours"]["L1 mouth, lowered by the right sound"]["value"] == pytest.approx(0.2)


def test_differences_are_paired_and_against_the_first_method():
    apart = summary(scored())["differences"]
    assert list(apart) == ["theirs - ours"]
    assert apart["theirs - ours"]["psnr_mouth"] == pytest.approx({"value": 1, "low": 1, "high": 1})
    assert apart["theirs - ours"]["wer_1"]["value"] == pytest.approx(1 / 6)


def test_the_best_method_of_each_column_is_bold_and_no_other_row():
    clips = scored()
    columns = columns_of(clips)
    result = result_of(clips)
    best = best_of(result["rows"], methods_of(result["rows"]), columns)
    assert best == {"psnr_mouth": {"theirs"}, "l1_mouth": {"ours"}, "follows": {"theirs"}, "wer_1": {"ours"}}
    lines = markdown("test", result, columns).splitlines()
    bold = {line.split("|")[1].strip() for line in lines if "**" in line}
    assert bold == {"ours", "theirs"}


def test_methods_that_are_equal_are_not_bold():
    clips = scored()
    for each in clips.values():
        each.rows["theirs"] = dict(each.rows["ours"])
    assert "**" not in markdown("test", result_of(clips), columns_of(clips))


def test_one_method_alone_is_not_bold():
    clips = scored()
    for each in clips.values():
        del each.rows["theirs"]
    assert "**" not in markdown("test", result_of(clips), columns_of(clips))


def people(counts):
    """Scored clips of so many clips of each person."""
    each = scored(1)["s/0"]
    return {f"{who}/{number}": each for who, count in enumerate(counts) for number in range(count)}


def test_what_few_people_clips_and_words_can_show_is_said():
    clips = people((3, 1, 1))
    result = result_of(clips)
    assert (result["people"], result["words"]) == (3, 30) and set(result["by_person"]) == {"0", "1", "2"}
    text = markdown("test", result, columns_of(clips))
    assert "interval over 3 people, by Student’s t" in text and "by chance with p = 0.25" in text
    assert "30 words: one is 3.3 points of WER" in text and "(20 points)" in text
    assert "| 1: theirs - ours | 1.00 |" in text and "by person" in text
    told = {counts: markdown("x", result_of(people(counts)), columns_of(clips)) for counts in ((40,), (9, 4))}
    assert "over 40 clips, all of one person" in told[40,] and "by bootstrap" in told[40,] and "points" not in told[40,]
    assert "no ±: 2 people" in told[9, 4] and "| ours | 25.00 |" in told[9, 4]


def test_who_taught_is_asked_for_where_nothing_says_so():
    result = result_of(scored()) | {"teachers": {"ours": None, "theirs": []}}
    assert "- ours: nothing says which experts taught it" in markdown("test", result, columns_of(scored()))


def test_what_was_left_out_and_what_was_noted_stand_below_the_table():
    clips = scored()
    text = markdown("test", result_of(clips), columns_of(clips))
    assert text.startswith("| test, 5 clips | PSNR mouth, dB | L1 mouth |")
    assert "Left out of every row, 1:\n\n- s/9: no video" in text
    assert "- s/2: ours: no face in 1 of 9 frames" in text


def test_the_csv_has_every_row_and_both_ends_of_each_interval():
    clips = scored()
    rows = list(csv.DictReader(io.StringIO(as_csv({"test": result_of(clips)}, columns_of(clips)))))
    assert [row["row"] for row in rows] == ROWS and {row["clips"] for row in rows} == {"5"}
    assert float(rows[-1]["psnr_mouth"]) == pytest.approx(28)
    assert float(rows[-1]["psnr_mouth_low"]) < 28 < float(rows[-1]["psnr_mouth_high"])


def test_the_columns_of_two_sync_models_never_share_a_name():
    clips = scored()
    for each in clips.values():
        for row in each.rows.values():
            row["sync_c"] = (1.0, 1)
    assert columns_of(clips, {"c": "LSE-C (lrs)"})["sync_c"].title == "LSE-C (lrs)"
