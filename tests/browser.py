"""A headless Chromium that a test drives as a user does: wheel, keys, and drags are real input.

It speaks the DevTools protocol over two pipes: JSON messages, each with a NUL byte behind it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import require

SECONDS = 60.0
"""No single answer takes longer, on a busy machine too."""
ALT, CTRL, SHIFT = 1, 2, 8
BUTTONS = {"left": 1, "right": 2}
# Keys by which the browser itself does something need their Windows codes.
KEY_CODES = {
    "Tab": 9, "Home": 36, "End": 35, "PageUp": 33, "PageDown": 34,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip


class Browser:
    """One browser with one page at a time.

    Places are CSS pixels of the window. Every method waits until the page has taken the input;
    an error in a script of the page fails the test at the next call of :meth:`js`.
    """

    def __init__(self, folder: Path):
        program = next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )
        require(program is not None, "chromium is not installed")
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        options = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars"
        command = [program, *options.split(), "--remote-debugging-pipe"]
        command += [f"--user-data-dir={folder}", "about:blank"]
        self._log = (folder.parent / f"{folder.name}.log").open("wb")
        # The browser reads from 3 and writes to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{requests} 4>&{answers}', "bash", *command],
            pass_fds=(requests, answers),
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        os.close(requests)
        os.close(answers)
        self._unread, self._id = b"", 0
        self._session: str | None = None
        self.errors: list[str] = []
        page = next(
            t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        self._session = self._call(
            "Target.attachToTarget", targetId=page["targetId"], flatten=True
        )["sessionId"]
        self._call("Page.enable")
        self._call("Runtime.enable")

    def close(self) -> None:
        """End the browser and the processes that it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._requests)
        os.close(self._answers)
        self._log.close()

    def open(self, page: Path, width: int = 1000, height: int = 900) -> None:
        """Load ``page`` into a window of that size."""
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self.errors.clear()
        self._call("Page.navigate", url=page.as_uri())
        self.wait("document.readyState === 'complete'")

    @contextlib.contextmanager
    def before_each_page(self, script: str):
        """Within this, ``script`` runs on every page before its own ones."""
        kept = self._call("Page.addScriptToEvaluateOnNewDocument", source=script)
        yield
        self._call("Page.removeScriptToEvaluateOnNewDocument", **kept)

    def js(self, expression: str):
        """The value of ``expression`` on the page; a promise is awaited."""
        found = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        assert not self.errors, self.errors
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Return once the expression ``condition`` is true on the page."""
        deadline = time.monotonic() + SECONDS
        while not self.js(condition):
            assert time.monotonic() < deadline, f"the page never came to {condition}"
            time.sleep(0.01)

    def move(self, x: float, y: float) -> None:
        self._mouse("mouseMoved", x, y)

    def click(self, x: float, y: float) -> None:
        self.drag((x, y))

    def drag(self, *path: tuple[float, float], button: str = "left", held: int = 0) -> None:
        """Press at the first place, move through the others, let go; ``held``: CTRL, SHIFT."""
        keys = dict(button=button, modifiers=held, clickCount=1)
        self._mouse("mouseMoved", *path[0], modifiers=held)
        self._mouse("mousePressed", *path[0], buttons=BUTTONS[button], **keys)
        for place in path[1:]:
            self._mouse("mouseMoved", *place, buttons=BUTTONS[button], **keys)
        self._mouse("mouseReleased", *path[-1], **keys)

    def wheel(self, x: float, y: float, down: float, held: int = 0) -> None:
        """Turn the wheel at a place, ``down`` pixels; a notch is 100 or 120."""
        self._mouse("mouseWheel", x, y, deltaX=0, deltaY=down, modifiers=held)

    def keys(self, *names: str, held: int = 0) -> None:
        """Press keys one after the other, each by its name or character."""
        for name in names:
            code = KEY_CODES.get(name) or ord(name.upper())
            key = dict(key=name, windowsVirtualKeyCode=code, modifiers=held)
            text = dict(text=name) if len(name) == 1 and not held & ~SHIFT else {}
            self._call(
                "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **key, **text
            )
            self._call("Input.dispatchKeyEvent", type="keyUp", **key)

    def screenshot(self) -> np.ndarray:
        """What the window shows, (H, W, 3) uint8."""
        png = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))

    def _mouse(self, kind: str, x: float, y: float, **more) -> None:
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def _call(self, method: str, **parameters):
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while (answer := self._listen()).get("id") != self._id:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _listen(self) -> dict:
        """The next message: an answer or an event."""
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], SECONDS)
            data = os.read(self._answers, 1 << 20) if ready else b""
            assert data, f"the browser ended or hangs; its output: {self._log.name}"
            self._unread += data
        text, _, self._unread = self._unread.partition(b"\0")
        message = json.loads(text)
        if message.get("method") == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", str(details)))
        return message
