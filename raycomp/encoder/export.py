"""Writes an extracted model as a folder that plain transformers loads, and verifies that it does."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    dynamic_module_utils,
)
from transformers.utils import logging as transformers_logging

from raycomp.encoder.interface import TokenBatch, model_inputs
from raycomp.encoder.tokenizer_files import find_difference
from raycomp.errors import UserError, shown
from raycomp.storage.files import write_text

# Saving takes a second: a progress bar would only distract.
transformers_logging.disable_progress_bar()
_RELATIVE_IMPORT = re.compile(r"^from \.(\w+) import", re.MULTILINE)
MODEL_FILES = {
    "static_model": "modeling_raycomp",
    "cnn_model": "modeling_raycomp_cnn",
    "bilstm_model": "modeling_raycomp_bilstm",
    "token_mean_model": "modeling_raycomp_static",  # nosec B105  # the name of a module
}
"""Module that defines an exported class -> its name in the exported folder.

Other classes are those of transformers, which a folder needs no code for.
"""


def export_model(
    model: PreTrainedModel,
    tokenizer: Any,
    out: Path,
    label_names: Sequence[str],
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write configuration, weights, tokenizer, model code and model card.

    They are written next to `out` and then moved there: the folder is complete, or it is as before.

    Args:
        model: The extracted network. Its class is one of `MODEL_FILES`, or one of transformers.
        tokenizer: Its tokenizer.
        out: The folder; replaced if it exists.
        label_names: Class names in order; empty for regression.
        card: Figures for the model card.

    Returns:
        The figures that `write_card` takes: `card`, and the names of the files of code.

    Raises:
        UserError: The folder cannot be written.
    """
    hidden = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        hidden.mkdir(parents=True)
        full_card = _write_files(model, tokenizer, hidden, label_names, card)
        # The old folder stays until the new one is complete.
        if out.exists():
            shutil.rmtree(out)
        hidden.replace(out)
    except OSError as error:
        raise UserError(
            f"The export cannot be written to {out} ({error.strerror or error}). Free space or choose "
            "another folder."
        ) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return full_card


