"""The certificate of an exported model: what was measured of each file, and which limits it meets.

The budget of a run is checked in `raycomp.runtime.pipeline`: counted sizes of the exported model in
`deploy`, and limits on measured figures in `device_certificates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from raycomp.config.budget import parse_quantity
from raycomp.errors import UserError

MODEL_QUANTITIES = ("params", "encoder_params", "flops")
"""Quantities that all files of a model share."""

FILE_QUANTITIES = ("latency_ms", "p95_ms", "p99_ms", "memory_mb", "size_mb")
"""Quantities that were measured of each file. Latencies are those of the first batch and length."""

PASS = "PASS"  # nosec B105 - a verdict
FAIL = "FAIL"

NOT_JUDGED = "NOT JUDGED"
"""Verdict on a limit that this measurement cannot decide, and on a file that meets the other limits."""

NOT_CERTIFIED = "NOT CERTIFIED"
"""Verdict on a model that meets the judged limits, and has others that are not judged."""

MACHINE_QUANTITIES = ("latency_ms", "p95_ms", "p99_ms", "memory_mb")
"""Quantities that differ between machines. Counts and file sizes do not."""


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass at one batch size and length, in milliseconds.

    Attributes:
        batch: Texts of a batch.
        length: Tokens of each text, all real; the longest one where texts of several lengths are mixed.
        p50_ms: Median.
        p95_ms: 95th percentile.
        p99_ms: 99th percentile. With fewer than 100 passes it is close to the slowest one. None where the
            longest texts are not in the sample of lengths that was timed.
        runs: Measured passes.
        lengths: The lengths in words, where texts of several lengths are mixed.
    """

    QUANTITIES: ClassVar[tuple[str, ...]] = ("latency_ms", "p95_ms", "p99_ms")
    """Names of the times as limits have them; `latency_ms` is the median."""

    batch: int
    length: int
    p50_ms: float
    p95_ms: float
    p99_ms: float | None
    runs: int
    lengths: str = ""

    @classmethod
    def of_durations(cls, batch: int, length: int, durations: Sequence[float]) -> Latency:
        """Return the percentiles of measured passes."""
        p50, p95, p99 = (float(value) for value in np.percentile(durations, (50, 95, 99)))
        return cls(batch, length, p50, p95, p99, len(durations))

    def value(self, quantity: str) -> float | None:
        """Return a quantity of `QUANTITIES`; None where it is not known."""
        value = getattr(self, "p50_ms" if quantity == "latency_ms" else quantity)
        return None if value is None else float(value)


@dataclass(frozen=True)
class FileFigures:
    """What was measured of one file of an export.

    Attributes:
        file: Path in the folder of the export.
        format: "transformers", "plain", "onnx", "int8", "torch-export", "openvino" or "openvino-int8".
        runtime: "torch", "onnxruntime" or "openvino".
        precision: "fp32" or "int8".
        size_mb: Size on disk in MB (10^6 bytes), without tokenizer.
        memory_mb: Peak memory of a process that loads the file and computes a batch; None if unknown.
        libraries_mb: Memory of that process before it loads the file.
        selection: Score on the selection split, computed in this runtime.
        loss: Selection score of the model in torch minus this one.
        speedup: Time of the ONNX file in fp32 over that of this file, at the first batch and length: the
            median over the passes, which are made in turns; None without an ONNX file.
        latencies: One entry per batch and length.
        details: Further figures, such as the number of INT8 operations.
    """

    file: str
    format: str
    runtime: str
    precision: str
    size_mb: float
    memory_mb: float | None
    libraries_mb: float | None
    selection: float
    loss: float
    speedup: float | None
    latencies: tuple[Latency, ...]
    details: Mapping[str, Any]

    def value(self, quantity: str) -> float | None:
        """Return a quantity of `FILE_QUANTITIES`; None where it was not measured."""
        if quantity in Latency.QUANTITIES:
            return self.latencies[0].value(quantity) if self.latencies else None
        measured = getattr(self, quantity)
        return None if measured is None else float(measured)


@dataclass(frozen=True)
class DeploymentLimit:
    """One limit: a quantity of `MODEL_QUANTITIES` or `FILE_QUANTITIES`, and its largest value."""

    quantity: str
    limit: float


@dataclass(frozen=True)
class Verdict:
    """Whether one file meets one limit.

    Attributes:
        file: Path in the folder; "" for a quantity of the whole model.
        quantity: What is limited.
        limit: Largest allowed value.
        value: Measured or counted value; None where it could not be measured.
        verdict: "PASS", "FAIL" or "NOT JUDGED". A value that could not be measured fails.
    """

    file: str
    quantity: str
    limit: float
    value: float | None
    verdict: str


def parse_limits(texts: Sequence[str]) -> list[DeploymentLimit]:
    """Read limits of the command line, such as "latency_ms=8".

    Raises:
        UserError: A text is not QUANTITY=NUMBER, or the quantity is unknown.
    """
    limits = []
    quantities = (*FILE_QUANTITIES, *MODEL_QUANTITIES)

    for text in texts:
        quantity, separator, number = text.partition("=")
        if not separator or quantity not in quantities:
            raise UserError(
                f"--limit {text!r} is not a limit. Write QUANTITY=NUMBER, such as latency_ms=8, with one "
                f"of {', '.join(quantities)}."
            )
        if number.strip().endswith("x"):
            raise UserError(
                f"--limit {text!r} is a share of the full model, which belongs in a [[budget]]. Write a "
                "number, such as latency_ms=8."
            )
        try:
            value = parse_quantity(float(number) if _is_number(number) else number, float("nan"))
        except ValueError as error:
            raise UserError(f"--limit {text!r}: {error}.") from None
        limits.append(DeploymentLimit(quantity, value))

    return limits


