"""The plain form of an encoder: an ordinary BertForSequenceClassification (or RoBERTa, ELECTRA,
DistilBERT) of transformers, which loads without code from the folder.

The classes of transformers have one width for all layers. A network has a plain form if all of its
layers have all heads of the hidden width, and one FFN width.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from raycomp.encoder.families import FAMILIES, Family, to_family
from raycomp.encoder.layers import EncoderConfig

PLAIN_LAYER_PREFIXES = ("encoder.layer.", "transformer.layer.")
"""Texts in the names of the parameters of a plain model's Transformer layers."""


def explain_not_plain(config: EncoderConfig) -> str | None:
    """Return why an encoder lacks a plain form, or None where it has one."""
    if config.num_hidden_layers == 0:
        return "it lacks layers"
    if config.word_rank is not None:
        return f"its word table is a product of two matrices, of rank {config.word_rank}"

    all_heads = config.hidden_size // config.head_size
    for i, (heads, ffn) in enumerate(zip(config.layer_heads, config.layer_ffn, strict=True), 1):
        if heads != all_heads:
            return f"layer {i} has {heads} of {all_heads} heads"
        if ffn != config.layer_ffn[0] or ffn == 0:
            return f"layer {i} has {ffn} FFN neurons and layer 1 has {config.layer_ffn[0]}"
    if find_family(config) is None:
        return "its settings do not fit any class of transformers"
    return None


def find_family(config: EncoderConfig) -> str | None:
    """Return the `model_type` of transformers whose class computes what this encoder computes.

    RoBERTa and XLM-R have the same layers; the result is then "roberta".
    """
    return next((name for name, family in FAMILIES.items() if _fits(name, family, config)), None)


def _fits(name: str, family: Family, config: EncoderConfig) -> bool:
    """Return whether a family's class has the settings of an encoder."""
    pad = config.pad_token_id
    offset = 0 if pad is None or not family.positions_after_padding else pad + 1
    constants = {key: getattr(config, key) for key in family.constants}
    has_projection = config.embedding_size != config.hidden_size
    return (
        family.head_act == config.head_act
        and family.drop_before_pooler == config.drop_before_pooler
        and offset == config.position_offset
        and constants == dict(family.constants)
        # Only ELECTRA has embeddings of another width.
        and (not has_projection or name == "electra")
        and ("type_vocab_size" in family.constants or config.type_vocab_size > 0)
    )


def make_plain(model: PreTrainedModel) -> PreTrainedModel:
    """Return the plain form of an extracted network, with a copy of its weights, in evaluation mode.

    Args:
        model: A `RaycompForSequenceClassification`.

    Raises:
        ValueError: The network lacks a plain form; see `explain_not_plain`.
    """
    config = EncoderConfig.from_config(model.config)
    if reason := explain_not_plain(config):
        raise ValueError(f"the network lacks a plain form: {reason}")

    model_type = str(find_family(config))

    plain_config = AutoConfig.for_model(model_type, **_plain_settings(model_type, config))

    for name in ("id2label", "label2id"):
        setattr(plain_config, name, getattr(model.config, name))

    plain: PreTrainedModel = AutoModelForSequenceClassification.from_config(plain_config)
    state = to_family(model_type, config, {k: v.detach() for k, v in model.state_dict().items()})
    missing, unexpected = plain.load_state_dict(state, strict=False)
    # Buffers such as BERT's position ids are not saved; a weight must not be missing.
    weights = {name for name, _ in plain.named_parameters()}
    assert not unexpected, unexpected  # nosec B101
    assert not weights & set(missing), missing  # nosec B101

    return plain.to(torch.float32).eval()


def _plain_settings(model_type: str, config: EncoderConfig) -> dict[str, Any]:
    """Return the arguments of the configuration class of a family."""
    family = FAMILIES[model_type]
    values: dict[str, Any] = {
        "hidden_size": config.hidden_size,
        "heads": config.layer_heads[0],
        "layers": config.num_hidden_layers,
        "ffn": config.layer_ffn[0],
        "hidden_act": config.hidden_act,
        "hidden_dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "classifier_dropout": config.classifier_dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "type_vocab_size": config.type_vocab_size,
    }
    settings = {theirs: values[ours] for ours, theirs in family.settings.items()}
    if model_type == "electra":
        settings["embedding_size"] = config.embedding_size

    return settings | {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "num_labels": config.num_labels,
        "architectures": None,
    }
