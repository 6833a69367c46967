"""Preparation of AdaBERT's distillation data: probes, augmented text and the teacher's outputs.

It is done once per run, in parallel tasks of `BLOCK` rows. A block that is written is never computed
again, so the teacher reads each sentence once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycomp.data.batches import collate, eval_batches, padding, tokens_at_once
from raycomp.data.tokens import TokenSplit
from raycomp.errors import UserError
from raycomp.methods.adabert.distillation_data import DistillationData
from raycomp.methods.adabert.probes import apply_probes, fit_probe, probe_features
from raycomp.methods.augmentation import BLOCK, augment_training_text, write_missing_files
from raycomp.methods.base import Run
from raycomp.methods.context import RunContext
from raycomp.methods.preparation_costs import record_preparation
from raycomp.storage.files import atomic_write
from raycomp.storage.tensors import load_tensors, save_tensors
from raycomp.training.optimizers import autocast

MAX_PROBE_ROWS = 20_000
"""Rows that a probe is fitted on."""

FEATURES = "adabert/features"
"""Directory of large files, which only the tasks that fit probes need on another node."""


def prepare_distillation(run: Run, data: DistillationData) -> None:
    """Write probes, augmented text and the teacher's outputs, unless they are there.

    Args:
        run: The method's handle.
        data: The distillation data to write.

    Raises:
        UserError: A task failed; finished blocks stay.
    """
    if data.layout.probe_logits.exists():
        return

    began = time.perf_counter()
    # The splits are tokenised here once, before several tasks would each do it.
    num_rows = len(data.tokens("train"))
    features = data.block_files("features", num_rows, "safetensors")
    title = "teacher reads training text"
    write_missing_files(run, data, title, write_features, features, teacher=True)
    _fit_probes(run, data)
    augmenting = augment_training_text(run, data)

    num_new = len(data.augmented_tokens) - num_rows
    answers = data.block_files("answers", num_new, "safetensors")
    title = "teacher reads new sentences"
    write_missing_files(run, data, title, write_answers, answers, teacher=True)
    num_tokens = int(data.augmented_tokens.lengths.sum())
    record_preparation(
        run,
        "teacher-reads",
        flops=data.token_flops() * num_tokens,
        seconds=time.perf_counter() - began - augmenting,
        tokens=num_tokens,
    )
    # It comes last: the preparation is complete.
    _join_outputs(data, features, answers)


def _fit_probes(run: Run, data: DistillationData) -> None:
    """Fit one probe per layer of the teacher, and write all of them as one file."""
    if data.layout.probe_weights.exists():
        return

    num_layers = len(data.config.layer_heads)
    parts = [data.layout.probe_part(layer) for layer in range(num_layers)]
    write_missing_files(run, data, "probes", write_probe, parts, also=FEATURES)
    tensors = [load_tensors(path) for path in parts]
    stacked = {key: torch.stack([part[key] for part in tensors]) for key in ("weight", "bias")}
    save_tensors(data.layout.probe_weights, stacked)


@functools.lru_cache(maxsize=1)
def _load_teacher(data: DistillationData) -> tuple[Any, torch.device]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return data.teacher().to(device).eval(), device


def _read_with_teacher(
    data: DistillationData, tokens: TokenSplit, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """Return the teacher's features (rows, layers, 2 * hidden) and logits (rows, classes).

    Args:
        data: The distillation data.
        tokens: The split.
        first: First row.
        last: Row after the last one.
    """
    model, device = _load_teacher(data)
    precision = data.precision(device)
    multiple = padding(device)
    max_tokens = tokens_at_once(data.job.search.max_tokens, device)
    order: list[np.ndarray] = []
    features: list[Tensor] = []
    logits: list[Tensor] = []

    for rows in eval_batches(tokens.lengths[first:last], max_tokens, multiple):
        batch = collate(tokens, rows + first, data.pad_id, multiple=multiple).to(device)
        with torch.inference_mode(), autocast(precision, device):
            out = model(batch, None, hidden=True)
            features.append(probe_features(out.hidden[1:], batch.attention_mask).cpu())
            logits.append(out.logits.float().cpu())
        order.append(rows)

    # Batches are ordered by length: put the rows back into the order of the split.
    inverse = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
    return torch.cat(features)[inverse], torch.cat(logits)[inverse]


def write_features(context: RunContext, index: int, path: str) -> None:
    """Write the teacher's features and logits of one block of training rows."""
    data = DistillationData.of(context)
    tokens = data.tokens("train")
    first = index * BLOCK
    features, logits = _read_with_teacher(data, tokens, first, min(first + BLOCK, len(tokens)))
    save_tensors(data.run_dir / path, {"features": features.half(), "logits": logits})


