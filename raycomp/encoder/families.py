"""BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT (MiniLM is BERT): their settings and weights, and ours.

One `Family` says how transformers names what the one encoder of `layers` reads. A new family is a new
value in `FAMILIES`; tests/conformance/test_families.py runs over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from raycomp.encoder.layers import ACTIVATIONS, EncoderConfig
from raycomp.errors import UserError

EMBEDDING_MODULES = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "token_type": "token_type_embeddings",  # nosec B105  # a parameter's name
    "norm": "LayerNorm",
}
"""Modules of the embeddings: our name -> the name in every family."""


@dataclass(frozen=True)
class Family:
    """How transformers names the weights and the settings of one kind of encoder.

    Attributes:
        prefix: Prefix of the encoder's weights.
        layers: Name of the list of layers.
        layer_modules: Modules of a layer, our name -> theirs.
        pooler: Name of the matrix before the classifier.
        classifier: Name of the classifier.
        settings: Attributes of `EncoderConfig` -> those of the configuration.
        constants: Attributes of `EncoderConfig` that the configuration does not have, and their values.
        head_act: Activation between pooler and classifier.
        drop_before_pooler: Whether dropout is also applied before the pooler.
        positions_after_padding: Whether the first position is that after the padding id.
    """

    prefix: str
    layers: str
    layer_modules: Mapping[str, str]
    pooler: str
    classifier: str
    settings: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    head_act: str = "tanh"
    drop_before_pooler: bool = False
    positions_after_padding: bool = False


_BERT_MODULES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
_BERT_SETTINGS = {
    "hidden_size": "hidden_size",
    "heads": "num_attention_heads",
    "layers": "num_hidden_layers",
    "ffn": "intermediate_size",
    "hidden_act": "hidden_act",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
    "layer_norm_eps": "layer_norm_eps",
    "type_vocab_size": "type_vocab_size",
}
_DISTIL_MODULES = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
_DISTIL_SETTINGS = {
    "hidden_size": "dim",
    "heads": "n_heads",
    "layers": "n_layers",
    "ffn": "hidden_dim",
    "hidden_act": "activation",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}
_ROBERTA = Family(
    prefix="roberta.",
    layers="encoder.layer",
    layer_modules=_BERT_MODULES,
    pooler="classifier.dense",
    classifier="classifier.out_proj",
    settings=_BERT_SETTINGS,
    drop_before_pooler=True,
    positions_after_padding=True,
)
FAMILIES: dict[str, Family] = {
    "bert": Family(
        prefix="bert.",
        layers="encoder.layer",
        layer_modules=_BERT_MODULES,
        pooler="bert.pooler.dense",
        classifier="classifier",
        settings=_BERT_SETTINGS,
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": Family(
        prefix="electra.",
        layers="encoder.layer",
        layer_modules=_BERT_MODULES,
        pooler="classifier.dense",
        classifier="classifier.out_proj",
        settings=_BERT_SETTINGS,
        head_act="gelu",
        drop_before_pooler=True,
    ),
    "distilbert": Family(
        prefix="distilbert.",
        layers="transformer.layer",
        layer_modules=_DISTIL_MODULES,
        pooler="pre_classifier",
        classifier="classifier",
        settings=_DISTIL_SETTINGS,
        constants={"layer_norm_eps": 1e-12, "type_vocab_size": 0},
        head_act="relu",
    ),
}
"""Supported values of a configuration's `model_type`."""


def from_family_config(config: Any, num_labels: int) -> EncoderConfig:
    """Translate a transformers configuration.

    Args:
        config: The configuration.
        num_labels: Outputs of the task.

    Raises:
        UserError: The model type, activation or position scheme is not supported.
    """
    model_type = config.model_type
    if model_type not in FAMILIES:
        raise UserError(
            f"Models of type {model_type!r} are not supported. Use one of {', '.join(FAMILIES)}."
        )
    family = FAMILIES[model_type]
    ours: dict[str, Any] = {
        name: getattr(config, theirs, None) for name, theirs in family.settings.items()
    }
    ours |= family.constants

    scheme = getattr(config, "position_embedding_type", None) or "absolute"
    if scheme != "absolute" or ours["hidden_act"] not in ACTIVATIONS:
        raise UserError(
            f"Positions {scheme!r} with activation {ours['hidden_act']!r} are not supported. Use a model "
            f"with absolute positions and one of {', '.join(ACTIVATIONS)}."
        )

    heads = ours.pop("heads")
    layers = ours.pop("layers")
    ffn = ours.pop("ffn")
    # transformers falls back to the hidden dropout too.
    if ours["classifier_dropout"] is None:
        ours["classifier_dropout"] = ours["hidden_dropout"]
    return EncoderConfig(
        vocab_size=config.vocab_size,
        embedding_size=getattr(config, "embedding_size", ours["hidden_size"]),
        head_size=ours["hidden_size"] // heads,
        layer_heads=(heads,) * layers,
        layer_ffn=(ffn,) * layers,
        max_position_embeddings=config.max_position_embeddings,
        position_offset=config.pad_token_id + 1 if family.positions_after_padding else 0,
        head_act=family.head_act,
        drop_before_pooler=family.drop_before_pooler,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
        num_labels=num_labels,
        **ours,
    )


def map_names(model_type: str, config: EncoderConfig) -> dict[str, str]:
    """Return our parameter name -> the family's, of a ForSequenceClassification checkpoint."""
    family = FAMILIES[model_type]
    modules: dict[str, str] = {}
    for ours, theirs in EMBEDDING_MODULES.items():
        # DistilBERT has one kind of token, and its checkpoints lack the table.
        if ours != "token_type" or config.type_vocab_size:
            modules[f"embeddings.{ours}"] = f"{family.prefix}embeddings.{theirs}"
    if config.embedding_size != config.hidden_size:
        modules["embeddings.project"] = f"{family.prefix}embeddings_project"
    for i in range(config.num_hidden_layers):
        for ours, theirs in family.layer_modules.items():
            modules[f"layers.{i}.{ours}"] = f"{family.prefix}{family.layers}.{i}.{theirs}"
    modules["pooler"] = family.pooler
    modules["classifier"] = family.classifier

    # Embedding tables are matrices without bias.
    without_bias = {"embeddings.word", "embeddings.position", "embeddings.token_type"}
    names: dict[str, str] = {}
    for ours, theirs in modules.items():
        names[f"{ours}.weight"] = f"{theirs}.weight"
        if ours not in without_bias:
            names[f"{ours}.bias"] = f"{theirs}.bias"
    return names


def from_family(model_type: str, config: EncoderConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate a family's state dict to ours; tensors that it lacks are left out."""
    names = map_names(model_type, config)
    return {ours: state[theirs] for ours, theirs in names.items() if theirs in state}


def to_family(model_type: str, config: EncoderConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate our state dict (full, uniform shapes) to a family's."""
    return {theirs: state[ours] for ours, theirs in map_names(model_type, config).items()}
