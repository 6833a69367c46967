"""Checkpoints as safetensors and JSON: nothing is pickled, nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raycomp.errors import UserError
from raycomp.tables import atomic_write, write_json


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically."""
    ready = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}

    def write(hidden: Path) -> None:
        try:
            safetensors.torch.save_file(ready, str(hidden))
        except SafetensorError as error:  # it hides what the system said, such as a full disk
            raise OSError(str(error)) from None

    atomic_write(path, write)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove it, and the run writes it anew"
        ) from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights strictly; raise UserError when names or shapes differ."""
    try:
        model.load_state_dict(load_tensors(path), strict=True)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit this model: {error}") from None


def save_checkpoint(
    folder: Path, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write one checkpoint; state.json comes last and makes it whole."""
    save_tensors(folder / "model.safetensors", weights)
    save_tensors(folder / "optimizer.safetensors", optimizer)
    write_json(folder / "state.json", state)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote: weights, optimizer state, everything else."""
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {folder} is not whole ({error})") from None
    weights = load_tensors(folder / "model.safetensors")
    return weights, load_tensors(folder / "optimizer.safetensors"), state
