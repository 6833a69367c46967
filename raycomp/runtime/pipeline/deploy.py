"""Extraction, proof, validation and export of what the search chose."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from raycomp.data.batches import Batch, collate
from raycomp.deployment.latency import measure_latencies_ms
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.export import export_model, verify_export
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.progress import Update
from raycomp.runtime.scoring.deployment_search import Outcome
from raycomp.storage.files import predictions_path, read_json, write_array, write_json
from raycomp.storage.tables import write_rows
from raycomp.training.evaluation import Score, predict_logits, score_logits

PARITY = 1e-5  # largest difference of logits between the slice and the model that was loaded back


def score_network(context: RunContext, model: ElasticEncoder, split: str) -> dict[str, float]:
    """Return every metric of the full network on a split, in fp32; keep what it answered."""
    found = score_forward(context, lambda b: model(b, None).logits, split, "teacher")
    return {**found.values, "loss": found.loss, "examples": found.examples}


def deploy(context: RunContext, outcomes: list[Outcome], weights_id: str, on_progress: Update) -> float:
    """Extract, verify and export the best architecture of each budget; write the deployments.

    The validation split is read here, once for each deployed model, after every choice is made.

    Returns:
        The median milliseconds of the teacher, measured as the deployed models are.
    """
    model = context.supernet().eval()
    teacher = teacher_validation(context)
    rows, networks = [], [context.teacher().extract(context.space.largest())]
    for i, budget in enumerate(context.job.budget):
        mine = [o for o in outcomes if o.budget == budget.name]
        chosen = max(mine, key=lambda o: (o.arch is not None, o.value, -o.loss))
        row, loaded = _row(context, model, chosen, mine, teacher)
        rows.append(row)
        networks += [loaded] if loaded is not None else []
        on_progress(i + 1, len(context.job.budget), {})
    latencies = measure_latencies_ms(
        [lambda ids, mask, n=n: n(input_ids=ids, attention_mask=mask) for n in networks],  # type: ignore[misc]
        context.config.vocab_size,
        length=context.job.task.max_length,
    )
    made = [row for row in rows if row["feasible"]]
    for row, latency in zip(made, latencies[1:], strict=True):
        row["latency_ms"] = latency
        write_certificate(context, row, {"weights_id": weights_id})
    write_rows(context.run_dir, "deployments", rows, "yoco")
    return latencies[0]


def write_certificate(context: RunContext, row: dict[str, Any], more: dict[str, Any]) -> None:
    """Write a deployment's figures into its export, or remove that where the job keeps none."""
    if context.job.export.enabled:
        certificate = {**row, **more, "made": time.time()}
        write_json(context.run_dir / row["export"] / "certificate.json", certificate)
    else:
        folder = context.run_dir / row["export"]
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # unless another method's lie there
        row["export"] = None


def _row(
    context: RunContext,
    model: ElasticEncoder,
    chosen: Outcome,
    mine: list[Outcome],
    teacher: float,
) -> tuple[dict[str, Any], Any]:
    """Return the row of one budget and the model that was loaded back, or None."""
    row: dict[str, Any] = {
        "run": context.run_dir.name,
        "method": "yoco",
        "budget": chosen.budget,
        "kind": chosen.kind,
        "limit": chosen.limit,
        "feasible": chosen.arch is not None,
        "searcher": chosen.searcher,
        "seed": chosen.seed,
        "metric": context.primary,
        "evaluations": sum(o.evaluations for o in mine),
        "seconds": sum(o.seconds for o in mine),
        "teacher_validation": teacher,
        "reason": chosen.reason,
    }
    if chosen.arch is None:
        return row, None
    arch, costs = Architecture.from_json(chosen.arch), context.costs
    out = context.run_dir / "exports" / f"yoco-{chosen.budget}"
    proof = export_arch(context, model, arch, out, {"budget": chosen.budget, "selection": chosen.value})
    loaded = AutoModelForSequenceClassification.from_pretrained(  # nosec B615  # a folder of ours
        str(out), trust_remote_code=True, local_files_only=True
    ).eval()
    found = [
        score_forward(context, lambda b: logits_of(loaded, b), v.name, out.name).values[context.primary]
        for v in context.task.validation
    ]
    validation = float(np.mean(found))  # MNLI: the mean of matched and mismatched, as in the paper
    counted = sum(p.numel() for p in loaded.parameters())
    cost = float(costs.cost(chosen.kind, arch))
    counted_kind = _counted(loaded, chosen.kind, cost)
    if counted_kind > chosen.limit:
        raise UserError(
            f"budget {chosen.budget}: the exported model counts {counted_kind:,.0f} {chosen.kind}, "
            f"above the limit of {chosen.limit:,.0f}; this is a fault of raycomp, please report it"
        )
    full = float(costs.cost("params", context.space.largest()))
    row |= {
        "arch_id": arch.id,
        "arch": chosen.arch,
        "params": counted,
        "params_ratio": counted / full,
        "encoder_params": int(costs.cost("encoder_params", arch)),
        "flops": float(costs.cost("flops", arch)),
        "cost": counted_kind,
        "selection": chosen.value,
        "validation": validation,
        "gap": chosen.value - validation,
        "retention": validation / teacher if teacher else None,
        "parity": proof["max_logit_difference"],
        "export": str(out.relative_to(context.run_dir)),
    }
    return row, loaded


