"""The model of a call: a name, a directory, or a transformers model in memory."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from raycomp.errors import UserError, first_line

Model = Any
"""A Hub name, a directory, a transformers model, or a text-classification pipeline."""

# Of a configuration: they say how a model was made or saved, not what it computes. The class, which
# `save_pretrained` writes to `architectures`, is hashed by itself.
_ORIGIN_KEYS = (
    "_name_or_path",
    "name_or_path",
    "architectures",
    "transformers_version",
    "dtype",
    "torch_dtype",
)


def describe_model(model: Model, tokenizer: Any, directory: Path) -> str:
    """Return the setting `model.name` for a model; one in memory is written to a directory first.

    Args:
        model: A Hub name, a local directory, a transformers model, or a transformers pipeline.
        tokenizer: Tokenizer of a model in memory. None: that of the pipeline, else the one of the
            checkpoint that the model was loaded from.
        directory: Directory for models from memory.

    Raises:
        UserError: The object is not a model, or its tokenizer is not known.
    """
    if isinstance(model, (str, Path)):
        if tokenizer is not None:
            raise UserError(
                f"A tokenizer was given, and the model is named {str(model)!r}. A named model has its "
                "own tokenizer: leave the argument out."
            )
        return str(model)

    # A pipeline also has save_pretrained: recognise it before a model.
    if hasattr(model, "model") and hasattr(model, "tokenizer"):
        model, tokenizer = _unpack_pipeline(model, tokenizer)

    if not all(hasattr(model, name) for name in ("save_pretrained", "state_dict", "config")):
        raise UserError(
            f"The model is of type {type(model).__name__}. Give a Hub name, a directory, or a "
            "transformers model."
        )

    if tokenizer is None:
        tokenizer = _load_tokenizer_of(model)
    return str(save_model(model, tokenizer, directory))


def save_model(model: Any, tokenizer: Any, directory: Path) -> Path:
    """Write a transformers model and its tokenizer to `directory/model-HASH`, all or nothing.

    The hash covers weights, configuration and tokenizer: the same model gives the same name.

    Args:
        model: A transformers model.
        tokenizer: Its fast tokenizer.
        directory: Parent directory, made if it is missing.

    Raises:
        UserError: The tokenizer is not a fast one, or the directory cannot be written.
    """
    target = directory / f"model-{_hash_model(model, tokenizer)}"
    if target.exists():
        return target

    # A process that dies here leaves a hidden directory, never a half-written model.
    hidden = directory / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        hidden.mkdir(parents=True)
        model.save_pretrained(hidden)
        tokenizer.save_pretrained(hidden)
        hidden.replace(target)
    except OSError as error:
        # Another process may have written the same model at the same time.
        if not target.exists():
            raise UserError(
                f"Cannot write the model to {target}: {error.strerror or error}. Free space, or name "
                "another storage."
            ) from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return target


def _unpack_pipeline(pipeline: Any, tokenizer: Any) -> tuple[Any, Any]:
    if tokenizer is None:
        tokenizer = pipeline.tokenizer
    return pipeline.model, tokenizer


def _load_tokenizer_of(model: Any) -> Any:
    from transformers import AutoTokenizer

    origin = str(getattr(model, "name_or_path", "") or "")
    advice = "Pass it: tokenizer=AutoTokenizer.from_pretrained(...)."
    if not origin:
        raise UserError(f"The tokenizer of the model in memory is not known. {advice}")
    try:
        return AutoTokenizer.from_pretrained(origin)  # nosec B615  # the checkpoint of the user's own model
    except Exception as error:
        # transformers raises its own exceptions, huggingface_hub's and the network stack's here.
        raise UserError(
            f"The tokenizer of {origin} cannot be loaded ({first_line(error)}). {advice}"
        ) from None


def _hash_model(model: Any, tokenizer: Any) -> str:
    from raycomp.data.tokens import fingerprint

    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(
            f"The tokenizer is a {type(tokenizer).__name__}, which is not a fast tokenizer. Give a "
            "PreTrainedTokenizerFast."
        )

    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if k not in _ORIGIN_KEYS}
    for text in (
        type(model).__name__,
        json.dumps(config, sort_keys=True, default=str),
        fingerprint(tokenizer),
        json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str),
        str(tokenizer.model_max_length),
    ):
        _update(digest, text.encode())

    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        _update(digest, f"{name} {values.dtype} {tuple(values.shape)}".encode())
        # numpy lacks bfloat16; the bytes are the same.
        _update(digest, values.flatten().view(_byte_type()).numpy().tobytes())
    return digest.hexdigest()[:16]


def _byte_type() -> Any:
    import torch

    return torch.uint8


def _update(digest: Any, content: bytes) -> None:
    """Add bytes to a hash, with their length: two texts in a row are not the same as one."""
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)
