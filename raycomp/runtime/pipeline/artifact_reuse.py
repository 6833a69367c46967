"""Reuse of artifacts between runs of one storage: teacher, super-network, distillation data.

A run takes an artifact from another run that computed it with equal settings. Files are hard links where
the storage has them. This is safe because every writer replaces a file and none changes it in place. A
run therefore cannot change the files of another.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from raycomp.config.identity import artifact_keys
from raycomp.config.loader import parse_stored
from raycomp.errors import UserError
from raycomp.storage.files import atomic_write, read_json, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.revision import read_revision
from raycomp.storage.study_layout import find_runs

_PATTERN = RunLayout(Path())
_YOCO = _PATTERN.method("yoco")

# Artifact -> patterns of its files, relative to the run directory. The last file is written last: if it
# exists, the artifact is complete.
ARTIFACT_FILES: dict[str, tuple[str, ...]] = {
    artifact: tuple(str(path) for path in paths)
    for artifact, paths in {
        "teacher": (
            _PATTERN.facts,
            _PATTERN.inputs,
            _PATTERN.precision,
            _PATTERN.predictions("teacher", "*"),
            _PATTERN.predictions("labels", "*"),
            _PATTERN.teacher_network,
            _PATTERN.teacher_score,
        ),
        "supernet": (
            _YOCO.supernet_start,
            _YOCO.supernet_network,
            _YOCO.sampler,
        ),
        "distillation_data": (
            _PATTERN.adabert / "augmented" / "*.json",
            _PATTERN.probe_weights,
            _PATTERN.teacher_logits,
            _PATTERN.probe_logits,
        ),
    }.items()
}


def reuse_artifacts(keys: dict[str, str], run_dir: Path) -> dict[str, str]:
    """Link each artifact that a run lacks from another run that has it under an equal key.

    An artifact that depends on a teacher is taken only from a run whose teacher has exactly the same
    scores.

    Args:
        keys: Artifact -> key (see `artifact_keys`).
        run_dir: Run directory that receives the artifacts. It does not need to exist.

    Returns:
        Artifact -> name of the run that it was taken from, also by earlier calls. The run directory
        records the same.
    """
    layout = RunLayout(run_dir)
    sources: dict[str, str] = {}
    if layout.reused.exists():
        sources = read_json(layout.reused)

    for artifact, key in keys.items():
        if _is_complete(run_dir, artifact):
            continue
        source = find_source_run(run_dir, artifact, key)
        if source is None:
            continue

        for pattern in ARTIFACT_FILES[artifact]:
            for path in sorted(source.glob(pattern)):
                _link_file(path, run_dir / path.relative_to(source))
        sources[artifact] = source.name
        write_json(layout.reused, sources)
    return sources


def find_source_run(run_dir: Path, artifact: str, key: str) -> Path | None:
    """Return a run directory next to `run_dir` that has an artifact under an equal key, or None."""
    layout = RunLayout(run_dir)
    for candidate in find_runs(run_dir.parent):
        if candidate == run_dir or not _is_complete(candidate, artifact):
            continue
        if _artifact_key(candidate, artifact) != key:
            continue
        # Runs of another revision have other rows. A run that has not started takes the revision of the
        # run that its teacher comes from: `inputs.json` is part of the artifact.
        if layout.inputs.exists() and _revision(run_dir) != _revision(candidate):
            continue
        if artifact == "teacher" or _teacher_score(candidate) == _teacher_score(run_dir):
            return candidate
    return None


def _is_complete(run_dir: Path, artifact: str) -> bool:
    return (run_dir / ARTIFACT_FILES[artifact][-1]).exists()


def _artifact_key(run_dir: Path, artifact: str) -> str | None:
    """Return the key of an artifact of a run; None if this version cannot read the run's job."""
    try:
        job = parse_stored(read_json(RunLayout(run_dir).job))
    except (UserError, ValueError, OSError):
        return None
    return artifact_keys(job).get(artifact)


def _revision(run_dir: Path) -> int | None:
    """Return the revision of a run's rules; None if `inputs.json` is damaged."""
    try:
        return read_revision(RunLayout(run_dir))
    except UserError:
        return None


def _teacher_score(run_dir: Path) -> bytes | None:
    """Return the content of the file with the teacher's scores, or None if it does not exist."""
    try:
        return RunLayout(run_dir).teacher_score.read_bytes()
    except OSError:
        return None


def _link_file(source: Path, target: Path) -> None:
    """Make `target` a hard link of `source`, or a copy if the storage lacks hard links."""

    def write(path: Path) -> None:
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)

    atomic_write(target, write)
