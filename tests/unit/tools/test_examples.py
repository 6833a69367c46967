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
from tests.check_all import check_all
from tests.fences import split_fences
from tests.unit.tools.example_calls import CallChecker

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


def named(program: str, *sources: Callable[[Path], Iterable[str]]) -> list[tuple[str, str]]:
    """Return the commands of all pages that start with a program, each with its page and line."""
    return [
        (f"{page_id(page)}: {line}", line)
        for page in PAGES
        for source in sources
        for line in dict.fromkeys(source(page))
        if line.startswith(program)
    ]


def command_of(line: str) -> tuple[Any, list[str]]:
    """Return the command that a line starts, and its words."""
    name, *words = shlex.split(line, comments=True)[1:]
    assert name in COMMANDS, f"{name} is not a command"
    return COMMANDS[name], words


def parse_command(line: str) -> None:
    command, words = command_of(line)
    command.make_context(command.name, words)  # raises if an option or argument is wrong


def check_options(line: str) -> None:
    if line == "raycomp --help":
        return
    command, words = command_of(line)
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        if word.strip("[]").startswith("--"):
            assert word.strip("[]") in options, word


def check_target(line: str) -> None:
    target = shlex.split(line, comments=True)[1]
    pattern = rf"^([\w-]+ )*{target}( [\w-]+)*:"
    assert re.search(pattern, (ROOT / "Makefile").read_text(), re.MULTILINE), target


def check_script(line: str) -> None:
    words = line.split()
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None, words[2]
    elif words[1] != "-c":
        assert (ROOT / words[1]).is_file(), words[1]
    for word in words[2:]:
        if word.startswith("jobs/"):
            assert (ROOT / word).is_file(), word


def test_commands_can_be_parsed() -> None:
    check_all(named("raycomp ", full_commands), parse_command)


def test_mentioned_commands_have_their_options() -> None:
    check_all(named("raycomp ", mentioned_commands), check_options)


def test_make_targets_exist() -> None:
    check_all(named("make ", full_commands, mentioned_commands), check_target)


def test_scripts_and_modules_exist() -> None:
    check_all(named("python ", full_commands, mentioned_commands), check_script)


def check_toml(page: Path, folder: Path) -> None:
    for block in blocks(page, "toml"):
        if "project" in tomllib.loads(block):  # a part of another package's pyproject.toml
            continue
        path = folder / "block.toml"
        path.write_text(block)
        if is_study_file(path):
            load_study_file(path, [])
        else:
            load_job(path, [])


def check_python(page: Path) -> None:
    checker = CallChecker()
    # Pages begin with the import once.
    checker.visit(ast.parse("import raycomp"))
    for block in blocks(page, "python"):
        # A block may be one entry of a dict.
        source = f"{{{block}}}" if block.startswith('"') else block
        checker.visit(ast.parse(source))
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


def check_links(page: Path) -> None:
    text = prose(page)
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r'(?:src|srcset)="([^":]+)"', text):
        assert (page.parent / target).exists(), target
    files = re.findall(r"`((?:raycomp|jobs|benchmarks|tools|tests|docs|cluster)/[\w./-]+\.\w+)`", text)
    for name in files:
        assert (ROOT / name).exists(), name


NAMED_PAGES = [(page_id(page), page) for page in PAGES]


def test_toml_blocks_are_job_files_or_studies(tmp_path: Path) -> None:
    check_all(NAMED_PAGES, lambda page: check_toml(page, tmp_path))


def test_python_blocks_compile_and_import_what_exists() -> None:
    check_all(NAMED_PAGES, check_python)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raycomp.compress('m', data='d', budget_list={})", "no argument budget_list"),
        ("raycomp.open_run('runs/x', 1, 2, 3, 4)", "too many positional arguments"),
        ("run = raycomp.open_run('runs/x')\nrun.best('params < 1').store('f')", "lacks store"),
        ("run = raycomp.open_run('runs/x')\nrun.report(folder='f')", "unexpected keyword|no argument"),
        ("raycomp.open_run('runs/x').deployment_table", "Run lacks deployment_table"),
    ],
)
def test_a_call_that_does_not_fit_is_found(line: str, message: str) -> None:
    checker = CallChecker()
    with pytest.raises((AssertionError, TypeError), match=message):
        checker.visit(ast.parse(f"import raycomp\n{line}"))


def test_the_pages_about_python_have_calls_that_are_checked() -> None:
    for page in (ROOT / "docs" / "how-to" / "python.md", ROOT / "docs" / "reference" / "python.md"):
        checker = CallChecker()
        checker.visit(ast.parse("import raycomp\n" + "\n".join(blocks(page, "python"))))
        assert checker.num_checked >= 3


def test_the_walk_through_quotes_the_method_that_exists() -> None:
    source = (ROOT / "raycomp" / "methods" / "pkd.py").read_text()
    quoted = [
        block
        for block in blocks(ROOT / "docs" / "adding-a-method.md", "python")
        if block.startswith("class Pkd")
    ]
    assert len(quoted) == 2
    for block in quoted:
        assert block.strip() in source


def test_links_and_files_exist() -> None:
    check_all(NAMED_PAGES, check_links)


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
