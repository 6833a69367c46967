"""The last lines of a test run: what did not run, and why. A check that never runs cannot fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

AUDIT_NOTE = Path(__file__).parents[1] / "build" / "audit-skipped.txt"
"""File that `.ci/audit` leaves if it could not look for vulnerabilities."""


LEFT_OUT = ("slow", "gpu")
"""Markers of tests that `make test` leaves out. The targets of make that run them have the same names."""


def describe_not_run(
    skips: Sequence[tuple[str, str]], audit_note: Path = AUDIT_NOTE, left_out: Sequence[str] = ()
) -> list[str]:
    """Return one line for each reason for which tests or the audit did not run.

    Args:
        skips: File and reason of each skipped test.
        audit_note: File with the reason for which the audit did not run, if it exists.
        left_out: Marker of each test that the selection left out.
    """
    counts = Counter(skips)
    lines = []
    for (file, reason), count in sorted(counts.items()):
        noun = "test" if count == 1 else "tests"
        lines.append(f"{count} {noun} of {file}: {reason}")
    for name, count in sorted(Counter(left_out).items()):
        noun = "test" if count == 1 else "tests"
        lines.append(f"{count} {name} {noun} not run: make {name}")
    if audit_note.exists():
        lines.append(audit_note.read_text().strip())
    return lines
