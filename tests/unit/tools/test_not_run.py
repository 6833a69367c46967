"""What did not run is in the last lines of a test run, and the browser comes from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.not_run import describe_not_run

ROOT = Path(__file__).parents[3]
REASON = "no browser"


def test_skipped_tests_are_counted_by_file_and_reason(tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    skips = [("tests/a.py", REASON), ("tests/b.py", "no GPU"), ("tests/a.py", REASON)]
    assert describe_not_run(skips, note) == [
        "2 tests of tests/a.py: no browser",
        "1 test of tests/b.py: no GPU",
    ]
    assert describe_not_run([], note) == []
    assert describe_not_run([], note, ["slow", "gpu", "slow"]) == [
        "1 gpu test not run: make gpu",
        "2 slow tests not run: make slow",
    ]
    note.write_text("audit: skipped: no advisory data\n")
    assert describe_not_run([], note) == ["audit: skipped: no advisory data"]


def test_the_end_of_a_test_run_names_what_did_not_run(pytester_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_skipped.py"],
        cwd=pytester_folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert "1 test of test_skipped.py: no browser" in lines[-4:], done.stdout + done.stderr
    assert "2 slow tests not run: make slow" in lines[-4:], done.stdout + done.stderr


@pytest.fixture
def pytester_folder(tmp_path: Path) -> Path:
    """A test that is skipped, with the hook of this project."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "not_run.py", tmp_path / "tests")
    hook = (ROOT / "tests" / "conftest.py").read_text()
    hook = hook[hook.index("def pytest_terminal_summary") :]
    (tmp_path / "conftest.py").write_text(
        f"import pytest\nfrom tests.not_run import LEFT_OUT, describe_not_run\n{hook}"
    )
    (tmp_path / "test_skipped.py").write_text(
        "import pytest\ndef test_a():\n    pytest.skip('no browser')\ndef test_b():\n    pass\n"
        "@pytest.mark.slow\n@pytest.mark.parametrize('x', [1, 2])\ndef test_c(x):\n    pass\n"
    )
    markers = "[pytest]\nmarkers = slow: takes long\naddopts = -m 'not slow'\n"
    (tmp_path / "pytest.ini").write_text(markers)
    return tmp_path


def install_browser(folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/browser with a PATH of these programs and the few that every system has."""
    for name in ("bash", "env", "mktemp", "rm", "tail"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, script in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return subprocess.run(
        [str(ROOT / ".ci" / "browser")],
        env={"PATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ({"chromium": "", "chromedriver": "", "apt_get": "echo wrong >&2; exit 1"}, ""),
        ({}, "no apt-get"),
        ({"apt_get": "", "id": "echo 1000"}, "sudo apt-get install chromium chromium-driver"),
        ({"apt_get": "", "id": "echo 0"}, "installed chromium chromium-driver"),
        ({"apt_get": "echo no network; exit 100", "id": "echo 0"}, "apt-get failed (no network)"),
        # A browser without its driver is not enough.
        ({"chromium": "", "apt_get": "", "id": "echo 0"}, "installed chromium chromium-driver"),
    ],
)
def test_the_browser_is_installed_or_it_is_said_why_not(
    programs: dict[str, str], expected: str, tmp_path: Path
) -> None:
    done = install_browser(tmp_path, **programs)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout
    assert bool(done.stdout) == bool(expected)
