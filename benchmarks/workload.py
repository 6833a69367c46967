"""What several claims are measured on: the demo's encoder and sentences, steps, and their peers."""

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
from raycomp.training.hints import DISTILLATION
from raycomp.training.objectives import label_loss
from raycomp.training.optimizers import AllReduce, LinearDecay, Updater, autocast
from raycomp.training.sliced_optimizer import SliceUpdater
from raycomp.training.supernet_step import SupernetStep

ROOT = Path(__file__).parents[1]
RATE = LinearDecay(1e-5, 0.1, (0, 100_000))


def demo_context(*overrides: str) -> RunContext:
    """Return the demo's workplace (see jobs/quickstart.toml), with no settings but the defaults.

    Each job has a folder of its own: a folder remembers which tokens are its own, whatever job asks.

    Args:
        overrides: `a.b=c`, as after --set.
    """
    plain = ["train.freeze_embeddings=false", "train.epochs=1.0", *overrides]
    job = load_job(ROOT / "jobs" / "quickstart.toml", plain)
    return RunContext(job, ROOT / "runs" / "benchmarks" / job.run_id)


def load_task_tokens(context: RunContext, task: str) -> TokenSplit:
    """Return the training split's tokens; a claim's name says which task they are of.

    Raises:
        RuntimeError: they are another task's.
    """
    tokens, given = context.tokens("train"), context.task
    if given.name != task or not np.array_equal(tokens.labels, given.train.labels):
        raise RuntimeError(f"the tokens of {context.run_dir} are not those of {task}; delete that folder")
    return tokens


def training_batches(context: RunContext, rows: int, count: int, device: torch.device) -> list[Batch]:
    """Return training batches as a run makes them: similar lengths together, short to long."""
    tokens = context.tokens("train")
    chosen = spread_over_lengths(tokens.lengths, rows, count)
    return [collate(tokens, c, context.pad_id).to(device) for c in chosen]


def spread_over_lengths(lengths: np.ndarray, rows: int, count: int) -> list[np.ndarray]:
    """Return the rows of some batches of an epoch, evenly spaced over their lengths.

    An epoch's cost is that of all lengths: one batch of 32 can be several times as long as another.
    """
    plan = TrainPlan(lengths, rows, 0)
    epoch = sorted((plan.rows(i) for i in range(plan.steps_per_epoch)), key=lambda r: lengths[r].max())
    middles = (np.arange(count) + 0.5) / count * len(epoch)
    return [epoch[int(at)] for at in middles]


def pad_batch(tokens: TokenSplit, rows: np.ndarray, pad_id: int, length: int) -> Batch:
    """Return rows padded to a fixed length, as the released recipes do; longer rows are cut."""
    batch = collate(tokens, rows, pad_id)
    missing = length - batch.input_ids.shape[1]

    def fill(x: Tensor, value: int) -> Tensor:
        return nn.functional.pad(x, (0, missing), value=value)

    return Batch(
        fill(batch.input_ids, pad_id), fill(batch.attention_mask, 0), fill(batch.token_type_ids, 0),
        batch.labels, batch.index, batch.total, batch.total_tokens,
    )  # fmt: skip


def to_transformers_bert(network: ElasticEncoder) -> BertForSequenceClassification:
    """Return the same full network as transformers' own model."""
    c = network.config
    config = BertConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.layer_heads[0], intermediate_size=c.layer_ffn[0],
        max_position_embeddings=c.max_position_embeddings, type_vocab_size=c.type_vocab_size,
        hidden_act=c.hidden_act, layer_norm_eps=c.layer_norm_eps, num_labels=c.num_labels,
        hidden_dropout_prob=c.hidden_dropout, attention_probs_dropout_prob=c.attention_dropout,
        pad_token_id=c.pad_token_id,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model.load_state_dict(
        to_family("bert", EncoderConfig.from_config(c), network.state_dict()), strict=False
    )
    return model


def make_updater(model: nn.Module, reduce: AllReduce | None = None) -> Updater:
    """Return the updater of a training of this project."""
    return Updater(model, RATE, weight_decay=0.0, clip=1.0, reduce=reduce)


def plain_step(model: Any, precision: str, device: torch.device) -> Callable[[Batch], None]:
    """Return a step of plain fine-tuning: transformers' loop without this project's code.

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


class FixedSampler:
    """A sampler that gives the same architectures at every step and learns nothing."""

    def __init__(self, archs: Sequence[Architecture]) -> None:
        self.archs = list(archs)

    def ask(self, step: int) -> list[Architecture]:
        """Return the architectures."""
        return self.archs

    def tell(self, step: int, losses: Sequence[float]) -> None:
        """Forget the losses."""

    def info(self, step: int) -> dict[str, Any]:
        """Return nothing."""
        return {}


def whole_space_sampler(context: RunContext, steps: int = 100_000) -> EESNG:
    """Return the job's EE-SNG with the whole space open, as in the last phase of a training."""
    plan = train_plan(context.job, context.space, context.shape, len(context.tokens("train")))
    plan["steps"] = [0] * (len(plan["steps"]) - 1) + [steps]
    return build_sampler(context.job, plan)


def make_supernet_step(
    model: ElasticEncoder,
    sampler: Any,
    precision: str,
    device: torch.device,
    *,
    teacher: Any = None,
    reduce: AllReduce | None = None,
) -> SupernetStep:
    """Return the project's training step; with a teacher it also matches hidden states."""
    return SupernetStep(
        model, sampler, SliceUpdater(model, RATE, weight_decay=0.0, clip=1.0, reduce=reduce),
        teacher=teacher,
        objective=DISTILLATION["none" if teacher is None else "hidden"],
        precision=precision, device=device,
    )  # fmt: skip


def half_size_architectures(context: RunContext, count: int, share: float = 0.5) -> list[Architecture]:
    """Return architectures fitted to a share of the encoder's parameters, as the search fits them."""

    def cost(arch: Architecture) -> float:
        return float(context.costs.cost("encoder_params", arch))

    rng, limit = np.random.default_rng(0), share * cost(context.space.largest())
    fitted = [
        fit_to_limit(context.space.sample_uniform(rng), context.space, cost, limit, rng)
        for _ in range(count)
    ]
    return [a for a in fitted if a is not None]
