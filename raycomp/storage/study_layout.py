"""The paths of a study directory, and the runs and studies below a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyLayout:
    """The paths of one study directory, `<storage>/<study name>-<identity>`.

    Attributes:
        path: The study directory. Its table `ablations` has the same place as in a run directory.
    """

    path: Path

    @property
    def study(self) -> Path:
        """Settings of the study and of each study run. A directory with this file is a study."""
        return self.path / "study.json"

    @property
    def runs(self) -> Path:
        """Directory of the run directories of all study runs."""
        return self.path / "runs"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def tune(self) -> Path:
        """Ray Tune's directory."""
        return self.path / "tune"


def find_runs(storage: Path) -> list[Path]:
    """Return the run directories directly below a directory, by name."""
    return sorted(path.parent for path in storage.glob("*/job.json"))


def find_studies(storage: Path) -> list[Path]:
    """Return the study directories directly below a directory, by name."""
    return sorted(path.parent for path in storage.glob("*/study.json"))
