"""What healing changed in a study: selection scores of each super-network's choice before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from raycomp.methods.registry import load_settings
from raycomp.report.formatting import format_score, is_finite_number
from raycomp.report.study_results import StudyResults, as_study_results
from raycomp.report.text_table import TextTable

STAGES = ("inherited", "healed")
"""Values of column `stage` of table `ablations` for rows of kind "healing"."""

COLUMNS = ("variant", "task", "budget", *STAGES, "seeds")


def list_healing_rows(deployment: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Return the selection scores of a deployed sub-network, inherited and healed: rows of `ablations`.

    Args:
        deployment: A row of table `deployments`.

    Returns:
        No row for a model that is not a sub-network; no "healed" for one that was not healed.
    """
    if "heal" not in load_settings(str(deployment["method"])).shared_sections:
        return []
    values = {name: deployment.get(name) for name in STAGES}
    if not is_finite_number(values["healed"]):
        values = {"inherited": deployment["selection"]}

    common = {name: deployment[name] for name in ("budget", "method", "metric")}
    return [{"kind": "healing", **common, "stage": name, "value": v} for name, v in values.items()]


def healing_table(study: str | Path | StudyResults) -> pd.DataFrame:
    """Return the mean selection scores of each super-network's choice, with inherited weights and healed.

    Args:
        study: A study, or its directory.

    Returns:
        Columns COLUMNS; means over the seeds. Empty for studies of versions without these rows.
    """
    results = as_study_results(study)
    frame = results.frame[results.frame["kind"] == "healing"]
    table = []
    for (task, variant, budget), rows in frame.groupby(["task", "variant", "budget"], sort=False):
        means = rows.groupby("stage")["value"].mean().reindex(list(STAGES))
        seeds = rows["seed"].nunique()

        scores: dict[str, Any] = {stage: means[stage] for stage in STAGES}
        names = {"variant": variant, "task": task, "budget": budget}
        table.append({**names, **scores, "seeds": seeds})
    return pd.DataFrame(table, columns=list(COLUMNS))


def build_healing_tables(study: StudyResults) -> list[TextTable]:
    """Return the table as text; none where no sub-network was healed."""
    table = healing_table(study)
    if table["healed"].isna().all():
        return []

    body = [
        [
            *(str(row[name]) for name in ("variant", "task", "budget")),
            *(format_score(row[name]) for name in STAGES),
            str(row["seeds"]),
        ]
        for row in table.to_dict("records")
    ]

    title = (
        "Sub-networks before and after healing (selection split, mean over seeds). An empty cell is a "
        "network that is not healed."
    )
    return [TextTable(title, list(COLUMNS), body, named=3)]
