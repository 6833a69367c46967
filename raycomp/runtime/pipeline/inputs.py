"""Hashes of a run's data and model: a run resumes only with the inputs that it started with.

A job names its data and its model, and their contents may change under the same name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from raycomp.data.tasks import Split, Task
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.storage.files import file_hash, read_json, write_json
from raycomp.storage.layout import RunLayout


def record_inputs(context: RunContext) -> None:
    """Record the hashes of data and model when a run starts, and compare them when it resumes.

    The file also has the revision of the rules that the run started with, which a resume follows.

    Args:
        context: Context of the run.

    Raises:
        UserError: Texts, labels, or the model's files have changed since the run started.
    """
    path = RunLayout(context.run_dir).inputs
    current = hash_inputs(context)
    if not path.exists():
        write_json(path, {**current, "revision": context.revision})
        return

    recorded: dict[str, Any] = read_json(path)
    task = context.job.task
    names = {"data": task.train or task.name, "model": context.job.model.name}
    changed = [name for name in current if recorded.get(name) != current[name]]
    if changed:
        subjects = " and ".join(f"{name} ({names[name]})" for name in changed)
        raise UserError(
            f"The contents of {subjects} changed since run {context.run_dir.name} started. "
            "Restore them, or start a new run: --set run.name=NAME (in a study: study.name)."
        )


def hash_inputs(context: RunContext) -> dict[str, str]:
    """Return a hash of the task's splits and, if the model is a local directory, one of its files."""
    return {"data": _hash_task(context.task), "model": _hash_model(Path(context.job.model.name))}


def _hash_model(folder: Path) -> str:
    """Return a hash of the weights and configuration in a directory; empty if it lacks such files."""
    if not folder.is_dir():
        return ""

    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
    if not files:
        return ""
    listing = "".join(f"{file.name} {file_hash(file)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def _hash_task(task: Task) -> str:
    """Return a hash of a task's label names and of all its splits."""
    digest = hashlib.sha256(repr((task.kind, task.label_names)).encode())
    for split in (task.train, task.selection, *task.validation):
        _update_digest(digest, split)
    return digest.hexdigest()[:16]


def _update_digest(digest: Any, split: Split) -> None:
    """Add the texts and labels of a split to a digest."""
    digest.update(f"{split.name} {len(split)} {split.text_b is None}\n".encode())
    for text in (*split.text_a, *(split.text_b or ())):
        data = text.encode("utf-8", "surrogatepass")
        # The length separates texts: ("ab", "c") and ("a", "bc") have different hashes.
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    digest.update(split.labels.tobytes())
