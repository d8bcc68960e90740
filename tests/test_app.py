"""The page: it has every flag, and in a browser a face is uploaded, drawn and played, and a fault is said."""

import json
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import chromium
import pytest
from chromium import Browser
from portraits import ROOT

import app
import inference
from errors import InputError

in_a_browser = pytest.mark.skipif(not find_spec("gradio"), reason="needs gradio")


def test_every_flag_of_inference_is_on_the_page_or_on_its_command_line():
    flags = {action.dest for action in inference.flags()._actions}
    assert flags == {*app.form(), *app.SERVER, *app.PAGE} and len(app.form()) > 10
    on_its_command_line = vars(app.parse([])).keys()
    assert {*app.SERVER} <= on_its_command_line and not {*app.form()} & on_its_command_line


def test_only_what_was_changed_on_the_page_is_given():
    untouched = {name: app.shown(action) for name, action in app.form().items()}
    assert app.given(untouched) == {}
    changed = untouched | {"crop": " 0 100 0 -1", "articulation": 1.3, "rotate": True, "face_at": "3,4", "fps": None}
    assert app.given(changed) == {"crop": "0 100 0 -1".split(), "articulation": 1.3, "rotate": True, "face_at": "3,4"}


def test_faults_are_in_the_words_of_the_page():
    found = app.plain("--face /tmp/x/me.mp4: there is no such file", "/tmp/x/me.mp4", None)
    assert found == "Face: me.mp4: there is no such file"
    with pytest.raises(InputError, match="^Give a face"):
        app.Jobs(None, {}, Path()).make(None, None, None, {}, None)
    with pytest.raises(InputError, match="^Give a sound"):
        app.Jobs(None, {}, Path()).make("a.mp4", None, None, {}, None)


def test_without_gradio_one_line_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert app.main([]) == 1
    assert capsys.readouterr().err.strip() == f"app.py: {app.MISSING}"


@pytest.fixture
def served(tmp_path, narrow_weights):
    """The address of a page that draws with narrow weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["app.py", "--port", port, "--checkpoint_path", narrow_weights, "--max_seconds", "1"]
    command = [sys.executable, *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        line = server.stdout.readline()
        assert f"127.0.0.1:{port}" in line, line + server.stdout.read()
        yield f"http://127.0.0.1:{port}"
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 143


def upload(page, selector, path):
    """Gives a file to the file input inside an element."""
    script = f"document.querySelector({json.dumps(selector + ' input[type=file]')})"
    page.wait(script)
    found = page.ask("Runtime.evaluate", expression=script)["result"]["objectId"]
    page.ask("DOM.setFileInputFiles", objectId=found, files=[str(path)])


@in_a_browser
@chromium.needed
def test_a_face_is_uploaded_drawn_and_played_and_a_fault_is_said(tmp_path, served, swaying_clip, voice):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(swaying_clip.read_bytes()[:3000])
    with Browser(tmp_path) as page:
        page.ask("Page.navigate", url=served)
        upload(page, "#face", broken)
        page.wait("document.body.innerText.includes('broken.mp4 is cut off')")
        assert "Traceback" not in page.run("document.body.innerText")
        page.ask("Page.navigate", url=served)
        upload(page, "#face", swaying_clip)
        page.wait("document.querySelector('#seen img')")
        upload(page, "#sound", voice)
        page.wait("document.querySelector('#sound audio, #sound canvas, #sound #waveform, #sound .waveform-container')")
        time.sleep(1)
        page.click("#draw")
        page.wait("document.querySelector('#result video')")
        page.wait("document.querySelector('#result video').readyState >= 2")
        film = "document.querySelector('#result video')"
        page.run(f"{film}.play()")
        page.wait(f"{film}.currentTime > 0.2")
        assert page.run(f"{film}.duration") == pytest.approx(0.6, abs=0.05)
        assert page.run("document.querySelectorAll('#files a[download]').length") == 2
        assert not page.errors
