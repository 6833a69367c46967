"""Fine-tuning of sub-networks on their own, to compare with: they are scored, never exported.

It measures what a super-network saves, and whether its scores rank sub-networks as training each on its
own would. Each network is one parallel task that writes its scores at its end, so an interrupted run
tunes only the rest.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raycomp.data.batches import TrainPlan, collate, padding
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.methods.base import Forward, Run
from raycomp.methods.context import RunContext
from raycomp.methods.scoring import score_forward, score_validation
from raycomp.storage.files import read_json, write_json
from raycomp.storage.layout import RunLayout
from raycomp.storage.tables import read_table
from raycomp.training.finetune_step import FinetuneStep
from raycomp.training.loop import fit
from raycomp.training.optimizers import LinearDecay, Updater


def find_excess_networks(context: RunContext) -> list[str]:
    """Return a message where the job asks for more networks than the space has."""
    count = context.job.finetune.networks
    size = context.space.num_architectures()
    if not count or count <= size:
        return []
    return [
        f"finetune.networks is {count}, but the search space has only {size:,} architectures. Lower "
        "finetune.networks."
    ]


def finetune_networks(run: Run) -> None:
    """Tune and score every network that the job asks for.

    Raises:
        UserError: A training failed; the networks that are tuned stay.
    """
    context = run.context
    if not context.job.finetune.epochs:
        return
    missing = [
        target for target in list_targets(context) if not _outcome_path(context, target[0]).exists()
    ]
    if not missing:
        return

    # The driver tokenises because the workers may lack the text.
    for split in ("train", "selection", *context.validation_names()):
        context.tokens(split)
    with run.bar("fine-tuning") as bar:
        run.tasks(finetune_network, missing, bar, teacher=True)


def list_targets(context: RunContext) -> list[tuple[str, str, bool]]:
    """Return (name, architecture as JSON, whether it is deployed) of each network to tune."""
    count = context.job.finetune.networks
    if not count:
        rows = read_table(context.run_dir, "deployments")
        rows = rows[(rows["method"] == "yoco") & rows["arch"].notna()]
        return [(str(row["budget"]), str(row["arch"]), True) for row in rows.to_dict("records")]

    rng = np.random.default_rng(context.job.run.seed)
    archs: dict[Architecture, None] = {}
    while len(archs) < count:
        archs[context.space.sample_uniform(rng)] = None
    return [(f"network-{i:03d}", arch.to_json(), False) for i, arch in enumerate(archs)]


def list_outcomes(run_dir: Path) -> list[dict[str, Any]]:
    """Return the scores of every tuned network, in the order of their names."""
    return [read_json(path) for path in sorted(RunLayout(run_dir).finetune.glob("*.json"))]


def _outcome_path(context: RunContext, name: str) -> Path:
    return context.layout.finetuned(name)


def finetune_network(context: RunContext, name: str, arch_json: str, is_deployed: bool) -> None:
    """Tune one network, and write its scores before and after.

    Args:
        context: The run's context.
        name: Name of the network.
        arch_json: Its architecture.
        is_deployed: Whether it is a deployed network: only then is the validation split read.
    """
    began = time.perf_counter()
    arch = Architecture.from_json(arch_json)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    supernet = context.supernet()
    inherited = score_forward(context, _forward(supernet.eval(), arch), "selection")

    model = _start_network(context, supernet, arch).to(device)
    del supernet
    _train(context, model, device)
    model = model.to("cpu").eval()
    seconds = time.perf_counter() - began

    score = score_forward(context, _forward(model), "selection")
    validation = None
    if is_deployed:
        validation = score_validation(context, _forward(model), f"finetuned-{name}")
    outcome = {
        "name": name,
        "deployed": is_deployed,
        "arch": arch_json,
        "params": int(context.costs.cost("params", arch)),
        "metric": context.primary,
        "inherited": inherited.values[context.primary],
        "selection": score.values[context.primary],
        "validation": validation,
        "examples": score.examples,
        "seconds": seconds,
    }
    write_json(_outcome_path(context, name), outcome)


def _start_network(context: RunContext, supernet: ElasticEncoder, arch: Architecture) -> ElasticEncoder:
    """Return a network of its own with the weights that `finetune.start` names."""
    source = supernet
    if context.job.finetune.start == "teacher":
        source = context.network(context.files.supernet_start)
    shapes = {"layer_heads": list(arch.heads), "layer_ffn": list(arch.ffn)}
    network = ElasticEncoder(Encoder(EncoderConfig.from_config(context.config.to_dict() | shapes)))
    network.load_state_dict(source.extract(arch).state_dict())
    network.set_dropout(context.job.teacher.dropout)
    return network


def _train(context: RunContext, model: ElasticEncoder, device: torch.device) -> None:
    job = context.job
    tokens = context.tokens("train")
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


def _forward(model: ElasticEncoder, arch: Architecture | None = None) -> Forward:
    return lambda batch: model(batch, arch).logits
