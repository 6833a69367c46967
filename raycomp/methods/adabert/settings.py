"""The section [adabert] of a job file."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raycomp.config.section import MethodSettings, plain_seeds

OPERATIONS = (
    "std_conv_3", "std_conv_5", "std_conv_7", "dil_conv_3", "dil_conv_5", "dil_conv_7",
    "avg_pool_3", "max_pool_3", "skip", "zero",
)  # fmt: skip


class AdabertSettings(MethodSettings):
    """The differentiable search of a small CNN. Lists of gamma, beta, layers and seeds are swept."""

    method: ClassVar[str] = "adabert"
    title: ClassVar[str] = "AdaBERT"
    needs_budget: ClassVar[bool] = False
    shared_sections: ClassVar[tuple[str, ...]] = ("augment",)
    identity_defaults: ClassVar[dict[str, Any]] = {"structure": None, "exact_match": False}

    layers: int | list[int] = Field(8, description="Most cells of the CNN (K_max).")
    nodes: int = Field(3, ge=1, le=6, description="Inner nodes of a cell (N).")
    width: int = Field(128, ge=4, le=4096, description="Channels of every state.")
    embedding: int = Field(128, ge=4, le=4096, description="Rank of the factorised embedding.")
    exact_match: bool = Field(
        True,
        description="Of two texts: a token that both have bears a mark, one learnt vector. The paper's: "
        "false; a CNN then sees shared words only where they stand near the same place.",
    )
    operations: list[str] = Field(list(OPERATIONS), min_length=1, description="Candidates of every edge.")
    gamma: float | list[float] = Field(0.8, description="Share of distillation (Eq. 1), 0 to 1.")
    beta: float | list[float] = Field(4.0, description="Weight of the efficiency loss (Eq. 1).")
    seeds: list[int] = Field([0], min_length=1, description="A trial each, on top of run.seed.")
    temperature: float = Field(1.0, gt=0, description="T of Eq. 3.")
    hints: Literal["probes", "logits"] = Field(
        "probes", description="logits: the teacher's prediction alone (the paper's Base-KD)."
    )
    normalisation: Literal["spread", "released"] = Field(
        "spread", description="Prices of Eq. 5; released are 14% apart, so beta presses on K alone."
    )
    estimator: Literal["contrast", "sampled", "full"] = Field(
        "contrast",
        description="What runs beside the drawn operation of an edge: contrast: those without weights "
        "and one convolution. sampled: nothing. full: all (the paper's).",
    )
    supervise: Literal["depths", "drawn"] = Field(
        "depths",
        description="In the search, the classifier learns after every cell of a drawn structure, or "
        "after its last alone (the paper's).",
    )
    share_kernels: bool = Field(
        True,
        description="In the search, an edge's convolutions of one dilation share their middle taps; "
        "false: each has its own (the paper's).",
    )
    epochs: float = Field(5.0, gt=0, le=10_000, description="Of the search, over the given rows.")
    structure: str | None = Field(
        None,
        description="Train this structure in place of a search: its JSON (deployments' arch), or "
        '"random:N", the N-th random one. Needs child = "scratch".',
    )
    child: Literal["inherited", "scratch"] = Field(
        "inherited", description="Weights that the child begins with."
    )
    child_epochs: float = Field(
        10.0, ge=0, le=10_000, description="Of the child; 0 deploys what it inherits."
    )
    batch_size: int = Field(64, ge=2, description="Sentences a step, over all workers.")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="Of the weights. sgd (the paper's) has momentum .9; give it 2e-2 to 5e-4."
    )
    learning_rate: float = Field(2e-3, gt=0, lt=10, description="Of the weights, at first.")
    final_learning_rate: float = Field(1e-5, ge=0, lt=10, description="At the end of the cosine.")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="Of the weights.")
    dropout: float = Field(0.4, ge=0, lt=1, description="Before the classifier.")
    clip: float = Field(5.0, gt=0, description="Largest norm of the gradient.")
    alpha_learning_rate: float = Field(
        3e-2, gt=0, lt=10, description="Adam's, of P_alpha. The paper's is 3e-4, over 80 epochs."
    )
    alpha_warmup: float = Field(
        0.5, ge=0, lt=1, description="Share of the search in which P_alpha waits, uniform; the paper: 0."
    )
    alpha_weight_decay: float = Field(1e-3, ge=0, lt=1, description="Of P_o alone, the operations.")

    @field_validator("layers", "gamma", "beta")
    @classmethod
    def _ranges(cls, value: Any, info: ValidationInfo) -> Any:
        low, high = {"layers": (1, 64), "gamma": (0, 1), "beta": (0, 1e6)}[str(info.field_name)]
        values = value if isinstance(value, list) else [value]
        if not values or len(set(values)) != len(values):
            raise ValueError("a list needs at least one value, and each once")
        if not all(low <= v <= high for v in values):
            raise ValueError(f"must be from {low:g} to {high:g}")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        return plain_seeds(value)

    @model_validator(mode="after")
    def _given(self) -> AdabertSettings:
        if self.structure is not None and self.child == "inherited":
            raise ValueError(
                "structure was given, so that there is no search to inherit weights from; set "
                'child = "scratch"'
            )
        return self

    @field_validator("operations")
    @classmethod
    def _operations(cls, value: list[str]) -> list[str]:
        unknown = [v for v in value if v not in OPERATIONS]
        if unknown or len(set(value)) != len(value):
            raise ValueError(f"each must be one of {', '.join(OPERATIONS)}, and named once")
        if set(value) <= {"zero"}:
            raise ValueError("no operation is left that passes anything on; name another than zero")
        return value
