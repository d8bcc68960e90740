"""Coverage of intervals of few people, in simulation: near 95 % as printed, and far below where clips are resampled."""

from drawn_faces import write_data_root

from evaluation.coverage import CLIPS, OURS, SPEAKERS, coverage, main


def test_intervals_of_three_people_hold_the_truth_as_often_as_they_say():
    found = coverage((3, 1, 1), 0.5, trials=600)
    assert 0.92 < found[OURS] < 0.97
    assert found[CLIPS] < 0.78 and found[SPEAKERS] < 0.87


def test_the_command_prints_a_table_of_each_list(tmp_path, capsys):
    root = write_data_root(tmp_path, {"test": {"ann/one": 8, "ann/two": 8, "bob/one": 8}})
    assert main(["--data_root", str(root), "--splits", "test", "--trials", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| test: 2 people, clips 2, 1; variance between people |")
    assert len(lines) == 7 and lines[2].startswith("| 0% |") and lines[2].endswith("| none is printed |")
    assert main(["--data_root", str(root), "--splits", "test", "--trials", "0"]) == 1
