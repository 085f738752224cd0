"""HTML pages as a parser and as Chromium see them."""

import base64
import fcntl
import html.parser
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MARKUP = "<script>alert('x')</script> & \"q\" <img src=http://127.0.0.1/x.png onerror=alert(1)>"
"""A text that must stay one."""

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
needs_chromium = pytest.mark.skipif(_CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


class Elements(html.parser.HTMLParser):
    """The elements of a page, its texts, those of its table rows, and tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found, self.texts, self.rows, self.open, self.unbalanced = [], [], [], [], []
        self.feed(text)
        self.unbalanced += self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.texts.append(data)
        if self.open[-1:] in (["td"], ["th"]) or self.open[-2:] == ["td", "b"]:
            self.rows[-1][-1] += data

    def of(self, tag: str, name: str | None = None) -> list[dict[str, str | None]]:
        """Attributes of the elements of a tag, of one class if `name` is given."""
        return [a for t, a in self.found if t == tag and (name is None or name in (a.get("class") or "").split())]


def check_self_contained(text: str) -> Elements:
    """Fails where a page runs or loads something, or has tags that do not close."""
    elements = Elements(text)
    assert elements.unbalanced == []
    assert not elements.of("script") + elements.of("link") + elements.of("iframe")
    assert not [a for _, a in elements.found if any(name.startswith("on") for name in a)]
    assert all(a["src"].startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for a in elements.of("img"))
    (policy,) = [a["content"] for a in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "@import" not in text
    assert "url(" not in text
    return elements


def rendered(page: Path) -> Elements:
    """What Chromium makes of a page."""
    return Elements(_browse(page, "--dump-dom"))


def screenshot(page: Path, width: int, height: int) -> np.ndarray:
    """The pixels of a page in a window, int16 `(height, width, 3)`; fails where it is wider than the window."""
    file = page.with_name(f"{page.stem}-{width}.png")
    _browse(page, f"--window-size={width},{height}", f"--screenshot={file}")
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(np.int16)
    assert pixels.shape == (height, width, 3)
    edge = pixels[:, -4:].reshape(-1, 3)
    assert (np.abs(edge - (244, 245, 248)).max(-1) <= 2).all()
    return pixels


def covered(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 6) -> int:
    """How many pixels have a colour."""
    red, green, blue = (np.abs(pixels[..., n] - value) <= tolerance for n, value in enumerate(colour))
    return int((red & green & blue).sum())


def _browse(page: Path, *options: str) -> str:
    command = [_CHROMIUM, *_OPTIONS, f"--user-data-dir={page.parent / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, check=True, timeout=120, capture_output=True, text=True, cwd=page.parent).stdout


class Browser:
    """Chromium without a window, told what to do through a pipe; a context manager.

    Args:
        profile: a directory for its files.
        width, height: of its window.
        dark: whether pages are to be dark.

    Attributes:
        problems: what pages wrote on the console as errors, what they threw, and what their policy did not let them do.
    """

    def __init__(self, profile: Path, width: int, height: int, *, dark: bool = False) -> None:
        self.problems: list[str] = []
        self._count = 0
        self._rest = b""
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        # Chromium reads what to do from 3 and answers on 4, whatever these pipes are here.
        wires = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write)]
        chromium = [_CHROMIUM, *_OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        command = ["bash", "-c", f'exec "$@" 3<&{wires[0]} 4>&{wires[1]}', "bash", *chromium]
        self._process = subprocess.Popen(command, pass_fds=wires, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for end in (read, write, *wires):
            os.close(end)
        (target,) = [t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = {"targetId": target["targetId"], "flatten": True}
        self._session: str | None = self._call("Target.attachToTarget", **attached)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Audits"):
            self._call(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait()

    def open(self, url: str) -> None:
        """Goes to a page and waits until it is loaded."""
        self._call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete' && document.body != null")

    def evaluate(self, expression: str):
        """The value of an expression of JavaScript on the page."""
        told = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", **told)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 30.0):
        """Waits until an expression is true, and returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        """Presses a key: a character, or `Tab`, `Enter`, `Escape`."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = {"Tab": 9, "Enter": 13, "Escape": 27}.get(key, 0)
        event = {"key": key, "text": text, "windowsVirtualKeyCode": code}
        self._call("Input.dispatchKeyEvent", type="keyDown", **event)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Types a text where the focus is."""
        self._call("Input.insertText", text=text)

    def screenshot(self, file: Path, *, whole: bool = False) -> np.ndarray:
        """The pixels of the window, or of the whole page: uint8 `(height, width, 3)`."""
        picture = self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(picture))
        return np.asarray(Image.open(file).convert("RGB"))

    def _call(self, method: str, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict:
        while b"\0" not in self._rest:
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(parameters["exceptionDetails"]["text"])
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.problems.append(parameters["entry"]["text"])
            case "Runtime.consoleAPICalled" if parameters["type"] == "error":
                self.problems.append(str(parameters["args"]))
            case "Audits.issueAdded" if "contentSecurityPolicyIssueDetails" in parameters["issue"]["details"]:
                self.problems.append(str(parameters["issue"]["details"]))
