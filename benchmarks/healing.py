"""Healed networks of a finished run beside the same networks distilled without a super-network.

    python -m benchmarks.healing RUN_DIR [--method yoco] [--steps 460] [--half b]

A healed network has inherited its weights from the super-network, and was then distilled in one round or
several. Here each of them is also distilled alone: it starts from the teacher's weights, with heads and
neurons in the order of their importance, and learns for `--steps` steps, with the batch size, objective
and learning rate of healing. Without `--steps`, it is as many steps as the super-network and all rounds
of this network's healing took together.

Prints for each network its validation score with inherited weights, healed and alone, each as a share of
the teacher's, and the difference healed - alone with its 95% bootstrap interval over the rows. `--half`
takes one half of the validation rows: defaults are chosen on a, figures come from b.

The last lines compare the seconds of training: those of the super-network and of all healing, from the
table `steps` of the run, and those of the networks alone. The networks alone share the teacher's pass
here, which separate trainings would not. Run both on the same machine, with nothing else on it.

Writes runs/benchmarks/healing.parquet. Takes as long as the trainings alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.measure import make_parser
from raycomp.config.loader import parse_stored
from raycomp.data.batches import Batch, collate
from raycomp.data.splitting import halve
from raycomp.deployment.cpu import needs_reduced_range
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.base import Forward
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import HealTask, last_round, load_healed
from raycomp.report.bootstrap import bootstrap_replicates, percentile_interval
from raycomp.report.predictions import Predictions
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from raycomp.training.evaluation import predict_logits
from raycomp.training.loop import StepResult, fit
from raycomp.training.seeding import worker_seed

CPU = torch.device("cpu")
OUTPUT = Path("runs/benchmarks/healing.parquet")


class AloneTask(HealTask):
    """The training of healing, from the super-network's weights before its training."""

    def load_source(self) -> ElasticEncoder:
        """Return the teacher with sorted heads and neurons."""
        return self.context.network(self.context.files.supernet_start)


def main() -> None:
    """Train, score, print and write."""
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--method", default="yoco")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--half", choices=("a", "b"))
    args = parser.parse_args()

    context, archs = open_healed_run(args.run_dir, args.method)
    alone, seconds = train_alone(context, archs, args.steps)
    rows = compare(context, archs, alone, args.half)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.4f}".format))
    print()
    print_costs(context, seconds)

    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(OUTPUT)


def open_healed_run(run_dir: Path, method: str) -> tuple[RunContext, list[Architecture]]:
    """Return a finished run and its healed networks, each once.

    Raises:
        SystemExit: The run has no healed networks.
    """
    job = parse_stored(read_json(RunLayout(run_dir).job))
    context = RunContext(job, run_dir, method=method)
    outcomes = sorted(context.files.healed_outcomes())
    if not outcomes:
        raise SystemExit(f"{run_dir} lacks healed networks. Run the job with heal.steps above 0.")
    # Each round of a network's healing has an outcome of its own.
    archs = dict.fromkeys(Architecture.from_json(read_json(path)["arch"]) for path in outcomes)
    return context, list(archs)


def supernet_steps(context: RunContext) -> int:
    """Return the number of steps of the super-network's training."""
    steps = read_table(context.run_dir, "steps")
    return int(steps[steps["training"] == "supernet"]["step"].max()) + 1


def healing_steps(context: RunContext, arch: Architecture) -> int:
    """Return the number of steps of a network's healing, over all of its rounds."""
    rounds = range(1, last_round(context, arch) + 1)
    return sum(int(read_json(context.files.healed(arch.id, number).cost)["steps"]) for number in rounds)


def train_alone(
    context: RunContext, archs: list[Architecture], steps: int
) -> tuple[list[ElasticEncoder], float]:
    """Distil networks without the super-network; return them and the seconds of the steps.

    Networks with equally many steps learn together.

    Args:
        context: The run's context.
        archs: The networks.
        steps: Steps of each network; 0 is as many as the super-network and its own healing took.
    """
    groups: dict[int, list[Architecture]] = {}
    for arch in archs:
        own_steps = steps or supernet_steps(context) + healing_steps(context, arch)
        groups.setdefault(own_steps, []).append(arch)

    networks: dict[Architecture, ElasticEncoder] = {}
    total_seconds = 0.0
    for num_steps, group in groups.items():
        trained, seconds = train_networks(context, group, AloneTask, {"steps": num_steps})
        networks |= dict(zip(group, trained, strict=True))
        total_seconds += seconds
    return [networks[arch] for arch in archs], total_seconds


