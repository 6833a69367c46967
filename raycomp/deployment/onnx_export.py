"""Export of a model as one ONNX file, with any batch size and length, and as a torch.export program."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raycomp.deployment.runtimes import (
    INPUT_NAMES,
    TokenForward,
    open_session,
    session_forward,
)
from raycomp.encoder.interface import takes_token_types
from raycomp.errors import UserError
from raycomp.storage.files import atomic_write

MAX_LOGIT_DIFFERENCE = 1e-4
"""Largest difference of a logit from the model's in torch, as a share of the largest logit above 1."""

MAX_ONNX_MB = 2147.0
"""Largest ONNX file without a second file of weights: protobuf counts its bytes in 31 bits."""

CHECKED_SHAPES = ((1, 2), (1, 9), (2, 16), (5, 7), (32, 24))
"""Batch sizes and lengths on which an exported file is compared with the model."""


class LogitsOnly(nn.Module):
    """A model whose output is one tensor, as the exporters need it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Return the logits (batch, classes) of (batch, length) int64 inputs."""
        tokens = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            tokens["token_type_ids"] = token_type_ids
        logits: Tensor = self.model(**tokens).logits
        return logits


def export_onnx(model: Any, path: Path, max_positions: int) -> float:
    """Write a model as one ONNX file, and compare it with the model on several batches and lengths.

    Args:
        model: A network of raycomp, extracted or compiled, in evaluation mode.
        path: File to write.
        max_positions: Longest text, in tokens.

    Returns:
        The largest difference of a logit.

    Raises:
        UserError: torch cannot export the model, or the file computes something else.
    """
    weights_mb = sum(parameter.nbytes for parameter in model.parameters()) / 1e6
    if weights_mb > MAX_ONNX_MB:
        raise UserError(
            f"An ONNX file has at most {MAX_ONNX_MB:,.0f} MB, and the weights of this model have "
            f"{weights_mb:,.0f} MB. Leave the format out, or choose a smaller model or word table."
        )
    inputs = _example_inputs(model)

    def write(target: Path) -> None:
        program = torch.onnx.export(
            LogitsOnly(model),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes=_dynamic_shapes(inputs, max_positions),
            external_data=False,
            verbose=False,
        )
        assert program is not None  # nosec B101 - only dynamo=False returns None
        _remove_traces(program)
        program.save(str(target), external_data=False)

    with _silence(), torch.no_grad():
        _run_exporter(lambda: atomic_write(path, write), "ONNX")

    difference = _compare(model, session_forward(open_session(path, 1)), max_positions)
    _require_equal(path, difference)

    return difference


def _remove_traces(program: Any) -> None:
    """Remove the exporter's notes: each node names lines of code and directories of this machine."""
    for node in program.model.graph:
        node.metadata_props.clear()
    for value in (*program.model.graph.inputs, *program.model.graph.outputs):
        value.metadata_props.clear()


def export_program(model: Any, path: Path, max_positions: int) -> float:
    """Write a model as a program of torch.export (.pt2), load it back, and compare it with the model.

    Args:
        model: A network of raycomp, extracted or compiled, in evaluation mode.
        path: File to write.
        max_positions: Longest text, in tokens.

    Returns:
        The largest difference of a logit.

    Raises:
        UserError: torch cannot export the model, or the program computes something else.
    """
    inputs = _example_inputs(model)

    def write(target: Path) -> None:
        shapes = _dynamic_shapes(inputs, max_positions)
        program = torch.export.export(LogitsOnly(model), tuple(inputs.values()), dynamic_shapes=shapes)
        # torch refuses other endings than .pt2, and the hidden file has one of its own.
        with target.open("wb") as file:
            torch.export.save(program, file)

    with _silence(), torch.no_grad():
        _run_exporter(lambda: atomic_write(path, write), "torch.export")

    difference = _compare(model, load_program(path), max_positions)
    _require_equal(path, difference)

    return difference


def load_program(path: Path) -> TokenForward:
    """Return the forward function of a program that `export_program` has just written.

    Programs of other people are not loaded: torch.export.load trusts its file.
    """
    with _silence():
        loaded: Any = torch.export.load(str(path)).module()
    num_inputs = len(loaded.graph.find_nodes(op="placeholder"))

    def forward(ids: Tensor, mask: Tensor, types: Tensor | None) -> Tensor:
        tokens = (ids, mask.long(), torch.zeros_like(ids) if types is None else types)
        result: Tensor = loaded(*tokens[:num_inputs])
        return result

    return forward


def _example_inputs(model: Any) -> dict[str, Tensor]:
    """Return inputs of two rows and three tokens: torch takes a dimension of size 1 to be constant."""
    # Servers feed the inputs that a file names: a model without token types must not name them.
    names = INPUT_NAMES if takes_token_types(model.config) else INPUT_NAMES[:2]
    ids = torch.ones(2, 3, dtype=torch.int64)
    return {name: torch.ones_like(ids) if name == "attention_mask" else ids * 0 + 1 for name in names}


def _dynamic_shapes(inputs: dict[str, Tensor], max_positions: int) -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1)
    length = torch.export.Dim("length", min=2, max=max_positions)
    return {name: {0: batch, 1: length} for name in inputs}


@torch.inference_mode()
def _compare(model: Any, forward: TokenForward, max_positions: int) -> float:
    """Return the largest difference of a logit, over batches with padding.

    Logits above 1 count relative to the largest logit: fp32 has seven digits.
    """
    generator = torch.Generator().manual_seed(0)
    has_types = takes_token_types(model.config)
    largest = 0.0

    for rows, length in _checked_shapes(max_positions):
        lengths = torch.randint(2, length + 1, (rows,), generator=generator)
        mask = (torch.arange(length)[None, :] < lengths[:, None]).long()
        ids = torch.randint(0, model.config.vocab_size, (rows, length), generator=generator) * mask
        types = (torch.arange(length)[None, :] > lengths[:, None] // 2).long() * mask
        tokens = {"input_ids": ids, "attention_mask": mask}
        if has_types:
            tokens["token_type_ids"] = types

        expected = model(**tokens).logits
        scale = max(1.0, float(expected.abs().max()))
        largest = max(
            largest,
            float((forward(ids, mask, tokens.get("token_type_ids")) - expected).abs().max()) / scale,
        )

    return largest


def _checked_shapes(max_positions: int) -> Sequence[tuple[int, int]]:
    shapes = [(rows, min(length, max_positions)) for rows, length in CHECKED_SHAPES]
    return [*shapes, (2, max_positions)]


def _require_equal(path: Path, difference: float) -> None:
    # A NaN is neither above nor below the limit, and must not pass.
    if not difference <= MAX_LOGIT_DIFFERENCE:
        raise UserError(
            f"{path.name}: the logits differ from the model's in torch by {difference:.2g} (allowed: "
            f"{MAX_LOGIT_DIFFERENCE:g}). Leave this format out, and report the versions of torch and "
            "onnxruntime as a bug of raycomp."
        )


def _run_exporter(run: Callable[[], Any], name: str) -> None:
    try:
        run()
    except UserError:
        raise
    # The exporter raises exceptions of many kinds, among them RuntimeError and its own.
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        # The cause is the last line of a report of many lines.
        cause = lines[-1].strip()[:300] if lines else type(error).__name__
        raise UserError(
            f"torch {torch.__version__} cannot export this model to {name} ({cause}). Leave the format "
            "out, or install the versions in raycomp's constraints.txt."
        ) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep progress, hints and warnings of the exporter from the user's screen."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
