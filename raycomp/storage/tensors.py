"""Tensors on disk as safetensors: nothing is pickled and nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raycomp.errors import UserError
from raycomp.storage.files import atomic_write


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
