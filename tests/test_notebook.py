"""The notebook: its cells, run without a server, and the lines by which a container is made."""

import json
import re
import subprocess
import sys
import tomllib
from types import ModuleType

import pytest
from portraits import ROOT

CELLS = ["".join(cell["source"]) for cell in json.loads((ROOT / "examples" / "talklip.ipynb").read_text())["cells"]]


@pytest.fixture
def shown(monkeypatch):
    """What the notebook shows, by a stand-in for IPython's display."""
    found, display = [], ModuleType("IPython.display")
    display.Video = lambda path, embed: found.append((path, embed))
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def test_its_cells_install_draw_and_show(tmp_path, voice, monkeypatch, shown):
    real, installed = subprocess.run, []

    def run(words, **how):
        if "pip" in words:
            return installed.append(words)
        return real([*words, "--quiet"], **how, capture_output=True)

    for name in ("portrait.png", "speech.wav"):
        assert (ROOT / "examples" / name).is_file() and name in CELLS[1]
    (tmp_path / "portrait.png").symlink_to(ROOT / "examples" / "portrait.png")
    (tmp_path / "speech.wav").symlink_to(voice)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(subprocess, "run", run)
    scope = {}
    for cell in CELLS:
        exec(compile(cell, "cell", "exec"), scope)
    assert (tmp_path / "result.mp4").is_file() and shown == [("result.mp4", True)] and len(CELLS) == 3
    for words in installed:
        assert words[:4] == [sys.executable, "-m", "pip", "install"]
        assert (ROOT / "examples" / words[-1]).exists()


def test_the_container_is_made_of_what_is_here():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(lines)
    pinned = next(line for line in (ROOT / "requirements.txt").read_text().split() if line.startswith("torch=="))
    assert pinned in text and tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["talklip"]
    assert all((ROOT / name).exists() for name in re.findall(r"^COPY (\S+) ", text, re.MULTILINE))
    assert len([line for line in lines if not line.startswith("#")]) <= 12
