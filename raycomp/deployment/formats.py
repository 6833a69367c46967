"""Writes the formats of one exported model, and measures each file in its runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycomp.deployment.certificate import FileFigures
from raycomp.deployment.cpu import describe_load, needs_reduced_range, pinned_to_cpus
from raycomp.deployment.format_settings import (
    INT8_FILE,
    ONNX_FILE,
    ONNX_FORMATS,
    OPENVINO_FILE,
    OPENVINO_FORMATS,
    OPENVINO_INT8_FILE,
    PROGRAM_FILE,
    WEIGHTS_FILE,
    FormatSettings,
    check_lengths,
)
from raycomp.deployment.int8_steps import Attempt, Judgement, describe_attempts, write_int8
from raycomp.deployment.measured_files import ModelData, WrittenFile, judge_int8, measure_files
from raycomp.deployment.onnx_export import export_onnx, export_program, load_program
from raycomp.deployment.openvino_files import (
    convert_to_openvino,
    openvino_forward,
    remove_file,
    start_openvino,
)
from raycomp.deployment.openvino_int8 import write_openvino_int8
from raycomp.deployment.quantisation import count_integer_operations
from raycomp.deployment.runtimes import (
    TokenForward,
    model_forward,
    open_session,
    session_forward,
    torch_threads,
)
from raycomp.errors import UserError, first_line


@dataclass(frozen=True)
class FormatResult:
    """What was written and measured.

    Attributes:
        files: Figures of each file; the folder of transformers is the first.
        notes: Conversions that were refused, and why.
        pinned_cpus: CPUs that ran the files; None where the system cannot pin threads.
        slowdown: Time of the reference file over its expected time; 1 without one.
    """

    files: tuple[FileFigures, ...]
    notes: tuple[str, ...]
    pinned_cpus: Sequence[int] | None = None
    slowdown: float = 1.0


def write_formats(
    network: Any, loaded: Any, folder: Path, settings: FormatSettings, data: ModelData
) -> FormatResult:
    """Write the formats of a model into its export, and measure each file.

    Args:
        network: The network, extracted or compiled, in evaluation mode. It is exported to other formats.
        loaded: The model as the folder has it, in evaluation mode: the network, or its plain form.
        folder: The export, with the files of transformers.
        settings: Formats and conditions of the measurement.
        data: The model's task.

    Raises:
        UserError: A measurement failed, or a length is beyond the model's.
    """
    check_lengths(settings, data.max_positions)
    threads = settings.num_threads()
    load = describe_load()
    notes: list[str] = [] if load is None else [load]
    if OPENVINO_FORMATS & set(settings.formats):
        # What fails here fails again where the file is written, and becomes a note there.
        with contextlib.suppress(Exception):
            start_openvino()

    with torch_threads(threads), pinned_to_cpus(threads) as cpus:
        forward = model_forward(loaded)
        form = "transformers" if loaded is network else "plain"
        files = [WrittenFile(WEIGHTS_FILE, form, "torch", "fp32", forward, data.score(forward))]
        if "torch-export" in settings.formats:
            files += _try_format(
                notes, folder / PROGRAM_FILE, lambda: [_write_program(network, folder, data)]
            )
        if ONNX_FORMATS & set(settings.formats):
            files += _try_format(
                notes,
                folder / ONNX_FILE,
                lambda: _write_onnx(network, folder, settings, data, notes),
            )
        # Without the ONNX file, a note says why, and OpenVINO has nothing to convert.
        if OPENVINO_FORMATS & set(settings.formats) and (folder / ONNX_FILE).exists():
            files += _write_openvino(folder, settings, data, notes)
        measured = measure_files(files, folder, settings, data)

    return FormatResult(measured.figures, (*notes, *measured.notes), cpus, measured.slowdown)


def _try_format(
    notes: list[str], path: Path, write: Callable[[], list[WrittenFile]]
) -> list[WrittenFile]:
    """Write a format. Where torch cannot export the model, a note says so, and the file is left out.

    A BiLSTM, for example, packs its texts by their lengths, which no exporter follows.
    """
    try:
        return write()
    except UserError as error:
        path.unlink(missing_ok=True)
        notes.append(str(error))
        return []


def _write_program(model: Any, folder: Path, data: ModelData) -> WrittenFile:
    difference = export_program(model, folder / PROGRAM_FILE, data.max_positions)
    forward = load_program(folder / PROGRAM_FILE)
    details = {"max_logit_difference": difference}
    return WrittenFile(
        PROGRAM_FILE, "torch-export", "torch", "fp32", forward, data.score(forward), details=details
    )


def _write_onnx(
    model: Any, folder: Path, settings: FormatSettings, data: ModelData, notes: list[str]
) -> list[WrittenFile]:
    """Write the ONNX files; the file in fp32 is also the reference of the one in INT8."""
    threads = settings.num_threads()
    difference = export_onnx(model, folder / ONNX_FILE, data.max_positions)
    # The session reads the file that the user gets, not the graph in memory.
    forward = session_forward(open_session(folder / ONNX_FILE, threads))
    details = {"max_logit_difference": difference}
    selection = data.score(forward)
    fp32 = WrittenFile(ONNX_FILE, "onnx", "onnxruntime", "fp32", forward, selection, details=details)
    if "int8" not in settings.formats:
        return [fp32]

    int8 = _write_int8(fp32, folder, settings, data, notes)
    return [fp32] if int8 is None else [fp32, int8]


def _write_int8(
    fp32: WrittenFile, folder: Path, settings: FormatSettings, data: ModelData, notes: list[str]
) -> WrittenFile | None:
    """Write the INT8 file; None where no form is accurate and fast enough."""
    threads = settings.num_threads()
    scores: dict[Path, float] = {}

    def judge(path: Path) -> Judgement:
        forward = session_forward(open_session(path, threads))
        scores[path] = data.score(forward)
        return judge_int8(fp32, forward, scores[path], settings, data)

    target = folder / INT8_FILE
    reduce_range = needs_reduced_range()
    # The range belongs to the machine that measures: a certificate names both.
    attempts = write_int8(folder / ONNX_FILE, target, data.calibration, judge, reduce_range=reduce_range)
    # A file that was written can still prove slow in turns with all files: `measure_files` describes it.
    if not target.exists():
        notes.append(describe_attempts(attempts))
        return None

    details = {
        **_describe_int8(attempts, reduce_range),
        "integer_operations": count_integer_operations(target),
    }
    forward = session_forward(open_session(target, threads))

    return WrittenFile(
        INT8_FILE, "int8", "onnxruntime", "int8", forward, scores[target], details, tuple(attempts)
    )


def _describe_int8(attempts: Sequence[Attempt], reduce_range: bool) -> dict[str, Any]:
    """Return what the certificate says of an INT8 file."""
    return {
        "form": attempts[-1].form,
        "attempts": [attempt.to_dict() for attempt in attempts],
        "reduce_range": reduce_range,
    }


def _write_openvino(
    folder: Path, settings: FormatSettings, data: ModelData, notes: list[str]
) -> list[WrittenFile]:
    """Write the OpenVINO files; a file that OpenVINO or NNCF fails on becomes a note, and is left out."""
    fp32 = _try_openvino(
        notes,
        folder / OPENVINO_FILE,
        "OpenVINO cannot convert or run this model",
        lambda: _write_openvino_fp32(folder, settings, data),
    )
    if fp32 is None or "openvino-int8" not in settings.formats:
        return [] if fp32 is None else [fp32]

    int8 = _try_openvino(
        notes,
        folder / OPENVINO_INT8_FILE,
        "NNCF cannot quantise this model, or OpenVINO cannot run it in INT8",
        lambda: _write_openvino_int8(fp32, folder, settings, data, notes),
    )
    return [fp32] if int8 is None else [fp32, int8]


def _try_openvino(
    notes: list[str], path: Path, problem: str, write: Callable[[], WrittenFile | None]
) -> WrittenFile | None:
    """Write an OpenVINO file; where that fails, remove it, and note the problem with its cause."""
    try:
        return write()
    # Both packages have exceptions of their own. The user's other formats must not be lost with them.
    except Exception as error:
        remove_file(path)
        notes.append(f"{problem}: {first_line(error).rstrip('.')}. Use another format.")
        return None


def _write_openvino_fp32(folder: Path, settings: FormatSettings, data: ModelData) -> WrittenFile:
    convert_to_openvino(folder / ONNX_FILE, folder / OPENVINO_FILE)
    forward = openvino_forward(folder / OPENVINO_FILE, settings.num_threads())
    return WrittenFile(OPENVINO_FILE, "openvino", "openvino", "fp32", forward, data.score(forward))


def _write_openvino_int8(
    fp32: WrittenFile, folder: Path, settings: FormatSettings, data: ModelData, notes: list[str]
) -> WrittenFile | None:
    """Write the INT8 file; it is refused as that of ONNX Runtime is."""
    threads = settings.num_threads()
    judged: list[tuple[TokenForward, float]] = []

    def judge(path: Path) -> Judgement:
        forward = openvino_forward(path, threads)
        # A form that was refused is not kept in memory.
        judged[:] = [(forward, data.score(forward))]
        return judge_int8(fp32, *judged[0], settings, data)

    target = folder / OPENVINO_INT8_FILE
    reduce_range = needs_reduced_range()
    sources = (folder / ONNX_FILE, folder / OPENVINO_FILE)
    attempts = write_openvino_int8(sources, target, data.calibration, judge, reduce_range=reduce_range)
    if attempts[-1].problem:
        notes.append(describe_attempts(attempts))
        return None

    path, form = OPENVINO_INT8_FILE, "openvino-int8"
    details = _describe_int8(attempts, reduce_range)
    return WrittenFile(path, form, "openvino", "int8", *judged[0], details, tuple(attempts))
