"""Two things measured in turns in one process, and the claim that their ratio keeps to a target.

A machine's speed drifts while other work comes and goes. What takes turns drifts together, so the
ratio can be trusted where the figures cannot.
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

Work = Callable[[], float]
RUNS = 5


class NotMeasurableError(Exception):
    """This machine cannot show the claim; the message says what it lacks."""


@dataclass(frozen=True)
class PairedFigures:
    """Figures of two things, the i-th of each measured next to the other."""

    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of the ratios of the pairs: what is measured side by side drifts together."""
        return statistics.median(a / b for a, b in zip(self.a, self.b, strict=True))

    @property
    def spread(self) -> tuple[float, float]:
        """The central half of the ratios of the pairs: their quartiles, linearly interpolated."""
        ratios = [a / b for a, b in zip(self.a, self.b, strict=True)]
        low, high = np.quantile(ratios, [0.25, 0.75])
        return float(low), float(high)


@dataclass(frozen=True)
class Claim:
    """A ratio and what it is held against.

    Attributes:
        name: what is compared with what.
        ratio: median over the pairs of the one over the other.
        target: the most ("lower") or the least ("higher") that it may be.
        better: "lower" or "higher".
        holds: whether the ratio keeps to the target.
        spread: quartiles of the ratios of the pairs.
        runs: pairs.
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
        """Hold a measurement against its target."""
        ratio = paired.ratio
        holds = ratio <= target if better == "lower" else ratio >= target
        return cls(name, ratio, target, better, holds, paired.spread, len(paired.a))

    def format_line(self) -> str:
        """Return the claim as one line of a table."""
        sign = "<=" if self.better == "lower" else ">="
        held = "holds" if self.holds else "does not hold"
        low, high = self.spread
        return (
            f"{self.name:<72} {self.ratio:>8.3f}  {sign} {self.target:<6g} {low:>8.3f} to {high:<8.3f}"
            f" {self.runs:>3}  {held}"
        )


HEADER = f"{'claim':<72} {'ratio':>8}  {'target':<9} {'spread (central half)':<21} {'runs':>3}"


def measure_in_turns(works: Sequence[Work], runs: int, warm: int = 1) -> list[tuple[float, ...]]:
    """Call each work in turn, `warm + runs` rounds, every second round in reverse order.

    Args:
        works: each does something and returns its figure, such as seconds.
        runs: rounds that count.
        warm: rounds before, which do not.

    Returns:
        The figures of each work.
    """
    figures: list[list[float]] = [[] for _ in works]
    for i in range(warm + runs):
        order = list(enumerate(works))
        for j, work in reversed(order) if i % 2 else order:
            figure = work()
            if i >= warm:
                figures[j].append(figure)
    return [tuple(f) for f in figures]


def measure_pair(a: Work, b: Work, runs: int, warm: int = 1) -> PairedFigures:
    """Measure two works in turns; see `turns`."""
    return PairedFigures(*measure_in_turns([a, b], runs, warm))


def timed(work: Callable[[], object], device: Any = None) -> Work:
    """Return a work whose figure is how long it took.

    Args:
        work: what is timed.
        device: a torch device whose queue must be empty before and after; None where there is none.
    """

    def timed() -> float:
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - began

    return timed


def _wait(device: Any) -> None:
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Options:
    """How a file of claims was called.

    Attributes:
        runs: pairs of each claim.
        quick: the smallest sizes: shows that everything works, not how fast it is.
        device: "cpu" or "cuda".
    """

    runs: int
    quick: bool
    device: str


def run_claims(doc: str | None, measure: Callable[[Options], list[Claim]]) -> None:
    """Run one file of claims from the command line: print a line a claim, write them where asked."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="pairs of each claim (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one pair of the smallest sizes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the claims")
    args = parser.parse_args()
    if args.runs < 1:
        parser.error(f"--runs {args.runs} was given; allowed: 1 or more")
    try:
        claims = measure(Options(1 if args.quick else args.runs, args.quick, args.device))
    except NotMeasurableError as reason:
        print(f"not measured: {reason}")
        claims = []
    except UserError as error:
        sys.exit(str(error))
    for claim in claims:
        print(claim.format_line(), flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps([asdict(c) for c in claims], indent=1) + "\n")
