"""Wall times of a run's stages, kept in the run directory: the `cost` rows of a study."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raycomp.runtime.cluster.progress import Progress, Update
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout


class StageTimer(Progress):
    """A silent progress display that records how long each stage takes.

    A stage is one progress bar of a run, such as "super-network" or "search". The file names the stage
    that runs now (`now`) and the wall seconds of each finished stage (`seconds`). Time that an
    interrupted start spent on a stage is not counted.

    Args:
        run_dir: Run directory whose stages are timed.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(enabled=False)
        self._run_dir = run_dir
        self._path = RunLayout(run_dir).timings

    def block(self, title: str, lines: Sequence[str]) -> None:
        """Print nothing: the study has printed the block before its first run."""

    @contextmanager
    def bar(self, name: str) -> Iterator[Update]:
        """Time the block as stage `name`; a second block of the same name adds to the first."""
        started = time.perf_counter()
        seconds = read_stage_seconds(self._run_dir)
        write_json(self._path, {"now": name, "seconds": seconds})

        yield lambda done, total, info: None

        elapsed = time.perf_counter() - started
        seconds[name] = seconds.get(name, 0.0) + elapsed
        write_json(self._path, {"now": "", "seconds": seconds})


def read_stage_seconds(run_dir: Path) -> dict[str, float]:
    """Return the wall seconds of each finished stage; empty if the run was not timed."""
    try:
        return dict(json.loads(RunLayout(run_dir).timings.read_text())["seconds"])
    except (OSError, ValueError, KeyError):
        return {}


def read_current_stage(run_dir: Path) -> str:
    """Return the stage that the run is in; an empty text if none is running or the run was not timed."""
    try:
        return str(json.loads(RunLayout(run_dir).timings.read_text())["now"])
    except (OSError, ValueError, KeyError):
        return ""
