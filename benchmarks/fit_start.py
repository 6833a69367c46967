"""Seconds from `fit` to the training function: raycomp's trainers against Ray Train's own.

    python -m benchmarks.fit_start [--runs 5]

Each training has one worker on CPUs and a function that notes the time. Three trainers take turns on a
cluster of this machine: Ray Train's `TorchTrainer`, raycomp's trainer of several workers, and raycomp's
trainer of one worker. Printed are the seconds until the function runs, those of the whole training, and
the ratio of the first to Ray Train's. Takes about three minutes on two cores.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from raycomp.runtime.cluster.connect import connect

# raycomp.runtime.cluster.connect sets variables that Ray reads when it is imported.
import ray  # isort: skip
from ray.train import RunConfig, ScalingConfig  # isort: skip
from ray.train.torch import TorchTrainer  # isort: skip
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # isort: skip

from benchmarks.measure import RUNS, PairedFigures, make_parser, measure_in_turns
from raycomp.runtime.cluster.capacity import share_cpus
from raycomp.runtime.training.light_trainer import GroupTrainer, SingleTrainer

TRAINERS: dict[str, type[DataParallelTrainer]] = {
    "Ray Train's TorchTrainer": TorchTrainer,
    "raycomp, several workers": GroupTrainer,
    "raycomp, one worker": SingleTrainer,
}


def main() -> None:
    """Train with each trainer in turns, and print a row for each."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    args = parser.parse_args()

    connect()
    with tempfile.TemporaryDirectory() as folder:
        starts = [FitStart(trainer, Path(folder)) for trainer in TRAINERS.values()]
        # The first training of a cluster also starts an actor that all share.
        starts[0].measure()
        figures = measure_in_turns([start.measure for start in starts], args.runs)
    ray.shutdown()

    for name, start, seconds in zip(TRAINERS, starts, figures, strict=True):
        whole = statistics.median(start.whole_seconds[-args.runs :])
        ratio = PairedFigures(seconds, figures[0]).ratio
        print(f"{name:<26} {statistics.median(seconds):5.1f} s  whole {whole:5.1f} s  ratio {ratio:.2f}")


class FitStart:
    """Trains with one kind of trainer.

    Attributes:
        whole_seconds: Seconds of each training.
    """

    def __init__(self, trainer: type[DataParallelTrainer], folder: Path) -> None:
        self._trainer = trainer
        self._folder = folder
        self.whole_seconds: list[float] = []

    def measure(self) -> float:
        """Train once; return the seconds until the training function ran."""
        name = f"{self._trainer.__name__}-{len(self.whole_seconds)}"
        mark = self._folder / f"{name}.txt"
        trainer = self._trainer(
            note_time,
            train_loop_config={"mark": str(mark)},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": share_cpus(1, 0)}),
            run_config=RunConfig(name=name, storage_path=str(self._folder)),
        )
        began = time.time()
        trainer.fit()
        self.whole_seconds.append(time.time() - began)
        return float(mark.read_text()) - began


def note_time(config: dict[str, Any]) -> None:
    """Write the time into a file."""
    Path(config["mark"]).write_text(repr(time.time()))


if __name__ == "__main__":
    main()
