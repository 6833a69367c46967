"""Checkpoints as safetensors and JSON. Nothing is pickled and nothing is unpickled.

A checkpoint is a directory with three files:

    model.safetensors       weights of the model
    optimizer.safetensors   state of the optimizer
    state.json              number of steps done, state of the sampler; written last
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from raycomp.errors import UserError, first_line
from raycomp.storage.files import write_json
from raycomp.storage.tensors import load_tensors, save_tensors

CHECKPOINT_LIST = "checkpoint_manager_snapshot.json"
"""Name of the file in which Ray Train lists the checkpoints of one training."""


def save_checkpoint(
    folder: Path, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write a checkpoint. It is complete when state.json exists, which is written last.

    Args:
        folder: Directory of the checkpoint.
        weights: Weights of the model by name.
        optimizer: State of the optimizer by name.
        state: Everything else that the next step depends on, as JSON-like values.
    """
    save_tensors(folder / "model.safetensors", weights)
    save_tensors(folder / "optimizer.safetensors", optimizer)
    write_json(folder / "state.json", state)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Return what `save_checkpoint` wrote: weights, optimizer state, and everything else.

    Raises:
        UserError: The checkpoint is incomplete or corrupted.
    """
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"Checkpoint {folder} is incomplete ({first_line(error)}). Remove this directory, then run "
            "the same command again: training resumes from an earlier checkpoint, or starts over."
        ) from None

    weights = load_tensors(folder / "model.safetensors")
    optimizer = load_tensors(folder / "optimizer.safetensors")
    return weights, optimizer, state


def rescue_checkpoint(training: Path, target: Path) -> bool:
    """Save the newest complete checkpoint if Ray Train's list of them is corrupted; remove that list.

    Ray Train overwrites the list in place, so a full disk leaves it empty. Ray Train then refuses to
    start any training in this directory. The workers load the rescued checkpoint if Ray Train knows
    none.

    Args:
        training: Ray Train's directory of one training.
        target: Directory of the rescued checkpoint. It may have one from an earlier rescue.

    Returns:
        Whether the list was corrupted.
    """
    try:
        json.loads((training / CHECKPOINT_LIST).read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        pass
    else:
        return False

    # Incomplete checkpoints are left out.
    steps: dict[Path, int] = {}
    for folder in (target, *training.glob("checkpoint_*/")):
        with contextlib.suppress(UserError):
            _, _, state = load_checkpoint(folder)
            steps[folder] = int(state["step"])

    newest = max(steps, key=lambda folder: steps[folder], default=target)
    if newest != target:
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        newest.rename(target)

    # After the rename: an interruption between the two loses nothing.
    shutil.rmtree(training)
    return True
