"""The network that each searcher deploys, on held-out rows, over many searches of one super-network.

    python -m benchmarks.search_choice RUN_DIR [--method yoco] [--budgets half extreme] [--seeds 12]
        [--evaluations 24] [--searchers random rated evolution sng] [--smoothings 0.5 0] [--halves b]

Every searcher searches each budget once per seed, with the loop of a run, without a shared initial set.
Networks have inherited weights and are scored once, on the selection split and on the validation rows.
The seeds differ in the search only: the super-network is one. Classification only. Defaults are chosen on
half a of the validation rows, and figures come from half b.

Prints a row for each budget, half, searcher and `search.smoothing` (0: the best score wins), with means
over the searches:

    selection    label loss of the deployed network on the selection split
    heldout      its label loss on the validation rows
    score        its metric on the validation rows
    difference   heldout minus that of random search with the same seed and the first smoothing, with
                 Student's 95% interval of its mean over the seeds (low, high)

Two rows are references: "any" is the mean of the networks near the limit that random search scored, so it
is what a choice without a search gives; "oracle" is the one among them with the smallest heldout loss.
Writes runs/benchmarks/search_choice.parquet.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from benchmarks.healing import kept_rows
from benchmarks.intervals import student_interval
from benchmarks.measure import make_parser
from benchmarks.searchers import predict_networks
from raycomp.config.loader import parse_stored
from raycomp.encoder.architecture import Architecture
from raycomp.methods.context import RunContext
from raycomp.report.predictions import Predictions
from raycomp.search.search_loop import SearchLoop, SearchTrial, budget_settings
from raycomp.search.setup import SearchSetup
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout

BASELINE = "random"
NEAR = 0.95
"""Part of the limit from which a network counts for the rows "any" and "oracle"."""

OUTPUT = Path("runs/benchmarks/search_choice.parquet")


class NetworkScore(NamedTuple):
    """What is known of a network with inherited weights.

    Attributes:
        value: Metric on the selection split.
        loss: Label loss on the selection split.
        heldout_value: Metric on the validation rows.
        heldout_loss: Label loss on the validation rows.
    """

    value: float
    loss: float
    heldout_value: float
    heldout_loss: float


class HeldOutScorer:
    """Scores networks of a run's super-network on the selection split and on validation rows, once each.

    Args:
        context: Context of a run that has trained its super-network.
        halves: Halves of the validation rows, "a" or "b".
    """

    def __init__(self, context: RunContext, halves: Sequence[str]) -> None:
        self.context = context
        self.halves = tuple(halves)
        self._supernet = context.supernet().eval()
        self._rows = [kept_rows(context, half) for half in halves]
        self._scores: dict[Architecture, list[NetworkScore]] = {}

    def score(self, archs: Sequence[Architecture], half: int = 0) -> list[NetworkScore]:
        """Return the scores of architectures, in their order; those of a half on held-out rows."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self._scores]
        if new:
            (selection,) = self._score_split(new, "selection", [np.arange(0)])
            heldout = self._score_split(new, self.context.validation_names()[0], self._rows)
            for i, arch in enumerate(new):
                self._scores[arch] = [NetworkScore(*selection[i], *scores[i]) for scores in heldout]
        return [self._scores[arch][half] for arch in archs]

    def _score_split(
        self, archs: list[Architecture], split: str, parts: Sequence[np.ndarray]
    ) -> list[list[tuple[float, float]]]:
        """Return for each part of the rows the metric and the label loss of each architecture."""
        tokens = self.context.tokens(split)
        logits = predict_networks(self.context, self._supernet, archs, tokens)
        labels = np.asarray(tokens.labels)
        return [
            [self._score_rows(labels[rows], each[rows]) for each in logits]
            for rows in (part if len(part) else np.arange(len(labels)) for part in parts)
        ]

    def _score_rows(self, labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
        log_probabilities = torch.from_numpy(logits).float().log_softmax(1).numpy()
        loss = -float(log_probabilities[np.arange(len(labels)), labels].mean())
        outputs = Predictions((labels,), (logits,), self.context.facts.positive)
        return outputs.value(self.context.primary), loss


def main() -> None:
    """Search with every searcher and seed, print, and write."""
    args = parse_arguments()
    job = parse_stored(read_json(RunLayout(args.run_dir).job))
    context = RunContext(job, args.run_dir, method=args.method)
    scorer = HeldOutScorer(context, args.halves)

    tables = []
    for budget in args.budgets or [settings.name for settings in job.budget]:
        setups = [make_setup(context, budget, args.evaluations, s) for s in args.smoothings]
        rows = []
        for seed in range(args.seeds):
            for searcher in args.searchers:
                rows += search_once(scorer, setups, searcher, seed)
            print(f"{budget}: {seed + 1} of {args.seeds} seeds", flush=True)

        tables.append(pd.DataFrame(rows))
        for half, part in tables[-1].groupby("half", sort=False):
            print(f"\n{budget}, half {half!s}: {args.seeds} searches of {args.evaluations} evaluations")
            summary = summarise(part, args.smoothings[0])
            print(summary.to_string(index=False, float_format="{:.4f}".format), flush=True)

    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).to_parquet(OUTPUT)


