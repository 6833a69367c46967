"""How soon each searcher finds what random search finds: many search seeds on trained super-networks.

    raycomp run jobs/studies/search.toml --preset small --set task.folder=GLUE
    python -m benchmarks.searchers runs/search-HASH/runs/search-sng-* --seeds 4

A study has one search a super-network, and its best of 40 is one draw. Here every searcher searches the
first budget of each run `--seeds` times, without a common opening; an architecture is scored once a run.
Prints the mean over all searches of the best feasible score on selection, and after how many evaluations
that mean, and each search by itself, comes to the best of random search.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch

from raycomp.config.loader import parse_stored
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.search.searchers import Searcher, make_searcher
from raycomp.storage.layout import RunLayout
from raycomp.training.evaluation import predict_logits, score_logits

NAMES = ("random", "sng", "evolution")
CPU = torch.device("cpu")


class Scores:
    """What the super-network of a run says of architectures, each scored once."""

    def __init__(self, context: RunContext) -> None:
        self.context, self._known = context, dict[Architecture, tuple[float, float]]()
        self._model: ElasticEncoder = context.supernet().eval()

    def of(self, archs: list[Architecture]) -> list[tuple[float, float]]:
        """Return the score and the loss of each on the selection split."""
        new = [a for a in dict.fromkeys(archs) if a not in self._known]
        if new:
            context, tokens = self.context, self.context.tokens("selection")
            logits = predict_logits(
                lambda batch: self._model.forward_many(batch, new),
                tokens,
                pad_id=context.pad_id,
                max_tokens=context.job.search.max_tokens,
                precision=context.chosen_precision(),
                device=CPU,
            )
            for arch, each in zip(new, logits, strict=True):
                found = score_logits(context.metrics, tokens, each)
                self._known[arch] = (found.values[context.primary], found.loss)
        return [self._known[a] for a in archs]


def curve(scores: Scores, name: str, seed: int, batch: int, total: int) -> list[float]:
    """Return the best feasible score after each of `total` evaluations of one search."""
    context = scores.context
    budget = context.budget(context.job.budget[0])
    searcher: Searcher = make_searcher(name, context.space, context.sampler_state(), budget, seed)
    known, best, found = set[Architecture](), 0.0, list[float]()
    while (before := len(known)) < total:
        archs = searcher.ask(min(batch, total - before))
        told = scores.of(archs)
        searcher.tell(archs, [v for v, _ in told], [loss for _, loss in told])
        for arch, (value, _) in zip(archs, told, strict=True):
            if arch not in known:
                known.add(arch)
                best = max(best, value) if budget.is_met_by(arch) else best
                found.append(best)
        if len(known) == before:
            break  # nothing new to ask
    return found + [best] * (total - len(found))


def main() -> None:
    """Search, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs with a super-network")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each kind a run")
    parser.add_argument("--batch", type=int, default=8, help="architectures between two tells")
    parser.add_argument("--evaluations", type=int, default=40)
    args = parser.parse_args()
    found: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    for number, run in enumerate(args.runs):
        job = parse_stored(json.loads((RunLayout(run).job).read_text()))
        scores = Scores(RunContext(job, run))
        for seed in range(args.seeds):
            for name, curves in found.items():
                curves.append(curve(scores, name, 1000 * number + seed, args.batch, args.evaluations))
    marks = [m for m in (8, 16, 24, 32, 40) if m <= args.evaluations]
    last = [each[-1] for each in found["random"]]
    print(f"{len(last)} searches of each kind; mean of the best after {', '.join(map(str, marks))}:")
    for name, curves in found.items():
        mean = np.mean(curves, axis=0)
        at = next((i + 1 for i, v in enumerate(mean) if v >= statistics.fmean(last)), None)
        own = [
            next((i + 1 for i, v in enumerate(each) if v >= end), args.evaluations + 1)
            for each, end in zip(curves, last, strict=True)
        ]
        print(
            f"{name}: {' '.join(f'{mean[m - 1]:.4f}' for m in marks)}; the mean comes to random search's "
            f"after {at}, half of the searches to that of the same seed within {statistics.median(own):g}"
        )


if __name__ == "__main__":
    main()
