"""HTML pages as a parser and as Chromium see them."""

import html.parser
import shutil
import subprocess
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
