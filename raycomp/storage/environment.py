"""The versions that results depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("raycomp", "torch", "ray", "transformers", "datasets", "numpy", "pandas", "plotly")


def describe_environment() -> dict[str, str]:
    """Return the versions of Python and of the packages, the system, and the number of CPUs.

    Nothing is imported for it. A package that is not installed is left out.
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {**found, "system": platform.platform(), "CPUs": f"{os.cpu_count()} ({usable} usable)"}
