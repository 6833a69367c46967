"""Runtimes that a deployed model runs in, on a CPU: torch and ONNX Runtime. OpenVINO is elsewhere."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycomp.deployment.runtime_options import onnx_options
from raycomp.encoder.interface import takes_token_types
from raycomp.errors import UserError

TokenForward = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Function from input_ids, attention_mask, token_type_ids (batch, length) to logits (batch, classes)."""

Calibration = Sequence[tuple[Tensor, Tensor, Tensor]]
"""Batches of training rows: input_ids, attention_mask and token_type_ids, each (batch, length)."""

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_onnx() -> None:
    """Check that the packages of the formats `onnx` and `int8` are installed.

    Raises:
        UserError: One is missing.
    """
    missing = missing_onnx_packages()
    if missing:
        raise UserError(
            f"The formats onnx and int8 need the package {missing[0]}, which is not installed. Run pip "
            "install 'raycomp[onnx]', or leave these formats out."
        )


def missing_onnx_packages() -> list[str]:
    """Return the packages of ONNX that are not installed."""
    return [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]


def open_session(path: Path, threads: int) -> Any:
    """Return an ONNX Runtime session of a file, on the CPU, with the options of `onnx_options`.

    Args:
        path: ONNX file.
        threads: Threads of one matrix product.
    """
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(path), onnx_options(threads), providers=providers)


def session_forward(session: Any) -> TokenForward:
    """Return the forward function of a session. It feeds the inputs that the session has."""

    def forward(ids: Tensor, mask: Tensor, types: Tensor | None) -> Tensor:
        return torch.from_numpy(session.run(["logits"], session_feeds(session, ids, mask, types))[0])

    return forward


def session_feeds(session: Any, ids: Tensor, mask: Tensor, types: Tensor | None) -> dict[str, np.ndarray]:
    """Return the inputs that a session has, as it takes them.

    Args:
        session: The session.
        ids: input_ids (batch, length).
        mask: attention_mask (batch, length).
        types: token_type_ids (batch, length); None is all zeros.
    """
    return named_inputs([entry.name for entry in session.get_inputs()], ids, mask, types)


def named_inputs(
    names: Sequence[str], ids: Tensor, mask: Tensor, types: Tensor | None
) -> dict[str, np.ndarray]:
    """Return the inputs of these names as int64 arrays; see `session_feeds`."""
    values = dict(zip(INPUT_NAMES, (ids, mask, types), strict=True))
    return {name: _as_int64(values[name], ids) for name in names}


def model_forward(model: Any) -> TokenForward:
    """Return the forward function of a transformers model in evaluation mode."""
    takes_types = takes_token_types(model.config)

    def forward(ids: Tensor, mask: Tensor, types: Tensor | None) -> Tensor:
        tokens = {"input_ids": ids, "attention_mask": mask.long()}
        if takes_types:
            tokens["token_type_ids"] = torch.zeros_like(ids) if types is None else types
        logits: Tensor = model(**tokens).logits
        return logits

    return forward


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Give a block this number of threads for torch's operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_int64(values: Tensor | None, ids: Tensor) -> np.ndarray:
    """Return an input as ONNX Runtime takes it; None is all zeros."""
    if values is None:
        return np.zeros(tuple(ids.shape), np.int64)
    return np.ascontiguousarray(values.numpy(), dtype=np.int64)