def write_probe(context: RunContext, index: int, path: str) -> None:
    """Fit the probe of one layer of the teacher on at most `MAX_PROBE_ROWS` training rows."""
    data = DistillationData.of(context)
    labels = data.tokens("train").labels
    rows = np.arange(len(labels))
    if len(rows) > MAX_PROBE_ROWS:
        rng = np.random.default_rng(data.job.run.seed)
        rows = np.sort(rng.choice(len(labels), MAX_PROBE_ROWS, replace=False))

    parts = []
    for block, file in enumerate(data.block_files("features", len(labels), "safetensors")):
        in_block = rows[(rows >= block * BLOCK) & (rows < (block + 1) * BLOCK)] - block * BLOCK
        features = load_tensors(file)["features"]
        parts.append(features[torch.from_numpy(in_block), index].float())

    inputs = torch.cat(parts).numpy()
    weight, bias = fit_probe(inputs, labels[rows], data.facts.num_labels)
    save_tensors(data.run_dir / path, {"weight": weight, "bias": bias})


def write_answers(context: RunContext, index: int, path: str) -> None:
    """Write the outputs of the teacher and of its probes for one block of new sentences."""
    data = DistillationData.of(context)
    tokens = data.augmented_tokens
    first = len(data.tokens("train")) + index * BLOCK
    features, logits = _read_with_teacher(data, tokens, first, min(first + BLOCK, len(tokens)))
    probes = load_tensors(data.layout.probe_weights)
    probe_logits = apply_probes(features, probes["weight"], probes["bias"])
    save_tensors(data.run_dir / path, {"probes": probe_logits, "logits": logits})


def _join_outputs(data: DistillationData, features: list[Path], answers: list[Path]) -> None:
    """Write all outputs as two arrays that every worker maps into memory, and remove the blocks."""
    probes = load_tensors(data.layout.probe_weights)
    num_rows = len(data.augmented)
    num_classes = data.facts.num_labels

    # One block at a time is in memory.
    def read_blocks(name: str) -> Iterator[Tensor]:
        for file in (*features, *answers):
            block = load_tensors(file)
            if name == "probes" and name not in block:
                inputs = block["features"].float()
                block[name] = apply_probes(inputs, probes["weight"], probes["bias"])
            yield block[name]

    _write_joined(data, data.layout.teacher_logits, (num_rows, num_classes), read_blocks("logits"))
    # This file comes last: it says that the preparation is complete.
    shape = (num_rows, probes["weight"].shape[0], num_classes)
    _write_joined(data, data.layout.probe_logits, shape, read_blocks("probes"))

    for path in (*features, *answers):
        path.unlink(missing_ok=True)


def _write_joined(
    data: DistillationData, path: Path, shape: tuple[int, ...], blocks: Iterable[Tensor]
) -> None:
    def write(hidden: Path) -> None:
        out = np.lib.format.open_memmap(hidden, mode="w+", dtype=np.float32, shape=shape)
        start = 0
        for block in blocks:
            # A block that does not fit is refused below.
            part = block.numpy()[: shape[0] - start]
            out[start : start + len(part)] = part
            start += len(block)
        if start != shape[0]:
            raise UserError(
                f"{data.layout.adabert} has the teacher's outputs for {start} of {shape[0]} rows. Remove "
                "this directory and run the same command again."
            )
        out.flush()

    atomic_write(path, write)
