"""The INT8 file of OpenVINO: the first form that is accurate and fast enough, or none.

The rules are those of `int8_steps.py`. NNCF's quantisation is static and smoothed from the first form on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from raycomp.deployment.int8_steps import Attempt, Judgement, attempt_of, lost_accuracy_only
from raycomp.deployment.openvino_files import quantise_openvino, remove_file
from raycomp.deployment.quantisation import find_operations, rank_groups
from raycomp.deployment.runtimes import Calibration
from raycomp.errors import first_line

FIRST_FORM = "OpenVINO"
"""Name of the form with all operations in INT8 that NNCF quantises."""

Form = tuple[str, tuple[str, ...]]
"""Name of a form, and the nodes of the ONNX file that stay in fp32."""


def write_openvino_int8(
    sources: tuple[Path, Path],
    target: Path,
    calibration: Calibration,
    judge: Callable[[Path], Judgement],
    *,
    reduce_range: bool,
) -> list[Attempt]:
    """Write the first form that is accurate and fast enough.

    Args:
        sources: The ONNX file in fp32, and the OpenVINO file that was made from it.
        target: File to write (.xml); it does not exist afterwards where no form was taken.
        calibration: Training rows.
        judge: Function that measures a file.
        reduce_range: Whether weights have 7 bits.

    Returns:
        All attempts in order. The last one was taken if its `problem` is empty.

    Raises:
        Exception: NNCF or OpenVINO failed on the first form. Both have exceptions of their own.
    """
    attempts: list[Attempt] = []

    def rank() -> list[tuple[str, ...]]:
        return _rank_products(sources[0], calibration, target.parent, reduce_range)

    for form, in_fp32 in _list_forms(sources[0], attempts, rank):
        try:
            quantise_openvino(sources[1], target, calibration, in_fp32, reduce_range=reduce_range)
            attempts.append(attempt_of(form, judge(target)))
        except Exception as error:
            if not attempts:
                raise
            problem = f"NNCF or OpenVINO cannot run it: {first_line(error).rstrip('.')}"
            attempts.append(Attempt(form, None, None, problem))
        if not attempts[-1].problem:
            break
        remove_file(target)

    return attempts


def _list_forms(
    onnx_file: Path, attempts: list[Attempt], rank: Callable[[], list[tuple[str, ...]]]
) -> Iterator[Form]:
    """Yield the forms to try. What the attempts so far lost decides which come next."""
    # A generator: the attempts grow between two forms.
    yield FIRST_FORM, ()
    # Operations in fp32 restore accuracy and never speed.
    if not lost_accuracy_only(attempts[-1]):
        return

    operations = find_operations(onnx_file)
    convolutions = tuple(operation.name for operation in operations if operation.kind == "Conv")
    if convolutions:
        if len(convolutions) < len(operations):
            yield f"{FIRST_FORM}, convolutions in fp32", convolutions
        return

    try:
        groups = rank()
    # The first form was refused for its loss: that must be said too.
    except Exception as error:
        problem = f"ONNX Runtime cannot rank the products: {first_line(error).rstrip('.')}"
        attempts.append(Attempt(f"{FIRST_FORM}, sensitive products in fp32", None, None, problem))
        return

    for num_excluded in dict.fromkeys(max(1, len(groups) // share) for share in (4, 2)):
        # With all products in fp32, the file has the speed of fp32.
        if num_excluded < len(groups):
            names = tuple(name for group in groups[:num_excluded] for name in group)
            yield f"{FIRST_FORM}, {len(names)} most sensitive products in fp32", names


def _rank_products(
    onnx_file: Path, calibration: Calibration, folder: Path, reduce_range: bool
) -> list[tuple[str, ...]]:
    """Return groups of products, the most sensitive one first.

    They are ranked in ONNX Runtime, where a group takes less than a second; NNCF takes several.
    """
    operations = find_operations(onnx_file)
    groups = rank_groups(onnx_file, operations, calibration, folder, reduce_range=reduce_range)
    products = [group for group in groups if group[0].kind != "Gather"]
    return [tuple(operation.name for operation in group) for group in products]
