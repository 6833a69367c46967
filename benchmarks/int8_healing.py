"""Healing with and without rounded steps: what INT8 costs the networks of a finished run.

    python -m benchmarks.int8_healing RUN_DIR [--method yoco] [--share 0.3] [--half b]

Heals the networks of the run again, twice: with the run's settings, and with `heal.int8_share`. Both have
the same batches and seed, and one round of `heal.steps` steps, also where the run had several rounds.
Exports each network to ONNX in fp32 and in dynamic INT8, and runs both files on the validation rows.

Prints for each network: the accuracy of both files, the mean label loss of both, the mean absolute
difference of their logits, and the share of rows whose predicted class differs. The difference of the
logits is the figure to look at: it does not depend on the few rows whose class changes.

Writes runs/benchmarks/int8_healing.parquet. Takes twice as long as the run's healing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.deployed_speed import batch_forward
from benchmarks.healing import kept_rows, open_healed_run, run_network, train_networks
from benchmarks.measure import make_parser
from raycomp.deployment.cpu import needs_reduced_range
from raycomp.deployment.onnx_export import export_onnx
from raycomp.deployment.quantisation import Int8Form, find_operations, quantise
from raycomp.deployment.runtimes import open_session
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.methods.heal_task import HealTask
from raycomp.training.objectives import label_loss

OUTPUT = Path("runs/benchmarks/int8_healing.parquet")


def main() -> None:
    """Heal, export, compare, print and write."""
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--method", default="yoco")
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--half", choices=("a", "b"))
    args = parser.parse_args()

    context, archs = open_healed_run(args.run_dir, args.method)
    table = []
    for share in (0.0, args.share):
        networks, seconds = train_networks(context, archs, HealTask, {"int8_share": share})
        for arch, network in zip(archs, networks, strict=True):
            row = compare_files(context, network, args.half)
            size = context.costs.cost("encoder_params", arch)
            table.append({"encoder_params": size, "int8_share": share, **row, "seconds": seconds})

    frame = pd.DataFrame(table).sort_values(["encoder_params", "int8_share"], ascending=[False, True])
    print(frame.to_string(index=False, float_format="{:.4f}".format))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(OUTPUT)


def compare_files(context: RunContext, network: ElasticEncoder, half: str | None) -> dict[str, Any]:
    """Return the figures of a network's file in INT8 beside those of its file in fp32."""
    model = network.extract(network.largest).eval()
    rows = kept_rows(context, half)
    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder) / "model.onnx", Path(folder) / "model_int8.onnx"
        export_onnx(model, full, min(network.config.max_positions, context.job.task.max_length))
        form = Int8Form("dynamic", False, tuple(find_operations(full)))
        quantise(full, small, form, [], reduce_range=needs_reduced_range())
        expected, rounded = (run_file(context, path)[rows] for path in (full, small))

    labels = np.asarray(context.tokens(context.validation_names()[0]).labels)[rows]
    figures: dict[str, Any] = {}
    for name, logits in (("fp32", expected), ("int8", rounded)):
        loss = label_loss(torch.from_numpy(logits), torch.from_numpy(labels.copy()), len(rows))
        figures[f"accuracy_{name}"] = float((logits.argmax(1) == labels).mean())
        figures[f"loss_{name}"] = float(loss)
    # Only differences between the classes decide; a common shift of the logits does not.
    shift = (rounded - expected) - (rounded - expected).mean(1, keepdims=True)
    figures["logit_difference"] = float(np.abs(shift).mean())
    figures["changed"] = float((rounded.argmax(1) != expected.argmax(1)).mean())
    return {**figures, "rows": len(rows)}


def run_file(context: RunContext, path: Path) -> np.ndarray:
    """Return the logits of a file for all rows of the validation split, (rows, classes)."""
    return run_network(context, batch_forward(open_session(path, torch.get_num_threads())))


if __name__ == "__main__":
    main()
