"""One deployed model of a run: its figures, and the model itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycomp.errors import UserError
from raycomp.methods.exported_models import load_export, load_export_tokenizer

if TYPE_CHECKING:
    from raycomp.api.run import Run


TEACHER = "teacher"
"""Name of the teacher among the deployments of a run."""


@dataclass(frozen=True)
class Deployment:
    """One deployed model of a run.

    Attributes:
        run: The run.
        method: Compression method, such as "yoco".
        budget: Name of the budget.
        figures: The row of table `deployments`, by column.

    Example:
        >>> small = run.best("params < 12e6")  # doctest: +SKIP
        >>> model, tokenizer = small.load(), small.load_tokenizer()  # doctest: +SKIP
        >>> model(**tokenizer("A fine film.", return_tensors="pt")).logits  # doctest: +SKIP
    """

    run: Run
    method: str
    budget: str
    figures: dict[str, Any] = field(repr=False, compare=False)

    @property
    def params(self) -> int:
        """Number of parameters, counted on the exported model."""
        return int(self.figures["params"])

    @property
    def selection(self) -> float:
        """Score on the selection split, which was used for choices."""
        return float(self.figures["selection"])

    @property
    def validation(self) -> float:
        """Score on the validation split, which was never used for a choice."""
        return float(self.figures["validation"])

    @property
    def latency_ms(self) -> float:
        """Median time of one sequence in PyTorch (fp32) on the machine of the run, in milliseconds.

        The `latency_ms` of a budget limits the exported file in its runtime: `figures["cost"]`.
        """
        return float(self.figures["latency_ms"])

    def save(self, folder: str | Path, **options: Any) -> Path:
        """Write the model to a new directory that plain transformers loads.

        The model is extracted again from the trained weights and compared with them, as by
        `raycomp export`.

        Args:
            folder: New or empty directory.
            **options: Formats to write and how to measure them, as in `export`.

        Returns:
            The directory.

        Raises:
            UserError: The directory is not empty, or the data or the tokenizer of the run cannot be
                read.
        """
        self.export(folder, **options)
        return Path(folder)

    def export(
        self,
        folder: str | Path,
        *,
        formats: str | Sequence[str] = (),
        batches: Sequence[int] = (),
        lengths: Sequence[int] = (),
        threads: int = 0,
        limits: Sequence[str] = (),
        allow_code: bool = False,
    ) -> dict[str, Any]:
        """Write the model as `save` does, and return the result of the comparison.

        Args:
            folder: New or empty directory.
            formats: Formats to write and to measure, such as ("onnx", "int8", "plain").
            batches: Batch sizes to time; empty is 1 and 32. Without batches, lengths and threads, a model
                for a device is measured under the conditions of its budget.
            lengths: Tokens of a text to time; empty is the length of the task.
            threads: Threads of one operation; 0 is all CPUs.
            limits: Further limits, such as ["latency_ms=8"], at the first batch and length.
            allow_code: Whether to import the metric function that the run names, to score the files of
                the formats. If not, another metric of the run scores them. The import runs code: allow it
                for runs that you trust.

        Returns:
            `out`, `arch`, `params` counted on the model that was loaded back, and `parity`: the largest
            difference between its logits and those of the trained network. With formats also the other
            figures of the model's certificate.json.

        Raises:
            UserError: As `save`; or a format, batch, length or limit is not valid; or the only
                metric of the run is a function, and `allow_code` is False.
        """
        from raycomp.deployment.format_settings import read_format_settings
        from raycomp.runtime.pipeline.reexport import export_budget

        # Several methods can have a budget of this name.
        name = self.budget if self.method == TEACHER else f"{self.method}-{self.budget}"
        settings = None
        # A limit or a length asks for a measurement, also of the weights as transformers reads them.
        if formats or batches or lengths or threads or limits:
            settings = read_format_settings(
                formats, batches, lengths, threads, limits, allow_code=allow_code
            )

        return export_budget(self.run.local_directory(), name, Path(folder), settings)

    def predict(
        self,
        split: str = "test",
        *,
        data: str | Path | None = None,
        out: str | Path | None = None,
        say: Callable[[str], None] | None = None,
    ) -> list[Path]:
        """Write the predictions for rows without labels, as TSV with the columns index and prediction.

        Test splits of GLUE get the file names and labels of GLUE's server; MNLI has one file each for
        matched, mismatched and, where its rows exist, diagnostic rows.

        Args:
            split: Name of a split of the task or of the run.
            data: File with the text columns of the task; it replaces `split`.
            out: Directory of the files; None writes `predicted/METHOD-BUDGET` in the run directory.
            say: Function that shows one note about how the file was read, such as rows that are left
                out; None logs it as a warning.

        Returns:
            The files.

        Raises:
            UserError: The split or the file does not exist, or a text is missing.
        """
        from raycomp.api.prediction import predict_rows

        return predict_rows(self, split, data, out, say)

    def load(self) -> Any:
        """Return the model as a transformers model in evaluation mode.

        The code of the model is raycomp's own; code in the run directory is not executed.

        Raises:
            UserError: The files of the model are damaged or cannot be written again.
        """
        with self._directory() as directory:
            return load_export(directory)

    def load_tokenizer(self) -> Any:
        """Return the tokenizer of the model.

        Raises:
            UserError: The files of the model are damaged or cannot be written again.
        """
        with self._directory() as directory:
            return load_export_tokenizer(directory)

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        """Give the exported model's directory; where the run kept none, the model is exported again."""
        export = self.figures.get("export")
        run_dir = self.run.local_directory()
        if isinstance(export, str) and (run_dir / export / "config.json").exists():
            yield run_dir / export
            return

        with tempfile.TemporaryDirectory() as parent:
            directory = self.save(Path(parent) / "model")
            yield directory


def export_all(
    run: Run,
    folder: str | Path | None,
    *,
    formats: str | Sequence[str] = (),
    batches: Sequence[int] = (),
    lengths: Sequence[int] = (),
    threads: int = 0,
    limits: Sequence[str] = (),
    allow_code: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Write the teacher and the models of all budgets; see `Run.export`.

    Args:
        run: The run.
        folder: New or empty directory; None writes `models` in the run directory.
        formats: As in `Deployment.export`.
        batches: As in `Deployment.export`.
        lengths: As in `Deployment.export`.
        threads: As in `Deployment.export`.
        limits: As in `Deployment.export`.
        allow_code: As in `Deployment.export`.
        say: Function that shows one line about each finished model.

    Raises:
        UserError: The run is on a URL and no directory is named, or as `Run.export`.
    """
    from raycomp.deployment.format_settings import read_format_settings
    from raycomp.runtime.pipeline.reexport import export_family
    from raycomp.storage.layout import RunLayout

    settings = read_format_settings(formats, batches, lengths, threads, limits, allow_code=allow_code)
    if folder is None and run.url is not None:
        raise UserError(f"Run {run.url} is not on this machine. Name a directory for its models.")

    run_dir = run.local_directory()
    out = RunLayout(run_dir).models if folder is None else Path(folder)

    return export_family(run_dir, out, settings, say)
