"""The examples of README, documents and docstrings are executed as far as that takes seconds.

TOML blocks are job files or studies, commands exist with their options, Python blocks compile and their
imports exist, and docstring examples run. The integration tests run whole jobs.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import raycomp
from raycomp.cli.main import app
from raycomp.config.loader import load_job
from raycomp.config.study import is_study_file, load_study_file
from tests.fences import split_fences

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "SECURITY.md",
        ROOT / "benchmarks" / "README.md",
        ROOT / "examples" / "README.md",
        ROOT / "jobs" / "README.md",
        *(ROOT / "cluster").glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
)


COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language; "" is a block without one."""
    found, _ = split_fences(page.read_text(encoding="utf-8"))
    return [block for name, block in found if name == language]


def prose(page: Path) -> str:
    return split_fences(page.read_text(encoding="utf-8"))[1]


def full_commands(page: Path) -> Iterator[str]:
    """Yield the lines of a page's blocks without a language. They can be pasted into a shell."""
    for block in blocks(page, ""):
        yield from block.replace("\\\n", " ").splitlines()


def mentioned_commands(page: Path) -> list[str]:
    """Return the inline code of a page. A command there may lack its arguments."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def named(program: str, source: Callable[[Path], Iterable[str]]) -> list[Any]:
    """Return the commands of all pages that start with a program, as parameters of a test."""
    return [
        pytest.param(line, id=f"{page_id(page)}: {line[:50]}")
        for page in PAGES
        for line in dict.fromkeys(source(page))
        if line.startswith(program)
    ]


def command_of(line: str) -> tuple[Any, list[str]]:
    """Return the command that a line starts, and its words."""
    name, *words = shlex.split(line, comments=True)[1:]
    assert name in COMMANDS
    return COMMANDS[name], words


@pytest.mark.parametrize("line", named("raycomp ", full_commands))
def test_a_command_can_be_parsed(line: str) -> None:
    command, words = command_of(line)
    command.make_context(command.name, words)  # raises if an option or argument is wrong


@pytest.mark.parametrize("line", named("raycomp ", mentioned_commands))
def test_a_mentioned_command_has_its_options(line: str) -> None:
    if line == "raycomp --help":
        return
    command, words = command_of(line)
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        if word.strip("[]").startswith("--"):
            assert word.strip("[]") in options


@pytest.mark.parametrize("line", named("make ", full_commands) + named("make ", mentioned_commands))
def test_a_make_target_exists(line: str) -> None:
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^([\w-]+ )*{target}( [\w-]+)*:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", named("python ", full_commands) + named("python ", mentioned_commands))
def test_a_script_or_module_exists(line: str) -> None:
    words = line.split()
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None
    elif words[1] != "-c":
        assert (ROOT / words[1]).is_file()
    for word in words[2:]:
        if word.startswith("jobs/"):
            assert (ROOT / word).is_file(), word


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_toml_blocks_are_job_files_or_studies(page: Path, tmp_path: Path) -> None:
    for i, block in enumerate(blocks(page, "toml")):
        if "project" in tomllib.loads(block):  # a part of another package's pyproject.toml
            continue
        path = tmp_path / f"{i}.toml"
        path.write_text(block)
        if is_study_file(path):
            load_study_file(path, [])
        else:
            load_job(path, [])


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_blocks_compile_and_import_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        # A block may be one entry of a dict.
        source = f"{{{block}}}" if block.startswith('"') else block
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "raycomp":
                assert hasattr(raycomp, node.attr), node.attr


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_and_files_exist(page: Path) -> None:
    text = prose(page)
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r'(?:src|srcset)="([^":]+)"', text):
        assert (page.parent / target).exists(), target
    files = re.findall(r"`((?:raycomp|jobs|benchmarks|tools|tests|docs|cluster)/[\w./-]+\.\w+)`", text)
    for name in files:
        assert (ROOT / name).exists(), name


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(raycomp.__path__, "raycomp.")]
    return [name for name in names if not name.endswith("__main__")]


def test_examples_of_docstrings_run() -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    tried = 0
    for name in modules():
        path = importlib.util.find_spec(name)
        assert path is not None
        assert path.origin is not None
        if ">>>" not in Path(path.origin).read_text(encoding="utf-8"):
            continue
        for example in finder.find(importlib.import_module(name), name):
            tried += bool(example.examples)
            runner.run(example)
    assert tried > 0
    assert runner.failures == 0
