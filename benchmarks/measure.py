"""Times two or more kinds of work in turns, and compares the ratio with a target.

The speed of a machine drifts while other processes come and go. Kinds of work that take turns in one
process drift together, so their ratio is reliable where the seconds are not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raycomp.errors import UserError

# Does something, and returns its figure, such as seconds.
Work = Callable[[], float]

RUNS = 5
HEADER = f"{'claim':<72} {'ratio':>8}  {'target':<9} {'spread (central half)':<21} {'runs':>3}"


class NotMeasurableError(Exception):
    """This machine cannot show the claim; the message says what it lacks."""


@dataclass(frozen=True)
class PairedFigures:
    """Figures of two kinds of work, where `a[i]` and `b[i]` were measured one after the other.

    Example:
        >>> PairedFigures((2.0, 4.0, 9.0), (4.0, 4.0, 3.0)).ratio
        1.0
    """

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """The ratio a / b of each pair."""
        return [a / b for a, b in zip(self.a, self.b, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the ratios, linearly interpolated."""
        low, high = np.quantile(self.ratios, [0.25, 0.75])
        return float(low), float(high)


@dataclass(frozen=True)
class Claim:
    """A measured ratio and its target.

    Attributes:
        name: Description of the two sides, as "A / B".
        ratio: Median of the ratios of the pairs.
        target: Largest ("lower") or smallest ("higher") ratio with which the claim holds.
        better: "lower" or "higher".
        holds: Whether the ratio reaches the target.
        spread: Quartiles of the ratios of the pairs.
        runs: Number of pairs.
    """

    name: str
    ratio: float
    target: float
    better: Literal["lower", "higher"]
    holds: bool
    spread: tuple[float, float]
    runs: int

    @classmethod
    def from_figures(
        cls, name: str, paired: PairedFigures, better: Literal["lower", "higher"], target: float
    ) -> Claim:
        """Compare measured pairs with a target."""
        ratio = paired.ratio
        holds = ratio <= target if better == "lower" else ratio >= target
        return cls(name, ratio, target, better, holds, paired.spread, len(paired.a))

    def format_line(self) -> str:
        """Return the claim as a line below HEADER."""
        sign = "<=" if self.better == "lower" else ">="
        verdict = "holds" if self.holds else "does not hold"
        low, high = self.spread
        return (
            f"{self.name:<72} {self.ratio:>8.3f}  {sign} {self.target:<6g} {low:>8.3f} to {high:<8.3f}"
            f" {self.runs:>3}  {verdict}"
        )


def measure_in_turns(works: Sequence[Work], runs: int, warm: int = 1) -> list[tuple[float, ...]]:
    """Call each work in turn, `warm + runs` rounds; every second round is in reverse order.

    Args:
        works: Kinds of work to compare.
        runs: Number of rounds whose figures count.
        warm: Number of earlier rounds that warm up the machine and do not count.

    Returns:
        The figures of each work, one for each counted round.
    """
    figures: list[list[float]] = [[] for _ in works]
    for round_number in range(warm + runs):
        order = list(enumerate(works))
        if round_number % 2:
            order.reverse()

        for position, work in order:
            figure = work()
            if round_number >= warm:
                figures[position].append(figure)
    return [tuple(column) for column in figures]


def measure_pair(a: Work, b: Work, runs: int, warm: int = 1) -> PairedFigures:
    """Call two kinds of work in turns (see `measure_in_turns`)."""
    return PairedFigures(*measure_in_turns([a, b], runs, warm))


def timed(work: Callable[[], object], device: Any = None) -> Work:
    """Return a work whose figure is the seconds that `work` takes.

    Args:
        work: Function to time.
        device: Torch device that must be idle before and after; None if the work uses no GPU.
    """

    def run() -> float:
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        return time.perf_counter() - started

    return run


def _synchronize(device: Any) -> None:
    """Wait until the device has finished its queued work."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a command line parser whose help is the docstring of a benchmark, line by line."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


@dataclass(frozen=True)
class Options:
    """Options of the command line of a file of claims.

    Attributes:
        runs: Number of pairs of each claim.
        quick: Whether to use the smallest sizes. This shows that everything works, not how fast it is.
        device: "cpu" or "cuda".
    """

    runs: int
    quick: bool
    device: str


def run_claims(doc: str | None, measure: Callable[[Options], list[Claim]]) -> None:
    """Run one file of claims from the command line: print a line for each claim.

    Args:
        doc: Docstring of the file.
        measure: Function that measures the claims of the file.
    """
    parser = make_parser(doc)
    parser.add_argument("--runs", type=int, default=RUNS, help="pairs of each claim (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one pair of the smallest sizes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the claims")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"--runs {args.runs} is not allowed. Use 1 or more.")

    runs = 1 if args.quick else args.runs
    try:
        claims = measure(Options(runs, args.quick, args.device))
    except NotMeasurableError as reason:
        print(f"not measured: {reason}")
        claims = []
    except UserError as error:
        sys.exit(str(error))

    for claim in claims:
        print(claim.format_line(), flush=True)
    if args.out is not None:
        write_claims(args.out, [asdict(claim) for claim in claims])


def write_claims(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write claims, or other rows of results, as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")
