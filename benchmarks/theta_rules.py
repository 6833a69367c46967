"""What each update rule of theta learns from the same losses of one super-network's training.

    python -m benchmarks.theta_rules RUN_DIR [--seeds 0 1] [--networks 40] [--shares 0.5 0.25]
        [--half a]

Trains the super-network of a yoco run again in this process, with the run's teacher and sampler, and
records the architectures and losses of each step. Every rule then gets the same record. Networks of equal
size are drawn as in `benchmarks.signal`, and their losses with inherited weights are computed on the
validation rows. Prints for each seed, share and rule:

- `entropy`: the entropy of theta at the end, as a share of its largest value.
- `tau`: Kendall's tau between theta's rating and minus the validation loss. 0 is no relation.
- `difference`: tau minus that of the first rule, with its 95% bootstrap interval over networks.

"regression, teacher's prediction" gets the divergence of each network from the teacher's predictions in
place of the label loss. Networks at chance are left out. `--half` takes one half of the validation rows:
defaults are chosen on a, figures come from b. Without it, all rows are used.

Writes runs/benchmarks/theta_rules.parquet.
A seed takes eight minutes on two cores without bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import make_parser
from benchmarks.recipe import CPU, Recipe
from benchmarks.signal import (
    better_than_chance,
    draw_networks,
    make_budget,
    score_validation,
    tau,
)
from raycomp.config.loader import parse_stored
from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.interface import ElasticOutput
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.eesng import EESNG
from raycomp.methods.yoco.schedule import Schedule
from raycomp.search.distribution import ArchitectureDistribution
from raycomp.search.update_rules import make_update_rule
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.training.loop import StepResult
from raycomp.training.supernet_step import SupernetStep

RULES = {
    "asng": ("asng", "labels"),
    "sng": ("sng", "labels"),
    "raw": ("raw", "labels"),
    "regression": ("regression", "labels"),
    "regression, teacher's prediction": ("regression", "teacher"),
}
"""Name -> update rule, and the loss that it gets."""

REPLICATES = 500
OUTPUT = Path("runs/benchmarks/theta_rules.parquet")


@dataclass
class RecordedStep:
    """What a step told the sampler.

    Attributes:
        phase: Index of its phase.
        rows: (samples, variables) choice indices, NOT_KEPT where a layer does not run.
        explored: Whether the architectures were drawn uniformly.
        losses: Loss of each architecture, by kind: "labels" or "teacher".
    """

    phase: int
    rows: np.ndarray
    explored: bool
    losses: dict[str, np.ndarray]


class RecordingStep(SupernetStep):
    """A step that also keeps each architecture's divergence from the teacher.

    Attributes:
        divergences: KL divergence of each architecture of the last step, mean over the batch.
    """

    divergences: list[float]

    def __call__(self, index: int, batch: Batch) -> StepResult:
        """Train on one batch."""
        self.divergences = []
        return super().__call__(index, batch)

    def slice_losses(
        self, position: int, output: ElasticOutput, target: ElasticOutput | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Return the objective and the label loss of one architecture, and keep its divergence."""
        assert target is not None  # nosec B101 - `train_supernet` of a run with a teacher
        with torch.no_grad():
            student = output.logits.float().log_softmax(-1)
            divergence = F.kl_div(student, target.logits.float().softmax(-1), reduction="batchmean")
        self.divergences.append(float(divergence))
        return super().slice_losses(position, output, target, batch)


