"""Ray Train with only the helper processes that raycomp's trainings need.

Ray Train starts three helper processes for each training, in addition to its controller and workers.
Each of them, and the controller, imports Ray Train, and the controller imports torch. On two cores these
imports take longer than the start of the worker (`python -m benchmarks.fit_start`).
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raycomp.runtime.cluster.connect import is_own_cluster

DATASETS = "DatasetsCallback"
"""Starts an actor that splits Ray Data's data sets; raycomp's workers read the run directory."""

PLACEMENT_GROUPS = "PlacementGroupCleanerCallback"
"""Starts an actor that returns the workers' resources if the controller is killed.

A cluster that ends with this process needs none.
"""


class _FewHelpers(DataParallelTrainer):
    """Leaves out helpers of Ray Train.

    The method is private in Ray. If a version of Ray lacks it, all helpers start as usual.
    """

    def _create_default_callbacks(self) -> list[Any]:
        unused = {DATASETS, PLACEMENT_GROUPS} if is_own_cluster() else {DATASETS}
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in unused]


class GroupTrainer(_FewHelpers, TorchTrainer):
    """Trains with a process group: several workers, or GPUs."""


class SingleTrainer(_FewHelpers):
    """Trains with one worker on CPUs, which needs no process group: the controller imports no torch."""
