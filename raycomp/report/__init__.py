"""Runs as pandas frames, Pareto fronts, and one HTML page that needs no network."""

from raycomp.report.front import pareto
from raycomp.report.load import load
from raycomp.report.page import write_report

__all__ = ["load", "pareto", "write_report"]