def find_cache_problem() -> str | None:
    """Return why no export could be loaded back on this machine, or None.

    transformers copies the code of an export to its cache of modules before it imports the code.
    """
    folder = Path(dynamic_module_utils.HF_MODULES_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return (
            f"{folder} cannot be written ({error.strerror or error}), but transformers copies the code "
            "of each exported model there to load it. Set HF_MODULES_CACHE to a directory that you can "
            "write."
        )


def _write_files(
    model: PreTrainedModel,
    tokenizer: Any,
    folder: Path,
    label_names: Sequence[str],
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write all files of an export into an empty folder; see `export_model`."""
    config = model.config
    if label_names:
        config.id2label = dict(enumerate(map(str, label_names)))
        config.label2id = {name: i for i, name in config.id2label.items()}
    full_card = {"code": write_network(model, folder), **card}
    _save_tokenizer(tokenizer, config, folder)
    write_card(folder, full_card)
    return full_card


def write_network(model: PreTrainedModel, folder: Path) -> str:
    """Write configuration, weights and code of a model, and return the names of the files of code.

    Args:
        model: As in `export_model`.
        folder: Directory; it is made where it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(inspect.getfile(type(model)))
    module = MODEL_FILES.get(source.stem)
    config = model.config
    # transformers finds the classes by these entries, in the files below.
    config.architectures = [type(model).__name__]
    code = ""
    if module is not None:
        config.auto_map = {
            "AutoConfig": f"{module}.{type(config).__name__}",
            "AutoModelForSequenceClassification": f"{module}.{type(model).__name__}",
        }
        code = _copy_code(source, module, folder)
    model.save_pretrained(folder)
    return code


def _copy_code(source: Path, module: str, folder: Path) -> str:
    """Copy the code of a model into its export, and return the names of the files.

    The user's transformers runs these files; raycomp need not be installed there.
    """
    shutil.copyfile(source, folder / f"{module}.py")
    imported = _RELATIVE_IMPORT.findall(source.read_text(encoding="utf-8"))
    for name in imported:
        shutil.copyfile(source.with_name(f"{name}.py"), folder / f"{name}.py")
    return " and ".join(f"`{name}.py`" for name in (module, *imported))


def longest_text(config: Any) -> int | None:
    """Return the longest text that the model of a configuration reads, in tokens; None if unknown."""
    own_limit: int | None = getattr(config, "max_positions", None)
    rows: int | None = getattr(config, "max_position_embeddings", None)
    if own_limit is not None or rows is None:
        return own_limit
    # A plain RoBERTa numbers positions from the padding id on.
    is_roberta = str(config.model_type) in ("roberta", "xlm-roberta")
    return rows - config.pad_token_id - 1 if is_roberta else rows


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the model card of an export.

    Args:
        folder: The folder of the export.
        card: What `export_model` returned, with changed or further figures.
    """
    write_text(folder / "README.md", _render_card(card))


def add_to_card(folder: Path, section: str) -> None:
    """Add a section, Markdown, to the model card of an export."""
    with (folder / "README.md").open("a", encoding="utf-8") as card:
        card.write(section)


def _save_tokenizer(tokenizer: Any, config: Any, folder: Path) -> None:
    """Write a tokenizer that truncates to the longest text of the model and sends what the model reads.

    Args:
        tokenizer: The tokenizer; it stays as it is.
        config: Configuration of the model.
        folder: Where to write it.
    """
    own_limit = tokenizer.model_max_length
    own_inputs = list(tokenizer.model_input_names)
    try:
        limit = min(own_limit, longest_text(config) or own_limit)
        tokenizer.model_max_length = limit
        # BERT's tokenizer sends two token types; a plain RoBERTa has one, and would fail on a pair.
        if getattr(config, "type_vocab_size", 2) <= 1:
            _name_inputs(tokenizer, [name for name in own_inputs if name != "token_type_ids"])
        tokenizer.save_pretrained(folder)
        # text-embeddings-inference reads the longest text from here.
        sentence_config = {"max_seq_length": limit, "do_lower_case": False}
        (folder / "sentence_bert_config.json").write_text(json.dumps(sentence_config), encoding="utf-8")
    finally:
        tokenizer.model_max_length = own_limit
        _name_inputs(tokenizer, own_inputs)


def _name_inputs(tokenizer: Any, names: list[str]) -> None:
    """Set the arguments of the model that a tokenizer gives."""
    tokenizer.model_input_names = names
    # `save_pretrained` writes these settings.
    tokenizer.init_kwargs["model_input_names"] = names


@torch.inference_mode()
def verify_export(out: Path, model: PreTrainedModel, batch: TokenBatch) -> dict[str, Any]:
    """Load a folder as a user would, and compare it with the model that was written.

    Args:
        out: The exported folder.
        model: The model that was exported.
        batch: Tokens to compare the logits on.

    Returns:
        `params` counted on the loaded model and `max_logit_difference` on the batch.
    """
    loaded = AutoModelForSequenceClassification.from_pretrained(  # nosec B615  # a folder of ours
        str(out), trust_remote_code=True, local_files_only=True
    ).eval()
    tokens = model_inputs(model.config, batch)
    difference = (loaded(**tokens).logits - model.eval()(**tokens).logits).abs().max()
    return {
        "params": sum(p.numel() for p in loaded.parameters()),
        "max_logit_difference": float(difference),
    }


def verify_tokenizer(out: Path, tokenizer: Any, texts: Sequence[str]) -> None:
    """Load an exported tokenizer as a user would, and compare its tokens with the run's.

    Args:
        out: The exported folder.
        tokenizer: The tokenizer of the run.
        texts: Texts of the task.

    Raises:
        UserError: The tokens differ.
    """
    loaded = AutoTokenizer.from_pretrained(  # nosec B615  # a folder of ours
        str(out), trust_remote_code=True, local_files_only=True
    )
    text = find_difference(tokenizer, loaded, texts)
    if text is not None:
        raise UserError(
            f"{out}: the exported tokenizer gives other tokens than the run's for '{shown(text, 60)}'. "
            "transformers cannot save this tokenizer. Save the model's tokenizer as "
            "PreTrainedTokenizerFast, and start a new run with it."
        )


def _render_card(figures: dict[str, Any]) -> str:
    """Return the model card, Markdown."""
    environment = jinja2.Environment(  # nosec B701  # Markdown; `plain` takes HTML out of each value
        loader=jinja2.PackageLoader("raycomp.encoder", "templates"),
        autoescape=False,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["plain"] = _escape_markdown
    return environment.get_template("model_card.md.j2").render(figures=figures)


def _escape_markdown(value: Any) -> str:
    """Return a value as one cell of a Markdown table: one line, without HTML and markup."""
    text = re.sub(r"[`<>|]", lambda m: f"&#{ord(m[0])};", shown(str(value), 500))
    return text.replace("](", "]&#40;")
