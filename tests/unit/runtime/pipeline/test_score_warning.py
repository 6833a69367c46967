"""The warning of a deployed model counts F1 of the class that the task names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.score_warning import _read_predictions
from raycomp.storage.files import write_array
from raycomp.storage.layout import RunLayout


def test_saved_outputs_get_the_positive_class_of_the_task(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    labels = np.array([0, 1, 1, 1])
    write_array(layout.predictions("labels", "validation"), labels)
    write_array(layout.predictions("yoco-half", "validation"), np.eye(2)[[1, 1, 1, 1]])
    context = SimpleNamespace(
        validation_names=lambda: ["validation"], layout=layout, facts=SimpleNamespace(positive=0)
    )

    predictions = _read_predictions(cast(RunContext, context), "yoco-half")

    assert predictions is not None
    # No row is given the class 0, which the task calls positive.
    assert predictions.value("f1") == 0.0
