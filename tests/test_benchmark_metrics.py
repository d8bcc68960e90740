"""The two ways that are timed measure the same."""

import numpy as np
import pytest

from data import mouth_mask
from evaluation import visual
from evaluation.benchmarks.metrics import OneByOne, main
from evaluation.rows import Corpus, copied


def test_one_frame_at_a_time_gives_the_same_psnr(data_root):
    real = Corpus(data_root, "val").real("cid/one")
    fake, truth = (real.faces(crops)[:4] for crops in (copied(real), real.crops))
    mouths = mouth_mask(real.clip.meshes[:4] * 96 - 0.5, 96)
    slow, quick = OneByOne().visual(fake, truth, mouths), visual.compare(fake, truth, mouths)
    assert slow[:, 0] == pytest.approx(quick["psnr"], abs=1e-3)
    assert slow[:, 2] == pytest.approx(quick["psnr_mouth"], abs=1e-3)
    assert slow[:, 1] == pytest.approx(quick["ssim"], abs=0.02)  # of the mirrored rim too


def test_the_command_prints_both_ways_and_their_ratio(data_root, capsys):
    assert main(["--data_root", str(data_root), "--split", "val", "--rounds", "1"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["PSNR, SSIM, face and mouth", "LMD", "all"]
    assert all(np.isfinite(float(row[3])) for row in rows)
    assert main(["--data_root", str(data_root), "--split", "val", "--rounds", "0"]) == 1
