"""The INT8 file of a model: the first form that is accurate and fast enough, or none.

The forms are tried from the fastest to the most careful. A form is taken if it loses at most what
`loss_limit` allows on the selection split and is at least as fast as the file in fp32, both measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
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
"""Largest loss of the metric on the selection split: half a point, or a share of a user's metric."""


def loss_limit(score: float, *, is_own_metric: bool) -> float:
    """Return the largest loss of the metric on the selection split.

    Args:
        score: Score of the file in fp32.
        is_own_metric: Whether the metric is a function of the user's, which can have any unit. The limit
            is then a share of the score's absolute value.
    """
    return MAX_LOSS * abs(score) if is_own_metric else MAX_LOSS


@dataclass(frozen=True)
class Judgement:
    """What was measured of an INT8 file, next to the file in fp32.

    Attributes:
        loss: Selection score of the file in fp32 minus that of this one.
        speedup: Time of the file in fp32 over that of this one: the median over the passes.
        max_loss: Largest loss that is allowed.
        is_own_metric: As in `loss_limit`; the loss is then not in points.
        batch: Batch size of the passes.
        hint: Sentence on other conditions in which the file is faster than in fp32; empty without one.
    """

    loss: float
    speedup: float
    max_loss: float = MAX_LOSS
    is_own_metric: bool = False
    batch: int = 1
    hint: str = ""

    @property
    def is_accurate(self) -> bool:
        """Whether the loss is within the limit."""
        return self.loss <= self.max_loss

    @property
    def is_fast(self) -> bool:
        """Whether the file is at least as fast as in fp32."""
        return self.speedup >= 1.0

    @property
    def problem(self) -> str:
        """Why the file is refused; empty where it is not."""
        problems = []
        if not self.is_accurate and self.is_own_metric:
            problems.append(f"it loses {self.loss:.4g} of the metric, more than {self.max_loss:.4g}")
        elif not self.is_accurate:
            problems.append(f"it loses {self.loss * 100:.2f} points")
        if not self.is_fast:
            problems.append(describe_slow(self.speedup, self.batch))
        return " and ".join(problems)


def describe_slow(speedup: float, batch: int) -> str:
    """Return why a file that is slower than in fp32 at a batch size is refused."""
    return f"it takes {1 / speedup:.2f} times as long as fp32 at batch {batch}"


@dataclass(frozen=True)
class Attempt:
    """One form that was tried.

    Attributes:
        form: Name of the form.
        loss: As in `Judgement`; None where the file could not be run.
        speedup: As in `Judgement`; None where the file could not be run.
        problem: Why the form is refused; empty where it is not.
        max_loss: As in `Judgement`.
        hint: As in `Judgement`.
    """

    form: str
    loss: float | None
    speedup: float | None
    problem: str
    max_loss: float = MAX_LOSS
    hint: str = ""

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
        try:
            return rank_groups(source, operations, calibration, target.parent, reduce_range=reduce_range)
        # As in `_try_form`. The static forms do not need the ranking.
        except Exception as error:
            problem = f"ONNX Runtime cannot compare the layers: {first_line(error)}"
            attempts.append(Attempt("dynamic, most sensitive products in fp32", None, None, problem))
            return []

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
    if lost_accuracy_only(attempts[-1]):
        for excluded in _list_exclusions(rank()):
            remaining = tuple(operation for operation in operations if operation not in excluded)
            if remaining:
                yield Int8Form(f"dynamic, {_name_operations(excluded)} in fp32", False, remaining)

    yield Int8Form("static", True, everything)
    # Smoothing adds nodes: it restores accuracy and never speed.
    if lost_accuracy_only(attempts[-1]):
        yield Int8Form("static, smoothed", True, everything, is_smoothed=True)


def _list_exclusions(groups: Sequence[tuple[Operation, ...]]) -> list[frozenset[Operation]]:
    """Return which operations to keep in fp32, one set after another.

    Args:
        groups: Result of `rank_groups`.
    """
    if not groups:
        return []
    counts = [max(1, len(groups) // share) for share in (4, 2)]
    # Embeddings in fp32 make the file larger and not slower: they are tried without any layer.
    if groups[0][0].kind == "Gather":
        counts.insert(0, 1)

    # A quarter and a half of a small network can be the same group.
    return [
        frozenset(operation for group in groups[:count] for operation in group)
        for count in dict.fromkeys(counts)
    ]


def _name_operations(operations: Collection[Operation]) -> str:
    """Return what the name of a form calls the operations that stay in fp32."""
    num_products = sum(operation.kind != "Gather" for operation in operations)
    parts = ["embeddings"] if num_products < len(operations) else []
    parts += [f"{num_products} most sensitive products"] if num_products else []
    return " and ".join(parts)


def lost_accuracy_only(attempt: Attempt) -> bool:
    """Return whether a form was refused for its accuracy and was fast enough."""
    if attempt.loss is None or attempt.speedup is None:
        return False
    return attempt.loss > attempt.max_loss and attempt.speedup >= 1.0


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

    return attempt_of(form.name, judgement)


def attempt_of(form: str, judgement: Judgement) -> Attempt:
    """Return the attempt at a form, as it was judged."""
    return Attempt(
        form, judgement.loss, judgement.speedup, judgement.problem, judgement.max_loss, judgement.hint
    )


def describe_attempts(attempts: Sequence[Attempt]) -> str:
    """Return one sentence per refused form, and one on the form that is used instead."""
    if not attempts:
        return "The model lacks products with fixed weights, and INT8 would change nothing."

    sentences = []
    for attempt in attempts:
        if attempt.problem:
            sentences.append(f"INT8 ({attempt.form}) is refused: {attempt.problem}.")
            sentences += [attempt.hint] if attempt.hint else []
    if attempts[-1].problem:
        sentences.append("Use the file in fp32.")
    elif sentences:
        sentences.append(f"The file is INT8 ({attempts[-1].form}).")

    return " ".join(sentences)
