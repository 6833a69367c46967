"""The section [[budget]] of a job file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from raycomp.config.section import Section, choices, plain_name

BUDGET_KINDS = ("params", "encoder_params", "flops")
"""Limits that are computed from the shapes of a network."""

DEVICE_KINDS = ("latency_ms", "memory_mb", "size_mb")
"""Limits on measured figures of an exported file in its runtime."""

SEVERAL = "limits"
"""Kind of a budget with several limits. Its cost is the largest used share of its limits."""

Runtime = Literal["onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8", "torch"]

DEVICE_DEFAULTS = {
    "latency_ms": None,
    "memory_mb": None,
    "size_mb": None,
    "percentile": 50,
    "runtime": "onnxruntime",
    "device": "cpu",
    "node": None,
    "threads": 1,
    "batch": 1,
    "length": None,
    "lengths": None,
    "profile": None,
}
"""Settings for a device. A budget without such a limit keeps the identity that it had before them."""

_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_QUANTITY = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(x|[kKmMbBgGtT]?)(\s+encoder)?")


class BudgetSettings(Section):
    """One deployment target: a name and at least one limit. A network must meet all of its limits.

    A limit is absolute ("12M") or a multiple of the full model ("0.5x"). The settings from `percentile`
    to `profile` say where `latency_ms`, `memory_mb` and `size_mb` are measured.
    """

    name: str = Field(
        description="Name of the budget. The exported model is in exports/METHOD-NAME of the run "
        "directory."
    )
    params: float | int | str | None = Field(
        None,
        description='Largest number of parameters of the whole model, such as 40e6, "12M" or "0.5x" '
        '(half of the full model). "0.5x encoder" is the same as encoder_params = "0.5x".',
    )
    encoder_params: float | int | str | None = Field(
        None,
        description="Largest number of parameters of the Transformer layers, without embeddings, pooler "
        'and classifier, such as "5M" or "0.5x".',
    )
    flops: float | int | str | None = Field(
        None,
        description="Largest number of FLOPs of one sequence of `search.flops_length` tokens, such as "
        "2e9, "
        '"2G" or "0.5x". A multiply-add of a matrix product counts as two.',
    )
    latency_ms: float | int | str | None = Field(
        None,
        description="Largest time of one forward pass of the exported file in `runtime`, in "
        'milliseconds, or "0.5x" (half of the full model\'s).',
    )
    memory_mb: float | int | str | None = Field(
        None,
        description="Largest peak memory of a process that loads the exported file and computes one "
        'batch, in MB (10^6 bytes), or "0.5x". The libraries of `runtime` are counted too.',
    )
    size_mb: float | int | str | None = Field(
        None,
        description="Largest size of the exported file on disk, without tokenizer, in MB (10^6 bytes), "
        'or "0.5x".',
    )
    percentile: Literal[50, 95] = Field(
        50,
        description=choices(
            "Percentile of the measured times that `latency_ms` limits.",
            {"50": "the median", "95": "95 of 100 passes are at least as fast"},
        ),
    )
    runtime: Runtime = Field(
        "onnxruntime",
        description=choices(
            "Runtime of the exported file.",
            {
                "onnxruntime": "ONNX Runtime in fp32. The export has `onnx/model.onnx`",
                "onnxruntime-int8": "ONNX Runtime in INT8. The export has `onnx/model_int8.onnx`",
                "openvino": "OpenVINO in fp32. The export has `openvino/openvino_model.xml`",
                "openvino-int8": "OpenVINO in INT8. The export has `openvino/openvino_model_int8.xml`",
                "torch": "PyTorch without compilation, in fp32",
            },
        ),
    )
    device: Literal["cpu"] = Field(
        "cpu", description=choices("Device that the file runs on.", {"cpu": "the CPU"})
    )
    node: str | None = Field(
        None,
        description="Ray resource of the node that the run profiles, such as `edge` for a node that was "
        "started with `--resources='{\"edge\": 1}'`. Not set: the machine of the run.",
    )
    threads: int = Field(1, ge=1, le=1024, description="Threads of one operation.")
    batch: int = Field(1, ge=1, le=4096, description="Texts of one forward pass.")
    length: int | None = Field(None, ge=2, description="Tokens of each text. Not set: `task.max_length`.")
    lengths: str | None = Field(
        None,
        description="File with one number of tokens per line, in place of `length`. The percentile is "
        "then that over texts of these lengths.",
    )
    profile: str | None = Field(
        None,
        description="File that `raycomp profile` wrote on the device. Not set: the run measures the "
        "layers before it trains.",
    )

    min_retention: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Smallest share of the teacher's validation score that a deployed model should "
        "keep. A model below it is still deployed, but the table, the last message of the run and the "
        "model card say so. 0: only models at chance are marked.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return plain_name(value)

    @model_validator(mode="after")
    def _limits(self) -> BudgetSettings:
        kinds = [kind for kind in (*BUDGET_KINDS, *DEVICE_KINDS) if getattr(self, kind) is not None]
        if len(self.limits) < len(kinds):
            raise ValueError("has two limits on encoder_params. Leave one of them out")
        if not kinds:
            choice = ", ".join((*BUDGET_KINDS, *DEVICE_KINDS))
            raise ValueError(f"has 0 limits. Set at least one of {choice}")

        for kind, limit in self.limits.items():
            _check_limit(kind, limit)

        changed = [key for key, value in DEVICE_DEFAULTS.items() if getattr(self, key) != value]
        if changed and not self.is_for_device:
            raise ValueError(
                f"has {changed[0]}, but no limit that is measured. Set latency_ms, memory_mb or size_mb, "
                f"or leave {changed[0]} out"
            )
        if self.length is not None and self.lengths is not None:
            raise ValueError("has length and lengths. Set one of them")
        # The run would not know which of them the limit refers to.
        if self.node is not None and self.profile is not None:
            raise ValueError("has node and profile, but a profile is measured already. Set one of them")
        return self

    @property
    def limits(self) -> dict[str, float | int | str]:
        """Kind -> limit as the user wrote it. `params = "0.5x encoder"` has kind `encoder_params`."""
        limits: dict[str, float | int | str] = {}
        for kind in (*BUDGET_KINDS, *DEVICE_KINDS):
            limit = getattr(self, kind)
            if limit is None:
                continue
            is_encoder = isinstance(limit, str) and limit.split()[-1:] == ["encoder"]
            limits["encoder_params" if kind == "params" and is_encoder else kind] = limit
        return limits

    @property
    def kind(self) -> str:
        """Kind of the one limit, or `limits` for several."""
        kinds = list(self.limits)
        return kinds[0] if len(kinds) == 1 else SEVERAL

    @property
    def is_for_device(self) -> bool:
        """Whether a limit is measured in a runtime."""
        return any(getattr(self, kind) is not None for kind in DEVICE_KINDS)

    def resolve(self, full: float) -> float:
        """Return the limit of a budget with one limit as a number.

        Args:
            full: Cost of the full model in the unit of the limit.
        """
        (limit,) = self.limits.values()
        return parse_quantity(limit, full)


def _check_limit(kind: str, limit: float | int | str) -> None:
    """Refuse a limit that is not a quantity of its kind.

    Raises:
        ValueError: It is not. The message names the setting.
    """
    is_measured = kind in DEVICE_KINDS
    remedy = 'Write a number, or "0.5x"' if is_measured else 'Write 40e6, "12M", "2G" or "0.5x"'
    try:
        value = parse_quantity(limit, 1.0)
    except ValueError as error:
        fault = str(error).partition(". ")[0]
        raise ValueError(f"has {kind} = {limit!r}: {fault}. {remedy}") from None

    if kind == "flops" and str(limit).endswith("encoder"):
        raise ValueError(f'has flops = {limit!r}, but FLOPs are of the whole model. Write "0.5x"')

    is_relative = isinstance(limit, str) and "x" in limit
    if is_measured and isinstance(limit, str) and not limit.strip().endswith("x"):
        raise ValueError(f"has {kind} = {limit!r}. {remedy}")
    if not is_measured and not is_relative and value < 1:
        raise ValueError(
            f'has {kind} = {limit!r}, which is less than one. Write "{value:g}x" for a share of the full '
            "model"
        )


def width_step(budgets: Sequence[BudgetSettings]) -> int:
    """Return the step of the widths in a search space: their multiples fill the registers of a CPU.

    It is 1 without a budget for a device: parameters and FLOPs do not depend on registers.
    """
    runtimes = {budget.runtime for budget in budgets if budget.is_for_device}
    if any(runtime.endswith("-int8") for runtime in runtimes):
        return 32
    return 16 if runtimes else 1


def parse_quantity(raw: float | int | str, full: float) -> float:
    """Return a quantity as a number.

    Args:
        raw: Number, or text such as "12M", "2G" or "0.5x".
        full: Quantity of the full model. "0.5x" is half of it.

    Raises:
        ValueError: The text is not a quantity, or the number is not above 0.
    """
    if isinstance(raw, str):
        match = _QUANTITY.fullmatch(raw.strip())
        if match is None:
            raise ValueError(f'{raw!r} is not a quantity. Write 40e6, "12M", "2G" or "0.5x"')
        number, unit, _ = match.groups()
        value = float(number) * (full if unit == "x" else _SUFFIX[unit.lower()])
    else:
        # Converting a larger integer to float would raise an OverflowError.
        value = float(raw) if abs(raw) < 1e300 else math.inf

    if not math.isfinite(value) or value <= 0:
        raise ValueError(f'{raw!r} is not a finite number above 0. Write 40e6, "12M", "2G" or "0.5x"')
    return value
