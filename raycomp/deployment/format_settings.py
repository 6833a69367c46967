"""Which formats of a model to write, and how to measure them: the words of command line and Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raycomp.deployment.certificate import DeploymentLimit, parse_limits
from raycomp.deployment.cpu import describe_cpu
from raycomp.deployment.openvino_files import require_openvino
from raycomp.deployment.runtimes import require_onnx
from raycomp.errors import UserError

FORMATS = ("transformers", "plain", "onnx", "int8", "torch-export", "openvino", "openvino-int8")
"""Formats that an export can have. The folder of transformers is always written."""

ONNX_FILE = Path("onnx", "model.onnx")
INT8_FILE = Path("onnx", "model_int8.onnx")
OPENVINO_FILE = Path("openvino", "openvino_model.xml")
OPENVINO_INT8_FILE = Path("openvino", "openvino_model_int8.xml")
PROGRAM_FILE = Path("torch_export", "model.pt2")
WEIGHTS_FILE = Path("model.safetensors")

RUNTIME_FILES = {
    "onnxruntime": ONNX_FILE,
    "onnxruntime-int8": INT8_FILE,
    "openvino": OPENVINO_FILE,
    "openvino-int8": OPENVINO_INT8_FILE,
}
"""File of an export that each of these runtimes reads."""

FORMAT_OF_RUNTIME = {
    "onnxruntime": "onnx",
    "onnxruntime-int8": "int8",
    "openvino": "openvino",
    "openvino-int8": "openvino-int8",
    "torch": "transformers",
}
"""Format that has the file of each of these runtimes."""

LIBRARY_FORMATS = {"onnxruntime": ("onnx", "int8"), "openvino": ("openvino", "openvino-int8")}
"""Formats in fp32 and in INT8 of each library that files of other models are compared in."""

OPENVINO_FORMATS = frozenset({"openvino", "openvino-int8"})
ONNX_FORMATS = frozenset({"onnx", "int8"}) | OPENVINO_FORMATS
"""Formats that are made from the ONNX file in fp32."""

BATCHES = (1, 32)
"""Batch sizes at which files are timed, unless others are asked for."""


@dataclass(frozen=True)
class TimedReference:
    """A file that is timed in turns with a model's files, because their limits are shares of its time.

    Attributes:
        path: The file, of ONNX or OpenVINO.
        quantity: Time that is compared, such as "latency_ms".
        expected_ms: This time, as it was when the limits were computed.
    """

    path: Path
    quantity: str
    expected_ms: float


@dataclass(frozen=True)
class FormatSettings:
    """Which formats to write, and how to measure them.

    Attributes:
        formats: Names of `FORMATS`.
        batches: Batch sizes; limits apply to the first one.
        lengths: Tokens of a text; limits apply to the first one. Empty: the length of the task.
        threads: Threads of one operation; 0 is the number of CPUs that this process may use.
        limits: Limits beyond that of the budget.
        mixed_lengths: Lengths of the texts of one application, which make up one measurement in place of
            `lengths`; empty: each length is measured by itself.
        longest: Tokens of the longest text of the application, where `mixed_lengths` lacks it; or 0.
        reference: File whose time at the moment decides on limits on time; None where they are absolute.
        runtime: Runtime whose file must meet the limits: "torch", or one of `RUNTIME_FILES`. Empty: one
            of the files must.
        allow_code: Whether a metric function that the run names may be imported to score the files.
        takes_budget_conditions: Whether batches, lengths and threads are those of the model's budget,
            where it limits a time or memory.
    """

    formats: tuple[str, ...]
    batches: tuple[int, ...] = BATCHES
    lengths: tuple[int, ...] = ()
    threads: int = 0
    limits: tuple[DeploymentLimit, ...] = ()
    mixed_lengths: tuple[int, ...] = ()
    longest: int = 0
    reference: TimedReference | None = None
    runtime: str = ""
    allow_code: bool = False
    takes_budget_conditions: bool = False

    def num_threads(self) -> int:
        """Return the number of threads."""
        return self.threads or int(str(describe_cpu()["cpus"]))


def parse_formats(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return format names.

    Args:
        text: Names, or one text with commas between them.

    Raises:
        UserError: A name is unknown, or a package that a format needs is missing.
    """
    joined = text if isinstance(text, str) else ",".join(text)
    names = tuple(dict.fromkeys(part.strip() for part in joined.split(",") if part.strip()))

    for name in names:
        if name not in FORMATS:
            raise UserError(f"Format {name!r} is unknown. Formats: {', '.join(FORMATS)}.")

    if ONNX_FORMATS & set(names):
        require_onnx()
    if OPENVINO_FORMATS & set(names):
        require_openvino(set(names))

    return names


def read_format_settings(
    formats: str | Sequence[str],
    batches: Sequence[int] = (),
    lengths: Sequence[int] = (),
    threads: int = 0,
    limits: Sequence[str] = (),
    *,
    allow_code: bool = False,
) -> FormatSettings:
    """Return settings from the words of the command line and of Python.

    Args:
        formats: Names, or one text with commas between them; empty writes the folder of transformers.
        batches: Batch sizes; empty is `BATCHES`.
        lengths: Tokens of a text; empty is the length of the task.
        threads: Threads of one operation; 0 is all CPUs. Without batches, lengths and threads, the
            conditions of a model's budget replace these values.
        limits: Limits such as "latency_ms=8".
        allow_code: As in `FormatSettings`.

    Raises:
        UserError: A value is not valid, or a package that a format needs is missing.
    """
    # The command line checks numbers itself; these messages are for Python.
    for name, numbers in (("batch", batches), ("length", lengths), ("number of threads", [threads])):
        if any(number < 0 or (number == 0 and name != "number of threads") for number in numbers):
            raise UserError(f"The {name} {min(numbers)} is not valid. Choose a number above 0.")

    return FormatSettings(
        parse_formats(formats),
        tuple(batches) or BATCHES,
        tuple(lengths),
        threads,
        tuple(parse_limits(limits)),
        allow_code=allow_code,
        takes_budget_conditions=not (batches or lengths or threads),
    )


def check_lengths(settings: FormatSettings, max_positions: int) -> None:
    """Check that the model reads texts of the asked lengths.

    Raises:
        UserError: A length is above the model's limit.
    """
    longest = (settings.longest,) if settings.longest else ()
    for length in (*settings.lengths, *settings.mixed_lengths, *longest):
        if not 2 <= length <= max_positions:
            raise UserError(
                f"The model reads texts of 2 to {max_positions} tokens, and --length is {length}. Choose "
                "a length in this range."
            )
