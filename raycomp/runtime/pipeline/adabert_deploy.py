"""A sweep's children, compiled, verified, exported and validated: one deployment per setting."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from raycomp.config.job import Job
from raycomp.data.batches import collate
from raycomp.deployment.latency import measure_latencies_ms
from raycomp.encoder.export import export_model, verify_export
from raycomp.errors import UserError
from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification
from raycomp.methods.adabert.compiler import compile_child, compiled_macs
from raycomp.methods.adabert.drawing import draw_structure
from raycomp.methods.adabert.settings import AdabertSettings
from raycomp.methods.adabert.student import Child
from raycomp.runtime.cluster.progress import Update
from raycomp.runtime.pipeline.deploy import (
    PARITY,
    logits_of,
    score_forward,
    teacher_validation,
    write_certificate,
)
from raycomp.runtime.training.adabert_tasks import read_structure
from raycomp.runtime.training.distillation_data import DistillationData
from raycomp.storage.files import write_text
from raycomp.storage.tables import write_rows
from raycomp.storage.tensors import load_weights


@dataclass(frozen=True)
class Trial:
    """One point of the sweep.

    Attributes:
        gamma, beta: weights of Eq. 1.
        layers: K_max.
        seed: added to run.seed.
    """

    gamma: float
    beta: float
    layers: int
    seed: int

    @property
    def setting(self) -> str:
        """What is deployed once, whatever the seed: the name of the deployment."""
        return f"beta{self.beta:g}-gamma{self.gamma:g}-k{self.layers}".replace(".", "_")

    @property
    def name(self) -> str:
        """The folder of the trial."""
        return f"{self.setting}-s{self.seed}"


def trials(job: Job) -> list[Trial]:
    """Return every point of the job's sweep."""
    given = job.settings(AdabertSettings)

    def each(value: Any) -> list[Any]:
        return value if isinstance(value, list) else [value]

    points = itertools.product(each(given.gamma), each(given.beta), each(given.layers), given.seeds)
    return [Trial(float(g), float(b), int(k), int(s)) for g, b, k, s in points]


def load_child(room: DistillationData, trial: Trial) -> Child:
    """Return a trial's trained child."""
    folder = room.folder / trial.name
    child = Child(room.student_shape, read_structure(folder))
    load_weights(child, folder / "child.safetensors")
    return child.eval()


def deploy(room: DistillationData, bar: Update) -> float:
    """Compile, verify, export and validate the best seed of each setting; write the deployments.

    Returns:
        The median milliseconds of the teacher, measured as the deployed models are.
    """
    every = trials(room.job)
    outcomes = {t: json.loads((room.folder / t.name / "outcome.json").read_text()) for t in every}
    settings = list(dict.fromkeys(t.setting for t in every))
    rows, networks = [], [room.teacher().extract(room.space.largest())]
    for i, setting in enumerate(settings):
        mine = [t for t in every if t.setting == setting]
        chosen = max(mine, key=lambda t: (outcomes[t]["value"], -outcomes[t]["loss"]))
        out = room.run_dir / "exports" / f"adabert-{setting}"
        figures = {"budget": setting, "selection": outcomes[chosen]["value"]}
        proof, loaded = export_child(room, chosen, out, figures)
        rows.append(_row(room, chosen, outcomes[chosen], len(mine), proof, loaded, out))
        networks.append(loaded)
        bar(i + 1, len(settings), {})
    latencies = measure_latencies_ms(
        [lambda ids, mask, n=n: n(input_ids=ids, attention_mask=mask) for n in networks],  # type: ignore[misc]
        room.config.vocab_size,
        length=room.job.task.max_length,
    )
    for row, latency in zip(rows, latencies[1:], strict=True):
        row["latency_ms"] = latency
        write_certificate(room, row, {})
    write_rows(room.run_dir, "deployments", rows, "adabert")
    return latencies[0]


def export_child(
    room: DistillationData, trial: Trial, out: Path, figures: dict[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Compile a trial's child, write its folder with a drawing, load it back, and compare.

    Raises:
        UserError: the loaded model's logits differ from the uncompiled child's by more than PARITY.
    """
    child = load_child(room, trial)
    model = compile_child(child)
    length = flops_length(room)
    card = {
        "method": "A small CNN, searched and trained by raycomp (AdaBERT) under the guidance of the "
        "teacher, then compiled. `structure.svg` draws its cell.",
        "base_model": room.job.model.name,
        "task": room.task.name,
        "metric": room.primary,
        "arch": child.structure.to_json(),
        "params": sum(p.numel() for p in model.parameters()),
        "flops": 2.0 * compiled_macs(model.config, length),
        "length": length,
        "run": room.run_dir.name,
        **figures,
    }
    export_model(model, room.tokenizer, out, room.task.label_names, card)
    write_text(out / "structure.svg", draw_structure(child.structure))
    tokens = room.tokens("selection")
    batch = collate(tokens, np.arange(min(32, len(tokens))), room.pad_id)
    with torch.inference_mode():
        straight = child(batch.input_ids, batch.attention_mask)[0]
        compiled = logits_of(model, batch)
    proof = verify_export(out, model, batch)
    difference = max(float(proof["max_logit_difference"]), float((straight - compiled).abs().max()))
    if difference > PARITY:
        raise UserError(
            f"{out}: the exported model's logits differ from the child's by {difference:.2g} "
            f"(allowed {PARITY:g}); this is a fault of raycomp, please report it"
        )
    loaded = AutoModelForSequenceClassification.from_pretrained(  # nosec B615  # a folder of ours
        str(out), trust_remote_code=True, local_files_only=True
    ).eval()
    return {**proof, "max_logit_difference": difference}, loaded


def _row(
    room: DistillationData,
    trial: Trial,
    outcome: dict[str, Any],
    count: int,
    proof: dict[str, Any],
    loaded: RaycompCnnForSequenceClassification,
    out: Path,
) -> dict[str, Any]:
    """Return one deployment; the validation split is read here, once."""
    found = [
        score_forward(room, lambda b: logits_of(loaded, b), v.name, out.name).values[room.primary]
        for v in room.task.validation
    ]
    validation, teacher = float(np.mean(found)), teacher_validation(room)
    full = float(room.costs.cost("params", room.space.largest()))
    return {
        "run": room.run_dir.name,
        "method": "adabert",
        "budget": trial.setting,
        "kind": "beta",
        "limit": trial.beta,
        "feasible": True,
        "searcher": "gumbel" if room.job.settings(AdabertSettings).structure is None else "given",
        "seed": trial.seed,
        "metric": room.primary,
        "arch_id": outcome["arch_id"],
        "arch": outcome["arch"],
        "params": proof["params"],
        "params_ratio": proof["params"] / full,
        "encoder_params": sum(p.numel() for n, p in loaded.named_parameters() if "cells." in n),
        "flops": outcome["flops"],
        "cost": float(proof["params"]),
        "selection": outcome["value"],
        "validation": validation,
        "gap": outcome["value"] - validation,
        "teacher_validation": teacher,
        "retention": validation / teacher if teacher else None,
        "evaluations": count,
        "parity": proof["max_logit_difference"],
        "export": str(out.relative_to(room.run_dir)),
    }


def flops_length(room: DistillationData) -> int:
    """Return the length, in tokens, that FLOPs are counted at."""
    return room.job.search.flops_length or room.job.task.max_length
