"""The layout of the package, and the figures of its style, which may only improve."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycomp.methods.registry import METHODS
from raycomp.storage import layout, method_layout, study_layout
from tools.style_figures import LIMITS, ROOT, Limit, count_files, exceeded_limits, parse_module

# Their students are models of transformers from the start.
TEXT_MODELS = {"bilstm", "static"}

MODULES = sorted((ROOT / "raycomp").rglob("*.py"))
LAYOUT_MODULES = [layout, method_layout, study_layout]

# Literals of paths that other modules still have. The number may only fall.
MAX_PATH_LITERALS = 2


@functools.cache
def package_figures() -> dict[str, float]:
    return count_files([ROOT / "raycomp"]).figures()


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(parse_module(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def imported_with(path: Path) -> Iterator[str]:
    """Names of the modules that a module imports at once: not in functions, and not for types only."""
    statements: list[ast.stmt] = list(parse_module(path).body)
    while statements:
        node = statements.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            statements += [*node.body, *node.orelse]


def loaded_packages(module: str) -> set[str]:
    """Names of all packages, and of raycomp's modules, that a process loads with a module."""
    loaded: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = ROOT / f"{name.replace('.', '/')}.py"
        if name in loaded or not name.startswith("raycomp"):
            loaded.add(name.partition(".")[0])
        elif path.exists():
            loaded.add(name)
            waiting += imported_with(path)
    return loaded


def layout_file_names() -> set[str]:
    """Names of the files that the layout classes know, such as "job.json"."""
    names = set()
    for module in LAYOUT_MODULES:
        for _, cls in inspect.getmembers(module, dataclasses.is_dataclass):
            paths = cls(Path("run"))
            for name, member in inspect.getmembers(cls):
                if isinstance(member, property):
                    value = getattr(paths, name)
                    if isinstance(value, Path) and value.suffix:
                        names.add(value.name)
    return names


def path_literals(path: Path, names: set[str]) -> Iterator[str]:
    for node in ast.walk(parse_module(path)):
        if isinstance(node, ast.Constant) and node.value in names:
            yield f"{relative(path)}:{node.lineno} {node.value}"


def test_no_module_has_more_than_330_lines() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 330} == {}


def test_the_median_module_is_short_and_not_a_fragment() -> None:
    assert 80 <= package_figures()["median module, lines"] <= 180


def test_ray_is_imported_only_below_runtime() -> None:
    importers = [
        relative(path)
        for path in MODULES
        if "ray" in imported_packages(path) and not relative(path).startswith("raycomp/runtime/")
    ]
    assert importers == []


@pytest.mark.parametrize("method", [name for name in METHODS if name not in TEXT_MODELS])
def test_a_worker_of_a_training_imports_only_what_it_needs(method: str) -> None:
    """Each worker of each training would pay for these imports: transformers takes seconds."""
    path, _ = METHODS[method][1].split(":")
    packages = loaded_packages(path) | loaded_packages("raycomp.runtime.training.worker")
    assert {"torch", "raycomp.methods.tasks"} <= packages
    assert packages.isdisjoint({"transformers", "scipy", "sklearn", "plotly", "datasets"})


def test_an_evaluator_imports_only_what_it_needs() -> None:
    packages = loaded_packages("raycomp.runtime.scoring.evaluators")
    assert {"torch", "raycomp.data.tokens"} <= packages
    assert packages.isdisjoint({"pandas", "transformers", "scipy", "sklearn", "plotly", "datasets"})


def test_file_names_of_a_run_directory_are_in_the_layout_modules() -> None:
    names = layout_file_names()
    assert {"job.json", "study.json", "sampler.json", "structure.json"} <= names
    own = {Path(str(module.__file__)) for module in LAYOUT_MODULES}
    literals = [literal for path in MODULES if path not in own for literal in path_literals(path, names)]
    assert len(literals) <= MAX_PATH_LITERALS, literals


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.figure)
def test_a_figure_of_style_is_within_its_limit(limit: Limit) -> None:
    figures = package_figures()
    assert limit.is_met_by(figures[limit.figure]), figures


SOURCE = """
def find(rows):
    found = rows[0] if rows else None
    a, b = 1, 2
    # Why.
    return found, a, b


def long_name():
    return 1  # noqa
"""


def test_the_counts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    counts = count_files([path])
    assert (counts.functions, counts.comments, counts.code_lines) == (2, 1, 6)
    assert counts.one_word_functions == [f"{path}:2 find"]
    assert counts.empty_names == [f"{path}:3 found"]
    assert (counts.conditional_expressions, counts.packed_assignments) == (1, 1)


def test_a_figure_beyond_its_limit_has_a_message() -> None:
    figures = {limit.figure: limit.value for limit in LIMITS}
    assert exceeded_limits(figures) == []
    figures["names without information"] += 1
    (message,) = exceeded_limits(figures)
    assert "may only fall" in message


def test_each_method_is_in_the_rule_that_methods_do_not_import_each_other() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (rule,) = (contract for contract in contracts if contract["type"] == "independence")
    # A method is a module or a package directly below raycomp.methods.
    modules = [".".join(paths[1].partition(":")[0].split(".")[:3]) for paths in METHODS.values()]
    assert rule["modules"] == modules
