"""Checkpoints as safetensors and JSON: nothing is pickled, nothing is unpickled."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from raycomp.errors import UserError
from raycomp.storage.files import write_json
from raycomp.storage.tensors import load_tensors, save_tensors

LIST = "checkpoint_manager_snapshot.json"
"""Ray Train's list of the checkpoints of one training."""


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


def rescued_checkpoint(run_dir: Path, training: str) -> Path:
    """Return where `rescue_checkpoint` keeps a checkpoint of a training."""
    return run_dir / "kept" / training


def rescue_checkpoint(training: Path, keep: Path) -> bool:
    """Keep the newest whole checkpoint where Ray Train's own list of them is torn, and drop that list.

    Train writes the list in place: a disk that is full leaves it empty, and no training can be started
    on it again. The workers take what is kept where Train knows no checkpoint.

    Args:
        training: Train's folder of one training.
        keep: where a checkpoint is kept.

    Returns:
        Whether the list was torn.
    """
    listed = training / LIST
    try:
        json.loads(listed.read_text())
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        pass
    else:
        return False
    steps: dict[Path, int] = {}
    for found in (keep, *training.glob("checkpoint_*/")):  # of earlier rescues too
        with contextlib.suppress(UserError):
            steps[found] = int(load_checkpoint(found)[2]["step"])
    newest = max(steps, key=lambda f: steps[f], default=keep)
    if newest != keep:
        shutil.rmtree(keep, ignore_errors=True)
        keep.parent.mkdir(parents=True, exist_ok=True)
        newest.rename(keep)
    shutil.rmtree(training)
    return True
