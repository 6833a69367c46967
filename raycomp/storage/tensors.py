"""Tensors in files as safetensors. Nothing is pickled or unpickled."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raycomp.errors import UserError
from raycomp.storage.files import atomic_write


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors of any shapes atomically.

    Raises:
        OSError: The file cannot be written.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(hidden: Path) -> None:
        try:
            safetensors.torch.save_file(ready, str(hidden))
        except SafetensorError as error:
            # safetensors replaces errors of the system, such as a full disk, by its own class.
            raise OSError(str(error)) from None

    atomic_write(path, write)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file.

    Raises:
        UserError: The file is missing or corrupted.
    """
    try:
        return safetensors.torch.load_file(str(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Run the job again, which writes it.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). Remove it and run the job again.") from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into a model.

    Raises:
        UserError: The file is missing or corrupted, or names or shapes differ from the model's.
    """
    try:
        model.load_state_dict(load_tensors(path), strict=True)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit this model: {error}. Remove the file and run the job again."
        ) from None
