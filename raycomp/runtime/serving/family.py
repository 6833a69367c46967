"""The networks that a server answers with: which models of a run, in which files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raycomp.config.references import is_reference
from raycomp.deployment.cpu import describe_cpu, needs_reduced_range, same_cpu
from raycomp.deployment.format_settings import (
    INT8_FILE,
    ONNX_FILE,
    WEIGHTS_FILE,
    read_format_settings,
)
from raycomp.deployment.serving.settings import ServeSettings
from raycomp.runtime.pipeline.export_formats import CERTIFICATE_FILE, TEACHER
from raycomp.runtime.pipeline.reexport import export_budget, find_row, list_models
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

FORMAT_OF_RUNTIME = {"onnxruntime-int8": "int8", "onnxruntime": "onnx", "torch": "transformers"}
FILE_OF_RUNTIME = {"onnxruntime-int8": INT8_FILE, "onnxruntime": ONNX_FILE, "torch": WEIGHTS_FILE}
"""Format and file of each runtime. A model without the file of one uses the next one."""

INT8 = "onnxruntime-int8"


@dataclass(frozen=True)
class FamilyMember:
    """One network of a server.

    Attributes:
        name: Name that requests give as their budget.
        full_name: "METHOD-BUDGET", or "teacher". Requests may give it too.
        folder: The export.
        runtime: Runtime of the file.
        selection: Score on the selection split in this runtime.
        params: Number of parameters.
    """

    name: str
    full_name: str
    folder: Path
    runtime: str
    selection: float
    params: int


def prepare_family(
    run_dir: Path, settings: ServeSettings, say: Callable[[str], None]
) -> list[FamilyMember]:
    """Return the networks to serve. Files that the run does not have yet are written and measured.

    Args:
        run_dir: The run directory.
        settings: Budgets, runtime and threads.
        say: Function that shows one line.

    Raises:
        UserError: A budget is unknown, the run has not deployed a model, or a conversion failed.
    """
    # Two names of one model, such as half and yoco-half, are one network.
    names = list(settings.budgets) or list_models(run_dir)
    rows = {_full_name(row): row for row in (find_row(run_dir, name) for name in names)}
    budgets = [str(row["budget"]) for row in rows.values()]
    members = []

    for full_name, row in rows.items():
        folder = _find_folder(run_dir, full_name, row, settings)
        if folder is None:
            say(f"Writing {full_name} for {settings.runtime}")
            folder = _write_folder(run_dir, full_name, settings)
        # Two methods can have a budget of the same name.
        is_unique = budgets.count(str(row["budget"])) == 1
        name = str(row["budget"]) if is_unique else full_name
        members.append(_make_member(name, full_name, folder, settings.runtime, say))

    return members


def _full_name(row: dict[str, Any]) -> str:
    return TEACHER if row["method"] == TEACHER else f"{row['method']}-{row['budget']}"


def _find_folder(
    run_dir: Path, full_name: str, row: dict[str, Any], settings: ServeSettings
) -> Path | None:
    """Return an export of the model that has the runtime's file, or that could not have it."""
    layout = RunLayout(run_dir)
    runtime = settings.runtime
    # A folder that was written for this runtime without its file says that the file was refused.
    if _is_current(layout.devices.served_model(runtime, full_name), row, settings):
        return layout.devices.served_model(runtime, full_name)
    family = layout.models / full_name
    if _is_current(family, row, settings) and (family / FILE_OF_RUNTIME[runtime]).exists():
        return family
    return None


def _is_current(folder: Path, row: dict[str, Any], settings: ServeSettings) -> bool:
    """Return whether a folder is complete, and has the architecture that the run deployed last.

    Its scores must also be by the metric that the others have: scores choose the networks of a policy.
    """
    path = folder / CERTIFICATE_FILE
    if not path.exists():
        return False
    certificate = read_json(path)
    primary = str(certificate.get("metric"))
    scored_by = str(certificate.get("selection_metric", primary))
    if is_reference(scored_by) != (settings.allow_code and is_reference(primary)):
        return False
    if "files" not in certificate or row.get("arch_id") not in (None, certificate.get("arch_id")):
        return False
    return _holds_here(folder, certificate, settings)


