"""Whether a super-network's losses tell networks of equal cost apart, on a finished run.

    python -m benchmarks.signal RUN_DIR [--method yoco] [--shares 0.5 0.25] [--networks 60] [--batches 40]
        [--half a]

Draws networks uniformly, fits them to each share of the encoder's parameters, and computes their losses
with inherited weights on the selection split, on the validation split and on training batches. Prints for
each share:

- `chance`: networks that are not better than the largest class by two standard errors; the figures below
  leave them out.
- `spread`: standard deviation of the networks' validation losses; `reliable`: the part of its variance
  that two random halves of the rows agree on (Spearman-Brown); 1 is free of noise.
- `agree_batch`, `agree_heldout`, `agree_selection`: how often a training batch, a batch of selection rows
  and the whole selection split rank two networks as the validation split does; .5 is chance.
- `tau_theta`: Kendall's tau between theta's rating and minus the validation loss, with its 95% bootstrap
  interval over networks; `tau_selection`: the same for the selection loss.
- The mean validation score and loss of the network that is chosen among 20 random ones, by the selection
  score, by the selection loss, and by the loss smoothed with each weight.
- `verdict`: "no difference to find" where less than half of the variance is reliable; otherwise whether
  the interval of `tau_theta` is above 0.

`--half` takes one half of the validation rows: defaults are chosen on a, figures come from b. Without it,
all rows are used.

Writes runs/benchmarks/signal.parquet. Takes about a minute for each share.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from benchmarks.healing import kept_rows
from benchmarks.measure import make_parser
from raycomp.config.loader import parse_stored
from raycomp.data.batches import collate
from raycomp.data.tokens import TokenSplit
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.search.budget import SearchBudget
from raycomp.search.choice import rank_networks
from raycomp.search.distribution import load_distribution
from raycomp.search.moves import fit_to_limit
from raycomp.search.surrogate import Surrogate
from raycomp.storage.files import read_json
from raycomp.storage.layout import RunLayout
from raycomp.training.evaluation import predict_logits

CPU = torch.device("cpu")
BATCH_ROWS = 32
NUM_CHOICES = 300
NUM_SCORED = 20
LEAST_RELIABLE = 0.5
SMOOTHINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
OUTPUT = Path("runs/benchmarks/signal.parquet")

Rows = np.ndarray
"""(networks, rows)."""


def main() -> None:
    """Measure every share, print, and write."""
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--method", default="yoco")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", choices=("a", "b"), help="validation rows; all without it")
    args = parser.parse_args()

    job = parse_stored(read_json(RunLayout(args.run_dir).job))
    context = RunContext(job, args.run_dir, method=args.method)
    rows = []
    for share in args.shares:
        figures = measure(context, share, args.networks, args.batches, args.seed, args.half)
        for name, value in {"share": share, **figures}.items():
            print(f"{name:>22}  {value:.4f}", flush=True)
        verdict = judge(figures)
        print(f"{'verdict':>22}  {verdict}\n", flush=True)
        rows.append({"share": share, **figures, "verdict": verdict, "half": args.half})

    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(OUTPUT)


def judge(figures: dict[str, float]) -> str:
    """Return what the figures of a share say about theta, in words."""
    if "reliable" not in figures:
        return "too few networks are better than chance"
    # The reliable part of the variance is then smaller than that of the noise.
    if not figures["reliable"] > LEAST_RELIABLE:
        return "no difference to find: less than half of the losses' variance is reliable"
    if figures["tau_theta_low"] > 0:
        return "theta orders the networks better than chance"
    if figures["tau_theta_high"] < 0:
        return "theta orders the networks worse than chance"
    return "theta is not shown to order the networks"


def measure(
    context: RunContext,
    share: float,
    num_networks: int,
    num_batches: int,
    seed: int,
    half: str | None = None,
) -> dict[str, float]:
    """Return the figures of networks fitted to a share of the encoder's parameters."""
    rng = np.random.default_rng(seed)
    budget = make_budget(context, share)
    archs = draw_networks(context, budget, num_networks, rng)
    supernet = context.supernet().eval()
    selection_losses, selection_hits = score_rows(supernet, archs, context.tokens("selection"), context)
    validation_losses, validation_hits, labels = score_validation(supernet, archs, context, half)
    kept = better_than_chance(validation_hits, labels)
    figures = {"chance": float(num_networks - len(kept))}
    if len(kept) < NUM_SCORED:
        return figures

    archs = [archs[i] for i in kept]
    selection_losses, selection_hits = selection_losses[kept], selection_hits[kept]
    validation_losses, validation_hits = validation_losses[kept], validation_hits[kept]
    truth = validation_losses.mean(1)
    train = train_batch_losses(supernet, archs, context, num_batches, rng)
    heldout = batch_means(selection_losses, num_batches, rng)

    theta, joint = load_distribution(context.space, context.sampler_state())
    rating = theta.rating(np.stack([context.space.encode(arch, joint) for arch in archs]))
    low, high = tau_interval(rating, -truth, rng)
    figures |= {
        "spread": float(truth.std(ddof=1)),
        "reliable": reliability(validation_losses, rng),
        "agree_batch": agreement(train, truth),
        "agree_heldout": agreement(heldout, truth),
        "agree_selection": agreement(selection_losses.mean(1)[:, None], truth),
        "tau_theta": tau(rating, -truth),
        "tau_theta_low": low,
        "tau_theta_high": high,
        "tau_selection": tau(-selection_losses.mean(1), -truth),
        "mean_validation": float(validation_hits.mean()),
        "best_validation": float(validation_hits.mean(1).max()),
    }
    surrogate_parts = (context, budget, archs)
    figures |= measure_choices(
        surrogate_parts, selection_losses, selection_hits, validation_losses, validation_hits, rng
    )
    return figures


