"""Evaluations after which each searcher finds what random search finds, over many search seeds.

    raycomp run jobs/studies/search.toml --preset small --set task.folder=GLUE
    python -m benchmarks.searchers runs/search-HASH/runs/search-sng-* --seeds 4

A study has one search for each super-network, and its best of 40 evaluations is one sample. Here every
searcher searches the first budget of each run `--seeds` times, without a shared initial set. Each
architecture is scored once for each run. Prints the mean over all searches of the best feasible score
on the selection split, and the evaluations after which that mean, and each single search, reaches the
best of random search. Takes some minutes for each run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import make_parser
from raycomp.config.loader import parse_stored
from raycomp.data.tokens import TokenSplit
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.search.searcher import Searcher
from raycomp.search.searchers import make_searcher
from raycomp.storage.layout import RunLayout
from raycomp.training.evaluation import predict_logits, score_logits

SEARCHERS = ("random", "sng", "evolution", "rated")
PRINTED_EVALUATIONS = (8, 16, 24, 32, 40)
CPU = torch.device("cpu")


def main() -> None:
    """Search every run with every searcher and seed, and print."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of runs with a super-network")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each searcher and run")
    parser.add_argument("--batch", type=int, default=8, help="architectures of each request")
    parser.add_argument("--evaluations", type=int, default=40)
    args = parser.parse_args()

    curves: dict[str, list[list[float]]] = {name: [] for name in SEARCHERS}
    for number, run_dir in enumerate(args.runs):
        job = parse_stored(json.loads(RunLayout(run_dir).job.read_text()))
        scorer = Scorer(RunContext(job, run_dir))
        for seed in range(args.seeds):
            for name in SEARCHERS:
                search_seed = 1000 * number + seed
                curve = run_search(scorer, name, search_seed, args.batch, args.evaluations)
                curves[name].append(curve)
    print_curves(curves, args.evaluations)


class Scorer:
    """Scores architectures with the super-network of a run, each once.

    Args:
        context: Context of a run that has trained its super-network.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._supernet: ElasticEncoder = context.supernet().eval()
        self._scores: dict[Architecture, tuple[float, float]] = {}

    def score(self, archs: list[Architecture]) -> list[tuple[float, float]]:
        """Return (score, loss) of each architecture on the selection split."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self._scores]
        if new:
            self._score_new(new)
        return [self._scores[arch] for arch in archs]

    def _score_new(self, archs: list[Architecture]) -> None:
        context = self.context
        tokens = context.tokens("selection")
        logits = predict_networks(context, self._supernet, archs, tokens)
        for arch, arch_logits in zip(archs, logits, strict=True):
            score = score_logits(context.metrics, tokens, arch_logits, context.facts.positive)
            self._scores[arch] = (score.values[context.primary], score.loss)


def predict_networks(
    context: RunContext, supernet: ElasticEncoder, archs: list[Architecture], tokens: TokenSplit
) -> np.ndarray:
    """Return the logits of sub-networks for all rows of a split, (networks, rows, classes)."""
    return predict_logits(
        lambda batch: supernet.forward_many(batch, archs),
        tokens,
        pad_id=context.pad_id,
        max_tokens=context.job.search.max_tokens,
        precision=context.chosen_precision(),
        device=CPU,
    )


def run_search(scorer: Scorer, name: str, seed: int, batch: int, num_evaluations: int) -> list[float]:
    """Return the best feasible score after each evaluation of one search.

    A search that has nothing new to ask ends early; its last score is repeated.
    """
    context = scorer.context
    budget = context.budget(context.job.budget[0])
    searcher: Searcher = make_searcher(name, context.space, context.sampler_state(), budget, seed)

    evaluated: set[Architecture] = set()
    best = 0.0
    curve: list[float] = []
    while len(evaluated) < num_evaluations:
        num_before = len(evaluated)
        archs = searcher.ask(min(batch, num_evaluations - num_before))
        scores = scorer.score(archs)
        searcher.tell(archs, [value for value, _ in scores], [loss for _, loss in scores])

        for arch, (value, _) in zip(archs, scores, strict=True):
            if arch in evaluated:
                continue
            evaluated.add(arch)
            if budget.is_met_by(arch):
                best = max(best, value)
            curve.append(best)
        if len(evaluated) == num_before:
            break
    return curve + [best] * (num_evaluations - len(curve))


def print_curves(curves: dict[str, list[list[float]]], num_evaluations: int) -> None:
    """Print the mean curve of each searcher, and when it reaches the best of random search."""
    counts = [count for count in PRINTED_EVALUATIONS if count <= num_evaluations]
    random_best = [curve[-1] for curve in curves["random"]]
    print(
        f"{len(random_best)} searches of each kind; mean of the best after {', '.join(map(str, counts))}:"
    )
    for name, searches in curves.items():
        mean = np.mean(searches, axis=0)
        mean_reaches = first_reaching(mean, statistics.fmean(random_best))
        own = [
            first_reaching(curve, best) or num_evaluations + 1
            for curve, best in zip(searches, random_best, strict=True)
        ]
        values = " ".join(f"{mean[count - 1]:.4f}" for count in counts)
        print(
            f"{name}: {values}; the mean reaches that of random search after {mean_reaches}, "
            f"half of the searches reach that of the same seed within {statistics.median(own):g}"
        )


def first_reaching(curve: Sequence[float] | np.ndarray, value: float) -> int | None:
    """Return the number of evaluations after which a curve is at least `value`, or None."""
    for count, score in enumerate(curve, 1):
        if score >= value:
            return count
    return None


if __name__ == "__main__":
    main()
