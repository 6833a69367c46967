"""The script that starts a submitted job: which Python it finds, and what it says where packages lack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from raycomp.runtime.cluster import submission
from raycomp.runtime.cluster.connect import ray

ROOT = Path(__file__).parents[4]
SCRIPT = Path(submission.__file__).with_name(submission.START_SCRIPT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory of a job, with a command that prints its interpreter."""
    main = tmp_path / "job" / "raycomp" / "cli" / "main.py"
    main.parent.mkdir(parents=True)
    main.write_text("import sys\nprint(sys.argv[1:], sys.executable)\n")
    shutil.copy(SCRIPT, tmp_path / "job" / SCRIPT.name)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "sed", "head"):
        (tools / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as Ray does, with a PATH that has no Python of its own."""
    return subprocess.run(
        command,
        shell=True,
        cwd=folder / "job",
        env={"PATH": str(folder / "bin"), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def put_python(folder: Path, *packages: str) -> None:
    """Put a python3 on the PATH that has some empty packages and no others."""
    for name in packages:
        (folder / "site" / name).mkdir(parents=True)
        (folder / "site" / name / "__init__.py").write_text("")
    script = f'#!/bin/sh\nPYTHONPATH={folder / "site"} exec {sys.executable} -S "$@"\n'
    (folder / "bin" / "python3").write_text(script)
    (folder / "bin" / "python3").chmod(0o755)


def test_a_job_runs_with_the_python_of_the_ray_that_starts_it(folder: Path) -> None:
    """This process has loaded ray, as Ray's own has, and its Python is not on the PATH."""
    assert ray.__version__
    done = run(folder, submission.ENTRYPOINT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"['run-request'] {Path(sys.prefix) / 'bin' / 'python'}\n"


NOT_A_CHILD_OF_RAY = f"sh {SCRIPT.name}; exit $?"


def test_a_head_node_without_any_python_with_ray_says_so(folder: Path) -> None:
    put_python(folder, "torch")
    done = run(folder, NOT_A_CHILD_OF_RAY)
    assert done.returncode == 2
    assert "Error: No Python on the head node can import ray" in done.stderr
    assert "Traceback" not in done.stderr


def test_packages_that_lack_are_named_before_the_job_starts(folder: Path) -> None:
    put_python(folder, "ray", "torch", "numpy")
    done = run(folder, NOT_A_CHILD_OF_RAY)
    assert done.returncode == 2
    assert done.stdout == ""
    lacking = re.search(r"lacks: (.*)\. Install", done.stderr)
    assert lacking is not None
    names = set(lacking[1].split(", "))
    assert {"scikit-learn", "transformers", "typer"} <= names
    assert not {"ray", "torch", "numpy", "raycomp"} & names
    assert "Traceback" not in done.stderr


def test_the_script_checks_every_package_that_raycomp_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[>=<]", name)[0] for name in project["dependencies"]}
    table = re.search(r"packages = \{(.*?)\}", SCRIPT.read_text(), re.DOTALL)
    assert table is not None
    pairs = re.findall(r'"([^"]+)": "([^"]*)"', table[1])
    assert {package or name for name, package in pairs} == needed | {"raycomp"}


def test_a_package_of_raycomp_has_the_script() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert f"**/*{SCRIPT.suffix}" in package["raycomp"]
    assert os.access(SCRIPT, os.R_OK)
