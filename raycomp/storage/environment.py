"""Versions and hardware that results depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("raycomp", "torch", "ray", "transformers", "datasets", "numpy", "pandas", "plotly")


def describe_environment() -> dict[str, str]:
    """Return the versions of Python and of PACKAGES, the operating system, and the number of CPUs.

    The packages are not imported. A package that is not installed is left out.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue

    return {
        **versions,
        "system": platform.platform(),
        "CPUs": f"{os.cpu_count()} ({_num_usable_cpus()} usable)",
    }


def _num_usable_cpus() -> int | None:
    """Return the number of CPUs that this process may use; all CPUs where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
