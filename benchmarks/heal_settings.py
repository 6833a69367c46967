"""Networks of a finished run, healed again from the super-network with other settings.

    python -m benchmarks.heal_settings RUN_DIR --try steps=230 --try "steps=700 learning_rate=3e-4"
    python -m benchmarks.heal_settings RUN_DIR --try learning_rate=1e-4 --budgets tiny --draw 2

Each --try is one training with settings of [heal] that differ from the run's, in which all networks of a
budget learn together, as in a run. The networks are those that the run deployed or, with --draw N, N
networks of each depth, drawn uniformly among those that use 85% of the budget or more.

Prints for each network its score, its loss and its divergence from the teacher (KL, in nats) on the
selection split, the score on the validation rows of the job, and means over the networks. Settings are
chosen by the selection split. `--half` takes one half of the validation rows: defaults are chosen on a,
figures come from b. Without it, all rows of the job are used.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.healing import CPU, kept_rows, open_healed_run, predict, train_networks
from benchmarks.measure import make_parser
from raycomp.data.batches import Batch
from raycomp.encoder.architecture import FULL_TABLE, Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import HealTask
from raycomp.storage.tables import read_table
from raycomp.training.evaluation import predict_logits, score_logits

DRAWS = 100_000
LEAST_USE = 0.85


def main() -> None:
    """Heal with each try, score and print."""
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", type=Path, help="run with healed networks")
    parser.add_argument("--method", default="yoco", help="method of the networks")
    parser.add_argument("--try", action="append", dest="tries", required=True, metavar="SETTINGS")
    parser.add_argument("--budgets", nargs="+", help="budgets of the networks; all without it")
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="networks of each depth")
    parser.add_argument("--half", choices=("a", "b"), help="validation rows; all without it")
    args = parser.parse_args()

    context, _ = open_healed_run(args.run_dir, args.method)
    names = args.budgets or [budget.name for budget in context.job.budget]
    teacher = selection_logits(context, context.network(context.layout.teacher_network).eval())
    print("| try | budget | network | params | selection | loss | KL | validation |", flush=True)
    print("|---|---|---|--:|--:|--:|--:|--:|", flush=True)
    for name in names:
        archs = draw_networks(context, name, args.draw) if args.draw else deployed(context, name)
        for settings in args.tries:
            networks, _ = train_networks(context, archs, HealTask, parse_settings(settings))
            rows = [score_network(context, network, teacher, args.half) for network in networks]
            for arch, row in zip(archs, rows, strict=True):
                widths = f"{arch.heads} {arch.ffn}"
                params = f"{context.costs.cost('params', arch):,.0f}"
                print(f"| {settings} | {name} | {widths} | {params} | {show(row)} |", flush=True)
            print(f"| {settings} | {name} | mean | | {show(np.mean(rows, axis=0))} |", flush=True)


def parse_settings(text: str) -> dict[str, Any]:
    """Return settings of [heal] that are written as `key=value key=value`."""
    pairs = (part.partition("=") for part in text.split())
    return {key: ast.literal_eval(value) for key, _, value in pairs}


def deployed(context: RunContext, budget: str) -> list[Architecture]:
    """Return the network that a run deployed for a budget."""
    table = read_table(context.run_dir, "deployments")
    rows = table[(table["method"] == context.method) & (table["budget"] == budget)]
    return [Architecture.from_json(text) for text in rows["arch"].dropna()]


def draw_networks(context: RunContext, budget: str, count: int) -> list[Architecture]:
    """Return up to `count` networks of each depth that use `LEAST_USE` of a budget, with a full table."""
    limit = context.budget(next(entry for entry in context.job.budget if entry.name == budget))
    rng = np.random.default_rng(context.job.run.seed)
    by_depth: dict[int, list[Architecture]] = {depth: [] for depth in context.space.depth}
    for _ in range(DRAWS):
        drawn = context.space.sample_uniform(rng)
        found = by_depth[drawn.depth]
        if len(found) == count:
            continue
        arch = replace(drawn, table=FULL_TABLE)
        if limit.is_met_by(arch) and limit.cost(arch) >= LEAST_USE * limit.limit and arch not in found:
            found.append(arch)
    return [arch for depth in sorted(by_depth) for arch in by_depth[depth]]


def selection_logits(context: RunContext, network: ElasticEncoder) -> np.ndarray:
    """Return a network's logits for the selection split, (rows, classes)."""

    def forward(batch: Batch) -> Tensor:
        return network(batch).logits

    return predict_logits(
        forward,
        context.tokens("selection"),
        pad_id=context.pad_id,
        max_tokens=None,
        precision="fp32",
        device=CPU,
    )


def score_network(
    context: RunContext, network: ElasticEncoder, teacher: np.ndarray, half: str | None = None
) -> tuple[float, float, float, float]:
    """Return selection score, loss and divergence of a network, and its validation score.

    Args:
        context: The run's context.
        network: The network.
        teacher: The teacher's logits for the selection split.
        half: Half of the validation rows, "a" or "b"; None is all rows.
    """
    logits = selection_logits(context, network)
    tokens = context.tokens("selection")
    score = score_logits(context.metrics, tokens, logits, context.facts.positive)
    divergence = mean_divergence(teacher, logits)

    def forward(batch: Batch) -> Tensor:
        return network(batch).logits

    validation = predict(context, forward, kept_rows(context, half)).value(context.primary)
    return score.values[context.primary], score.loss, divergence, validation


def mean_divergence(teacher: np.ndarray, student: np.ndarray) -> float:
    """Return the mean KL divergence of a student's predictions from a teacher's; nan for one output."""
    if teacher.shape[1] == 1:
        return float("nan")
    target, predicted = _log_softmax(teacher), _log_softmax(student)
    return float((np.exp(target) * (target - predicted)).sum(1).mean())


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def show(row: Any) -> str:
    """Return the cells of a row of figures."""
    selection, loss, divergence, validation = row
    return f"{selection:.3f} | {loss:.3f} | {divergence:.3f} | {validation:.3f}"


if __name__ == "__main__":
    main()
