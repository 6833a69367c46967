"""BERT, RoBERTa, ELECTRA and DistilBERT (MiniLM is BERT) in and out of the one encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from raycomp.encoder.layers import ACTIVATIONS, EncoderConfig
from raycomp.errors import UserError

_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
_DISTIL_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "output_norm": "output_layer_norm",
}
_EMBEDDINGS = {
    "word": "word_embeddings",
    "position": "position_embeddings",
    "token_type": "token_type_embeddings",  # nosec B105  # a parameter's name
    "norm": "LayerNorm",
}
# model type -> (prefix of the encoder, prefix of layers, names in a layer, pooler, classifier)
LAYOUTS: dict[str, tuple[str, str, dict[str, str], str, str]] = {
    "bert": ("bert.", "encoder.layer", _BERT_LAYER, "bert.pooler.dense", "classifier"),
    "roberta": (
        "roberta.", "encoder.layer", _BERT_LAYER, "classifier.dense", "classifier.out_proj",
    ),
    "electra": (
        "electra.", "encoder.layer", _BERT_LAYER, "classifier.dense", "classifier.out_proj",
    ),
    "distilbert": (
        "distilbert.", "transformer.layer", _DISTIL_LAYER, "pre_classifier", "classifier",
    ),
}  # fmt: skip
LAYOUTS["xlm-roberta"] = LAYOUTS["roberta"]
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")


def from_family_config(config: Any, num_labels: int) -> EncoderConfig:
    """Translate a transformers configuration.

    Raises:
        UserError: the model type, activation or position scheme is not supported.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise UserError(f"model type {kind!r} is not supported; allowed: {', '.join(FAMILIES)}")
    scheme = getattr(config, "position_embedding_type", None) or "absolute"
    act = config.activation if kind == "distilbert" else config.hidden_act
    if scheme != "absolute" or act not in ACTIVATIONS:
        raise UserError(
            f"positions {scheme!r} with activation {act!r} are not supported; allowed: absolute "
            f"positions with one of {', '.join(ACTIVATIONS)}"
        )
    roberta = kind in ("roberta", "xlm-roberta")
    distil = kind == "distilbert"
    hidden = config.dim if distil else config.hidden_size
    heads = config.n_heads if distil else config.num_attention_heads
    layers = config.n_layers if distil else config.num_hidden_layers
    ffn = config.hidden_dim if distil else config.intermediate_size
    dropout = config.dropout if distil else config.hidden_dropout_prob
    head_dropout = getattr(config, "classifier_dropout", None)
    if distil:
        head_dropout = config.seq_classif_dropout
    pad = config.pad_token_id
    return EncoderConfig(
        vocab_size=config.vocab_size,
        hidden_size=hidden,
        embedding_size=getattr(config, "embedding_size", hidden),
        head_size=hidden // heads,
        layer_heads=(heads,) * layers,
        layer_ffn=(ffn,) * layers,
        max_position_embeddings=config.max_position_embeddings,
        position_offset=pad + 1 if roberta else 0,
        type_vocab_size=0 if distil else config.type_vocab_size,
        hidden_act=act,
        head_act={"electra": "gelu", "distilbert": "relu"}.get(kind, "tanh"),
        drop_before_pooler=roberta or kind == "electra",
        layer_norm_eps=1e-12 if distil else config.layer_norm_eps,
        hidden_dropout=dropout,
        attention_dropout=(config.attention_dropout if distil else config.attention_probs_dropout_prob),
        classifier_dropout=dropout if head_dropout is None else head_dropout,
        initializer_range=config.initializer_range,
        pad_token_id=pad,
        num_labels=num_labels,
    )


def key_map(model_type: str, config: EncoderConfig) -> dict[str, str]:
    """Return our parameter name -> the family's, for a ForSequenceClassification checkpoint."""
    prefix, layers, names, pooler, classifier = LAYOUTS[model_type]
    pairs = {}
    for ours, theirs in _EMBEDDINGS.items():
        if ours != "token_type" or config.type_vocab_size:
            pairs[f"embeddings.{ours}"] = f"{prefix}embeddings.{theirs}"
    if config.embedding_size != config.hidden_size:
        pairs["embeddings.project"] = f"{prefix}embeddings_project"
    for i in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            pairs[f"layers.{i}.{ours}"] = f"{prefix}{layers}.{i}.{theirs}"
    pairs |= {"pooler": pooler, "classifier": classifier}
    found: dict[str, str] = {}
    for ours, theirs in pairs.items():
        found[f"{ours}.weight"] = f"{theirs}.weight"
        if ours not in ("embeddings.word", "embeddings.position", "embeddings.token_type"):
            found[f"{ours}.bias"] = f"{theirs}.bias"
    return found


def from_family(model_type: str, config: EncoderConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate a family's state dict to ours; what it lacks is left out."""
    pairs = key_map(model_type, config)
    return {ours: state[theirs] for ours, theirs in pairs.items() if theirs in state}


def to_family(model_type: str, config: EncoderConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate our state dict (full, uniform shapes) to a family's."""
    return {theirs: state[ours] for ours, theirs in key_map(model_type, config).items()}