def judge_limits(
    limits: Sequence[DeploymentLimit], counts: Mapping[str, float], files: Sequence[FileFigures]
) -> list[Verdict]:
    """Return one verdict per limit on the model, and one per limit and file on the files.

    Args:
        limits: The limits.
        counts: Quantities of `MODEL_QUANTITIES`.
        files: What was measured.
    """
    # A limit on parameters holds for the model; a limit on latency only for a file in its runtime.
    verdicts = []
    for limit in limits:
        if limit.quantity in MODEL_QUANTITIES:
            verdicts.append(_judge("", limit, counts.get(limit.quantity)))
        else:
            verdicts += [_judge(entry.file, limit, entry.value(limit.quantity)) for entry in files]

    return verdicts


def _judge(file: str, limit: DeploymentLimit, value: float | None) -> Verdict:
    # A file whose memory the system does not report must not pass a limit on memory.
    verdict = PASS if value is not None and value <= limit.limit else FAIL
    return Verdict(file, limit.quantity, limit.limit, value, verdict)


def judge_file(limits: Sequence[Mapping[str, Any]], file: str) -> str:
    """Return the verdict on one file: "PASS" where it meets every limit, "FAIL" or "NOT JUDGED".

    Args:
        limits: The verdicts of a certificate, as it has them under `limits`.
        file: Path in the folder.
    """
    verdicts = {limit["verdict"] for limit in limits if limit["file"] in ("", file)}
    return next((verdict for verdict in (FAIL, NOT_JUDGED) if verdict in verdicts), PASS)


def build_certificate(
    figures: Mapping[str, Any],
    machine: Mapping[str, Any],
    limits: Sequence[DeploymentLimit],
    files: Sequence[FileFigures],
    notes: Sequence[str],
    not_judged: Sequence[DeploymentLimit] = (),
    limited: str = "",
) -> dict[str, Any]:
    """Return the content of certificate.json.

    Args:
        figures: Figures of the model: run, method, budget, architecture, params, encoder_params, flops.
        machine: CPU, threads and versions.
        limits: Limits of the budget and of the command line.
        files: What was measured of each file.
        notes: Formats that were not written, and why.
        not_judged: Limits that this measurement cannot decide.
        limited: File that must meet the limits; empty where one of the files must.
    """
    counts = {name: float(figures[name]) for name in MODEL_QUANTITIES if name in figures}
    verdicts = judge_limits(limits, counts, files)
    verdicts += [Verdict("", entry.quantity, entry.limit, None, NOT_JUDGED) for entry in not_judged]
    judged = [asdict(verdict) for verdict in verdicts]

    by_file = {entry.file: judge_file(judged, entry.file) for entry in files}
    # Another file can be fast in a runtime that the budget does not ask for.
    decisive = {by_file[limited]} if limited in by_file else set(by_file.values())
    verdict = PASS if PASS in decisive else FAIL
    if NOT_JUDGED in decisive:
        verdict = NOT_CERTIFIED

    return {
        **figures,
        "machine": dict(machine),
        "files": [asdict(entry) for entry in files],
        "limits": judged,
        "passing_files": [file for file, verdict in by_file.items() if verdict == PASS],
        "verdict": verdict,
        "notes": list(notes),
    }


def render_card_section(certificate: Mapping[str, Any]) -> str:
    """Return the part of the model card about the measured files, Markdown."""
    rows = [f"| {name} | {text} |" for name, text in card_figures(certificate).items()]
    notes = "".join(f"\n{note}\n" for note in certificate["notes"])
    return (
        "\n## Measured files\n\n"
        f"Verdict: {certificate['verdict']}. `certificate.json` has all figures.\n\n"
        "| file or limit | measured |\n|---|---|\n" + "\n".join(rows) + f"\n{notes}"
    )


def card_figures(certificate: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines of the model card that a certificate adds, by name."""
    machine = certificate["machine"]
    lines = {}

    for entry in certificate["files"]:
        times = "; ".join(
            f"batch {latency['batch']}, length {latency.get('lengths') or latency['length']}: "
            f"{_list_percentiles(latency)}"
            for latency in entry["latencies"]
        )
        # Memory is known on Linux only.
        memory = "" if entry["memory_mb"] is None else f", {entry['memory_mb']:.0f} MB of memory"
        lines[f"{entry['file']} ({entry['runtime']}, {entry['precision']})"] = (
            f"{entry['size_mb']:.1f} MB{memory}, selection {entry['selection']:.4f}; {times}"
        )

    for verdict in certificate["limits"]:
        value = "not measured" if verdict["value"] is None else f"{verdict['value']:,.4g}"
        name = " ".join(part for part in ("limit", verdict["quantity"], verdict["file"]) if part)
        lines[name] = f"{verdict['verdict']}: {value} (allowed: {verdict['limit']:,.4g})"

    sets = ", ".join(machine["instruction_sets"]) or "not known"
    lines["measured on"] = f"{machine['model']}, {machine['threads']} threads; instruction sets: {sets}"

    return lines


def _list_percentiles(latency: Mapping[str, Any]) -> str:
    # The 99th percentile of a sample of lengths can be unknown.
    percentiles = {name: latency[f"{name}_ms"] for name in ("p50", "p95", "p99")}
    parts = [f"{name} {value:.2f}" for name, value in percentiles.items() if value is not None]
    return f"{', '.join(parts)} ms"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
