"""The section [adabert] of a job file."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from raycomp.config.section import MethodSettings, choices, find_duplicates, plain_seeds

OPERATIONS = (
    "std_conv_3", "std_conv_5", "std_conv_7", "dil_conv_3", "dil_conv_5", "dil_conv_7",
    "avg_pool_3", "max_pool_3", "skip", "zero",
)  # fmt: skip


class AdabertSettings(MethodSettings):
    """AdaBERT: a differentiable search of a small CNN.

    Lists of `gamma`, `beta`, `layers` and `seeds` are swept: each combination is a trial.
    """

    method: ClassVar[str] = "adabert"
    title: ClassVar[str] = "AdaBERT"
    length_keys: ClassVar[tuple[str, ...]] = ("epochs", "child_epochs", "finalist_epochs")
    needs_budget: ClassVar[bool] = False
    shared_sections: ClassVar[tuple[str, ...]] = ("augment",)
    identity_defaults: ClassVar[dict[str, Any]] = {
        "structure": None,
        "exact_match": False,
        "alpha_updates": 0,
        "alpha_structures": 4,
        "alpha_share": 0.2,
        "candidates": 0,
        "finalists": 4,
        "finalist_epochs": 1.0,
    }

    layers: int | list[int] = Field(
        8, description="Largest number of cells of the CNN (K_max in the paper). A list is swept."
    )
    nodes: int = Field(3, ge=1, le=6, description="Inner nodes of a cell (N in the paper).")
    width: int = Field(128, ge=4, le=4096, description="Channels of the CNN.")
    embedding: int = Field(
        128, ge=4, le=4096, description="Rank of the embedding table, which is a product of two factors."
    )
    exact_match: bool = Field(
        True,
        description="Whether tokens that occur in both texts of a pair get an extra learned embedding. "
        "The paper's form is false: the CNN then sees common tokens only if they are at nearly the "
        "same position. Tasks with one text are not affected.",
    )
    operations: list[str] = Field(
        list(OPERATIONS), min_length=1, description="Candidate operations of every edge of a cell."
    )
    gamma: float | list[float] = Field(
        0.8,
        description="Weight of distillation in the loss (Eq. 1), from 0 (labels only) to 1 (teacher "
        "only). A list is swept.",
    )
    beta: float | list[float] = Field(
        4.0,
        description="Weight of the efficiency loss (Eq. 1). A larger value gives a smaller CNN. A list "
        "is swept.",
    )
    seeds: list[int] = Field(
        [0], min_length=1, description="Seeds, each added to `run.seed`. Each seed is a trial."
    )
    temperature: float = Field(1.0, gt=0, description="Temperature of distillation (T of Eq. 3).")
    hints: Literal["probes", "logits"] = Field(
        "probes",
        description=choices(
            "What the student learns from the teacher.",
            {
                "probes": "the predictions of the probes on the teacher's layers, and the teacher's own "
                "predictions",
                "logits": "the teacher's predictions only (the paper's Base-KD)",
            },
        ),
    )
    normalisation: Literal["spread", "released"] = Field(
        "spread",
        description=choices(
            "Scale of the costs of the operations (Eq. 5).",
            {
                "spread": "costs from 0.05 to 0.19; beta then favours cheap operations",
                "released": "costs from 0.09 to 0.11, as in the released code: beta then changes "
                "mainly the number of cells",
            },
        ),
    )
    estimator: Literal["contrast", "sampled", "full"] = Field(
        "contrast",
        description=choices(
            "Operations of an edge that a step of the search computes.",
            {
                "contrast": "the drawn one, those without weights, and one convolution",
                "sampled": "the drawn one only",
                "full": "all (the paper's form)",
            },
        ),
    )
    supervise: Literal["depths", "drawn"] = Field(
        "depths",
        description=choices(
            "Cells after which the classifier learns during the search.",
            {
                "depths": "every cell of the drawn structure",
                "drawn": "the last cell of the drawn structure (the paper's form)",
            },
        ),
    )
    share_kernels: bool = Field(
        True,
        description="Whether the convolutions of an edge with the same dilation share the middle of "
        "their kernels during the search. The paper's form is false.",
    )
    epochs: float = Field(
        5.0,
        gt=0,
        le=10_000,
        description="Length of the search in passes over the training split, without augmented texts.",
    )
    structure: str | None = Field(
        None,
        description="Structure to train instead of the searched one: its JSON (column `arch` of "
        '`deployments`), or "random:N" for the N-th random structure. With child = "scratch" nothing is '
        "searched. Otherwise the parent graph is trained as in a search, and the structure inherits its "
        "weights.",
    )
    child: Literal["inherited", "scratch"] = Field(
        "inherited",
        description=choices(
            "Weights of the child before its training.",
            {
                "inherited": "the weights of the parent graph",
                "scratch": "new weights; the embeddings come from the teacher",
            },
        ),
    )
    child_epochs: float = Field(
        10.0,
        ge=0,
        le=10_000,
        description="Length of the child's training in passes over the training split. 0: the child is "
        "deployed with its inherited weights.",
    )
    batch_size: int = Field(64, ge=2, description="Texts of one step, summed over all workers.")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw",
        description=choices(
            "Optimizer of the weights.",
            {
                "adamw": "AdamW",
                "sgd": "SGD with momentum 0.9 (the paper's form). Set learning_rate = 2e-2 and "
                "final_learning_rate = 5e-4 with it",
            },
        ),
    )
    learning_rate: float = Field(
        2e-3, gt=0, lt=10, description="Learning rate of the weights at the first step."
    )
    final_learning_rate: float = Field(
        1e-5, ge=0, lt=10, description="Learning rate at the last step. It falls along a cosine."
    )
    weight_decay: float = Field(0.0, ge=0, lt=1, description="Weight decay of the weights.")
    dropout: float = Field(0.4, ge=0, lt=1, description="Dropout probability before the classifier.")
    clip: float = Field(
        5.0, gt=0, description="Largest norm of the gradient of the weights. Longer gradients are scaled."
    )
    alpha_learning_rate: float = Field(
        3e-2,
        gt=0,
        lt=10,
        description="Learning rate of the architecture distribution (P_alpha). The paper's form is "
        "3e-4 with a search of 80 epochs.",
    )
    alpha_warmup: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Part of the search in which the architecture distribution stays uniform, from 0 "
        "to 1. The paper's form is 0.",
    )
    alpha_weight_decay: float = Field(
        1e-3, ge=0, lt=1, description="Weight decay of the probabilities of operations (P_o)."
    )

    alpha_updates: int = Field(
        2,
        ge=0,
        le=100,
        description="Updates of the architecture distribution for each step of the weights, on rows "
        "that the weights do not see. 0 is the paper's form: it learns with the weights, on their rows.",
    )
    alpha_structures: int = Field(
        4,
        ge=1,
        le=64,
        description="Structures of an update on held-out rows. They share the rows of a step, and their "
        "gradients are averaged.",
    )
    alpha_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Part of the training rows that only the architecture distribution reads during the "
        "search. The child is trained on all rows.",
    )
    candidates: int = Field(
        32,
        ge=0,
        le=10_000,
        description="Structures that are drawn from the architecture distribution after the search; as "
        "many are drawn uniformly. All are scored on the selection split with inherited weights. 0 is "
        "the paper's form: the child is the most probable structure.",
    )
    finalists: int = Field(
        4,
        ge=1,
        le=64,
        description="Candidates that are trained. Each round trains them, and keeps the better half, "
        "until one is left.",
    )
    finalist_epochs: float = Field(
        1.0,
        gt=0,
        le=10_000,
        description="Length of a round in passes over the training split. The last finalist is then "
        "trained for `child_epochs`.",
    )

    @property
    def has_search(self) -> bool:
        """Whether a parent graph is trained."""
        return self.structure is None or self.child == "inherited"

    @field_validator("layers", "gamma", "beta")
    @classmethod
    def _ranges(cls, value: Any, info: ValidationInfo) -> Any:
        low, high = {"layers": (1, 64), "gamma": (0, 1), "beta": (0, 1e6)}[str(info.field_name)]
        values = value if isinstance(value, list) else [value]
        if not values or find_duplicates(values):
            raise ValueError("it must not be empty or contain duplicates")
        if not all(low <= number <= high for number in values):
            raise ValueError(f"it must be from {low:g} to {high:g}")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        return plain_seeds(value)

    @field_validator("operations")
    @classmethod
    def _operations(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in OPERATIONS]
        if unknown or find_duplicates(value):
            raise ValueError(f"it must be a list without duplicates of {', '.join(OPERATIONS)}")
        if set(value) <= {"zero"}:
            raise ValueError("it needs at least one operation other than 'zero'")
        return value
