"""Runs as pandas frames, Pareto fronts, and one HTML page that needs no network."""

from raycomp.report.loading import load
from raycomp.report.page import write_report
from raycomp.report.pareto_front import pareto
from raycomp.report.study_results import ablation_table, load_study_results

__all__ = ["ablation_table", "load", "load_study_results", "pareto", "write_report"]
