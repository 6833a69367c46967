"""Reads the HTML page as a test needs it: elements, texts, scripts and the data of the plots."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path
from typing import Any

# A name from a run that would run code, if the page took it for anything but text.
ATTACK = "\"><img src=x onerror=alert(1)></script><script>alert('2')</script>{{ 7*7 }}<b>%{y}"


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, its texts, and its scripts.

    Args:
        source: The page.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.text: list[str] = []
        self._script: str | None = None
        self._in_script = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag in ("script", "style"):
            self._in_script = True
            self._script = attributes.get("id") or f"{tag} {len(self.elements)}"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[self._script] += data
        elif data.strip():
            self.text.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of one kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def plots(self) -> list[dict[str, Any]]:
        """Return what plotly draws, in the order of the page."""
        names = [name for name in self.scripts if str(name).endswith("-data")]
        return [json.loads(self.scripts[name]) for name in names]

    def joined_text(self) -> str:
        """Return all texts of the page as one."""
        return " ".join(self.text)


def read_page(path: Path) -> Page:
    """Read a page from its file."""
    return Page(path.read_text(encoding="utf-8"))
