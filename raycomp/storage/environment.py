"""Versions and hardware that results depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from raycomp.storage.machine_limits import usable_cpus

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
        "CPUs": f"{os.cpu_count()} ({usable_cpus()} usable)",
    }
