"""What a run was begun with: a job names data and model, and what they hold may change under the name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from raycomp.data.tasks import Split, Task
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.storage.files import file_hash, read_json, write_json

INPUTS_FILE = "inputs.json"


def record_inputs(context: RunContext) -> None:
    """Write what data and model hold into the run's folder; refuse a run that was begun with others.

    Raises:
        UserError: texts, labels, or the model's files have changed since.
    """
    path, found = context.run_dir / INPUTS_FILE, hash_inputs(context)
    if not path.exists():
        write_json(path, found)
        return
    known: dict[str, Any] = read_json(path)
    settings = context.job.task
    names = {"data": settings.train or settings.name, "model": context.job.model.name}
    changed = [f"{part} ({names[part]})" for part in found if known.get(part) != found[part]]
    if changed:
        raise UserError(
            f"run {context.run_dir.name} was begun with other contents of {' and '.join(changed)}; put "
            "them back, or give what they hold now a run of its own: --set run.name=NAME (of a study: "
            "study.name)"
        )


def hash_inputs(context: RunContext) -> dict[str, str]:
    """Return a hash of the task's splits, and one of the model's files where it is a local folder."""
    folder = Path(context.job.model.name)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]) if folder.is_dir() else []
    model = hashlib.sha256("".join(f"{f.name} {file_hash(f)}\n" for f in files).encode())
    return {"data": _data(context.task), "model": model.hexdigest()[:16] if files else ""}


def _data(task: Task) -> str:
    digest = hashlib.sha256(repr((task.kind, task.label_names)).encode())
    for split in (task.train, task.selection, *task.validation):
        _feed(digest, split)
    return digest.hexdigest()[:16]


def _feed(digest: Any, split: Split) -> None:
    digest.update(f"{split.name} {len(split)} {split.text_b is None}\n".encode())
    for text in (*split.text_a, *(split.text_b or ())):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    digest.update(split.labels.tobytes())
