"""Networks of a finished run, healed again from the super-network for other numbers of steps.

    python -m benchmarks.heal_steps RUN_DIR --steps 230 700 [--budgets tiny] [--method yoco]

All networks of a number of steps learn in one training, as in a run. Prints for each network its scores
on the selection split and on the validation rows of the job. Steps are chosen by the selection score.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.healing import CPU, open_healed_run, predict, train_networks
from benchmarks.measure import make_parser
from raycomp.data.batches import Batch
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import HealTask
from raycomp.storage.tables import read_table
from raycomp.training.evaluation import predict_logits, score_logits


def main() -> None:
    """Heal for each number of steps, score and print."""
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", type=Path, help="run with healed networks")
    parser.add_argument("--method", default="yoco", help="method of the networks")
    parser.add_argument("--steps", type=int, nargs="+", required=True, help="numbers of steps")
    parser.add_argument("--budgets", nargs="+", help="budgets of the networks; all without it")
    args = parser.parse_args()

    context, _ = open_healed_run(args.run_dir, args.method)
    archs = deployed_networks(context, args.budgets)
    print("| steps | network | params | selection | validation |\n|--:|---|--:|--:|--:|", flush=True)
    for steps in args.steps:
        networks, _ = train_networks(context, list(archs), HealTask, {"steps": steps})
        for (arch, budget), network in zip(archs.items(), networks, strict=True):
            params = context.costs.cost("params", arch)
            selection, validation = score_network(context, network)
            scores = f"{selection:.3f} | {validation:.3f}"
            print(f"| {steps:,} | {budget} | {params:,.0f} | {scores} |", flush=True)


def deployed_networks(context: RunContext, budgets: list[str] | None) -> dict[Architecture, str]:
    """Return the deployed networks of a run, each with the name of its first budget."""
    table = read_table(context.run_dir, "deployments")
    rows = table[(table["method"] == context.method) & table["arch"].notna()]
    networks: dict[Architecture, str] = {}
    for budget, text in zip(rows["budget"], rows["arch"], strict=True):
        if budgets is None or budget in budgets:
            networks.setdefault(Architecture.from_json(text), str(budget))
    return networks


def score_network(context: RunContext, network: ElasticEncoder) -> tuple[float, float]:
    """Return the metric of a network on the selection split and on all validation rows of the job."""

    def forward(batch: Batch) -> Tensor:
        return network(batch).logits

    tokens = context.tokens("selection")
    logits = predict_logits(
        forward, tokens, pad_id=context.pad_id, max_tokens=None, precision="fp32", device=CPU
    )
    selection = score_logits(context.metrics, tokens, logits).values[context.primary]
    every_row = np.arange(len(context.tokens(context.validation_names()[0])))
    return selection, predict(context, forward, every_row).value(context.primary)


if __name__ == "__main__":
    main()
