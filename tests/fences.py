"""Splits Markdown into fenced blocks and prose."""

from __future__ import annotations


def split_fences(text: str) -> tuple[list[tuple[str, str]], str]:
    """Return the fenced blocks of a text with their languages, and the text without them."""
    blocks: list[tuple[str, str]] = []
    prose: list[str] = []
    language: str | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("```"):
            (prose if language is None else lines).append(line)
        elif language is None:
            language, lines = line.removeprefix("```").strip(), []
        else:
            blocks.append((language, "\n".join(lines)))
            language = None
    return blocks, "\n".join(prose)
