"""Table `runtimes`: files of the deployed models, timed in turns with those of the teacher.

A user without raycomp quantises the teacher. A model for a device must be faster than that file. Files
of ONNX Runtime and files of OpenVINO are compared with the teacher of the same library.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raycomp.deployment.cpu import is_same_device, pinned_to_cpus
from raycomp.deployment.format_settings import RUNTIME_FILES
from raycomp.deployment.latency import measure_by_length_ms
from raycomp.deployment.openvino_files import open_forward
from raycomp.deployment.runtimes import TokenForward
from raycomp.deployment.timing import MEASURED_RUNS, MEASURED_SECONDS, TURN, paired_speedup
from raycomp.encoder.device_table import Conditions, describe_lengths
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.methods.scoring import score_validation
from raycomp.runtime.pipeline.export_formats import CERTIFICATE_FILE, TEACHER, export_teacher
from raycomp.runtime.pipeline.user_units import standardised
from raycomp.storage.files import read_json
from raycomp.storage.rows import RuntimeRow
from raycomp.storage.tables import write_rows


@dataclass(frozen=True)
class _TimedFile:
    """A file, what the table says of it apart from its times, and the function that runs it."""

    row: RuntimeRow
    forward: TokenForward


def record_runtimes(context: RunContext, deployables: Sequence[Deployable]) -> None:
    """Time the files of models for devices, and write the rows of the method.

    Models for torch are left out, and so are those for a device that this machine is not.

    Args:
        context: The run's context, as the method has it.
        deployables: The method's models, as they were certified.

    Raises:
        UserError: The teacher cannot be exported.
    """
    rows: list[dict[str, Any]] = []
    for conditions, members in _group_by_conditions(context, deployables).items():
        files = _open_files(context, TEACHER, TEACHER, export_teacher(context, conditions), conditions)
        for entry in members:
            assert entry.measured_files is not None  # nosec B101 - _group_by_conditions leaves it out
            own = context.cut if entry.is_cut else context
            files += _open_files(own, context.method, entry.budget, entry.measured_files, conditions)
        # All files read the same tokens, so each vocabulary must have them.
        vocab_size = context.config.vocab_size
        if context.vocabulary is not None:
            vocab_size = len(context.vocabulary)
        rows += [row.to_row() for row in _time_files(files, conditions, vocab_size)]

    if rows:
        write_rows(context.run_dir, "runtimes", rows, context.method)


def _group_by_conditions(
    context: RunContext, deployables: Sequence[Deployable]
) -> dict[Conditions, list[Deployable]]:
    """Return the measured models by library, threads, batch and lengths, whatever their precision."""
    groups: dict[Conditions, list[Deployable]] = {}
    for entry in deployables:
        if entry.measured_files is None or entry.verdict != "PASS":
            continue
        # A limit on the size is judged on every machine.
        table = context.device.tables[entry.budget]
        conditions = table.conditions
        if not is_same_device(entry.certificate["machine"], table.machine, conditions.threads):
            continue
        file = RUNTIME_FILES.get(conditions.library)
        if file is not None and (entry.measured_files / file).exists():
            groups.setdefault(replace(conditions, runtime=conditions.library), []).append(entry)
    return groups


def _open_files(
    context: RunContext, method: str, budget: str, folder: Path, conditions: Conditions
) -> list[_TimedFile]:
    """Return the files of an export in one library; an INT8 file that was refused is missing.

    Args:
        context: The run's context in the vocabulary of the model.
        method: Method of the model, or "teacher".
        budget: Budget of the model, or "teacher".
        folder: The export.
        conditions: How the files are timed.
    """
    entries = {entry["file"]: entry for entry in read_json(folder / CERTIFICATE_FILE)["files"]}
    files = []
    for runtime in (conditions.library, f"{conditions.library}-int8"):
        file = RUNTIME_FILES[runtime]
        entry = entries.get(file.as_posix())
        if entry is None:
            continue

        forward = open_forward(folder / file, conditions.threads)
        row = RuntimeRow(
            run=context.run_dir.name,
            method=method,
            budget=budget,
            runtime=runtime,
            threads=conditions.threads,
            batch=conditions.batch,
            length=conditions.max_length,
            size_mb=float(entry["size_mb"]),
            selection=float(entry["selection"]),
            validation=_score(context, forward),
            metric=context.primary,
            lengths=describe_lengths(conditions.lengths, conditions.max_length) or None,
        )
        files.append(_TimedFile(row, forward))
    return files


def _score(context: RunContext, forward: TokenForward) -> float:
    """Return the validation score in the file's runtime."""
    run = standardised(
        context, lambda batch: forward(batch.input_ids, batch.attention_mask, batch.token_type_ids)
    )
    return score_validation(context, run, "")


def _time_files(files: Sequence[_TimedFile], conditions: Conditions, vocab_size: int) -> list[RuntimeRow]:
    """Return the rows with their times on random tokens below `vocab_size`."""
    calls = [lambda ids, mask, run=file.forward: run(ids, mask, None) for file in files]
    with pinned_to_cpus(conditions.threads):
        durations = measure_by_length_ms(
            calls,
            vocab_size,
            conditions.lengths,
            batch=conditions.batch,
            runs=MEASURED_RUNS,
            seconds=MEASURED_SECONDS,
            turn=TURN,
        )
    times = [np.array(list(itertools.chain(*by_length))) for by_length in durations]
    name = f"{conditions.library}-int8"
    is_reference = [(f.row.method, f.row.runtime) == (TEACHER, name) for f in files]
    reference = times[is_reference.index(True)] if any(is_reference) else None

    rows = []
    for file, own in zip(files, times, strict=True):
        p50, p95 = (float(value) for value in np.percentile(own, (50, 95)))
        speedup = None if reference is None else paired_speedup(reference, own)
        rows.append(replace(file.row, p50_ms=p50, p95_ms=p95, speedup=speedup))
    return rows
