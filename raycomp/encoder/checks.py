"""Checks of a checkpoint before transformers reads it: its format, code in it, and absurd sizes.

A checkpoint comes from a stranger. Each check refuses it with one message before its contents take memory
or run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycomp.encoder.families import FAMILIES
from raycomp.encoder.folder_files import check_json_files, check_pointers, read_object
from raycomp.errors import UserError, shown

MAX_BYTES = {"config.json": 2**20, "tokenizer_config.json": 2**24, "tokenizer.json": 2**28}
"""Largest sizes of files that are read as a whole."""
# Several times the sizes of the largest encoder of these families: a larger number is damage or an
# attack.
MAX_SIZES = {
    "num_hidden_layers": 256,
    "num_attention_heads": 1024,
    "hidden_size": 32_768,
    "embedding_size": 32_768,
    "intermediate_size": 262_144,
    "vocab_size": 4_000_000,
    "max_position_embeddings": 262_144,
    "type_vocab_size": 1024,
    "num_labels": 10_000,
}
"""Largest values of the settings that sizes of tensors follow from."""
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
"""Files of which a folder has one: the weights, or the list of the files with the weights."""
_CLASS_PREFIXES = ("Bert", "Roberta", "XLMRoberta", "Electra", "DistilBert")


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder that is not a checkpoint in safetensors.

    Args:
        folder: The folder.
        name: Name of the model, used in messages.

    Raises:
        UserError: A file is missing, too large, or not allowed.
    """
    if not (folder / "config.json").exists():
        raise UserError(
            f"Model folder {name} is not a checkpoint: it lacks config.json. "
            "Name a folder that save_pretrained of transformers wrote, or a model of the Hub."
        )
    for file, limit in MAX_BYTES.items():
        path = folder / file
        if path.exists() and path.stat().st_size > limit:
            raise UserError(f"{path} is larger than {limit >> 10:,} KiB. Fetch the model again.")

    check_pointers(folder, name)
    check_json_files(folder, name)
    settings = read_object(folder / "config.json", name)
    _check_label_count(settings, name)
    _check_output_names(settings, name)
    if (folder / "adapter_config.json").exists():
        raise UserError(f"Model folder {name} contains an adapter. Merge it into its model first.")
    _check_weight_files(folder, name)


def check_path(name: str) -> None:
    """Refuse a path that is not a folder: transformers would look for it on the Hub.

    Raises:
        UserError: The name is empty, or a path that is missing or a file.
    """
    path = Path(name)
    if not name.strip():
        raise UserError("model.name is empty. Name a model of the Hub or a local folder.")
    if path.is_dir():
        return
    if path.is_file():
        raise UserError(f"Model {shown(name, 1000)} is a file. Name the folder that contains it.")

    # A name on the Hub has at most one slash.
    is_path = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1
    if is_path or "\\" in name:
        hint = " A path in a job file is not expanded: write it without ~." if name[0] == "~" else ""
        raise UserError(f"Model folder {shown(name, 1000)} does not exist. Check the path.{hint}")


def _check_output_names(settings: Mapping[str, Any], name: str) -> None:
    """Refuse names of outputs and of classes that transformers would misread."""
    outputs = settings.get("id2label")
    if outputs is not None:
        keys = set(outputs) if isinstance(outputs, dict) else None
        is_complete = keys == {str(number) for number in range(len(outputs))} if keys else False
        if not is_complete or any(value is None for value in outputs.values()):
            raise UserError(
                f"The config.json of {name} has id2label = {shown(repr(outputs))}. Give a name for each "
                'output, such as {"0": "negative", "1": "positive"}, and the same in label2id.'
            )

    classes = settings.get("architectures")
    is_list = isinstance(classes, list) and all(isinstance(entry, str) for entry in classes)
    if classes is not None and not is_list:
        raise UserError(
            f"The config.json of {name} has architectures = {shown(repr(classes))}. Give a list, such as "
            '["BertForSequenceClassification"].'
        )


def _check_label_count(settings: Mapping[str, Any], name: str) -> None:
    """Refuse a number of labels for which transformers would build names without end."""
    count = settings.get("num_labels", 0)
    if not isinstance(count, int) or count > MAX_SIZES["num_labels"]:
        raise UserError(
            f"The config.json of {name} has num_labels = {shown(repr(count))}. Give an integer up to "
            f"{MAX_SIZES['num_labels']:,}."
        )


def _check_weight_files(folder: Path, name: str) -> None:
    """Refuse weights outside of the folder or in a pickle format, which can run code."""
    for index in folder.glob("*.safetensors.index.json"):
        for file in set(json.loads(index.read_bytes())["weight_map"].values()):
            if Path(file).name != file or Path(file).suffix != ".safetensors":
                raise UserError(
                    f"{index} names {shown(repr(file))}, which is not a .safetensors file of its folder. "
                    "Fetch the model again."
                )
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    if weights:
        if not any((folder / file).exists() for file in WEIGHT_FILES):
            raise UserError(
                f"Model folder {name} has {shown(weights[0])}, but transformers reads {WEIGHT_FILES[0]}. "
                "Rename the file, or save the model with save_pretrained."
            )
        return

    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if not pickled:
        raise UserError(
            f"Model folder {name} lacks a .safetensors file. Save the model with save_pretrained."
        )
    raise UserError(
        f"Model folder {name} lacks a .safetensors file. {pickled[0]} is a pickle and is not read: it "
        f"could run code. If you trust it, convert it: {conversion_command(name, _model_class(folder))}"
    )


