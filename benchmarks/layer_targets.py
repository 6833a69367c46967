"""Which hidden states of the teacher a sub-network is asked to equal: values of `train.distill`.

    python -m benchmarks.recipe jobs/quickstart.toml --set task.validation_half=a \\
        --set train.distill=benchmarks.layer_targets:IDENTITY

`hidden`, the default, gives a sub-network of n of L layers the teacher's states 0, L/n, 2L/n, ..., L
(rounded up). A layer that sub-networks of several depths share is then asked to equal several layers of
the teacher. Here are the two other choices; both also learn from the labels and from the teacher's
predictions, as `hidden` does.
"""

from __future__ import annotations

from collections.abc import Sequence

from raycomp.training.hints import Hidden, Labels, Logits, Objective


def last_state(layers: Sequence[int], teacher_layers: int) -> list[tuple[int, int]]:
    """Pair only the last states of student and teacher."""
    return [(len(layers), teacher_layers)]


IDENTITY = Objective(((1.0, Labels()), (1.0, Logits()), (1.0, Hidden(map="same"))))
"""The first layers, as they are: state i of a sub-network equals state i of the teacher."""

LAST = Objective(((1.0, Labels()), (1.0, Logits()), (1.0, Hidden(map=last_state))))
"""The output of the last layer equals that of the teacher's last layer; layers below it are free."""
