"""Headless Chromium, driven by the Chrome DevTools Protocol over a WebSocket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.integration.gateway import PATIENCE, until
from tests.integration.programs import find

BROWSER = "chromium"
START_SECONDS = 60.0
"""On a busy machine the first start takes long."""

_OPTIONS = (
    *("--headless=new", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"),
    *("--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-background-networking"),
    *(
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--mute-audio",
        "--password-store=basic",
    ),
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
)


class BrowserError(AssertionError):
    """The browser refused a command, or a script in a page failed."""


class Page:
    """A tab.

    :ivar loaded: the loaders of the documents that are complete.
    :ivar errors: what the page's console was told as errors, and exceptions of its scripts.
    """

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.errors: list[str] = []
        self.loaded: set[str] = set()
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> Any:
        """Give a command of the protocol; return its result."""
        return self._browser.call(method, self._session, **parameters)

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """Set the size of the window, and whether it is that of a phone."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def colours(self, scheme: str) -> None:
        """Prefer ``light`` or ``dark``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        """Go to a page and wait until it is complete."""
        self.errors.clear()
        answer = self.call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise BrowserError(f"{url}: {answer['errorText']}")
        # The document before may still answer for a while: the new one is known by its loader.
        until(lambda: self.run("document.readyState") and answer["loaderId"] in self.loaded, f"{url} is complete")

    def run(self, script: str) -> Any:
        """Run an expression in the page, wait for what it promises, and return its value (JSON)."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(str(details.get("exception", {}).get("description") or details["text"]))
        return answer["result"].get("value")

    def until(self, script: str, patience: float = PATIENCE) -> Any:
        """Run an expression again and again until it gives something true; return that."""
        return until(lambda: self.run(script), script, patience)

    def screenshot(self, whole: bool = False) -> bytes:
        """What is seen, as PNG.

        :param whole: whether all of the page, not only what is in the window.
        """
        return b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])


class Browser:
    """A browser with a profile of its own, without any network but what pages ask for."""

    def __init__(self) -> None:
        find(BROWSER)
        self._profile = tempfile.mkdtemp(prefix="flowgate-test-browser-")
        command = [str(shutil.which(BROWSER)), *_OPTIONS, f"--user-data-dir={self._profile}"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")
        self._process = subprocess.Popen(
            [*command, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._profile},
        )
        self._ids = 0
        self._pages: dict[str, Page] = {}
        try:
            port, path = until(self._address, "the browser has started", START_SECONDS)
            self._connection = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None, ping_interval=None)
        except BaseException:
            self._end()
            raise

    def _address(self) -> tuple[str, str] | None:
        if self._process.poll() is not None:
            raise BrowserError(f"the browser ended with status {self._process.returncode}")
        try:
            lines = (Path(self._profile) / "DevToolsActivePort").read_text().split()
        except FileNotFoundError:
            return None
        return (lines[0], lines[1]) if len(lines) == 2 else None

    def call(self, method: str, session: str = "", **parameters: Any) -> Any:
        """Give a command of the protocol; return its result.  What happens meanwhile is noted at its page."""
        self._ids += 1
        command: dict[str, Any] = {"id": self._ids, "method": method, "params": parameters}
        if session:
            command["sessionId"] = session
        self._connection.send(json.dumps(command))
        deadline = time.monotonic() + PATIENCE
        while True:
            message = json.loads(self._connection.recv(max(deadline - time.monotonic(), 0.01)))
            if message.get("id") == self._ids:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        page = self._pages.get(message.get("sessionId", ""))
        if page is None:
            return
        told = message.get("params", {})
        if message.get("method") == "Page.lifecycleEvent" and told["name"] == "load":
            page.loaded.add(told["loaderId"])
        if message.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            page.errors.append(told["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            page.errors.append(str(told["exceptionDetails"].get("exception", {}).get("description")))

    def page(self) -> Page:
        """Open a tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        return page

    def close(self) -> None:
        self._connection.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
        shutil.rmtree(self._profile, ignore_errors=True)


class Picture:
    """The pixels of a PNG with eight bits a channel and no interlacing, as browsers write it.

    :ivar rows: for each row the colours of its pixels: red, green, blue.
    """

    def __init__(self, png: bytes) -> None:
        if png[:8] != b"\x89PNG\r\n\x1a\n":
            raise ValueError("no PNG")
        self.width, self.height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
        depth, kind, _, _, interlaced = png[24:29]
        if depth != 8 or kind not in (2, 6) or interlaced:
            raise ValueError("another kind of PNG than browsers write")
        channels = 3 if kind == 2 else 4
        data, place = b"", 8
        while place < len(png):
            size = int.from_bytes(png[place : place + 4], "big")
            if png[place + 4 : place + 8] == b"IDAT":
                data += png[place + 8 : place + 8 + size]
            place += size + 12
        self.rows = list(self._unfiltered(zlib.decompress(data), channels))

    def _unfiltered(self, data: bytes, channels: int) -> Iterator[list[bytes]]:
        stride = self.width * channels
        above = bytearray(stride)
        for start in range(0, len(data), stride + 1):
            how, row = data[start], bytearray(data[start + 1 : start + 1 + stride])
            for index in range(stride):
                left = row[index - channels] if index >= channels else 0
                corner = above[index - channels] if index >= channels else 0
                if how == 1:
                    row[index] = (row[index] + left) & 255
                elif how == 2:
                    row[index] = (row[index] + above[index]) & 255
                elif how == 3:
                    row[index] = (row[index] + (left + above[index]) // 2) & 255
                elif how == 4:
                    row[index] = (row[index] + _paeth(left, above[index], corner)) & 255
            above = row
            yield [bytes(row[index : index + 3]) for index in range(0, stride, channels)]

    def share(self, colour: bytes) -> float:
        """How much of the picture has this colour, from 0 to 1."""
        return sum(row.count(colour) for row in self.rows) / (self.width * self.height)


def _paeth(left: int, above: int, corner: int) -> int:
    """The predictor of PNG's fourth filter (RFC 2083 section 6.6)."""
    guess = left + above - corner
    distances = abs(guess - left), abs(guess - above), abs(guess - corner)
    return (left, above, corner)[distances.index(min(distances))]