class RecordingSampler:
    """EE-SNG, which notes the architectures and losses of each step.

    Attributes:
        sampler: EE-SNG.
        schedule: Its phases.
        steps: One entry for each step with a choice.
        step: The training step, which has the divergences.
    """

    def __init__(self, sampler: EESNG, schedule: Schedule) -> None:
        self.sampler = sampler
        self.schedule = schedule
        self.steps: list[RecordedStep] = []
        self.step: RecordingStep

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures of a step."""
        self._archs = self.sampler.ask(step)
        return self._archs

    def info(self, step: int) -> dict[str, Any]:
        """Return the sampler's figures of a step."""
        self._info = self.sampler.info(step)
        return self._info

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Note and pass on the losses."""
        if len(losses) > 1:
            joint = self.sampler.settings.joint
            rows = np.array([self.sampler.space.encode(arch, joint) for arch in self._archs])
            values = {"labels": np.array(losses), "teacher": np.array(self.step.divergences)}
            phase = self.schedule.index_at(step)
            self.steps.append(RecordedStep(phase, rows, bool(self._info["explored"]), values))
        self.sampler.tell(step, losses)


class RecordingRecipe(Recipe):
    """Trains a super-network and keeps what its sampler is told.

    Attributes:
        recorder: The sampler of the last training.
    """

    recorder: RecordingSampler

    def make_step(
        self, model: ElasticEncoder, teacher: ElasticEncoder, sampler: Any, schedule: Schedule
    ) -> SupernetStep:
        """Return the step of the training, which records."""
        self.recorder = RecordingSampler(sampler, schedule)
        parts = super().make_step(model, teacher, self.recorder, schedule)
        self.recorder.step = RecordingStep(
            model,
            self.recorder,
            parts.updater,
            teacher=parts.teacher,
            objective=parts.objective,
            precision=parts.precision,
            device=parts.device,
        )
        return self.recorder.step


def main() -> None:
    """Train for each seed, let each rule learn, print, and write."""
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--half", choices=("a", "b"), help="validation rows; all without it")
    args = parser.parse_args()

    rows = []
    for seed in args.seeds:
        job = parse_stored(read_json(RunLayout(args.run_dir).job))
        job = job.model_copy(update={"run": job.run.model_copy(update={"seed": seed})})
        context = RunContext(job, args.run_dir, method="yoco")
        for row in measure(context, args.shares, args.networks, args.half):
            rows.append({"seed": seed, **row})
            print("  ".join(format_cell(*cell) for cell in rows[-1].items()), flush=True)

    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(OUTPUT)


def format_cell(name: str, value: object) -> str:
    """Return one figure of a printed row."""
    return f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"


def measure(
    context: RunContext, shares: Sequence[float], num_networks: int, half: str | None = None
) -> list[dict[str, Any]]:
    """Train a super-network; return one row for each share and rule.

    Args:
        context: Context of a finished run, with the seed of this training.
        shares: Shares of the encoder's parameters.
        num_networks: Networks of each share.
        half: Half of the validation rows, "a" or "b"; None is all rows.

    Raises:
        SystemExit: The run's super-network has no teacher.
    """
    if context.job.train.distill == "none":
        raise SystemExit("The run was trained without a teacher (train.distill = none). Use another run.")
    recipe = RecordingRecipe(context, context.precision(CPU))
    teacher = context.network(context.layout.teacher_network).eval()
    supernet, _, _ = recipe.train_supernet(teacher)
    recorder = recipe.recorder
    thetas = {name: learn(context, recorder, rule, kind) for name, (rule, kind) in RULES.items()}

    rng = np.random.default_rng(0)
    rows = []
    for share in shares:
        archs, truth = score_networks(context, supernet, share, num_networks, rng, half)
        joint = context.job.space.joint
        indices = np.stack([context.space.encode(arch, joint) for arch in archs])
        ratings = {name: theta.rating(indices) for name, theta in thetas.items()}
        for name, figures in compare_ratings(ratings, -truth, rng).items():
            entropy = thetas[name].entropy() / thetas[name].max_entropy()
            place = {"share": share, "networks": len(archs), "rule": name}
            rows.append({**place, "entropy": entropy, **figures})
    return rows


def learn(
    context: RunContext, recorder: RecordingSampler, rule_name: str, kind: str
) -> ArchitectureDistribution:
    """Return theta after a rule has seen all recorded steps.

    Args:
        context: The run's context.
        recorder: The record.
        rule_name: Name of the update rule.
        kind: Loss that it gets, a key of `RecordedStep.losses`.
    """
    joint = context.job.space.joint
    theta = ArchitectureDistribution(context.space.variables(joint))

    def layer_params(heads: int, ffn: int) -> float:
        return float(context.costs.cost("encoder_params", Architecture(1, (heads,), (ffn,))))

    rule = make_update_rule(rule_name, theta, context.space.layer_sums(layer_params, joint))
    phase = -1
    for step in recorder.steps:
        if step.phase != phase:
            phase = step.phase
            theta.set_open(recorder.schedule.phases[phase].open_choices(theta.variables))
        # As with train.exploration_update = "skip". The regression does not read the weights.
        weights = np.full(len(step.rows), 0.0 if step.explored else 1.0)
        rule.update(theta, step.rows, step.losses[kind], weights)
    return theta


def score_networks(
    context: RunContext,
    supernet: ElasticEncoder,
    share: float,
    count: int,
    rng: np.random.Generator,
    half: str | None,
) -> tuple[list[Architecture], np.ndarray]:
    """Return networks of a share that are better than chance, and their validation losses."""
    archs = draw_networks(context, make_budget(context, share), count, rng)
    losses, hits, labels = score_validation(supernet, archs, context, half)
    kept = better_than_chance(hits, labels)
    return [archs[i] for i in kept], losses[kept].mean(1)


def compare_ratings(
    ratings: dict[str, np.ndarray], quality: np.ndarray, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Return each rule's tau, and its difference from the first rule's with a 95% interval.

    Args:
        ratings: Rule -> rating of each network.
        quality: Minus the validation loss of each network.
        rng: Generator of the bootstrap over networks.
    """
    draws = [rng.integers(0, len(quality), len(quality)) for _ in range(REPLICATES)]
    first = next(iter(ratings.values()))
    base = np.array([tau(first[rows], quality[rows]) for rows in draws])

    figures = {}
    for name, rating in ratings.items():
        value = tau(rating, quality)
        differences = np.array([tau(rating[rows], quality[rows]) for rows in draws]) - base
        low, high = np.quantile(differences, [0.025, 0.975])
        figures[name] = {
            "tau": value,
            "difference": value - tau(first, quality),
            "low": float(low),
            "high": float(high),
        }
    return figures


if __name__ == "__main__":
    main()
