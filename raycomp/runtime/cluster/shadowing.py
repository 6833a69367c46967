"""Files of the user that hide a package from Ray's workers.

Ray puts the working directory on the path of every worker. A file safetensors.py next to the job is then
imported in place of the package, and the worker fails with an error that does not name the file.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from raycomp.errors import shown

PACKAGES = (
    "datasets",
    "huggingface_hub",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "ray",
    "safetensors",
    "scipy",
    "sklearn",
    "tensorboardX",
    "tokenizers",
    "torch",
    "transformers",
)
"""Packages that workers import, also where the driver has not imported them yet."""


def find_shadowing_files(folder: Path) -> list[str]:
    """Return one message for each file or package in a directory that hides a package from workers.

    Args:
        folder: The working directory.
    """
    messages = []
    # Only packages that workers import: a file json.py does no harm, because they have imported json.
    for name in sorted(_names_in(folder) & {*PACKAGES, *_imported_packages()}):
        path = folder / f"{name}.py"
        if not path.exists():
            path = folder / name / "__init__.py"
        if _is_that_package(name, path):
            continue
        messages.append(
            f"{shown(str(path))} hides the package {name} from Ray's workers, because Ray puts the "
            "working directory on their path. Rename it, or start raycomp in another directory."
        )
    return messages


def _names_in(folder: Path) -> set[str]:
    """Return the names under which Python imports what is in a directory."""
    try:
        modules = {path.stem for path in folder.glob("*.py")}
        return modules | {path.parent.name for path in folder.glob("*/__init__.py")}
    except OSError:
        return set()


def _imported_packages() -> set[str]:
    """Return the packages that this process has imported from site-packages."""
    names = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and file and "site-packages" in Path(file).parts:
            names.add(name)
    return names


def _is_that_package(name: str, path: Path) -> bool:
    """Return whether this process itself imports the package from this file."""
    # Some packages put an object in their place that lacks a spec, so the file is asked for first.
    imported = getattr(sys.modules.get(name), "__file__", None)
    if imported and Path(imported).resolve() == path.resolve():
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    return Path(spec.origin).resolve() == path.resolve()
