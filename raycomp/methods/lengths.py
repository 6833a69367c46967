"""Equal lengths of training for several methods: `run.equal_compute` and `run.equal_epochs`.

All settings of a method that say how long it trains are multiplied by one number. It is chosen once, when
a run begins, and written into the run directory: every process and every resumed run reads it there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from raycomp.config.job import Job
from raycomp.config.lengths import apply_lengths
from raycomp.config.overrides import put
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class

SMALLEST_FACTOR = 1e-6
"""Multiple of a method's lengths at which it trains for one step only."""

WIDTH = 4.0
"""Ratio of the ends of the interval in which the number is looked for."""

HALVINGS = 14
"""Times that this interval is halved: the number is then exact to .01%."""


def find_lengths(context: RunContext) -> dict[str, Any]:
    """Return the settings that make the methods of a job equally long: dotted key -> value.

    Empty where the job asks for neither mode. A method without a setting for its length keeps it.

    Raises:
        UserError: A method cannot be made as long or as short as the job asks.
    """
    run = context.job.run
    lengths: dict[str, Any] = {}
    if run.equal_compute is None and run.equal_epochs is None:
        return lengths

    for name in run.methods:
        own = context.for_method(name)
        keys = load_method_class(name)().length_keys(own.job)
        # Pruning without training, for example.
        if not keys:
            continue
        if run.equal_epochs is not None:
            factor = run.equal_epochs / load_method_class(name)().training_epochs(own)
        else:
            factor = _factor_for_compute(own, keys)
        lengths |= _scaled(own.job, keys, factor)
        # The message of an error names the method, not only the setting that became too large.
        _check(own.job, lengths, name, factor)
    return lengths


def _check(job: Job, lengths: Mapping[str, Any], method: str, factor: float) -> None:
    try:
        apply_lengths(job, lengths)
    except UserError as error:
        mode = "equal_compute" if job.run.equal_compute is not None else "equal_epochs"
        raise UserError(
            f"run.{mode} = {getattr(job.run, mode):g} makes {method} {factor:,.3g} times as long as its "
            f"settings say, which is not allowed: {error} Choose another value, or leave {method} out."
        ) from None


def _factor_for_compute(context: RunContext, keys: tuple[str, ...]) -> float:
    """Return the number for which a method's training takes `run.equal_compute` passes.

    Raises:
        UserError: What does not depend on the lengths, such as healing, takes more already.
    """
    passes = context.job.run.equal_compute
    assert passes is not None  # nosec B101 - the caller checks the mode
    target = passes * context.epoch_flops()
    least = _planned_flops(context, keys, SMALLEST_FACTOR)
    if least >= target:
        raise UserError(
            f"run.equal_compute = {passes:g} passes are too few. {context.method} needs at least "
            f"{least / context.epoch_flops():.2g} (one step of training, healing, reads of the teacher). "
            "Raise run.equal_compute, or lower heal.steps."
        )

    low, high = 1.0 / WIDTH, 1.0
    while _planned_flops(context, keys, high) < target:
        low, high = high, high * WIDTH
    while _planned_flops(context, keys, low) >= target:
        low, high = low / WIDTH, low
    # Halving the interval needs no slope: steps are whole numbers, and draws of networks vary.
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if _planned_flops(context, keys, middle) < target:
            low = middle
        else:
            high = middle
    return high


def _planned_flops(context: RunContext, keys: tuple[str, ...], factor: float) -> float:
    """Return the FLOPs that a method plans, with its lengths multiplied by a number.

    Args:
        context: A context of the caller only: its job is another one for a moment. A copy would read the
            model and the texts again.
        keys: Job keys of the lengths.
        factor: The number.
    """
    job = context.job
    data = job.model_dump(mode="json")
    for key, value in _scaled(job, keys, factor).items():
        put(data, key, value, key)
    # Not checked: the number of the answer may still be within the limits.
    context.job = _unchecked(job, data)
    try:
        return float(load_method_class(context.method)().plan(context)["flops"])
    finally:
        context.job = job


def _unchecked(job: Job, data: Mapping[str, Any]) -> Job:
    """Return a job with some other numbers, without a check of their limits."""
    sections = {}
    for name in type(job).model_fields:
        section = getattr(job, name)
        if isinstance(data[name], dict) and data[name] != section.model_dump(mode="json"):
            sections[name] = section.model_copy(update=data[name])
    return job.model_copy(update=sections)


def _scaled(job: Job, keys: tuple[str, ...], factor: float) -> dict[str, Any]:
    """Return the values of settings, multiplied by a number."""
    values = {}
    for key in keys:
        section, _, name = key.partition(".")
        value = getattr(getattr(job, section), name)
        is_steps = name.endswith("steps")
        values[key] = scale_steps(value, factor) if is_steps else _scale_epochs(value, factor)
    return values


def _scale_epochs(value: float | list[float], factor: float) -> float | list[float]:
    if isinstance(value, list):
        return [number * factor for number in value]
    return value * factor


def scale_steps(value: int | list[int], factor: float) -> int | list[int]:
    """Return numbers of steps, multiplied; the sum of a list is rounded only once.

    Example:
        >>> scale_steps([1, 3, 3, 3], 0.5)
        [0, 2, 2, 1]
    """
    if not isinstance(value, list):
        return max(1, round(value * factor))
    ends = [round(end * factor) for end in itertools.accumulate(value)]
    ends[-1] = max(1, ends[-1])
    return [int(steps) for steps in np.diff([0, *ends])]


def describe_lengths(lengths: Mapping[str, Any], methods: list[str]) -> list[str]:
    """Return one line per scaled setting, and one on the methods that keep their lengths."""
    # A phase that the method does not have stays at 0.
    lines = [f"Length: {key} = {_show(value)}" for key, value in lengths.items() if value]
    scaled = {key.partition(".")[0] for key in lengths}
    # The lengths of yoco are in [train].
    same = [name for name in methods if name not in scaled and not (name == "yoco" and "train" in scaled)]
    if lengths and same:
        lines.append(f"Length: {', '.join(same)} unchanged, without a setting to scale")
    return lines


def _show(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{number:.4g}" for number in value) + "]"
    return f"{value:.4g}"
