"""The workload of several benchmarks: the demo's encoder and sentences, training steps, and peers.

A peer is the same computation without raycomp's code: plain transformers in a plain training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from raycomp.config.loader import load_job
from raycomp.data.batches import Batch, TrainPlan, collate
from raycomp.data.tokens import TokenSplit
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.elastic import ElasticEncoder
from raycomp.encoder.families import to_family
from raycomp.encoder.layers import EncoderConfig
from raycomp.methods.context import RunContext
from raycomp.methods.yoco.eesng import EESNG
from raycomp.methods.yoco.plan import build_sampler, train_plan
from raycomp.search.moves import fit_to_limit
from raycomp.training.evaluation import predict_logits, score_logits
from raycomp.training.hints import DISTILLATION
from raycomp.training.objectives import label_loss
from raycomp.training.optimizers import AllReduce, LinearDecay, Updater, autocast
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep

ROOT = Path(__file__).parents[1]
OUTPUT_FOLDER = ROOT / "runs" / "benchmarks"
LEARNING_RATE = LinearDecay(1e-5, 0.1, (0, 100_000))


def demo_context(*overrides: str) -> RunContext:
    """Return the context of the demo's job (jobs/quickstart.toml) with default training settings.

    Each job has a run directory of its own, because a run directory keeps the tokens of its job.

    Args:
        overrides: Settings `a.b=c`, as after --set.
    """
    settings = ["train.freeze_embeddings=false", "train.epochs=1.0", *overrides]
    job = load_job(ROOT / "jobs" / "quickstart.toml", settings)
    return RunContext(job, OUTPUT_FOLDER / job.run_id)


def load_task_tokens(context: RunContext, task: str) -> TokenSplit:
    """Return the training tokens of a task, which the name of a claim states.

    Raises:
        RuntimeError: The run directory has the tokens of another task.
    """
    tokens = context.tokens("train")
    is_same_task = context.task.name == task
    if not is_same_task or not np.array_equal(tokens.labels, context.task.train.labels):
        raise RuntimeError(
            f"The tokens in {context.run_dir} are not those of {task}. Delete that directory."
        )
    return tokens


# Batches.


def training_batches(context: RunContext, rows: int, count: int, device: torch.device) -> list[Batch]:
    """Return `count` batches of `rows` sentences as training makes them, from short to long."""
    tokens = context.tokens("train")
    return [
        collate(tokens, batch_rows, context.pad_id).to(device)
        for batch_rows in spread_over_lengths(tokens.lengths, rows, count)
    ]


def spread_over_lengths(lengths: np.ndarray, rows: int, count: int) -> list[np.ndarray]:
    """Return the row indices of `count` batches of an epoch, evenly spaced over their lengths.

    The cost of an epoch is that of all lengths: one batch can take several times as long as another.
    """
    plan = TrainPlan(lengths, rows, 0)
    epoch = [plan.rows(step) for step in range(plan.steps_per_epoch)]
    epoch.sort(key=lambda batch_rows: lengths[batch_rows].max())
    middles = (np.arange(count) + 0.5) / count * len(epoch)
    return [epoch[int(middle)] for middle in middles]


def pad_batch(tokens: TokenSplit, rows: np.ndarray, pad_id: int, length: int) -> Batch:
    """Return rows padded to a fixed length, as the released code does; longer rows are cut."""
    batch = collate(tokens, rows, pad_id)
    num_missing = length - batch.input_ids.shape[1]

    def pad(ids: Tensor, value: int) -> Tensor:
        return nn.functional.pad(ids, (0, num_missing), value=value)

    return Batch(
        pad(batch.input_ids, pad_id),
        pad(batch.attention_mask, 0),
        pad(batch.token_type_ids, 0),
        batch.labels,
        batch.index,
        batch.total,
        batch.total_tokens,
    )


def evaluate_split(
    context: RunContext, forward: Callable[[Batch], Tensor], split: str, precision: str
) -> tuple[float, float]:
    """Return the primary metric and the loss of a network on a split, on the CPU.

    Args:
        context: Context of the run.
        forward: Function from a batch to logits (batch, classes).
        split: Name of the split.
        precision: "fp32" or "bf16".
    """
    tokens = context.tokens(split)
    logits = predict_logits(
        forward,
        tokens,
        pad_id=context.pad_id,
        max_tokens=8192,
        precision=precision,
        device=torch.device("cpu"),
    )
    score = score_logits(context.metrics, tokens, logits, context.facts.positive)
    return float(score.values[context.primary]), score.loss


# Peers.


def to_transformers_bert(network: ElasticEncoder) -> BertForSequenceClassification:
    """Return the same full network as a model of transformers."""
    config = network.config
    bert_config = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.layer_heads[0],
        intermediate_size=config.layer_ffn[0],
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        hidden_act=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        num_labels=config.num_labels,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        pad_token_id=config.pad_token_id,
    )
    model = BertForSequenceClassification(bert_config)
    weights = to_family("bert", EncoderConfig.from_config(config), network.state_dict())
    model.load_state_dict(weights, strict=False)
    return model


def plain_step(model: Any, precision: str, device: torch.device) -> Callable[[Batch], None]:
    """Return a step of plain fine-tuning: transformers' loop without raycomp's code.

    The optimizer is fused AdamW and the gradient is clipped, as in transformers' Trainer.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    model.train()

    def step(batch: Batch) -> None:
        with autocast(precision, device):
            logits = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                token_type_ids=batch.token_type_ids,
            ).logits
        label_loss(logits, batch.labels, batch.total).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# Steps of raycomp.


