"""Writes the formats of one exported model, and measures each file in its runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycomp.deployment.certificate import FileFigures, Latency
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
from raycomp.deployment.int8_steps import Judgement, describe_attempts, write_int8
from raycomp.deployment.onnx_export import export_onnx, export_program, load_program
from raycomp.deployment.openvino_files import (
    convert_to_openvino,
    measure_size_mb,
    openvino_forward,
    quantise_openvino,
)
from raycomp.deployment.peak_memory import measure_peak_memory
from raycomp.deployment.quantisation import count_integer_operations
from raycomp.deployment.runtimes import (
    Calibration,
    TokenForward,
    model_forward,
    open_session,
    session_forward,
    torch_threads,
)
from raycomp.deployment.timing import time_in_turns, time_within_limits
from raycomp.errors import UserError


@dataclass(frozen=True)
class ModelData:
    """What the formats need to know about a model's task.

    Attributes:
        score: Function that returns the selection score of a forward function.
        calibration: Training rows.
        vocab_size: Number of tokens.
        max_positions: Longest text, in tokens.
        length: Length of the task's texts.
    """

    score: Callable[[TokenForward], float]
    calibration: Calibration
    vocab_size: int
    max_positions: int
    length: int


@dataclass
class _File:
    """A file that was written, and the function that runs it."""

    path: Path
    format: str
    runtime: str
    precision: str
    forward: TokenForward
    selection: float
    details: dict[str, Any] = field(default_factory=dict)


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

    with torch_threads(threads), pinned_to_cpus(threads) as cpus:
        forward = model_forward(loaded)
        form = "transformers" if loaded is network else "plain"
        files = [_File(WEIGHTS_FILE, form, "torch", "fp32", forward, data.score(forward))]
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
        figures, slowdown = _measure(files, folder, settings, data)

    return FormatResult(figures, tuple(notes), cpus, slowdown)


def _try_format(notes: list[str], path: Path, write: Callable[[], list[_File]]) -> list[_File]:
    """Write a format. Where torch cannot export the model, a note says so, and the file is left out.

    A BiLSTM, for example, packs its texts by their lengths, which no exporter follows.
    """
    try:
        return write()
    except UserError as error:
        path.unlink(missing_ok=True)
        notes.append(str(error))
        return []


def _write_program(model: Any, folder: Path, data: ModelData) -> _File:
    difference = export_program(model, folder / PROGRAM_FILE, data.max_positions)
    forward = load_program(folder / PROGRAM_FILE)
    details = {"max_logit_difference": difference}
    return _File(
        PROGRAM_FILE, "torch-export", "torch", "fp32", forward, data.score(forward), details=details
    )


def _write_onnx(
    model: Any, folder: Path, settings: FormatSettings, data: ModelData, notes: list[str]
) -> list[_File]:
    """Write the ONNX files; the file in fp32 is also the reference of the one in INT8."""
    threads = settings.num_threads()
    difference = export_onnx(model, folder / ONNX_FILE, data.max_positions)
    # The session reads the file that the user gets, not the graph in memory.
    forward = session_forward(open_session(folder / ONNX_FILE, threads))
    details = {"max_logit_difference": difference}
    fp32 = _File(ONNX_FILE, "onnx", "onnxruntime", "fp32", forward, data.score(forward), details=details)
    if "int8" not in settings.formats:
        return [fp32]

    int8 = _write_int8(fp32, folder, settings, data, notes)
    return [fp32] if int8 is None else [fp32, int8]


def _write_int8(
    fp32: _File, folder: Path, settings: FormatSettings, data: ModelData, notes: list[str]
) -> _File | None:
    """Write the INT8 file; None where no form is accurate and fast enough."""
    threads = settings.num_threads()
    scores: dict[Path, float] = {}

    def judge(path: Path) -> Judgement:
        forward = session_forward(open_session(path, threads))
        scores[path] = data.score(forward)
        plain, quantised = _time_pair(fp32.forward, forward, settings, data)
        return Judgement(fp32.selection - scores[path], plain.p50_ms / quantised.p50_ms)

    target = folder / INT8_FILE
    reduce_range = needs_reduced_range()
    # The range belongs to the machine that measures: a certificate names both.
    attempts = write_int8(folder / ONNX_FILE, target, data.calibration, judge, reduce_range=reduce_range)
    if text := describe_attempts(attempts):
        notes.append(text)
    if not target.exists():
        return None

    details = {
        "form": attempts[-1].form,
        "attempts": [attempt.to_dict() for attempt in attempts],
        "reduce_range": reduce_range,
        "integer_operations": count_integer_operations(target),
    }
    forward = session_forward(open_session(target, threads))

    return _File(INT8_FILE, "int8", "onnxruntime", "int8", forward, scores[target], details=details)


def _write_openvino(
    folder: Path, settings: FormatSettings, data: ModelData, notes: list[str]
) -> list[_File]:
    """Write the OpenVINO files; the one in INT8 is refused as that of ONNX Runtime is."""
    threads = settings.num_threads()
    convert_to_openvino(folder / ONNX_FILE, folder / OPENVINO_FILE)
    forward = openvino_forward(folder / OPENVINO_FILE, threads)
    fp32 = _File(OPENVINO_FILE, "openvino", "openvino", "fp32", forward, data.score(forward))
    if "openvino-int8" not in settings.formats:
        return [fp32]

    target = folder / OPENVINO_INT8_FILE
    quantise_openvino(folder / OPENVINO_FILE, target, data.calibration)
    forward = openvino_forward(target, threads)
    selection = data.score(forward)
    plain, quantised = _time_pair(fp32.forward, forward, settings, data)
    judgement = Judgement(fp32.selection - selection, plain.p50_ms / quantised.p50_ms)
    if judgement.problem:
        notes.append(f"OpenVINO INT8 is refused: {judgement.problem}. Use the file in fp32.")
        target.unlink()
        target.with_suffix(".bin").unlink()
        return [fp32]

    return [fp32, _File(OPENVINO_INT8_FILE, "openvino-int8", "openvino", "int8", forward, selection)]


def _time_pair(
    plain: TokenForward, quantised: TokenForward, settings: FormatSettings, data: ModelData
) -> tuple[Latency, ...]:
    """Return the latencies of a file and its quantised form, at the first batch and length."""
    pair = [plain, quantised]
    return time_in_turns(pair, settings, data.vocab_size, data.length, first_only=True)[0]


def _measure(
    files: Sequence[_File], folder: Path, settings: FormatSettings, data: ModelData
) -> tuple[tuple[FileFigures, ...], float]:
    """Time all files in turns, measure the memory of each, and remove files that nobody asked for.

    Returns:
        The figures of each file, and the slowdown of `time_within_limits`.
    """
    forwards = [file.forward for file in files]
    reference = None
    if settings.reference is not None:
        session = open_session(settings.reference.path, settings.num_threads())
        reference = session_forward(session)
    latencies, slowdown = time_within_limits(forwards, settings, data.vocab_size, data.length, reference)
    by_file = list(zip(*latencies, strict=True))
    fp32 = next((by_file[i][0] for i, file in enumerate(files) if file.format == "onnx"), None)
    written = {file.format for file in files}
    is_missed = "int8" in settings.formats and "int8" not in written

    figures = []

    for file, times in zip(files, by_file, strict=True):
        # The file in fp32 stays where it replaces an INT8 file that was refused.
        if file.format == "onnx" and "onnx" not in settings.formats and not is_missed:
            (folder / file.path).unlink()
            continue
        speedup = None if fp32 is None else fp32.p50_ms / times[0].p50_ms
        figures.append(_figures(file, folder, settings, data, speedup, times, files[0].selection))

    return tuple(figures), slowdown


def _figures(
    file: _File,
    folder: Path,
    settings: FormatSettings,
    data: ModelData,
    speedup: float | None,
    latencies: tuple[Latency, ...],
    torch_selection: float,
) -> FileFigures:
    # torch.export's programs run in torch, whose memory the folder of transformers shows already.
    memory: Mapping[str, float] | None = None
    if file.format != "torch-export":
        target = folder if file.runtime == "torch" else folder / file.path
        memory = measure_peak_memory(
            file.runtime,
            target,
            batch=settings.batches[0],
            length=max(settings.mixed_lengths, default=(settings.lengths or (data.length,))[0]),
            threads=settings.num_threads(),
        )

    return FileFigures(
        file=file.path.as_posix(),
        format=file.format,
        runtime=file.runtime,
        precision=file.precision,
        size_mb=measure_size_mb(folder / file.path),
        memory_mb=None if memory is None else memory["memory_mb"],
        libraries_mb=None if memory is None else memory["libraries_mb"],
        selection=file.selection,
        loss=torch_selection - file.selection,
        speedup=speedup,
        latencies=latencies,
        details=file.details,
    )
