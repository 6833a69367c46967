"""Architectures scored per second, over extracting and evaluating each architecture separately, padded.

    python -m benchmarks.claims.evaluation

The architectures are the first requests of a search for the demo's four budgets, sampled from an
untrained architecture distribution; a trained one repeats its choices and shares more. They are scored
in one pass, as by the only evaluator of a machine. The peer scores every sixteenth of them, centred
along their FLOPs, in batches of 32 padded to length 128, and extracts each network before. Both compute
in the precision that `auto` selects. Takes about two minutes.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.measure import Claim, Options, measure_pair, run_claims
from benchmarks.workload import demo_context, pad_batch, whole_space_sampler
from raycomp.data.tokens import TokenSplit
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.methods.context import RunContext
from raycomp.search.initial_set import shared_initial_set
from raycomp.training.evaluation import predict_logits, score_logits
from raycomp.training.optimizers import autocast, resolve_precision

NUM_ARCHITECTURES = 58

# The peer scores one of so many architectures, to save time.
PEER_INTERVAL = 16
PEER_BATCH_SIZE = 32
PEER_LENGTH = 128


def measure(options: Options) -> list[Claim]:
    """Score the architectures on both sides; a figure is architectures per second."""
    device = torch.device(options.device)
    context = demo_context()
    precision = resolve_precision("auto", device)
    num_rows = 753 if device.type == "cuda" else 96
    tokens = first_rows(context.tokens("selection"), 32 if options.quick else num_rows)
    network = context.network().to(device).eval()
    archs = initial_requests(context, PEER_INTERVAL if options.quick else NUM_ARCHITECTURES)
    peer_archs = spread_over_flops(context, archs)

    def score_together() -> float:
        started = time.perf_counter()
        logits = predict_logits(
            lambda batch: network.forward_many(batch, archs),
            tokens,
            pad_id=context.pad_id,
            max_tokens=context.job.search.max_tokens,
            precision=precision,
            device=device,
        )
        for arch_logits in logits:
            score_logits(context.metrics, tokens, arch_logits, context.facts.positive)
        return len(archs) / (time.perf_counter() - started)

    def score_separately() -> float:
        started = time.perf_counter()
        for arch in peer_archs:
            extract_and_score(context, network, arch, tokens, precision, device)
        return len(peer_archs) / (time.perf_counter() - started)

    # One pass of the peer warms the CPU up; another of ours would only take time.
    score_separately()
    paired = measure_pair(score_together, score_separately, options.runs, warm=0)
    name = "architectures scored a second / one at a time, padded"
    return [Claim.from_figures(name, paired, "higher", 10.0)]


def initial_requests(context: RunContext, count: int) -> list[Architecture]:
    """Return the architectures that all budgets of the job request first."""
    budgets = [context.budget(settings) for settings in context.job.budget]
    state = whole_space_sampler(context).state_dict()
    return shared_initial_set(context.space, state, budgets, count, 0)


def spread_over_flops(context: RunContext, archs: list[Architecture]) -> list[Architecture]:
    """Return every PEER_INTERVAL-th architecture along the FLOPs, as many below as above."""
    by_flops = sorted(archs, key=lambda arch: context.costs.cost("flops", arch))
    first = (len(by_flops) - 1) % PEER_INTERVAL // 2
    return by_flops[first::PEER_INTERVAL]


def first_rows(tokens: TokenSplit, count: int) -> TokenSplit:
    """Return the first rows of a split."""
    num_rows = min(count, len(tokens))
    end = int(tokens.offsets[num_rows])
    return TokenSplit(
        f"{tokens.key}-{num_rows}",
        tokens.input_ids[:end],
        tokens.token_types[:end],
        tokens.offsets[: num_rows + 1],
        tokens.labels[:num_rows],
    )


@torch.inference_mode()
def extract_and_score(
    context: RunContext,
    network: ElasticEncoder,
    arch: Architecture,
    tokens: TokenSplit,
    precision: str,
    device: torch.device,
) -> float:
    """Extract one architecture, evaluate it on padded batches, and return its score."""
    model = network.extract(arch).to(device)
    logits = []
    for rows in np.split(np.arange(len(tokens)), range(PEER_BATCH_SIZE, len(tokens), PEER_BATCH_SIZE)):
        batch = pad_batch(tokens, rows, context.pad_id, PEER_LENGTH).to(device)
        with autocast(precision, device):
            output = model(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        logits.append(output.logits.float().cpu().numpy())
    score = score_logits(context.metrics, tokens, np.concatenate(logits), context.facts.positive)
    return score.values[context.primary]


if __name__ == "__main__":
    run_claims(__doc__, measure)
