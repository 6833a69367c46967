"""The cost of a deployed model, and the files that were measured before its deployment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from raycomp.deployment.format_settings import RUNTIME_FILES
from raycomp.encoder.architecture import Architecture
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext


def find_cost(context: RunContext, deployable: Deployable, counts: Mapping[str, float]) -> float:
    """Return what the budget limits: counted, measured, or computed from the architecture."""
    if deployable.kind in counts:
        return counts[deployable.kind]
    if deployable.cost is not None:
        return deployable.cost
    for budget in context.job.budget:
        if (budget.name, budget.kind) == (deployable.budget, deployable.kind):
            return context.budget(budget).cost(Architecture.from_json(str(deployable.arch)))
    # AdaBERT's settings are not limits.
    return counts["params"]


def add_measured_files(deployable: Deployable, out: Path) -> None:
    """Copy the files of other runtimes that were measured into the export."""
    if deployable.measured_files is None:
        return
    # The file that was measured is the one that is deployed: it is not converted again.
    for file in RUNTIME_FILES.values():
        # OpenVINO has its weights in a second file.
        for part in (file, file.with_suffix(".bin")):
            source = deployable.measured_files / part
            if source.exists():
                (out / part).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, out / part)
