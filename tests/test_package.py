"""The installed package: what travels in it, its command, and the library, for files and arrays."""

import os
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from conftest import buzz
from portraits import ROOT, head, moving_head
from portraits import run as run_command

from media.sound import read_audio
from media.video import read_frames
from talklip import InputError, LipSync, library
from talklip.__main__ import COMMANDS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PLACES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
FOR_WORK_ON_IT = {"pytest", "pytest-xdist", "ruff"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder as pip would fill it by pyproject.toml."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "talklip").mkdir()
    for path in (ROOT / "talklip").glob("*.py"):
        (folder / "talklip" / path.name).symlink_to(path)
    for source, place in PLACES.items():
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).symlink_to(ROOT / source)
    return folder


def run(site, folder, *words):
    """Runs Python, with what pip has installed, in a folder."""
    env = os.environ | {"PYTHONPATH": str(site)}
    how = {"cwd": folder, "env": env, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run([sys.executable, *words], **how)


def test_all_that_runs_travels():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"talklip"}
    assert PLACES.keys() == {path.name for path in ROOT.glob("*.py")} | rooms | {"weights"}
    assert PLACES == {name: f"talklip/checkout/{name}" for name in PLACES}


def test_it_asks_for_the_packages_of_requirements_txt():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    wanted = [line for line in lines if re.split("[<>=]", line)[0] not in FOR_WORK_ON_IT]
    assert PROJECT["project"]["dependencies"] == wanted and len(wanted) < len(lines)


def test_one_version_is_told():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['project']['version']}\n" in cited


def test_each_command_is_a_script(site, tmp_path):
    (tmp_path / "data.py").write_text("raise SystemExit('not ours')")
    told = run(site, tmp_path, "-m", "talklip", "--help")
    assert told.returncode == 0 and all(f"  {name} " in told.stdout for name in COMMANDS)
    found = run(site, tmp_path, "-m", "talklip", "infer", "--face", "no.mp4", "--audio", "no.wav")
    assert (found.returncode, found.stderr) == (1, "inference.py: --face no.mp4: there is no such file\n")
    assert {module.split(".")[0] for module, _ in COMMANDS.values()} <= {name.removesuffix(".py") for name in PLACES}


def test_the_library_is_imported_at_once_and_finds_its_own_modules(site, tmp_path):
    spy = "import sys, talklip.library, errors; print([m for m in ('torch', 'numpy', 'gradio') if m in sys.modules])"
    (tmp_path / "models").mkdir()  # a folder without __init__.py is no module
    found = run(site, tmp_path, "-c", f"from talklip import LipSync; {spy}; print(errors.__file__)")
    assert found.stdout.split("\n")[:2] == ["[]", str(site / "talklip" / "checkout" / "errors.py")], found.stderr


def test_a_program_with_modules_of_the_same_names_is_told(site, tmp_path):
    (tmp_path / "losses.py").write_text("")
    found = run(site, tmp_path, "-c", "from talklip import LipSync")
    assert "ImportError" in found.stderr and f"losses ({tmp_path / 'losses.py'})" in found.stderr


@pytest.fixture(scope="module")
def draw(narrow_weights):
    return LipSync(narrow_weights)


def test_the_library_makes_what_the_command_makes(tmp_path, draw, swaying_clip, voice, narrow_weights):
    threads = torch.get_num_threads()
    reports = [draw(swaying_clip, voice, tmp_path / f"{name}.mp4", articulation=1.3) for name in "ab"]
    by_command = run_command(swaying_clip, voice, tmp_path / "c.mp4", narrow_weights, "--articulation", "1.3")
    films = [(tmp_path / f"{name}.mp4").read_bytes() for name in "abc"]
    assert films[0] == films[1] == films[2] and torch.get_num_threads() == threads
    assert reports[0]["boxes"] == by_command["boxes"] and (tmp_path / "a.json").is_file()


def test_arrays_in_and_out(draw, swaying_clip, voice):
    frames, fps, report = draw(moving_head(8), buzz(0.4), fps=20)
    assert (frames.shape, frames.dtype, fps, report["frames"]) == ((8, 160, 160, 3), np.uint8, 20, 8)
    drawn = np.abs(frames.astype(int) - moving_head(8))
    assert drawn[:, :40].max() <= 3 and drawn.max() > 20  # above the face but for rounding, and the mouth
    sound = read_audio(voice)
    of_files, of_arrays = draw(swaying_clip, voice).frames, draw(swaying_clip, sound).frames
    assert np.array_equal(of_files, of_arrays) and np.array_equal(draw(swaying_clip, sound / 32_767).frames, of_files)
    assert np.array_equal(of_files[:, :40], [frame.rgb()[:40] for frame in read_frames(swaying_clip)][:15])
    assert draw(head(), buzz(0.2), fps=10).frames.shape == (2, 160, 160, 3)


@pytest.mark.parametrize(
    "given, fault",
    [
        ({"face": "none.mp4"}, "there is no such file"),
        ({"articulation": 9}, "--articulation 9.0: must be between"),
        ({"wings": 2}, "unrecognized arguments: --wings 2"),
        ({"face": np.zeros((2, 8, 8, 3))}, r"face is float64 \(2, 8, 8, 3\): give \(L, H, W, 3\) uint8"),
        ({"audio": np.zeros((2, 800), np.int16)}, r"audio is int16 \(2, 800\): give \(n,\)"),
    ],
)
def test_faults_are_one_line(draw, swaying_clip, voice, given, fault):
    with pytest.raises(InputError, match=fault):
        draw(**{"face": swaying_clip, "audio": voice} | given)


def test_flags_become_words():
    found = library.words({"rotate": True, "static": False, "fps": None, "crop": (0, -1, 0, 9), "articulation": 1.2})
    assert found == "--rotate --crop 0 -1 0 9 --articulation 1.2".split()
