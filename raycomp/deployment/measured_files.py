"""The files of one export: their judgement as INT8, and their figures, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raycomp.deployment.certificate import FileFigures, Latency
from raycomp.deployment.format_settings import ONNX_FILE, RUNTIME_FILES, WEIGHTS_FILE, FormatSettings
from raycomp.deployment.int8_steps import (
    Attempt,
    Judgement,
    describe_attempts,
    describe_slow,
    loss_limit,
)
from raycomp.deployment.openvino_files import measure_size_mb, open_forward, remove_file
from raycomp.deployment.peak_memory import measure_peak_memory
from raycomp.deployment.runtimes import Calibration, TokenForward
from raycomp.deployment.timing import FIRST, OTHERS, FileTimes, time_in_turns, time_within_limits


@dataclass(frozen=True)
class ModelData:
    """What the formats need to know about a model's task.

    Attributes:
        score: Function that returns the selection score of a forward function.
        calibration: Training rows.
        vocab_size: Number of tokens.
        max_positions: Longest text, in tokens.
        length: Length of the task's texts.
        is_own_metric: Whether the score is that of a user's function, which can have any unit.
    """

    score: Callable[[TokenForward], float]
    calibration: Calibration
    vocab_size: int
    max_positions: int
    length: int
    is_own_metric: bool = False


@dataclass
class WrittenFile:
    """A file that was written, and the function that runs it.

    Attributes:
        path: Path in the export.
        format: As in `FileFigures`.
        runtime: As in `FileFigures`.
        precision: As in `FileFigures`.
        forward: Function that runs it.
        selection: Score on the selection split in this runtime.
        details: As in `FileFigures`.
        attempts: Forms of an INT8 file that were tried; the file has the last one.
    """

    path: Path
    format: str
    runtime: str
    precision: str
    forward: TokenForward
    selection: float
    details: dict[str, Any] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What was measured of the files of one export.

    Attributes:
        figures: Figures of each file that stays.
        notes: INT8 forms that were refused, and why.
        slowdown: As `time_within_limits` returns it.
    """

    figures: tuple[FileFigures, ...]
    notes: tuple[str, ...]
    slowdown: float


def judge_int8(
    fp32: WrittenFile, forward: TokenForward, selection: float, settings: FormatSettings, data: ModelData
) -> Judgement:
    """Return what was measured of an INT8 file, in turns with the file in fp32 of the same runtime.

    Args:
        fp32: The file in fp32.
        forward: Function that runs the INT8 file.
        selection: Score of the INT8 file on the selection split.
        settings: Batches and lengths. The first ones decide.
        data: The model's task.
    """
    pair = (fp32.forward, forward)
    plain, own = time_in_turns(pair, settings, data.vocab_size, data.length, FIRST)
    judgement = Judgement(
        loss=fp32.selection - selection,
        speedup=own.speedup_over(plain),
        max_loss=loss_limit(fp32.selection, is_own_metric=data.is_own_metric),
        is_own_metric=data.is_own_metric,
        batch=settings.batches[0],
    )
    if judgement.is_fast or not judgement.is_accurate:
        return judgement

    # Users with larger batches need to know that the refusal is not theirs.
    plain, own = time_in_turns(pair, settings, data.vocab_size, data.length, OTHERS)
    return replace(judgement, hint=describe_faster(own, plain, settings))


def describe_faster(int8: FileTimes, fp32: FileTimes, settings: FormatSettings) -> str:
    """Return one sentence per batch and length at which an INT8 file is faster than in fp32."""
    sentences = []
    for number, latency in enumerate(int8.latencies):
        speedup = int8.speedup_over(fp32, number)
        if speedup <= 1.0:
            continue
        place, options = f"batch {latency.batch}", f"--batch {latency.batch}"
        if len(settings.lengths) > 1:
            place += f" and {latency.length} tokens"
            options += f" --length {latency.length}"
        sentences.append(
            f"At {place} it is {speedup:.2f} times as fast as fp32: {options} measures and judges there."
        )
    return " ".join(sentences)