def train_networks(
    context: RunContext, archs: list[Architecture], kind: type[HealTask], settings: dict[str, Any]
) -> tuple[list[ElasticEncoder], float]:
    """Train networks outside of the run; return them and the seconds of the steps.

    Args:
        context: The run's context.
        archs: The networks.
        kind: The training, which says where their weights come from.
        settings: Settings of [heal] that differ from those of the run.
    """
    heal = context.job.heal.model_copy(update=settings)
    changed = RunContext(
        context.job.model_copy(update={"heal": heal}), context.run_dir, method=context.method
    )
    plan = {
        "training": "alone",
        "archs": [arch.to_json() for arch in archs],
        "reduce_range": needs_reduced_range(),
    }
    task = kind(changed, plan, device=CPU, reduce=None)
    task.begin(0, 1, None)
    batches = task.batch_plan()

    def batch_at(index: int) -> Batch:
        return collate(task.tokens, batches.rows(index), context.pad_id)

    durations: list[float] = []

    def report(index: int, result: StepResult, seconds: float) -> None:
        durations.append(seconds)
        if index % 50 == 0:
            text = f"{index}/{heal.steps}  loss {result.loss:.3f}  {seconds:.2f} s"
            print(f"{kind.__name__} {text}", flush=True)

    fit(task.step, batch_at, 0, heal.steps, seed=worker_seed(task.data_seed, rank=0), report=report)
    return [network.eval() for network in task.step.networks], sum(durations)


def compare(
    context: RunContext, archs: list[Architecture], alone: list[ElasticEncoder], half: str | None
) -> list[dict[str, Any]]:
    """Return one row per network with its scores on the validation rows."""
    rows = kept_rows(context, half)
    supernet = context.supernet().eval()
    teacher = context.network(context.layout.teacher_network).eval()
    teacher_value = predict(context, _whole(teacher), rows).value(context.primary)
    full = float(context.costs.cost("encoder_params", context.space.largest()))

    figures = []
    for arch, own in zip(archs, alone, strict=True):
        healed = load_healed(context, supernet, arch)
        predictions = {
            "inherited": predict(context, _slice(supernet, arch), rows),
            "healed": predict(context, _whole(healed), rows),
            "alone": predict(context, _whole(own), rows),
        }
        replicates = {
            name: bootstrap_replicates(context.primary, [outputs])
            for name, outputs in predictions.items()
        }
        low, high = percentile_interval(replicates["healed"] - replicates["alone"])
        values = {name: outputs.value(context.primary) for name, outputs in predictions.items()}
        figures.append(
            {
                "share": float(context.costs.cost("encoder_params", arch)) / full,
                **{name: value / teacher_value for name, value in values.items()},
                "healed_minus_alone": values["healed"] - values["alone"],
                "low": low,
                "high": high,
                "teacher": teacher_value,
                "rows": len(rows),
                "arch": arch.to_json(),
            }
        )
    return sorted(figures, key=lambda row: -row["share"])


def kept_rows(context: RunContext, half: str | None) -> np.ndarray:
    """Return the numbers of the validation rows of a half; None is all rows."""
    name = context.validation_names()[0]
    count = len(context.tokens(name))
    if half is None:
        return np.arange(count)

    split = next(split for split in context.task.validation if split.name == name)
    second = split.text_b or [""] * count
    frame = pd.DataFrame({"a": split.text_a, "b": second, "row": np.arange(count)})
    return halve(frame, name, half)["row"].to_numpy()


def predict(context: RunContext, forward: Forward, rows: np.ndarray) -> Predictions:
    """Return the outputs of a network on rows of the validation split."""
    tokens = context.tokens(context.validation_names()[0])
    outputs = tokens.scaling.restore(run_network(context, forward))
    labels = np.asarray(tokens.written_labels)[rows]
    return Predictions((labels,), (outputs[rows],), context.facts.positive)


def run_network(context: RunContext, forward: Forward) -> np.ndarray:
    """Return a network's logits for all rows of the validation split, (rows, classes)."""
    tokens = context.tokens(context.validation_names()[0])
    return predict_logits(
        forward, tokens, pad_id=context.pad_id, max_tokens=None, precision="fp32", device=CPU
    )


def _whole(network: ElasticEncoder) -> Forward:
    return lambda batch: network(batch).logits


def _slice(supernet: ElasticEncoder, arch: Architecture) -> Forward:
    return lambda batch: supernet(batch, arch).logits


def print_costs(context: RunContext, alone_seconds: float) -> None:
    """Print the seconds of the run's training beside those of the networks alone."""
    seconds = read_table(context.run_dir, "steps").groupby("training")["seconds"].sum()
    supernet = float(seconds["supernet"])
    healing = float(seconds[seconds.index.str.startswith("heal.")].sum())
    print(f"super-network {supernet:.0f} s, healing {healing:.0f} s, alone {alone_seconds:.0f} s")
    print(f"(super-network + healing) / alone: {(supernet + healing) / alone_seconds:.2f}")


if __name__ == "__main__":
    main()
