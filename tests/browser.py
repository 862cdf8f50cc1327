"""A headless Chromium without a GPU, driven by its DevTools protocol over two pipes: pages as their readers see them.

Nothing is installed for it but the browser (Debian: `apt install chromium`); `XECML_CHROMIUM` names another.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# the browser reads commands from descriptor 3 and answers on 4; both come from above, lest one take the other's place
_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for number, end in enumerate(ends, 3):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
_FLAGS = (
    "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--no-default-browser-check",
    "--disable-extensions", "--disable-background-networking", "--hide-scrollbars", "--mute-audio", "--no-sandbox",
    "--disable-dev-shm-usage",
)  # fmt: skip
_PATIENCE = 300.0
"""Seconds for an answer of the browser on a busy machine."""


def chromium() -> str:
    """The browser; tests that need it are skipped where there is none."""
    named = os.environ.get("XECML_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no chromium, in which pages are tested; apt install chromium, or name one in XECML_CHROMIUM")
    return found


class Browser:
    """A browser with one page, and what that page said and asked for.

    Attributes:
        said: lines of its console, and errors.
        asked: addresses that it asked for, the opened file itself left out.
    """

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process, self._commands, self._answers = process, commands, answers
        self._number, self._rest = 0, b""
        self._loaded = False
        self.said: list[str] = []
        self.asked: list[str] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + _PATIENCE
        while (answer := self._next(until)).get("id") != self._number:
            self._notice(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self, until: float) -> dict[str, Any]:
        """The next message of the browser."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, f"the browser ended with {self._process.poll()}"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _notice(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled":
                self.said.append(f"{about['type']}: {about['args']}")
            case "Runtime.exceptionThrown":
                self.said.append(f"exception: {about['exceptionDetails']}")
            case "Log.entryAdded":
                self.said.append(f"{about['entry']['level']}: {about['entry']['text']}")
            case "Network.requestWillBeSent":
                self.asked.append(about["request"]["url"])
            case "Page.loadEventFired":
                self._loaded = True

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file, and wait until it is loaded."""
        self.open_address(path.resolve().as_uri() + fragment)

    def open_address(self, address: str) -> None:
        """Open an address, and wait until it is loaded."""
        self.said, self.asked, self._loaded = [], [], False
        scheme, page = address.partition(":")[0], address.partition("#")[0]
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        until = time.monotonic() + _PATIENCE
        # asking is what reads the browser's messages, that of having loaded among them, of the empty page before, too
        while self.run("location.protocol + document.readyState") != f"{scheme}:complete" or not self._loaded:
            assert time.monotonic() < until, f"{address} does not load"
            time.sleep(0.02)
        self.asked = [url for url in self.asked if url.partition("#")[0] not in (page, "about:blank")]

    def run(self, expression: str) -> Any:
        """Value of an expression in the page; of a promise, what it promises."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait for an expression to be true in the page, and return it."""
        end = time.monotonic() + _PATIENCE
        while not (value := self.run(expression)):
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.02)
        return value

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event: moved, pressed or released, at a place of the window."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind.capitalize()}", x=x, y=y, **more)

    def key(self, key: str, **more: Any) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **more)

    def size(self, width: int, height: int, ratio: float = 1.0) -> None:
        """Size of the window, and pixels of the screen for one of its own."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=False
        )

    def dark(self, on: bool) -> None:
        """Whether the system asks for dark pages."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, whole: bool = False) -> None:
        """Write what is seen as `.png`; `whole` has what one would scroll to, too."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile in a folder, ended when it is left."""
    read, write = os.pipe()
    heard, say = os.pipe()
    command = [sys.executable, "-c", _START, str(read), str(say), chromium(), *_FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command, pass_fds=(read, say), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(read)
    os.close(say)
    try:
        yield Browser(process, write, heard)
    finally:
        os.close(write)
        os.close(heard)
        process.terminate()
        process.wait(30)
