"""One deployed model of a run: its figures, and the model itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycomp.storage.files import read_json

if TYPE_CHECKING:
    from raycomp.api.run import Run


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
        """Median time of one sequence on the machine of the run, in milliseconds."""
        return float(self.figures["latency_ms"])

    def save(self, folder: str | Path) -> Path:
        """Write the model to a new directory that plain transformers loads.

        The model is extracted again from the trained weights and compared with them, as by
        `raycomp export`.

        Args:
            folder: New or empty directory.

        Returns:
            The directory.

        Raises:
            UserError: The directory is not empty, or the data or the tokenizer of the run cannot be
                read.
        """
        self.export(folder)
        return Path(folder)

    def export(self, folder: str | Path) -> dict[str, Any]:
        """Write the model as `save` does, and return the result of the comparison.

        Args:
            folder: New or empty directory.

        Returns:
            `out`, `arch`, `params` counted on the model that was loaded back, and `parity`: the largest
            difference between its logits and those of the trained network.

        Raises:
            UserError: As `save`.
        """
        from raycomp.runtime.pipeline.reexport import export_budget

        # Several methods can have a budget of this name.
        name = f"{self.method}-{self.budget}"
        return export_budget(self.run.local_directory(), name, Path(folder))

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


def load_export(directory: Path) -> Any:
    """Return an exported model as a transformers model in evaluation mode.

    Args:
        directory: Directory that raycomp exported.

    Raises:
        UserError: config.json is damaged.
    """
    from transformers import AutoModelForSequenceClassification

    from raycomp.encoder.static_model import RaycompForSequenceClassification
    from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification

    # The installed classes, not the copies of their code in the directory: a run directory may come from
    # somebody else, and its code is not to be trusted.
    classes: dict[str, Any] = {
        "raycomp": RaycompForSequenceClassification,
        "raycomp_cnn": RaycompCnnForSequenceClassification,
    }
    model_type = read_json(directory / "config.json").get("model_type")
    model_class = classes.get(str(model_type), AutoModelForSequenceClassification)
    return model_class.from_pretrained(str(directory), local_files_only=True).eval()  # nosec B615


def load_export_tokenizer(directory: Path) -> Any:
    """Return the tokenizer of an exported model; code in the directory is not executed.

    Args:
        directory: Directory that raycomp exported.
    """
    from transformers import AutoTokenizer, PretrainedConfig

    with tempfile.TemporaryDirectory() as copy:
        # The model's config.json names code in its directory, and transformers would ask the user whether
        # to execute it, also for the tokenizer. A directory with the tokenizer only does not name code.
        for file in directory.glob("*.json"):
            if not file.name.startswith(("config", "certificate", "model")):
                shutil.copyfile(file, Path(copy) / file.name)
        tokenizer = AutoTokenizer.from_pretrained(  # nosec B615
            copy, config=PretrainedConfig(), local_files_only=True, trust_remote_code=False
        )
    tokenizer.name_or_path = str(directory)
    return tokenizer