def make_updater(model: nn.Module, reduce: AllReduce | None = None) -> Updater:
    """Return the updater of raycomp's fine-tuning."""
    return Updater(model, LEARNING_RATE, weight_decay=0.0, clip=1.0, reduce=reduce)


class FixedSampler:
    """A sampler that returns the same architectures in every step and learns nothing."""

    def __init__(self, archs: Sequence[Architecture]) -> None:
        self.archs = list(archs)

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures."""
        return self.archs

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Ignore the losses."""

    def info(self, step: int) -> dict[str, Any]:
        """Return no figures."""
        return {}


def open_last_phase(plan: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return a training plan whose last phase, which has the whole space, takes all steps."""
    num_earlier_phases = len(plan["steps"]) - 1
    return {**plan, "steps": [0] * num_earlier_phases + [steps]}


def whole_space_sampler(context: RunContext, steps: int = 100_000) -> EESNG:
    """Return the job's EE-SNG in its last phase, which samples from the whole space."""
    plan = train_plan(context.job, context.space, context.shape, len(context.tokens("train")))
    return build_sampler(context.job, open_last_phase(plan, steps))


def make_supernet_step(
    model: ElasticEncoder,
    sampler: Any,
    precision: str,
    device: torch.device,
    *,
    teacher: Any = None,
    distill: str | None = None,
    reduce: AllReduce | None = None,
) -> SupernetStep:
    """Return raycomp's super-network step.

    Args:
        model: Super-network.
        sampler: Source of the architectures of each step.
        precision: "fp32" or "bf16".
        device: Device of the model.
        teacher: Function from a batch to the teacher's output; None trains on labels only.
        distill: Objective of `train.distill`; "hidden" if there is a teacher, else "none".
        reduce: All-reduce over the workers; None with one worker.
    """
    if distill is None:
        distill = "none" if teacher is None else "hidden"
    return SupernetStep(
        model,
        sampler,
        SliceUpdater(model, LEARNING_RATE, weight_decay=0.0, clip=1.0, reduce=reduce),
        teacher=teacher,
        objective=DISTILLATION[distill],
        precision=precision,
        device=device,
    )


def half_size_architectures(context: RunContext, count: int, share: float = 0.5) -> list[Architecture]:
    """Return architectures that the search would fit to a share of the encoder's parameters."""
    rng = np.random.default_rng(0)

    def cost(arch: Architecture) -> float:
        return float(context.costs.cost("encoder_params", arch))

    limit = share * cost(context.space.largest())
    fitted = [
        fit_to_limit(context.space.sample_uniform(rng), context.space, cost, limit, rng)
        for _ in range(count)
    ]
    return [arch for arch in fitted if arch is not None]
