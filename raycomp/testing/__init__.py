"""Conformance suites that test the methods of raycomp and of other packages."""

from raycomp.testing.local_run import LocalRun
from raycomp.testing.methods import check_method

__all__ = ["LocalRun", "check_method"]
