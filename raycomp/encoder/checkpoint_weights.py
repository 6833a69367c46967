"""The weights of a checkpoint as a network of this project: complete, finite, with its classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from raycomp.encoder.classifier_head import RETRAIN, ClassifierHead, read_head
from raycomp.encoder.families import FAMILIES, from_family, from_family_config, map_names
from raycomp.encoder.folder_files import read_object
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.encoder.other_heads import check_other_heads, find_other_heads
from raycomp.errors import UserError


def read_network(
    source: str, name: str, num_labels: int, new_classifier: bool, options: dict[str, Any]
) -> tuple[Encoder, ClassifierHead | None, str]:
    """Return the network of a checkpoint, its classifier or None, and a note about weights left out.

    Args:
        source: Name on the Hub or folder.
        name: Name of the model, used in messages.
        num_labels: Outputs of the task. Where the classifier has another number, the network must not be
            used; `check_head` says why.
        new_classifier: Whether the network gets a new classifier, also where the checkpoint has one.
        options: `revision` and `trust_remote_code`.

    Raises:
        UserError: Weights are missing, or are not finite; the configuration is not supported; or the
            classifier is one that cannot be read.
    """
    config = AutoConfig.from_pretrained(source, **options)  # nosec B615  # model.revision
    shapes = _read_shapes(source)
    is_classifier = _is_classifier(config, shapes)
    if is_classifier:
        _check_output_names(config, shapes, name)

    state, missing, unexpected = _load_state(source, name, config.model_type, is_classifier, options)
    ours = from_family_config(config, num_labels)
    _check_missing(missing, config.model_type, ours, name)

    names = map_names(config.model_type, ours)
    has_head = is_classifier and not new_classifier and _has_whole_head(missing, names, name)

    weights = from_family(config.model_type, ours, state)
    head = None
    if has_head:
        num_outputs = weights["classifier.weight"].shape[0]
        head = read_head(config, num_outputs, _read_label2id(source, name))
    if head is None:
        weights = {k: v for k, v in weights.items() if not k.startswith("classifier.")}

    note = ""
    if head is None and not new_classifier:
        note = _check_other_heads(unexpected, shapes, config, ours, name)
    _check_finite(weights, names, name)

    model = Encoder(ours)
    if head is not None and head.num_outputs != num_labels:
        # The caller refuses this classifier.
        return model, head, note
    # Not strict: a new classifier keeps the weights that `Encoder` has drawn.
    model.load_state_dict(weights, strict=False)
    return model, head, note


def _check_other_heads(
    unexpected: set[str], shapes: Mapping[str, list[int]], config: Any, ours: EncoderConfig, name: str
) -> str:
    """Refuse a classifier that cannot be read, and return a note about other weights left out."""
    heads = find_other_heads(unexpected, FAMILIES[config.model_type].prefix)
    sizes = {ours.hidden_size, ours.embedding_size, ours.vocab_size}

    return check_other_heads(heads, shapes, config.num_labels, sizes, name)


def _has_whole_head(missing: set[str], names: Mapping[str, str], name: str) -> bool:
    """Return whether a checkpoint has its classifier.

    Args:
        missing: Names that the weights lack.
        names: Our parameter name -> the checkpoint's.
        name: Name of the model, used in messages.

    Raises:
        UserError: It has a part of the classifier only.
    """
    # A checkpoint without the last layer gets a new classifier, as an encoder does.
    if any(theirs in missing for own, theirs in names.items() if own.startswith("classifier.")):
        return False

    lacking = sorted(theirs for own, theirs in names.items() if _is_head(own) and theirs in missing)
    if lacking:
        raise UserError(
            f"The classifier of {name} lacks {', '.join(lacking[:3])}. Save the model again with "
            f"save_pretrained, or set {RETRAIN}."
        )
    return True


def _read_shapes(source: str) -> dict[str, list[int]]:
    """Return the shape of each tensor in the weight files of a folder; empty for a name on the Hub."""
    shapes: dict[str, list[int]] = {}
    for path in sorted(Path(source).glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            shapes |= {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _read_label2id(source: str, name: str) -> Any:
    """Return label2id as config.json has it: transformers drops it where id2label is missing."""
    path = Path(source) / "config.json"
    return read_object(path, name).get("label2id") if path.exists() else None


def _check_output_names(config: Any, shapes: Mapping[str, list[int]], name: str) -> None:
    """Refuse a configuration that names another number of outputs than the weights have."""
    last = f"{FAMILIES[config.model_type].classifier}.weight"
    num_outputs = shapes.get(last, [0])[0]
    if num_outputs and num_outputs != config.num_labels:
        raise UserError(
            f"The config.json of {name} names {config.num_labels} outputs (id2label), but its weights "
            f"have {num_outputs} ({last}). Correct id2label and label2id in config.json."
        )


def _is_classifier(config: Any, shapes: Mapping[str, list[int]]) -> bool:
    """Return whether a checkpoint is a classifier of texts.

    Some tools save a configuration without the name of the class; the weights then decide.
    """
    if config.architectures:
        return any(name.endswith("ForSequenceClassification") for name in config.architectures)
    return f"{FAMILIES[config.model_type].classifier}.weight" in shapes


def _check_finite(weights: Mapping[str, Tensor], names: Mapping[str, str], name: str) -> None:
    """Refuse weights that are not finite: all outputs of such a network are NaN."""
    for own, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"The weights of {name} are damaged: {names[own]} has {count:,} values of "
                f"{tensor.numel():,} that are NaN or infinite. Fetch the model again, or use an earlier "
                "checkpoint of its training."
            )


def _load_state(
    source: str, name: str, model_type: str, is_classifier: bool, options: dict[str, Any]
) -> tuple[dict[str, Tensor], set[str], set[str]]:
    """Return the weights under the names of a classifier, those that the file lacks, and those left out.

    transformers draws weights that the file lacks at random, and reports it only here.
    """
    auto_class = AutoModelForSequenceClassification if is_classifier else AutoModel
    try:
        loaded, info = auto_class.from_pretrained(
            source, use_safetensors=True, dtype="float32", output_loading_info=True, **options
        )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        shapes = _list_other_shapes(source, auto_class, FAMILIES[model_type].prefix)
        raise UserError(
            f"The weights of {name} have other shapes than in its config.json{shapes}. Correct "
            "config.json, or fetch the model again."
        ) from None
    prefix = "" if is_classifier else FAMILIES[model_type].prefix
    state = {f"{prefix}{key}": value for key, value in loaded.state_dict().items()}
    return state, {f"{prefix}{key}" for key in info["missing_keys"]}, set(info["unexpected_keys"])


def _list_other_shapes(source: str, auto_class: Any, prefix: str) -> str:
    """Return the tensors of a folder whose shapes differ from those of its configuration, in brackets."""
    config = AutoConfig.from_pretrained(source)  # nosec B615  # a folder, or weights without shapes
    with torch.device("meta"):
        expected = auto_class.from_config(config).state_dict()
    parts = []
    for key, shape in _read_shapes(source).items():
        name = key if key in expected else key.removeprefix(prefix)
        if name in expected and list(expected[name].shape) != shape:
            parts.append(f"{key}: {shape} in the file, {list(expected[name].shape)} by config.json")
    return f" ({'; '.join(parts[:3])})" if parts else ""


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
