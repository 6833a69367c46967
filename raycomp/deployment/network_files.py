"""Networks with random weights as files of a runtime, each written once for all conditions."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from raycomp.deployment.cpu import needs_reduced_range
from raycomp.deployment.format_settings import (
    INT8_FILE,
    ONNX_FILE,
    OPENVINO_FILE,
    OPENVINO_INT8_FILE,
    WEIGHTS_FILE,
)
from raycomp.deployment.onnx_export import export_onnx
from raycomp.deployment.openvino_files import (
    convert_to_openvino,
    measure_size_mb,
    quantise_openvino,
    remove_file,
)
from raycomp.deployment.quantisation import Int8Form, find_operations, quantise
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.device_table import word_table_mb
from raycomp.encoder.export import write_network
from raycomp.encoder.layers import EncoderConfig
from raycomp.errors import UserError, first_line

STORED_MB = 4000.0
"""Size of the files that are kept for the next conditions. A network beyond it is written again."""

TABLE_ROWS = 4096
"""Rows of the word tables of networks that are timed: enough for 32 texts of 64 different tokens."""

SHORTEST_CHECK = 16
"""Fewest tokens of the longest text on which an exported file is compared with its network."""


class NetworkFiles:
    """Files of networks by runtime and architecture, in a folder that is removed at the end.

    Writing a file takes seconds, and timing it takes less. Thread counts, batches and lengths share it.

    Args:
        config: Shapes of the full network.
        longest: Tokens of the longest text that the files will read. Longer texts only take longer.

    Example:
        >>> with NetworkFiles(config, longest=64) as files:  # doctest: +SKIP
        ...     with files.open("onnxruntime", arch) as path:
        ...         session = open_session(path, threads=2)
    """

    def __init__(self, config: EncoderConfig, longest: int) -> None:
        self._config = config
        self._checked_tokens = min(config.max_positions, max(SHORTEST_CHECK, longest))
        self._folder = tempfile.TemporaryDirectory()
        self._stored: dict[tuple[str, Architecture, int], Path] = {}
        self._stored_mb = 0.0
        self._count = 0

    def __enter__(self) -> NetworkFiles:
        """Return the files."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    @contextmanager
    def open(self, runtime: str, arch: Architecture, *, has_all_rows: bool = False) -> Iterator[Path]:
        """Yield the file of a network; it can be gone afterwards.

        Args:
            runtime: Runtime of a budget, such as "onnxruntime-int8".
            arch: The network.
            has_all_rows: Whether its word table has all rows of the vocabulary, or `TABLE_ROWS`.

        Raises:
            UserError: The network cannot be written in this format.
        """
        config = self._config
        if not has_all_rows:
            config = cut_table(config)
        key = (runtime, arch, config.vocab_size)
        if key in self._stored:
            yield self._stored[key]
            return

        folder = Path(self._folder.name, str(self._count))
        self._count += 1
        path = self._write(runtime, random_model(config, arch), folder)
        size_mb = measure_size_mb(path)
        if self._stored_mb + size_mb <= STORED_MB:
            self._stored[key] = path
            self._stored_mb += size_mb
            yield path
            return

        try:
            yield path
        finally:
            # The files of a large encoder would fill the disk.
            shutil.rmtree(folder)

    def _write(self, runtime: str, model: Any, folder: Path) -> Path:
        """Write a network into a new folder; return the path of its file."""
        if runtime == "torch":
            write_network(model, folder)
            return folder / WEIGHTS_FILE

        path = folder / ONNX_FILE
        path.parent.mkdir(parents=True)
        export_onnx(model, path, self._checked_tokens)
        if runtime == "onnxruntime":
            return path
        if runtime in ("openvino", "openvino-int8"):
            return self._write_openvino(runtime, path, folder)

        # The first form that an export tries. If it loses too much there, the certificate shows it.
        target = folder / INT8_FILE
        form = Int8Form("dynamic", False, tuple(find_operations(path)))
        quantise(path, target, form, (), reduce_range=needs_reduced_range())
        path.unlink()
        return target

    def _write_openvino(self, runtime: str, source: Path, folder: Path) -> Path:
        """Replace the ONNX file of a network by its OpenVINO file; return the path of that file."""
        plain, int8 = folder / OPENVINO_FILE, folder / OPENVINO_INT8_FILE
        try:
            convert_to_openvino(source, plain)
            if runtime == "openvino-int8":
                # The weights are random, and so can the rows be that the ranges come from.
                generator = torch.Generator().manual_seed(0)
                shape = (2, self._checked_tokens)
                # The rows that every network of this class has.
                num_rows = cut_table(self._config).vocab_size
                ids = torch.randint(num_rows, shape, generator=generator)
                rows = [(ids, torch.ones_like(ids), torch.zeros_like(ids))]
                quantise_openvino(plain, int8, rows, reduce_range=needs_reduced_range())
        # Both packages have exceptions of their own.
        except Exception as error:
            raise UserError(
                f"OpenVINO or NNCF cannot write a network of the search space: {first_line(error)}. "
                f'Set runtime = "{runtime.replace("openvino", "onnxruntime")}" in the budget.'
            ) from error

        source.unlink()
        if runtime == "openvino":
            return plain
        remove_file(plain)
        return int8


def cut_table(config: EncoderConfig) -> EncoderConfig:
    """Return the shapes with the word table of networks that are timed; see `TABLE_ROWS`."""
    rows = min(config.vocab_size, TABLE_ROWS)
    # The padding token must have a row.
    pad = config.pad_token_id
    if pad is not None:
        pad = min(pad, rows - 1)
    return replace(config, vocab_size=rows, pad_token_id=pad)


def missing_rows_mb(config: EncoderConfig, runtime: str, arch: Architecture) -> float:
    """Return how much larger a file with the whole word table is than that of `cut_table`."""
    rows = config.vocab_size - cut_table(config).vocab_size
    return word_table_mb(runtime, rows * (arch.table.rank or config.embedding_size), rows)


def random_model(config: EncoderConfig, arch: Architecture) -> Any:
    """Return a network with the random weights of seed 0, as it is exported, in evaluation mode."""
    # Imported here: transformers takes seconds to import.
    from raycomp.encoder.static_model import RaycompConfig, RaycompForSequenceClassification

    shapes: dict[str, Any] = {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn)}
    if arch.table.rank is not None:
        shapes["word_rank"] = arch.table.rank
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = RaycompForSequenceClassification(RaycompConfig(**config.to_dict() | shapes)).eval()
        # New biases are 0 and new norms 1 in every layer. An ONNX file has equal tensors once: too small.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += config.initializer_range * torch.randn_like(parameter)

    return model
