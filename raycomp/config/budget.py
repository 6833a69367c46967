"""The section [[budget]] of a job file."""

from __future__ import annotations

import math
import re

from pydantic import Field, field_validator, model_validator

from raycomp.config.section import Section, plain_name

BUDGET_KINDS = ("params", "encoder_params", "flops")

_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_QUANTITY = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(x|[kKmMbBgGtT]?)(\s+encoder)?")


class BudgetSettings(Section):
    """One deployment target: a name and exactly one limit.

    A limit is absolute ("12M") or a multiple of the full model ("0.5x").
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
    def _exactly_one_limit(self) -> BudgetSettings:
        kinds = [kind for kind in BUDGET_KINDS if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"has {len(kinds)} limits. Set exactly one of {', '.join(BUDGET_KINDS)}")

        # Raises ValueError if the limit is not a quantity.
        self.resolve(1.0)
        if kinds == ["flops"] and str(self.flops).endswith("encoder"):
            raise ValueError(
                f'has flops = {self.flops!r}, but FLOPs are of the whole model. Write "0.5x"'
            )
        return self

    @property
    def kind(self) -> str:
        """`params`, `encoder_params` or `flops`. `params = "0.5x encoder"` has kind `encoder_params`."""
        kind = next(k for k in BUDGET_KINDS if getattr(self, k) is not None)
        text = getattr(self, kind)
        if kind == "params" and isinstance(text, str) and text.split()[-1:] == ["encoder"]:
            return "encoder_params"
        return kind

    def resolve(self, full: float) -> float:
        """Return the limit as a number.

        Args:
            full: Cost of the full model in the unit of the limit.
        """
        raw = next(getattr(self, k) for k in BUDGET_KINDS if getattr(self, k) is not None)
        return parse_quantity(raw, full)


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
        raise ValueError(f"{raw!r} is not a finite number above 0")
    return value