def export_arch(
    context: RunContext, model: ElasticEncoder, arch: Architecture, out: Path, figures: dict[str, Any]
) -> dict[str, Any]:
    """Extract an architecture, write its folder, load it back, and compare.

    Raises:
        UserError: the loaded model's logits differ from the slice's by more than PARITY.
    """
    costs = context.costs
    card = {
        "method": "Extracted by raycomp (YOCO-BERT) from a super-network; every layer has its own "
        "number of heads and FFN neurons. No fine-tuning followed the extraction.",
        "base_model": context.job.model.name,
        "task": context.task.name,
        "metric": context.primary,
        "arch": arch.to_json(),
        "params": int(costs.cost("params", arch)),
        "encoder_params": int(costs.cost("encoder_params", arch)),
        "flops": float(costs.cost("flops", arch)),
        "length": context.job.search.flops_length or context.job.task.max_length,
        "run": context.run_dir.name,
        **figures,
    }
    extracted = model.extract(arch)
    export_model(extracted, context.tokenizer, out, context.task.label_names, card)
    tokens = context.tokens("selection")
    batch = collate(tokens, np.arange(min(32, len(tokens))), context.pad_id)
    with torch.inference_mode():
        sliced = model(batch, arch).logits
        straight = logits_of(extracted.eval(), batch)
    proof = verify_export(out, extracted, batch)
    difference = max(float(proof["max_logit_difference"]), float((sliced - straight).abs().max()))
    if difference > PARITY:
        raise UserError(
            f"{out}: the exported model's logits differ from the super-network's by {difference:.2g} "
            f"(allowed {PARITY:g}); this is a fault of raycomp, please report it"
        )
    return {**proof, "max_logit_difference": difference}


def logits_of(model: Any, batch: Batch) -> torch.Tensor:
    """Return the logits of a transformers model, (batch, classes)."""
    return model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        token_type_ids=batch.token_type_ids,
    ).logits


def _counted(model: Any, kind: str, computed: float) -> float:
    """Return the figure of a budget's kind, counted on the loaded model where it can be counted."""
    if kind == "params":
        return float(sum(p.numel() for p in model.parameters()))
    if kind == "encoder_params":
        return float(sum(p.numel() for n, p in model.named_parameters() if "layers." in n))
    return computed


def score_forward(context: RunContext, forward: Any, split: str, keep: str = "") -> Score:
    """Score a forward function, from a batch to logits, on a split, in fp32 on the processor.

    With a name to `keep` them under, the logits and the split's labels are written into the run's
    folder, so that later comparisons can be made example by example.
    """
    tokens = context.tokens(split)
    logits = predict_logits(
        forward,
        tokens,
        pad_id=context.pad_id,
        max_tokens=context.job.search.max_tokens,
        precision="fp32",
        device=torch.device("cpu"),
    )
    if keep:
        write_array(predictions_path(context.run_dir, keep, split), logits)
        write_array(predictions_path(context.run_dir, "labels", split), np.asarray(tokens.labels))
    return score_logits(context.metrics, tokens, logits)


def teacher_validation(context: RunContext) -> float:
    """Return the teacher's score over the validation splits, as it was measured once."""
    figures = read_json(context.run_dir / "teacher" / "score.json")
    return float(np.mean([figures[name][context.primary] for name in scored_splits(context)]))


def scored_splits(context: RunContext) -> list[str]:
    """Return the names of the validation splits, as the teacher's scores have them."""
    return [name for name in read_json(context.run_dir / "teacher" / "score.json") if name != "selection"]