def score_validation(
    supernet: ElasticEncoder, archs: list[Architecture], context: RunContext, half: str | None
) -> tuple[Rows, Rows, np.ndarray]:
    """Return losses and hits of each network on the validation rows of a half, and their labels.

    Args:
        supernet: The trained super-network.
        archs: The networks.
        context: The run's context.
        half: "a" or "b"; None is all rows.
    """
    tokens = context.tokens(context.validation_names()[0])
    rows = kept_rows(context, half)
    losses, hits = score_rows(supernet, archs, tokens, context)
    return losses[:, rows], hits[:, rows], np.asarray(tokens.labels).astype(int)[rows]


def better_than_chance(hits: Rows, labels: np.ndarray) -> np.ndarray:
    """Return the indices of networks that are better than the largest class by two standard errors."""
    largest = np.bincount(labels).max() / len(labels)
    error = (largest * (1 - largest) / len(labels)) ** 0.5
    return np.flatnonzero(hits.mean(1) > largest + 2 * error)


def make_budget(context: RunContext, share: float) -> SearchBudget:
    """Return the budget of a share of the encoder's parameters."""

    def cost(arch: Architecture) -> float:
        return float(context.costs.cost("encoder_params", arch))

    largest = cost(context.space.largest())
    return SearchBudget(cost, share * largest, largest)


def draw_networks(
    context: RunContext, budget: SearchBudget, count: int, rng: np.random.Generator
) -> list[Architecture]:
    """Return different networks, drawn uniformly and fitted to a budget."""
    archs: dict[Architecture, None] = {}
    for _ in range(50 * count):
        arch = fit_to_limit(
            context.space.sample_uniform(rng), context.space, budget.cost, budget.limit, rng
        )
        if arch is not None:
            archs[arch] = None
        if len(archs) == count:
            break
    return list(archs)


def score_rows(
    supernet: ElasticEncoder, archs: list[Architecture], tokens: TokenSplit, context: RunContext
) -> tuple[Rows, Rows]:
    """Return the label loss and whether the prediction is right, of each network on each row."""
    logits = np.concatenate(
        [
            predict_logits(
                lambda batch, group=group: supernet.forward_many(batch, group),
                tokens,
                pad_id=context.pad_id,
                max_tokens=None,
                precision="fp32",
                device=CPU,
            )
            for group in (archs[i : i + 32] for i in range(0, len(archs), 32))
        ]
    )
    labels = np.asarray(tokens.labels).astype(int)
    shifted = logits - logits.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    losses = -log_probabilities[:, np.arange(len(labels)), labels]
    return losses, logits.argmax(-1) == labels


