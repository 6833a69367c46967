"""Fine-tuning of sub-networks on their own, each as one Ray task: scored, never exported.

What a super-network saves, and whether its scores rank sub-networks as training each alone would, is
measured with this. A network that is tuned is written down at once; an interrupted run tunes the rest.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycomp.config.loader import parse_job
from raycomp.data.batches import TrainPlan, collate, padding
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.capacity import share_cpus, total_gpus
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.cluster.replica import synced_run_dir
from raycomp.runtime.cluster.tasks import run_tasks
from raycomp.runtime.pipeline.deploy import score_forward, scored_splits
from raycomp.storage.files import write_json
from raycomp.storage.tables import read_table
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.loop import fit
from raycomp.training.optimizers import LinearDecay, Updater


def outcomes(run_dir: Path) -> list[dict[str, Any]]:
    """Return what each tuned network scored, in the order of their names."""
    return [json.loads(p.read_text()) for p in sorted((run_dir / "finetune").glob("*.json"))]


def too_many(context: RunContext) -> list[str]:
    """Return a message where more networks are to be drawn than the space has."""
    asked = context.job.finetune.networks
    if not asked or asked <= context.space.num_architectures():
        return []
    size = context.space.num_architectures()
    return [f"finetune.networks={asked} was given; the space has {size:,} architectures"]


def finetune(context: RunContext, progress: Progress) -> None:
    """Tune and score every network that the job asks for.

    Raises:
        UserError: a training failed; the networks that are tuned stay.
    """
    if not context.job.finetune.epochs:
        return
    todo = [t for t in targets(context) if not _path(context.run_dir, t[0]).exists()]
    if not todo:
        return
    for split in ("train", "selection", *scored_splits(context)):
        context.tokens(split)  # here: workers may have no text to make them of
    job = context.job.model_dump(mode="json")
    needs = {"num_gpus": 1.0} if total_gpus() else {"num_cpus": float(share_cpus(1))}
    calls = [(job, str(context.run_dir), *target) for target in todo]
    with progress.bar("fine-tuning") as bar:
        run_tasks(_tune, calls, needs, lambda n: bar(n, len(todo), {}))


def targets(context: RunContext) -> list[tuple[str, str, bool]]:
    """Return (name, architecture as JSON, whether it is deployed) of each network to tune."""
    count = context.job.finetune.networks
    if not count:
        rows = read_table(context.run_dir, "deployments")
        made = rows[(rows["method"] == "yoco") & rows["arch"].notna()]
        return [(str(r["budget"]), str(r["arch"]), True) for r in made.to_dict("records")]
    rng = np.random.default_rng(context.job.run.seed)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        found[context.space.sample_uniform(rng)] = None
    return [(f"network-{i:03d}", arch.to_json(), False) for i, arch in enumerate(found)]


def _path(run_dir: Path, name: str) -> Path:
    return run_dir / "finetune" / f"{name}.json"


def _tune(job: dict[str, Any], run_dir: str, name: str, text: str, deployed: bool) -> None:
    """Tune one network and write what it scored before and after."""
    with synced_run_dir(run_dir) as folder:
        _tune_here(RunContext(parse_job(job), folder), name, text, deployed)


def _tune_here(context: RunContext, name: str, text: str, deployed: bool) -> None:
    began, arch = time.perf_counter(), Architecture.from_json(text)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(share_cpus(1))
    trained = context.supernet()
    inherited = score_forward(context, _logits(trained.eval(), arch), "selection")
    model = _start(context, trained, arch).to(device)
    del trained
    _train(context, model, device)
    model = model.to("cpu").eval()
    seconds = time.perf_counter() - began
    found = score_forward(context, _logits(model), "selection")
    validation = [
        score_forward(context, _logits(model), split, f"finetuned-{name}").values[context.primary]
        for split in (scored_splits(context) if deployed else ())
    ]
    outcome = {
        "name": name,
        "deployed": deployed,
        "arch": text,
        "params": int(context.costs.cost("params", arch)),
        "metric": context.primary,
        "inherited": inherited.values[context.primary],
        "selection": found.values[context.primary],
        "validation": float(np.mean(validation)) if validation else None,
        "examples": found.examples,
        "seconds": seconds,
    }
    write_json(_path(context.run_dir, name), outcome)


def _start(context: RunContext, trained: ElasticEncoder, arch: Architecture) -> ElasticEncoder:
    """Return a network of its own with the weights that the job says it begins with."""
    if context.job.finetune.start == "teacher":
        source = context.network(context.run_dir / "supernet" / "start.safetensors")
    else:
        source = trained
    shapes = {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn)}
    own = ElasticEncoder(Encoder(EncoderConfig.from_config(context.config.to_dict() | shapes)))
    own.load_state_dict(source.extract(arch).state_dict())
    own.set_dropout(context.job.teacher.dropout)
    return own


def _train(context: RunContext, model: ElasticEncoder, device: torch.device) -> None:
    job, tokens = context.job, context.tokens("train")
    plan = TrainPlan(tokens.lengths, job.finetune.batch_size, job.run.seed)
    total = max(1, round(job.finetune.epochs * plan.steps_per_epoch))
    updater = Updater(
        model,
        LinearDecay(job.finetune.learning_rate, job.teacher.warmup, (0, total)),
        weight_decay=job.teacher.weight_decay,
        clip=1.0,
    )
    fit(
        FinetuneStep(model, updater, precision=context.precision(device), device=device),
        lambda index: collate(tokens, plan.rows(index), context.pad_id, multiple=padding(device)),
        0,
        total,
        seed=job.run.seed,
        report=lambda index, result, seconds: None,
    )


def _logits(model: ElasticEncoder, arch: Architecture | None = None) -> Any:
    return lambda batch: model(batch, arch).logits
