"""The audit of dependencies fails on a finding, and says so where it could not look."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class _Advisories(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"vulnerabilities": []}' if self.path == "/json" else b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def advisories() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Advisories)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def audit(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    (folder / "python").unlink(missing_ok=True)
    (folder / "python").symlink_to(sys.executable)
    return subprocess.run(
        [str(ROOT / ".ci" / "audit"), str(folder)], capture_output=True, text=True, check=False,
        env={**os.environ, "AUDIT_SOURCE": source, "no_proxy": "127.0.0.1",
             "AUDIT_NOTE": str(folder / "note.txt")}, timeout=60,
    )  # fmt: skip


def finds(folder: Path, code: int, then: str = "") -> None:
    (folder / "pip-audit").write_text(f"#!/bin/sh\necho looked: $*\n{then}\nexit {code}\n")
    (folder / "pip-audit").chmod(0o755)


def test_an_audit_that_cannot_be_made_says_so(tmp_path: Path, advisories: str) -> None:
    done = audit(tmp_path, f"{advisories}/json")
    assert (done.returncode, "skipped: pip-audit is not installed" in done.stdout) == (0, True)
    finds(tmp_path, 1)
    for source in ("http://127.0.0.1:9/json", f"{advisories}/a-mirror-without-advisories"):
        done = audit(tmp_path, source)
        assert (done.returncode, "skipped: no advisory data reachable" in done.stdout) == (0, True)
        assert "looked" not in done.stdout


def test_a_finding_fails(tmp_path: Path, advisories: str) -> None:
    finds(tmp_path, 1)
    assert audit(tmp_path, f"{advisories}/json").returncode == 1
    finds(tmp_path, 0)
    done = audit(tmp_path, f"{advisories}/json")
    assert done.returncode == 0
    assert "looked: --requirement constraints.txt" in done.stdout
    assert re.search(r"audit: (\d+) of \1 packages were checked", done.stdout)


def test_packages_that_the_database_does_not_know_are_counted(tmp_path: Path, advisories: str) -> None:
    """pip-audit passes although it has found out nothing."""
    finds(tmp_path, 0, "echo torch Dependency not found on PyPI and could not be audited: torch")
    done = audit(tmp_path, f"{advisories}/json")
    assert done.returncode == 0
    assert "audit: skipped: the database does not answer about 1 of" in done.stdout
    assert "does not answer about 1 of" in (tmp_path / "note.txt").read_text()