def make_setup(context: RunContext, budget: str, evaluations: int, smoothing: float) -> SearchSetup:
    """Return the run's setup with one budget and a search without a shared initial set."""
    settings = {"evaluations": evaluations, "shared_fraction": 0.0, "smoothing": smoothing}
    search = context.job.search.model_copy(update=settings)
    budgets = [budget_settings(context.job, budget)]
    job = context.job.model_copy(update={"search": search, "budget": budgets})
    return SearchSetup(job, context.run_dir, context.shape, method=context.method)


def search_once(
    scorer: HeldOutScorer, setups: Sequence[SearchSetup], searcher: str, seed: int
) -> list[dict[str, Any]]:
    """Return the rows of one search: the network that each smoothing deploys, and the references.

    Args:
        scorer: Scores each network once, so the search of a second smoothing costs nothing.
        setups: The same search with different smoothings.
        searcher: Name of the searcher.
        seed: Seed of the search.
    """
    settings = setups[0].job.budget[0]
    trial = SearchTrial(settings.name, searcher, seed)
    rows = []
    for setup in setups:
        loop = SearchLoop(setup, scorer.context.sampler_state(), trial)
        while archs := loop.ask():
            scores = scorer.score(archs)
            loop.tell(archs, [score.value for score in scores], [score.loss for score in scores])
        deployed = loop.best(settings.name)[0]
        for i, half in enumerate(scorer.halves):
            (score,) = scorer.score([deployed], i)
            rows.append(make_row(trial, half, searcher, setup.job.search.smoothing, score))

    if searcher == BASELINE:
        budget = setups[0].budget(settings)
        near = [arch for arch in loop.archs if NEAR * budget.limit <= budget.cost(arch) <= budget.limit]
        for i, half in enumerate(scorer.halves):
            scores = scorer.score(near, i)
            mean = NetworkScore(*np.mean(scores, axis=0).tolist())
            oracle = min(scores, key=lambda score: score.heldout_loss)
            rows += [
                make_row(trial, half, "any", 0.0, mean),
                make_row(trial, half, "oracle", 0.0, oracle),
            ]
    return rows


def make_row(
    trial: SearchTrial, half: str, name: str, smoothing: float, score: NetworkScore
) -> dict[str, Any]:
    """Return one row of the table."""
    return {
        "budget": trial.budget,
        "half": half,
        "seed": trial.seed,
        "searcher": name,
        "smoothing": smoothing,
        "selection": score.loss,
        "heldout": score.heldout_loss,
        "score": score.heldout_value,
    }


def summarise(table: pd.DataFrame, smoothing: float) -> pd.DataFrame:
    """Return a row per searcher and smoothing, with the difference from random search.

    Args:
        table: Rows of one budget and half.
        smoothing: That of the searches that all others are compared with.
    """
    is_baseline = (table["searcher"] == BASELINE) & (table["smoothing"] == smoothing)
    baseline = table[is_baseline].set_index("seed")["heldout"]
    rows = []
    for (searcher, own), part in table.groupby(["searcher", "smoothing"], sort=False):
        means = part[["selection", "heldout", "score"]].mean()
        differences = (part.set_index("seed")["heldout"] - baseline).to_numpy()
        low, high = student_interval(differences)
        rows.append(
            {
                "searcher": searcher,
                "smoothing": own,
                **means.to_dict(),
                "difference": float(differences.mean()),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", type=Path, help="run with a super-network")
    parser.add_argument("--method", default="yoco", help="method of the super-network")
    parser.add_argument("--budgets", nargs="+", help="names of budgets; all without it")
    parser.add_argument("--seeds", type=int, default=12, help="searches of each searcher and budget")
    parser.add_argument("--evaluations", type=int, default=24, help="networks that a search scores")
    searchers = [BASELINE, "rated", "evolution", "sng"]
    parser.add_argument("--searchers", nargs="+", default=searchers, help="searchers, with random")
    parser.add_argument("--smoothings", type=float, nargs="+", default=[0.5, 0.0], help="of the choice")
    parser.add_argument("--halves", nargs="+", choices=("a", "b"), default=["b"], help="validation rows")
    return parser.parse_args()


if __name__ == "__main__":
    main()
