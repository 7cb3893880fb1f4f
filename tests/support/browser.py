"""A headless Chromium, driven through its DevTools protocol on two pipes; whatever it asks the network for is recorded."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Proxy:
    """Stands where the network would be: notes the first line of each request, and answers none."""

    server: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    requests: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return  # closed
            with connection:
                line = connection.recv(4096).partition(b"\r\n")[0]
                if not line:  # a connection that the browser opened ahead of need, and closed
                    continue
                self.requests.append(line.decode(errors="replace"))
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


class Browser:
    """One tab of a headless Chromium."""

    def __init__(self, read: int, write: int, proxy: Proxy) -> None:
        self._reader, self._writer = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self._buffer, self._number, self.session = b"", 0, ""
        self.proxy = proxy
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol (https://chromedevtools.github.io/devtools-protocol) and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while (answer := self._read_message()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _read_message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._reader.fileno(), 1 << 16)
            assert data, "the browser ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def open(self, page: Path, *, width: int, dark: bool = False) -> None:
        """Open a page at a width in CSS pixels, light or dark, and wait until it is loaded."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        answer = self.call("Page.navigate", url=page.as_uri())
        assert not answer.get("errorText"), answer
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read_message())

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def requested(self) -> list[str]:
        """Return the addresses that the page asked for since it was opened, without its own and without data."""
        sent = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith("data:")][1:]

    def complaints(self) -> list[str]:
        """Return the errors on the page's console: what a policy refused, what could not be loaded."""
        entries = [e["params"]["entry"] for e in self.events if e.get("method") == "Log.entryAdded"]
        return [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]

    def screenshot(self, target: Path) -> Path:
        """Write the whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        data = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(data))
        return target


# Chromium reads the protocol from descriptor 3 and answers on 4.
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a new profile whose only network is our proxy, and end it."""
    proxy = Proxy()
    threading.Thread(target=proxy.serve, daemon=True).start()
    to_browser, from_browser = os.pipe(), os.pipe()
    words = [
        *(sys.executable, "-c", _LAUNCH, str(to_browser[0]), str(from_browser[1]), PROGRAM or ""),
        *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ),
        *("--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage", "--no-pings"),
        *("--disable-domain-reliability", "--disable-features=OptimizationHints,MediaRouter,Translate"),
        *(f"--user-data-dir={profile}", f"--proxy-server={proxy.address}", "--proxy-bypass-list=<-loopback>"),
    ]
    log = (profile.parent / "browser.log").open("wb")
    process = subprocess.Popen(
        words, pass_fds=(to_browser[0], from_browser[1]), stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        yield Browser(from_browser[0], to_browser[1], proxy)
    finally:
        process.terminate()
        process.wait()
        proxy.server.close()
        log.close()
