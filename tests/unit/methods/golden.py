"""What the golden tests of methods share: contexts of tiny jobs, trained in this process."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.methods.base import Method
from raycomp.methods.context import RunContext
from raycomp.methods.registry import load_method_class
from raycomp.storage.tensors import save_tensors
from raycomp.testing.local_run import CPU, LocalRun

HALF = [{"name": "half", "encoder_params": "0.67x"}]
"""A budget of two of the three layers of the tiny encoder."""


def make_context(
    job: dict[str, Any], folder: Path, method: str, model: Path | None = None, **settings: Any
) -> RunContext:
    """Return the context of a tiny job with one method; with `model`, it is the fine-tuned teacher."""
    job = {**copy.deepcopy(job), "budget": HALF}
    job["run"] = {**job["run"], "methods": [method]}
    if settings:
        job[method] = settings
    if model is not None:
        job["model"] = {"name": str(model)}
    context = RunContext(parse_job(job), folder / "run", method=method)
    if model is not None:
        shutil.copytree(prepare_teacher(job, folder.parent), folder, dirs_exist_ok=True)
    return context


def prepare_teacher(job: dict[str, Any], parent: Path) -> Path:
    """Return a directory with a run, `run`, that has facts, tokens and teacher of a job, and no more.

    Tests share it, because a checkpoint takes longer to load than most of them take.

    Args:
        job: The job.
        parent: Directory that the tests share; theirs are below it.
    """
    parsed = parse_job(job)
    parts = [parsed.task, parsed.model, parsed.teacher, parsed.train]
    key = json.dumps([*(part.model_dump(mode="json") for part in parts), parsed.run.seed])
    folder = parent / f"teacher-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    context = RunContext(parsed, folder / "run")
    if not context.layout.teacher_network.exists():
        context.run_dir.mkdir(parents=True, exist_ok=True)
        context.record_facts()
        context.precision(CPU)
        context.tokens("train")
        save_tensors(context.layout.teacher_network, context.network().state_dict())
    return folder


def set_limit(context: RunContext, limit: int | str) -> None:
    """Give the only budget of a context another limit."""
    budget = context.job.budget[0].model_copy(update={"encoder_params": limit})
    context.job = context.job.model_copy(update={"budget": [budget]})


def compress(context: RunContext, method: Method | None = None) -> LocalRun:
    """Run a method to its end, without deployment."""
    run = LocalRun(context)
    (method or load_method_class(context.method)()).compress(run)
    return run


def reshape(context: RunContext, shape: EncoderShape) -> RunContext:
    """Return a context whose network has other sizes."""
    context.__class__ = type("Reshaped", (RunContext,), {"shape": shape})
    return context


def make_encoder(layers: int, heads: int = 4, ffn: int = 64) -> ElasticEncoder:
    """Return an untrained encoder of width 32."""
    config = EncoderConfig(
        vocab_size=30,
        hidden_size=32,
        embedding_size=32,
        head_size=8,
        layer_heads=(heads,) * layers,
        layer_ffn=(ffn,) * layers,
        max_position_embeddings=40,
    )
    return ElasticEncoder(Encoder(config))


def full_width(depth: int) -> Architecture:
    """Return the first layers of the tiny encoder at full width."""
    return Architecture(depth, (4,) * depth, (64,) * depth)
