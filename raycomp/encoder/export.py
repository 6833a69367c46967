"""Writes an extracted model as a folder that plain transformers loads, and proves it."""

from __future__ import annotations

import inspect
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from raycomp.encoder.interface import TokenBatch
from raycomp.errors import UserError, shown

transformers_logging.disable_progress_bar()  # saving takes a second
_RELATIVE = re.compile(r"^from \.(\w+) import", re.MULTILINE)


def export_model(
    model: PreTrainedModel,
    tokenizer: Any,
    out: Path,
    label_names: Sequence[str],
    card: dict[str, Any],
) -> None:
    """Write config, weights, tokenizer, modeling file and model card; all or nothing.

    Args:
        model: the extracted network; its class is defined in a file that stands alone.
        tokenizer: its tokenizer.
        out: the folder; replaced when it exists.
        label_names: class names in order; empty for regression.
        card: figures for the model card.

    Raises:
        UserError: the folder cannot be written.
    """
    hidden = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        hidden.mkdir(parents=True)
        config = model.config
        if label_names:
            config.id2label = dict(enumerate(map(str, label_names)))
            config.label2id = {v: k for k, v in config.id2label.items()}
        source = Path(inspect.getfile(type(model)))
        module = "modeling_raycomp" + {"static_model": "", "cnn_model": "_cnn"}[source.stem]
        config.architectures = [type(model).__name__]
        config.auto_map = {
            "AutoConfig": f"{module}.{type(config).__name__}",
            "AutoModelForSequenceClassification": f"{module}.{type(model).__name__}",
        }
        model.save_pretrained(hidden)
        shutil.copyfile(source, hidden / f"{module}.py")
        beside = _RELATIVE.findall(source.read_text(encoding="utf-8"))
        for name in beside:
            shutil.copyfile(source.with_name(f"{name}.py"), hidden / f"{name}.py")
        _save_tokenizer(tokenizer, getattr(config, "max_positions", None), hidden)
        code = " and ".join(f"`{name}.py`" for name in (module, *beside))
        (hidden / "README.md").write_text(_render_card({"code": code, **card}), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        hidden.replace(out)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror or error}; free space or choose another folder"
        ) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _save_tokenizer(tokenizer: Any, most: int | None, folder: Path) -> None:
    """Write a tokenizer that truncates to what the model reads, where that is less than before."""
    before = tokenizer.model_max_length
    try:
        tokenizer.model_max_length = min(before, most or before)
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = before


@torch.inference_mode()
def verify_export(out: Path, model: PreTrainedModel, batch: TokenBatch) -> dict[str, Any]:
    """Load a folder as a user would and compare it with the model that was written.

    Returns:
        `params` counted on the loaded model and `max_logit_difference` on the batch.
    """
    loaded = AutoModelForSequenceClassification.from_pretrained(  # nosec B615  # a folder of ours
        str(out), trust_remote_code=True, local_files_only=True
    ).eval()
    given = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }
    difference = (loaded(**given).logits - model.eval()(**given).logits).abs().max()
    return {
        "params": sum(p.numel() for p in loaded.parameters()),
        "max_logit_difference": float(difference),
    }


def _render_card(figures: dict[str, Any]) -> str:
    environment = jinja2.Environment(  # nosec B701  # Markdown; `plain` takes HTML out of each value
        loader=jinja2.PackageLoader("raycomp.encoder", "templates"),
        autoescape=False,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["plain"] = _plain
    return environment.get_template("model_card.md.j2").render(figures=figures)


def _plain(value: Any) -> str:
    """Return a figure or a name as one cell of a Markdown table: no line, no HTML, no markup."""
    text = re.sub(r"[`<>|]", lambda m: f"&#{ord(m[0])};", shown(str(value), 500))
    return text.replace("](", "]&#40;")
