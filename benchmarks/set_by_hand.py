"""Networks set by hand beside the deployed models of a run, as INT8 files in ONNX Runtime.

    python -m benchmarks.set_by_hand RUN_DIR --files DIR [--networks 4x8x384 3x8x512 2x12x768]
        [--steps 1000] [--method yoco] [--half b] [--batches 1,32]

A network is written as LAYERSxHEADSxNEURONS, with equal layers. Its weights are cut out of the run's
super-network and healed for `--steps` steps, as those of the deployed models were: only the choice of the
architecture differs. The files are then scored and timed as in `benchmarks.deployed_speed`, whose table
is printed with the rows of both kinds.

Exports that are complete in DIR are used again; delete DIR to heal again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from benchmarks.deployed_speed import (
    INT8_FILE,
    DeployedFile,
    add_arguments,
    export_files,
    print_figures,
)
from benchmarks.healing import train_networks
from benchmarks.measure import make_parser
from raycomp.config.loader import parse_stored
from raycomp.deployment.format_settings import FormatSettings
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.base import Deployable, Forward
from raycomp.methods.context import RunContext
from raycomp.methods.elastic_method import shared_architecture
from raycomp.methods.heal_task import HealTask, extract_healed
from raycomp.runtime.pipeline.export_formats import CERTIFICATE_FILE, export_formats
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

NETWORKS = ("4x8x384", "3x8x512", "2x12x768")
"""Networks that a person would choose for 3, 4 and 6 times the speed of the quantised teacher."""


def main() -> None:
    """Heal and export the networks, then score and time all files."""
    parser = make_parser(__doc__)
    add_arguments(parser)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="LAYERSxHEADSxNEURONS of each")
    parser.add_argument("--steps", type=int, help="steps of healing; those of a round without it")
    parser.add_argument("--method", default="yoco", help="method with the super-network")
    args = parser.parse_args()

    job = parse_stored(read_json(RunLayout(args.run_dir).job))
    context = RunContext(job, args.run_dir.resolve(), method=args.method)
    steps = args.steps or job.heal.steps
    files = export_files(args.run_dir, args.files, args.threads)
    files += export_networks(context, args.networks, steps, args.files, args.threads)
    print(f"Networks set by hand were healed for {steps} steps.")
    print_figures([file for file in files if file.precision == "INT8"], args)


def export_networks(
    context: RunContext, names: Sequence[str], steps: int, folder: Path, threads: int
) -> list[DeployedFile]:
    """Return the INT8 files of networks; heal and export those that are missing.

    Args:
        context: The context of a run with a super-network.
        names: LAYERSxHEADSxNEURONS of each network.
        steps: Steps of healing.
        folder: Directory of the exports.
        threads: Threads of one operation, for the measurements of the export.

    Raises:
        SystemExit: A network is larger than the full one.
    """
    missing = [name for name in names if not (folder / name / CERTIFICATE_FILE).exists()]
    archs = [parse_network(context, name) for name in missing]
    networks: list[ElasticEncoder] = []
    if archs:
        networks, _ = train_networks(context, archs, HealTask, {"steps": steps})

    settings = FormatSettings(("onnx", "int8"), batches=(1,), threads=threads)
    for name, arch, network in zip(missing, archs, networks, strict=True):
        deployable = Deployable(
            budget=name,
            kind="none",
            limit=float("inf"),
            build=functools.partial(build, network, arch),
            arch=arch.to_json(),
            arch_id=arch.id,
            flops=float(context.costs.cost("flops", arch)),
            description="Its architecture was set by hand.",
        )
        export_formats(context, deployable, (folder / name).resolve(), {}, settings)

    for name in names:
        for note in read_json(folder / name / CERTIFICATE_FILE)["notes"]:
            print(f"{name}: {note}", flush=True)
    paths = {name: folder / name / INT8_FILE for name in names}
    return [DeployedFile(name, "INT8", path) for name, path in paths.items() if path.exists()]


def parse_network(context: RunContext, text: str) -> Architecture:
    """Return the architecture of LAYERSxHEADSxNEURONS.

    Raises:
        SystemExit: The text is not of this form, or the network is larger than the full one.
    """
    try:
        depth, heads, ffn = (int(part) for part in text.split("x"))
        arch = shared_architecture(depth, heads, ffn)
    except ValueError:
        raise SystemExit(f"--networks {text}: write it as LAYERSxHEADSxNEURONS: 4x8x384.") from None
    full = context.space.largest()
    # A person may choose widths that the search space lacks.
    if depth > full.depth or heads > max(full.heads) or ffn > max(full.ffn):
        raise SystemExit(f"--networks {text}: the full network of the run is smaller.")
    return arch


def build(network: ElasticEncoder, arch: Architecture) -> tuple[PreTrainedModel, Forward]:
    """Return a network as a static model, and its forward function."""
    return extract_healed(network, arch), lambda batch: network(batch).logits


if __name__ == "__main__":
    main()
