"""Runs as pandas frames, Pareto fronts, and one HTML page that needs no network."""

from raycomp.report.ablation import ablation_table
from raycomp.report.loading import load_tables
from raycomp.report.page import write_report
from raycomp.report.pareto_front import find_pareto_front
from raycomp.report.study_results import load_study_results

__all__ = ["ablation_table", "find_pareto_front", "load_study_results", "load_tables", "write_report"]
