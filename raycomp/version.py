"""The version of the installed package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("raycomp")
except PackageNotFoundError:
    # The source tree was never installed.
    VERSION = "0+unknown"
