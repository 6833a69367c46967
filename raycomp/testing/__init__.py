"""Conformance suites, for the methods of raycomp and of other packages."""

from raycomp.testing.methods import LocalRun, check_method

__all__ = ["LocalRun", "check_method"]
