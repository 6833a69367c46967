"""Heads of a checkpoint that are not its family's classifier of texts: one would be lost without a word.

A checkpoint of a class of the user's, or a classifier of tokens, has such a head. transformers reports
its weights as unexpected and leaves them out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from raycomp.encoder.classifier_head import RETRAIN
from raycomp.errors import UserError, shown

# Heads of pretraining, and parts of an encoder. Fine-tuning replaces them in every method.
_KNOWN_PARTS = (
    "cls.predictions.",
    "cls.seq_relationship.",
    "lm_head.",
    "discriminator_predictions.",
    "generator_predictions.",
    "generator_lm_head.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "pooler.",
    "embeddings.",
    "encoder.",
    "transformer.",
)

# The head of models that find answers in a text. Such a head never classifies texts.
_ANSWERS = "qa_outputs."

# Part of a name that says that a matrix has the scores of classes.
_CLASSIFIER = re.compile(
    r"classif|(?:^|[._])(?:cls|scores?|heads?|logits|out_proj|fc\d*)(?:[._]|$)", re.IGNORECASE
)


def find_other_heads(unexpected: Collection[str], prefix: str) -> list[str]:
    """Return the weights of heads among those that a network of the family lacks, in order of name.

    Args:
        unexpected: Names of the weights that transformers left out.
        prefix: Prefix of the encoder's weights.
    """
    weights = [name for name in unexpected if name.endswith(".weight") and "norm" not in name.lower()]
    return sorted(name for name in weights if not name.removeprefix(prefix).startswith(_KNOWN_PARTS))


def check_other_heads(
    heads: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
    num_outputs: int,
    sizes: Collection[int],
    name: str,
) -> str:
    """Refuse a checkpoint with a classifier that cannot be read, and return a note about other heads.

    Args:
        heads: Result of `find_other_heads`.
        shapes: Shape of each tensor; empty where they are not known.
        num_outputs: Number of outputs that the configuration names.
        sizes: Sizes of the network, such as of its hidden states: the rows of such a matrix
            are not classes.
        name: Name of the model, used in messages.

    Raises:
        UserError: One of the heads is a classifier.
    """
    matrices = [head for head in heads if len(shapes.get(head, (0, 0))) == 2]
    for head in matrices:
        rows = shapes[head][0] if head in shapes else None
        is_classifier = rows == num_outputs or _CLASSIFIER.search(head.removesuffix(".weight"))
        if is_classifier and rows not in sizes and not head.startswith(_ANSWERS):
            size = "" if rows is None else f" ({rows:,} outputs)"
            raise UserError(
                f"Model {name} has the head {shown(head, 100)}{size}, which is not a classifier of texts "
                "as transformers saves it (...ForSequenceClassification). raycomp would leave it out and "
                f"train another one. Save the model as ForSequenceClassification, or set {RETRAIN}."
            )

    if not matrices:
        return ""
    listed = ", ".join(shown(head, 100) for head in matrices[:3])
    more = f" and {len(matrices) - 3} more" if len(matrices) > 3 else ""
    return f"The weights {listed}{more} of {name} are not a part of its encoder and are left out."