def _model_class(folder: Path) -> str:
    """Return the class of transformers that a folder's config.json names, or the plain encoder's."""
    names = json.loads((folder / "config.json").read_bytes()).get("architectures")
    first = str(names[0]) if isinstance(names, list) and names else ""
    is_known = first.isidentifier() and first.startswith(_CLASS_PREFIXES)
    return first if is_known else "AutoModel"


def conversion_command(name: str, model_class: str = "AutoModelForSequenceClassification") -> str:
    """Return the command that writes a model again, in safetensors.

    Args:
        name: Folder or Hub name of the model.
        model_class: Class of transformers that has all weights of the model.
    """
    source = shown(name)
    out = f"{shown(Path(name).name)}-safetensors"
    code = (
        f"from transformers import {model_class} as M, AutoTokenizer as T; "
        f"M.from_pretrained({source!r}).save_pretrained({out!r}); "
        f"T.from_pretrained({source!r}).save_pretrained({out!r})"
    )
    return f'python -c "{code}", then set model.name to {out!r}.'


def check_config(config: Any, name: str, folder: Path) -> None:
    """Refuse a configuration that is not supported, runs code, or asks for absurd sizes.

    Args:
        config: The transformers configuration.
        name: Name of the model, used in messages.
        folder: Folder of the model, where it is one.

    Raises:
        UserError: The configuration is refused.
    """
    if config.model_type not in FAMILIES:
        raise UserError(
            f"Model {name} is of type {shown(repr(config.model_type))}, which raycomp cannot compress; "
            f"allowed: {', '.join(FAMILIES)}. Choose a model of one of these types."
        )
    _check_foreign_code(config, name)
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UserError(
            f"The config.json of {name} has is_decoder or add_cross_attention, so its tokens do not see "
            "the tokens after them. Only encoders are compressed; use an encoder, or set both to false "
            "if they are wrong."
        )
    sizes = _check_sizes(config, name)
    _check_parameter_count(config, sizes, name, folder)


def _check_foreign_code(config: Any, name: str) -> None:
    """Refuse kernels from the Hub, which transformers fetches and runs without asking."""
    attention = [str(getattr(config, key, "")) for key in ("_attn_implementation", "attn_implementation")]
    if any("/" in text for text in attention):
        raise UserError(
            f"The config.json of {name} names an attention kernel of the Hub, which is code "
            f"({shown(', '.join(attention))}). Remove it from the file."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"The weights of {name} are quantized. Give the model that they were made from.")


def _check_sizes(config: Any, name: str) -> dict[str, int]:
    """Return the sizes of a configuration, each within its limits."""
    settings = FAMILIES[config.model_type].settings
    names = {"intermediate_size": settings["ffn"]}
    sizes = {key: getattr(config, names.get(key, key), 1) for key in MAX_SIZES}
    for key, value in sizes.items():
        least = 0 if key == "type_vocab_size" else 1
        if type(value) is not int or not least <= value <= MAX_SIZES[key]:
            raise UserError(
                f"The config.json of {name} has {key} = {shown(repr(value))}. Allowed are integers from "
                f"{least} to {MAX_SIZES[key]:,}."
            )

    pad = config.pad_token_id
    if pad is not None and (type(pad) is not int or not 0 <= pad < sizes["vocab_size"]):
        raise UserError(
            f"The config.json of {name} has pad_token_id = {shown(repr(pad))}, which is not a token. "
            f"Allowed are integers from 0 to {sizes['vocab_size'] - 1:,}."
        )
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise UserError(
            f"The config.json of {name} has hidden_size = {sizes['hidden_size']}, which is not a "
            f"multiple of its {sizes['num_attention_heads']} heads. Fetch the model again."
        )
    return sizes


def _check_parameter_count(config: Any, sizes: dict[str, int], name: str, folder: Path) -> None:
    """Refuse a small file that asks for a large network, which would use up the memory."""
    if not folder.is_dir():
        return
    hidden = sizes["hidden_size"]
    per_layer = 4 * hidden * hidden + 2 * hidden * sizes["intermediate_size"]
    embedding_size = min(hidden, getattr(config, "embedding_size", hidden))
    embeddings = (sizes["vocab_size"] + sizes["max_position_embeddings"]) * embedding_size
    params = sizes["num_hidden_layers"] * per_layer + embeddings

    # A parameter takes at least one byte.
    file_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if params > file_bytes:
        raise UserError(
            f"The config.json of {name} asks for {params:,} parameters, but its weights have "
            f"{file_bytes:,} bytes. Fetch the model again."
        )
