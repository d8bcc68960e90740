"""A browser for tests: headless Chromium, driven by the DevTools protocol over two pipes; no package is needed."""

import base64
import json
import os
import shutil
import subprocess
import time

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needed = pytest.mark.skipif(not PROGRAM, reason="needs Chromium")
WAIT_S = 30
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --mute-audio --disable-extensions "
    "--autoplay-policy=no-user-gesture-required --hide-scrollbars --remote-debugging-pipe about:blank"
).split()


class Browser:
    """One page of a headless Chromium.

    with Browser(tmp_path) as page: page.open(path); page.run("document.title"); page.press("Tab"); page.picture(png)
    Files that the page saves land in `downloads`; what it stores is kept in `folder` for the next Browser there.
    """

    def __init__(self, folder, width=1000, height=900, scale=1):
        self.folder, self.downloads = folder / "profile", folder / "downloads"
        self.size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.number, self.session, self.errors, self.pending = 0, None, [], b""

    def __enter__(self):
        self.downloads.mkdir(parents=True, exist_ok=True)
        (theirs, self.out), (self.inn, answers) = os.pipe(), os.pipe()
        command = [PROGRAM, *FLAGS, f"--user-data-dir={self.folder}"]
        wired = ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers}', "bash", *command]  # it talks on 3 and 4
        self.process = subprocess.Popen(
            wired, pass_fds=(theirs, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs), os.close(answers)
        page = next(each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        self.ask("Page.enable"), self.ask("Runtime.enable")
        self.ask("Emulation.setDeviceMetricsOverride", **self.size)
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, *error):
        try:
            self.ask("Browser.close")
            self.process.wait(10)
        finally:
            self.process.kill()
            os.close(self.out), os.close(self.inn)

    def ask(self, method, **params):
        """Sends a command and waits for its result; errors of the page on the way are collected."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session and not method.startswith(("Browser.", "Target.")):
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"])
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        return answer["result"]

    def _next(self):
        while b"\0" not in self.pending:
            more = os.read(self.inn, 1 << 20)
            assert more, "Chromium has ended"
            self.pending += more
        message, _, self.pending = self.pending.partition(b"\0")
        return json.loads(message)

    def open(self, path):
        """Opens a file and waits until it is there."""
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def run(self, script):
        """The value of a script in the page, promises awaited."""
        done = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition):
        """Waits until a script is true."""
        end = time.monotonic() + WAIT_S
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"not within {WAIT_S} s: {condition}"
            time.sleep(0.02)

    def press(self, key, shift=False):
        """Presses a key such as "Tab", "Enter", " ", "ArrowRight" or a letter."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "Backspace": 8}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text):
        """Types a text where the focus is."""
        for letter in text:
            self.press(letter)

    def click(self, selector):
        """Clicks on the middle of an element, as a mouse does, once the page has stopped moving."""
        script = (
            f"(() => {{const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        before, (x, y) = None, self.run(script)
        while before != (x, y):
            self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            before, (x, y) = (x, y), self.run(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def saved(self, name):
        """The path of a file that the page saves, once it is there."""
        end, path = time.monotonic() + WAIT_S, self.downloads / name
        while not (path.is_file() and path.stat().st_size):
            assert time.monotonic() < end, f"{name} was not saved"
            time.sleep(0.02)
        return path

    def picture(self, path):
        """Writes a picture of the whole page as PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