def measure_files(
    files: Sequence[WrittenFile], folder: Path, settings: FormatSettings, data: ModelData
) -> Measured:
    """Time all files in turns, measure the memory of each, and remove files that are not needed.

    These are INT8 files that prove slower than in fp32, and an ONNX file that was not asked for.

    Args:
        files: The files that were written; that of transformers is the first.
        folder: The export.
        settings: Conditions of the measurement.
        data: The model's task.

    Raises:
        UserError: The memory of a file cannot be measured.
    """
    forwards = [file.forward for file in files]
    reference = None
    if settings.reference is not None:
        reference = open_forward(settings.reference.path, settings.num_threads())
    all_times, slowdown = time_within_limits(
        forwards,
        settings,
        data.vocab_size,
        data.length,
        reference,
        find_limited(files, settings),
    )

    times = {file.path: own for file, own in zip(files, all_times, strict=True)}
    remaining, notes = _refuse_slow_files(files, times, folder, settings)
    # The file in fp32 stays where it replaces an INT8 file that was refused.
    is_missed = "int8" in settings.formats and "int8" not in {file.format for file in remaining}
    if "onnx" not in settings.formats and not is_missed:
        for file in remaining:
            if file.format == "onnx":
                (folder / file.path).unlink()
        remaining = [file for file in remaining if file.format != "onnx"]

    figures = []
    for file in remaining:
        fp32 = times.get(ONNX_FILE)
        speedup = None if fp32 is None else times[file.path].speedup_over(fp32)
        latencies = times[file.path].latencies
        figures.append(_figures(file, folder, settings, data, speedup, latencies, files[0].selection))

    return Measured(tuple(figures), tuple(notes), slowdown)


def find_limited(files: Sequence[WrittenFile], settings: FormatSettings) -> int | None:
    """Return the number of the file that must meet the limits; None if one of the files must.

    Where INT8 was refused, it is the file in fp32 of the same library.
    """
    paths = [file.path for file in files]
    path = choose_limited(paths, settings.runtime)
    return None if path is None else paths.index(path)


def choose_limited(paths: Sequence[Path], runtime: str) -> Path | None:
    """Return the file that must meet the limits of a runtime; None where one of the files must.

    Where INT8 was refused, it is the file in fp32 of the same library.
    """
    if not runtime:
        return None
    names = (runtime, runtime.removesuffix("-int8"))
    candidates = [RUNTIME_FILES.get(name, WEIGHTS_FILE) for name in names]
    return next((path for path in candidates if path in paths), None)


def _refuse_slow_files(
    files: Sequence[WrittenFile],
    times: Mapping[Path, FileTimes],
    folder: Path,
    settings: FormatSettings,
) -> tuple[list[WrittenFile], list[str]]:
    """Remove INT8 files that are slower than in fp32, measured in turns with all files.

    Returns:
        The files that stay, and notes on all INT8 files.
    """
    remaining = []
    notes = []
    for file in files:
        if file.precision != "int8":
            remaining.append(file)
            continue

        fp32 = next(f for f in files if (f.runtime, f.precision) == (file.runtime, "fp32"))
        own, plain = times[file.path], times[fp32.path]
        attempts = list(file.attempts)
        speedup = own.speedup_over(plain)
        if speedup >= 1.0:
            remaining.append(file)
        else:
            problem = describe_slow(speedup, settings.batches[0])
            hint = describe_faster(own, plain, settings)
            attempts[-1] = replace(attempts[-1], speedup=speedup, problem=problem, hint=hint)
            remove_file(folder / file.path)
        notes += [describe_attempts(attempts)]

    return remaining, [note for note in notes if note]


def _figures(
    file: WrittenFile,
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
            length=settings.longest
            or max(settings.mixed_lengths, default=(settings.lengths or (data.length,))[0]),
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
