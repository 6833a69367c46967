"""Parts of a run that an equal run of the same storage has made already: teacher, super-network.

Taken over are files alone, by hard link where the storage has them: every writer replaces a file, none
writes into one, so that no run can change another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from raycomp.config.loader import parse_stored
from raycomp.config.study import artifact_keys
from raycomp.errors import UserError
from raycomp.storage.files import atomic_write, write_json

# Part -> patterns of its files. The last one names the file that says the part is whole.
ARTIFACT_FILES: dict[str, tuple[str, ...]] = {
    "teacher": (
        "facts.json", "inputs.json", "precision.json", "predictions/teacher.*.npy",
        "predictions/labels.*.npy", "teacher/network.safetensors", "teacher/score.json",
    ),
    "supernet": (
        "supernet/start.safetensors", "supernet/network.safetensors", "supernet/sampler.json",
    ),
    "classroom": (
        "adabert/augmented/*.json", "adabert/probes.safetensors", "adabert/logits.npy",
        "adabert/probes.npy",
    ),
}  # fmt: skip


def reuse_artifacts(wanted: dict[str, str], run_dir: Path) -> dict[str, str]:
    """Link each wanted part that `run_dir` lacks from a run beside it that has it under equal settings.

    What rests on a teacher is taken only from a run whose teacher scored the same to the last digit.

    Args:
        wanted: part -> its key, as `artifact_keys` gives it.
        run_dir: the run that takes; it need not exist.

    Returns:
        Part -> name of the run that it came from; written to `shared.json` too.
    """
    taken: dict[str, str] = {}
    with contextlib.suppress(FileNotFoundError):
        taken = json.loads((run_dir / "shared.json").read_text())
    for part, key in wanted.items():
        if (run_dir / ARTIFACT_FILES[part][-1]).exists():
            continue
        source = find_source_run(run_dir, part, key)
        if source is None:
            continue
        for pattern in ARTIFACT_FILES[part]:
            for path in sorted(source.glob(pattern)):
                _link(path, run_dir / path.relative_to(source))
        taken[part] = source.name
        write_json(run_dir / "shared.json", taken)
    return taken


def find_source_run(run_dir: Path, part: str, key: str) -> Path | None:
    """Return a run directory next to `run_dir` that has an artifact under an equal key, or None."""
    for path in sorted(run_dir.parent.glob("*/job.json")):
        other = path.parent
        if other == run_dir or not (other / ARTIFACT_FILES[part][-1]).exists():
            continue
        try:
            same = artifact_keys(parse_stored(json.loads(path.read_text()))).get(part) == key
        except (UserError, ValueError, OSError):
            continue  # of another version of raycomp
        if same and (part == "teacher" or _teacher(other) == _teacher(run_dir)):
            return other
    return None


def _teacher(run_dir: Path) -> bytes | None:
    try:
        return (run_dir / "teacher" / "score.json").read_bytes()
    except OSError:
        return None


def _link(source: Path, target: Path) -> None:
    def write(hidden: Path) -> None:
        try:
            os.link(source, hidden)
        except OSError:  # a storage without hard links
            shutil.copyfile(source, hidden)

    atomic_write(target, write)
