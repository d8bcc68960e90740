"""The page: it has every flag, and in a browser a face is uploaded, drawn and played, and a fault is said."""

import json
import re
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import chromium
import pytest
from chromium import Browser
from portraits import ROOT

import app
import inference
from errors import InputError

needs_gradio = pytest.mark.skipif(not find_spec("gradio"), reason="needs gradio")


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


@pytest.fixture(scope="module")
def served(narrow_weights):
    """The address of a page that draws with narrow weights, and the number of its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["app.py", "--port", port, "--checkpoint_path", narrow_weights, "--max_seconds", "1"]
    command = [sys.executable, *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline()
        assert f"127.0.0.1:{port}" in line, line
        yield f"http://127.0.0.1:{port}", server.pid
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 143  # a job that has begun is finished


def cut_off(path, folder):
    """A video of which only the beginning was copied."""
    found = folder / "broken.mp4"
    found.write_bytes(path.read_bytes()[:3000])
    return found


def upload(page, selector, path):
    """Gives a file to the file input inside an element."""
    script = f"document.querySelector({json.dumps(selector + ' input[type=file]')})"
    page.wait(script)
    found = page.ask("Runtime.evaluate", expression=script)["result"]["objectId"]
    page.ask("DOM.setFileInputFiles", objectId=found, files=[str(path)])


@needs_gradio
@chromium.needed
@pytest.mark.slow
def test_a_face_is_uploaded_drawn_and_played_and_a_fault_is_said(tmp_path, served, swaying_clip, voice, monkeypatch):
    monkeypatch.setattr(chromium, "WAIT_S", 120)
    with Browser(tmp_path) as page:
        page.ask("Page.navigate", url=served[0])
        upload(page, "#face", cut_off(swaying_clip, tmp_path))
        page.wait("document.body.innerText.includes('broken.mp4 cannot be read')")
        assert "Traceback" not in page.run("document.body.innerText")
        page.ask("Page.navigate", url=served[0])
        upload(page, "#face", swaying_clip)
        page.wait("document.querySelector('#seen img')")
        upload(page, "#sound", voice)
        page.wait("document.querySelector('#sound a[download]')")
        page.click("#draw")
        film = "document.querySelector('#result video')"
        page.wait(f"{film} && {film}.readyState >= 2")
        page.run(f"{film}.play()")
        page.wait(f"{film}.currentTime > 0.2")
        assert page.run(f"{film}.duration") == pytest.approx(0.6, abs=0.05)
        assert page.run("document.querySelectorAll('#files a[download]').length") == 2
        assert not page.errors


@needs_gradio
@pytest.mark.slow
def test_twenty_jobs_one_after_another_keep_memory_flat(tmp_path, served, swaying_clip, voice):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client, broken, memory = Client(served[0], verbose=False), cut_off(swaying_clip, tmp_path), []
    fields = [app.shown(action) for action in app.form().values()]
    for job in range(20):
        face = handle_file(broken if job == 9 else swaying_clip)
        work = client.submit(face, handle_file(voice), -1, *fields, api_name="/make")
        if job == 9:
            with pytest.raises(AppError, match="broken.mp4 cannot be read"):
                work.result(timeout=300)
        else:
            work.result(timeout=300)
        status = Path(f"/proc/{served[1]}/status").read_text()
        memory.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) >> 10)
    print(f"MB after each job: {memory}")
    assert memory[-1] - memory[4] < 20