@torch.inference_mode()
def train_batch_losses(
    supernet: ElasticEncoder,
    archs: list[Architecture],
    context: RunContext,
    count: int,
    rng: np.random.Generator,
) -> Rows:
    """Return the mean loss of each network on each of `count` random training batches."""
    tokens = context.tokens("train")
    columns = []
    for _ in range(count):
        batch = collate(tokens, rng.choice(len(tokens), BATCH_ROWS, replace=False), context.pad_id)
        logits = torch.cat(
            [supernet.forward_many(batch, archs[i : i + 32]) for i in range(0, len(archs), 32)]
        )
        targets = batch.labels.long().expand(len(archs), -1)
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        columns.append(losses.mean(1).numpy())
    return np.stack(columns, 1)


def batch_means(losses: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Return the mean loss of each network on `count` random batches of the rows."""
    size = min(BATCH_ROWS, losses.shape[1])
    chosen = [rng.choice(losses.shape[1], size, replace=False) for _ in range(count)]
    return np.stack([losses[:, rows].mean(1) for rows in chosen], 1)


def agreement(losses: Rows, truth: np.ndarray) -> float:
    """Return how often the columns of `losses` rank two networks as `truth` does."""
    first, second = np.triu_indices(len(truth), 1)
    expected = np.sign(truth[first] - truth[second])[:, None]
    observed = np.sign(losses[first] - losses[second])
    return float((0.5 + 0.5 * observed * expected).mean())


def reliability(losses: Rows, rng: np.random.Generator) -> float:
    """Return the reliable part of the variance of the networks' mean losses (Spearman-Brown)."""
    halves = []
    for _ in range(50):
        order = rng.permutation(losses.shape[1])
        middle = len(order) // 2
        one, two = losses[:, order[:middle]].mean(1), losses[:, order[middle:]].mean(1)
        correlation = float(np.corrcoef(one, two)[0, 1])
        halves.append(2 * correlation / (1 + correlation))
    return float(np.mean(halves))


def tau(a: np.ndarray, b: np.ndarray) -> float:
    """Return Kendall's tau; 0 where one of the two is constant."""
    value = stats.kendalltau(a, b).statistic
    return 0.0 if np.isnan(value) else float(value)


def tau_interval(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95% bootstrap interval of tau over networks."""
    draws = [rng.integers(0, len(a), len(a)) for _ in range(500)]
    values = [tau(a[rows], b[rows]) for rows in draws]
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def measure_choices(
    parts: tuple[RunContext, SearchBudget, list[Architecture]],
    selection_losses: Rows,
    selection_hits: Rows,
    validation_losses: Rows,
    validation_hits: Rows,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Return the mean validation score and loss of the network that each rule chooses among 20."""
    context, budget, archs = parts
    theta, joint = load_distribution(context.space, context.sampler_state())
    scores: dict[str, list[int]] = {}
    for _ in range(NUM_CHOICES):
        shown = rng.choice(len(archs), NUM_SCORED, replace=False)
        values = selection_hits[shown].mean(1).tolist()
        losses = selection_losses[shown].mean(1).tolist()
        networks = [archs[i] for i in shown]
        surrogate = Surrogate(context.space, budget, theta, joint)
        surrogate.fit(networks, losses)
        scores.setdefault("by_score", []).append(
            shown[rank_networks(networks, values, losses, budget, None, 0.0, 0.0)[0]]
        )
        for smoothing in SMOOTHINGS:
            tiny = max(smoothing, 1e-9)
            ranked = rank_networks(networks, values, losses, budget, surrogate, 0.0, tiny)
            scores.setdefault(f"smoothed_{smoothing:g}", []).append(shown[ranked[0]])

    figures = {}
    for name, chosen in scores.items():
        figures[f"{name}_validation"] = float(validation_hits[chosen].mean())
        figures[f"{name}_loss"] = float(validation_losses[chosen].mean())
    return figures


if __name__ == "__main__":
    main()
