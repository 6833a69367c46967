"""The command `raycomp profile`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycomp.cli.options import AsJson, JobFile, Sets
from raycomp.cli.output import print_json, relative_to_cwd
from raycomp.config.loader import load_job
from raycomp.deployment.cpu import describe_load
from raycomp.errors import UserError

if TYPE_CHECKING:
    from raycomp.encoder.device_table import Conditions, DeviceTable

Out = Annotated[
    Path,
    typer.Option("--out", metavar="FILE", help="File to write. A budget names it in its key profile."),
]


def profile(
    job: JobFile, sets: Sets = None, out: Out = Path("device-profile.json"), as_json: AsJson = False
) -> None:
    """Measure the layers of a job's search space on this device. It needs neither Ray nor data.

    Example: raycomp profile edge.toml --out edge.json
    """
    # Before the imports, which take seconds.
    if out.exists():
        raise UserError(f"{out} exists. Name a new file with --out, or remove the old one.")
    settings = load_job(job, sets)

    from raycomp.encoder.pretrained import load_config
    from raycomp.runtime.pipeline.device_profiles import profile_job, write_profile

    if load := describe_load():
        print(f"Warning: {load}", file=sys.stderr)

    model = settings.model
    config = load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    tables = profile_job(settings, config, _show_progress)
    write_profile(out, tables)

    if as_json:
        print_json({"tables": [table.to_dict() for table in tables]})
    else:
        for table in tables:
            print(_describe_table(table))
        print(relative_to_cwd(out))


def _describe_table(table: DeviceTable) -> str:
    """Return the range of times of a table, and how well the correction fits."""
    times = sorted(table.predict("latency_ms", network.arch) for network in table.networks)
    errors = sorted(table.errors("latency_ms"))
    return (
        f"{table.conditions.describe()}: {len(table.layers)} kinds of layers, {times[0]:.3g} to "
        f"{times[-1]:.3g} ms (p50). The correction fits {len(errors)} networks to "
        f"{errors[len(errors) // 2]:.1%} (median) and {errors[-1]:.1%} (worst)."
    )


def _show_progress(conditions: Conditions) -> Callable[[int, int], Any]:
    """Return the progress function of one table: a line on standard error."""

    def update(done: int, total: int) -> None:
        print(f"{conditions.describe()}: {done} of {total} networks", file=sys.stderr)

    return update
