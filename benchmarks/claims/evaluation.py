"""Architectures scored a second, against extracting and evaluating each by itself, padded.

The architectures are those that a search of the demo's four budgets asks for first, drawn from a theta
that has learnt nothing: a trained one repeats its choices and shares more. They are scored in one
pass, as one evaluator of the machine does; of several each has a share. The peer scores every
sixteenth of them, centred along their FLOPs, in batches of 32 padded to length 128, and makes each
network before. Both compute in the precision that `auto` takes.
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

EVERY = 16


def measure(settings: Options) -> list[Claim]:
    """Score the architectures on both sides; the figure is architectures a second."""
    device, context = torch.device(settings.device), demo_context()
    rows, count = (753, 58) if device.type == "cuda" else (96, 58)
    tokens = first_rows(context.tokens("selection"), 32 if settings.quick else rows)
    network = context.network().to(device).eval()
    archs = asked(context, EVERY if settings.quick else count)
    few = sorted(archs, key=lambda a: context.costs.cost("flops", a))
    few = few[(len(few) - 1) % EVERY // 2 :: EVERY]
    precision = resolve_precision("auto", device)

    def ours() -> float:
        began = time.perf_counter()
        logits = predict_logits(
            lambda batch: network.forward_many(batch, archs),
            tokens,
            pad_id=context.pad_id,
            max_tokens=context.job.search.max_tokens,
            precision=precision,
            device=device,
        )
        for each in logits:
            score_logits(context.metrics, tokens, each)
        return len(archs) / (time.perf_counter() - began)

    def theirs() -> float:
        began = time.perf_counter()
        for arch in few:
            alone(context, network, arch, tokens, precision, device)
        return len(few) / (time.perf_counter() - began)

    theirs()  # one pass warms the processor up; another of ours would only take time
    paired = measure_pair(ours, theirs, settings.runs, warm=0)
    return [
        Claim.from_figures(
            "architectures scored a second / one at a time, padded", paired, "higher", 10.0
        )
    ]


def asked(context: RunContext, count: int) -> list[Architecture]:
    """Return what the job's budgets ask for together at the beginning of their search."""
    budgets = [context.budget(b) for b in context.job.budget]
    return shared_initial_set(context.space, whole_space_sampler(context).state_dict(), budgets, count, 0)


def first_rows(tokens: TokenSplit, count: int) -> TokenSplit:
    """Return the first rows of a split."""
    kept = min(count, len(tokens))
    end = int(tokens.offsets[kept])
    return TokenSplit(
        f"{tokens.key}-{kept}", tokens.input_ids[:end], tokens.token_types[:end],
        tokens.offsets[: kept + 1], tokens.labels[:kept],
    )  # fmt: skip


@torch.inference_mode()
def alone(
    context: RunContext,
    network: ElasticEncoder,
    arch: Architecture,
    tokens: TokenSplit,
    precision: str,
    device: torch.device,
) -> float:
    """Extract one architecture, evaluate it on padded batches, return its value."""
    model, found = network.extract(arch).to(device), []
    for rows in np.split(np.arange(len(tokens)), range(32, len(tokens), 32)):
        batch = pad_batch(tokens, rows, context.pad_id, 128).to(device)
        with autocast(precision, device):
            logits = model(batch.input_ids, batch.attention_mask, batch.token_type_ids).logits
        found.append(logits.float().cpu().numpy())
    return score_logits(context.metrics, tokens, np.concatenate(found)).values[context.primary]


if __name__ == "__main__":
    run_claims(__doc__, measure)
