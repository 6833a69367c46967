"""Counts habits of prose that the project avoids, and fails where they exceed a limit.

    python -m tools.prose_check            # one line per kind of text
    python -m tools.prose_check --lines    # each occurrence, with its file

Three kinds of text are read: documents (Markdown), docstrings with comments, and messages (all other
strings of two words or more in raycomp/). LIMITS has one figure per kind, in occurrences per 1,000
words. A limit may only fall. The count is a trend: a page that passes can still be hard to read.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

DOCUMENTS = "documents"
COMMENTS = "docstrings and comments"
MESSAGES = "messages"

# Occurrences per 1,000 words. Lower a limit whenever the figure falls; never raise one.
LIMITS = {DOCUMENTS: 0.1, COMMENTS: 0.1, MESSAGES: 0.2}

LONGEST_SENTENCE = 40  # tokens of a sentence in a document; STYLE asks for 25, rarely more

HABITS = {
    "a clause in place of a noun": (
        r"\b(?:of|to|for|in|by|on|with|from|than|is|as|says?|returns?|holds?|takes?|gives?|reads?|writes?)"
        r" (?:what|who|whoever|whose|whatever)\b(?! to\b| happens| happened)"
    ),
    "'is no', 'has no', 'holds no'": (
        r"\b(?:is|are|was|were|has|have|had|holds?) no(?:ne)?\b(?! longer| more)"
    ),
    "an old verb": r"\b(?:lies|lie|stands|stood|bears?|walks|dwells?)\b",
    "'goes on'": r"\b(?:goes|go|going|went|gone) on\b",
    "an old adverb": r"\b(?:alone|anew|beside|whatever|meanwhile|hence|thereby|therein|so many)\b",
    "an old adjective": r"\b(?:torn|dearest|likewise)\b",
    "', for' or ', so that'": r", (?:for(?! example)|so that) ",
    "a metaphor": r"\b(?:classroom|workplace|blueprint|visits?|run's home|runs' home|import walls?)\b",
    "a term that the glossary replaces": r"\b(?:processors?|run's folder|runs' folder)\b",
}

SKIPPED_FOLDERS = {".venv", ".git", "node_modules", "runs", "build", "dist"}


@dataclass(frozen=True)
class Occurrence:
    """One habit in one text.

    Attributes:
        path: File, relative to the root.
        habit: Key of HABITS, or "a long sentence".
        context: Text around it, on one line.
    """

    path: str
    habit: str
    context: str


@dataclass(frozen=True)
class Count:
    """Occurrences in one kind of text.

    Attributes:
        words: Number of words read.
        occurrences: All occurrences, in the order of the files.
    """

    words: int
    occurrences: tuple[Occurrence, ...]

    @property
    def rate(self) -> float:
        """Occurrences per 1,000 words."""
        return 1000 * len(self.occurrences) / max(self.words, 1)


def find(text: str, path: str = "", sentences: bool = False) -> list[Occurrence]:
    """Return every occurrence of a habit in a text.

    Args:
        text: Prose, without markup.
        path: File that the text comes from.
        sentences: Whether long sentences count too.
    """
    result = []
    for habit, pattern in HABITS.items():
        for match in re.finditer(pattern, text):
            start = max(0, match.start() - 40)
            context = " ".join(text[start : match.end() + 40].split())
            result.append(Occurrence(path, habit, context))

    if sentences:
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n|\n(?=\s*(?:[-*|]|\d+\.) )", text):
            if len(re.findall(r"[\w'.-]+", sentence)) > LONGEST_SENTENCE:
                result.append(Occurrence(path, "a long sentence", " ".join(sentence.split())[:80]))

    return result


def prose_of_markdown(text: str) -> str:
    """Return the prose of a Markdown file, without code, comments, generated parts, tables and links."""
    text = re.sub(r"<!-- ([\w ]+) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```|:::.*?:::|<!--.*?-->|<[^<>]+>", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`\n]*`", "X", text)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("|", "#"))]
    return "\n".join(lines)


def documents(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path and prose of every Markdown file below a folder."""
    for path in sorted(root.rglob("*.md")):
        name = path.relative_to(root)
        if SKIPPED_FOLDERS.isdisjoint(name.parts):
            yield str(name), prose_of_markdown(path.read_text(encoding="utf-8"))


def comments(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path, and docstrings with comments, of every module of the package."""
    for path, source, tree in _modules(root):
        parts = [docstring for node in ast.walk(tree) if (docstring := _docstring(node))]
        parts += [
            token.string.lstrip("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
            and not re.search(r"noqa|type: ignore|fmt: skip|nosec", token.string)
        ]
        yield path, "\n\n".join(parts)


def messages(root: Path) -> Iterator[tuple[str, str]]:
    """Yield path, and strings of two words or more that are not docstrings, of every module."""
    for path, _, tree in _modules(root):
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, _DOCUMENTED) and node.body and isinstance(node.body[0], ast.Expr)
        }
        strings = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value.strip()
            and id(node) not in docstrings
        ]
        yield path, "\n\n".join(strings)


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _docstring(node: ast.AST) -> str | None:
    return ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None


def _modules(root: Path) -> Iterator[tuple[str, str, ast.Module]]:
    for path in sorted((root / "raycomp").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        yield str(path.relative_to(root)), source, ast.parse(source)


KINDS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    DOCUMENTS: documents,
    COMMENTS: comments,
    MESSAGES: messages,
}


def count(kind: str, root: Path = ROOT) -> Count:
    """Count the habits in one kind of text.

    Args:
        kind: Key of LIMITS.
        root: Folder of the repository.
    """
    words = 0
    occurrences: list[Occurrence] = []
    for path, text in KINDS[kind](root):
        words += len(re.findall(r"[A-Za-z']+", text))
        occurrences += find(text, path, sentences=kind == DOCUMENTS)
    return Count(words, tuple(occurrences))


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Print a line per kind of text; return 1 if one is over its limit."""
    failed = False
    for kind, limit in LIMITS.items():
        result = count(kind, root)
        if "--lines" in arguments:
            for occurrence in result.occurrences:
                print(f"{occurrence.path}: {occurrence.habit}: {occurrence.context}")

        over = result.rate > limit
        failed = failed or over
        verdict = "over the limit" if over else "limit"
        print(f"{kind}: {result.rate:.2f} per 1,000 words, {verdict} {limit:g} ({result.words:,} words)")
        if result.rate < limit - 0.5:
            print(f"  The limit can fall to {result.rate + 0.05:.1f}: LIMITS in tools/prose_check.py.")

    if failed:
        print("Rewrite the sentences that `python -m tools.prose_check --lines` names.", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