def _holds_here(folder: Path, certificate: dict[str, Any], settings: ServeSettings) -> bool:
    """Return whether the runtime's file, or its absence, is also right on this machine."""
    is_written = (folder / FILE_OF_RUNTIME[settings.runtime]).exists()
    if is_written and settings.runtime != INT8:
        return True
    # The CPU decides on the range of INT8 weights, on the score and on the speed. An INT8 file can be
    # refused at one number of threads and not at another.
    machine = certificate.get("machine", {})
    is_same_cpu = same_cpu(machine, describe_cpu())
    return is_same_cpu and (is_written or machine.get("threads") == settings.threads)


def _write_folder(run_dir: Path, full_name: str, settings: ServeSettings) -> Path:
    # A start that was interrupted leaves no folder, and one of another architecture is replaced.
    folder = RunLayout(run_dir).devices.served_model(settings.runtime, full_name)
    shutil.rmtree(folder, ignore_errors=True)
    formats = read_format_settings(
        FORMAT_OF_RUNTIME[settings.runtime],
        batches=(1,),
        threads=settings.threads,
        allow_code=settings.allow_code,
    )
    export_budget(run_dir, full_name, folder, formats)
    return folder


def _make_member(
    name: str, full_name: str, folder: Path, runtime: str, say: Callable[[str], None]
) -> FamilyMember:
    """Return the member with the first runtime, from the asked one on, whose file exists."""
    certificate = read_json(folder / CERTIFICATE_FILE)
    own, selection = _choose_file(folder, certificate, runtime)
    if own != runtime:
        reasons = " ".join(certificate["notes"])
        say(f"{name} runs in {own}: its file for {runtime} was not written. {reasons}".rstrip())

    return FamilyMember(
        name=name,
        full_name=full_name,
        folder=folder,
        runtime=own,
        selection=selection,
        params=int(certificate["params"]),
    )


def _choose_file(folder: Path, certificate: dict[str, Any], runtime: str) -> tuple[str, float]:
    """Return the first runtime, from one on, whose file exists, and the file's selection score."""
    runtimes = list(FILE_OF_RUNTIME)
    candidates = runtimes[runtimes.index(runtime) :]
    own = next(entry for entry in candidates if (folder / FILE_OF_RUNTIME[entry]).exists())
    return own, float(_find_figures(certificate, own)["selection"])


def _find_figures(certificate: dict[str, Any], runtime: str) -> dict[str, Any]:
    """Return what a certificate says about the file of a runtime."""
    file = FILE_OF_RUNTIME[runtime].as_posix()
    figures: dict[str, Any] = next(entry for entry in certificate["files"] if entry["file"] == file)
    return figures


def fit_member(member: FamilyMember) -> tuple[FamilyMember, str]:
    """Return the member with a file that computes correctly on this node, and a notice.

    A node of a cluster can have another CPU than the machine that wrote the files. Where sums of 8-bit
    products overflow on this CPU, and did not on that one, the member uses its file in fp32.

    Args:
        member: A member whose folder this node can read.

    Returns:
        The member, and a sentence for the user; empty where the file stays the same.
    """
    if member.runtime != INT8 or not needs_reduced_range():
        return member, ""
    certificate = read_json(member.folder / CERTIFICATE_FILE)
    details = _find_figures(certificate, INT8).get("details", {})
    if details.get("reduce_range"):
        return member, ""

    own, selection = _choose_file(member.folder, certificate, "onnxruntime")
    return replace(member, runtime=own, selection=selection), (
        f"{member.name} runs in {own} on {describe_cpu()['model']}: its INT8 file was written on "
        f"{certificate.get('machine', {}).get('model', 'an unknown CPU')}, and sums of INT8 products "
        "would overflow on this CPU."
    )


def choose_ladder(members: Sequence[FamilyMember], batch_ms: Sequence[float]) -> list[FamilyMember]:
    """Return the members that a policy chooses from, the slowest and most accurate first.

    A network that is slower than another and not more accurate is left out: it only answers requests
    that name it.

    Args:
        members: The networks.
        batch_ms: Measured time of each.
    """
    ladder: list[FamilyMember] = []
    fastest_first = sorted(zip(batch_ms, range(len(members)), strict=True))
    for _, index in fastest_first:
        if not ladder or members[index].selection > ladder[-1].selection:
            ladder.append(members[index])
    return ladder[::-1]
