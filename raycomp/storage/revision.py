"""The revision of the rules by which a run divides its data and derives its seeds.

A rule that changes results gets a new revision. A run keeps the revision that it started with: it then
resumes with the same rows and the same draws.

Revision 1: rows of equal text stay in one split. The validation rows of a task without a validation split
depend on `run.seed`. AdaBERT's seeds share the order of batches and the dropout masks, and its probe loss
is not multiplied by T^2. Importance is measured on training rows. A child that is not trained keeps the
parent's running statistics.

Revision 2: related texts stay in one split, and the validation rows do not depend on `run.seed`. Each of
AdaBERT's seeds has its own order of batches and masks. Both distillation terms are multiplied by T^2.
Importance is measured on selection rows. A child that is not trained has its running statistics measured
again.

Revision 3: each round of healing continues with the training rows that follow those of the round before.
In earlier revisions, each round begins with the same rows.
"""

from __future__ import annotations

from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

FIRST_REVISION = 1
SECOND_REVISION = 2
LATEST_REVISION = 3


def read_revision(layout: RunLayout) -> int:
    """Return the revision of a run; the latest one where no run has started in this directory.

    Args:
        layout: Paths of the run directory.
    """
    if layout.inputs.exists():
        return int(read_json(layout.inputs).get("revision", FIRST_REVISION))
    # Runs before `inputs.json` existed have a job.
    return FIRST_REVISION if layout.job.exists() else LATEST_REVISION
