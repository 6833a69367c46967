"""The INT8 file of a model: the first form that is accurate and fast enough, or none.

The forms are tried from the fastest to the most careful. A form is taken if it loses at most
`MAX_LOSS` on the selection split and is at least as fast as the file in fp32, both measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raycomp.deployment.quantisation import (
    Int8Form,
    Operation,
    find_operations,
    quantise,
    rank_groups,
)
from raycomp.deployment.runtimes import Calibration
from raycomp.errors import first_line

MAX_LOSS = 0.005
"""Largest loss of the metric on the selection split: half a point."""


@dataclass(frozen=True)
class Judgement:
    """What was measured of an INT8 file, next to the file in fp32.

    Attributes:
        loss: Selection score of the file in fp32 minus that of this one.
        speedup: Median time of the file in fp32 over that of this one.
    """

    loss: float
    speedup: float

    @property
    def is_accurate(self) -> bool:
        """Whether the loss is within the limit."""
        return self.loss <= MAX_LOSS

    @property
    def is_fast(self) -> bool:
        """Whether the file is at least as fast as in fp32."""
        return self.speedup >= 1.0

    @property
    def problem(self) -> str:
        """Why the file is refused; empty where it is not."""
        problems = []
        if not self.is_accurate:
            problems.append(f"it loses {self.loss * 100:.2f} points")
        if not self.is_fast:
            problems.append(f"it takes {1 / self.speedup:.2f} times as long as fp32")
        return " and ".join(problems)


@dataclass(frozen=True)
class Attempt:
    """One form that was tried.

    Attributes:
        form: Name of the form.
        loss: As in `Judgement`; None where the file could not be run.
        speedup: As in `Judgement`; None where the file could not be run.
        problem: Why the form is refused; empty where it is not.
    """

    form: str
    loss: float | None
    speedup: float | None
    problem: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)


def write_int8(
    source: Path,
    target: Path,
    calibration: Calibration,
    judge: Callable[[Path], Judgement],
    *,
    reduce_range: bool,
) -> list[Attempt]:
    """Write the first INT8 form that is accurate and fast enough.

    Args:
        source: ONNX file in fp32.
        target: File to write; it does not exist afterwards where no form was taken.
        calibration: Training rows.
        judge: Function that measures a file.
        reduce_range: Whether weights have 7 bits.

    Returns:
        All attempts in order. The last one was taken if its `problem` is empty.
    """
    attempts: list[Attempt] = []
    operations = find_operations(source)

    def rank() -> list[tuple[Operation, ...]]:
        return rank_groups(source, operations, calibration, target.parent, reduce_range=reduce_range)

    for form in _list_forms(operations, attempts, rank):
        attempt = _try_form(source, target, form, calibration, judge, reduce_range)
        attempts.append(attempt)
        if not attempt.problem:
            return attempts
        target.unlink(missing_ok=True)

    return attempts


def _list_forms(
    operations: Sequence[Operation],
    attempts: Sequence[Attempt],
    rank: Callable[[], list[tuple[Operation, ...]]],
) -> Iterator[Int8Form]:
    """Yield the forms to try. What the attempts so far lost decides which come next."""
    # A generator: the attempts grow between two forms.
    everything = tuple(operations)
    convolutions = [operation for operation in operations if operation.kind == "Conv"]
    if convolutions:
        # ConvInteger, the dynamic form, has a slow kernel and no scales per channel.
        yield Int8Form("static", True, everything)
        without = tuple(operation for operation in operations if operation.kind != "Conv")
        if without:
            yield Int8Form("dynamic, convolutions in fp32", False, without)
        return

    if not everything:
        return

    yield Int8Form("dynamic", False, everything)
    # Layers in fp32 restore accuracy and never speed.
    if _lost_accuracy_only(attempts[-1]):
        groups = rank()
        for share in (4, 2):
            num_excluded = max(1, len(groups) // share)
            excluded = {operation for group in groups[:num_excluded] for operation in group}
            remaining = tuple(operation for operation in operations if operation not in excluded)
            if remaining:
                name = f"dynamic, {len(excluded)} most sensitive products in fp32"
                yield Int8Form(name, False, remaining)

    yield Int8Form("static", True, everything)
    # Smoothing adds nodes: it restores accuracy and never speed.
    if _lost_accuracy_only(attempts[-1]):
        yield Int8Form("static, smoothed", True, everything, is_smoothed=True)


def _lost_accuracy_only(attempt: Attempt) -> bool:
    return attempt.loss is not None and attempt.loss > MAX_LOSS and (attempt.speedup or 0.0) >= 1.0


def _try_form(
    source: Path,
    target: Path,
    form: Int8Form,
    calibration: Calibration,
    judge: Callable[[Path], Judgement],
    reduce_range: bool,
) -> Attempt:
    try:
        quantise(source, target, form, calibration, reduce_range=reduce_range)
        judgement = judge(target)
    # ONNX Runtime refuses some graphs with exceptions of its own, such as for a zero point.
    except Exception as error:
        return Attempt(form.name, None, None, f"ONNX Runtime cannot run it: {first_line(error)}")

    return Attempt(form.name, judgement.loss, judgement.speedup, judgement.problem)


def describe_attempts(attempts: Sequence[Attempt]) -> str:
    """Return one sentence per refused form, and one on the form that is used instead."""
    refused = [f"INT8 ({attempt.form}) is refused: {attempt.problem}." for attempt in attempts[:-1]]
    last = attempts[-1] if attempts else None
    if last is None:
        refused.append("The model lacks products with fixed weights, and INT8 would change nothing.")
    elif last.problem:
        refused.append(f"INT8 ({last.form}) is refused: {last.problem}. Use the file in fp32.")
    elif refused:
        refused.append(f"The file is INT8 ({last.form}).")
    return " ".join(refused)
