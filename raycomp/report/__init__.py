"""Runs as pandas frames, Pareto fronts, and one HTML page that needs no network."""

from raycomp.report.front import pareto
from raycomp.report.load import load
from raycomp.report.page import write_report
from raycomp.report.studies import ablation_table, load_study

__all__ = ["ablation_table", "load", "load_study", "pareto", "write_report"]
