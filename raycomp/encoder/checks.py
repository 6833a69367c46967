"""What is refused of a checkpoint before transformers reads it: another format, code, absurd sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raycomp.encoder.families import FAMILIES
from raycomp.errors import UserError, shown

MAX_BYTES = {"config.json": 2**20, "tokenizer_config.json": 2**24, "tokenizer.json": 2**28}
# Several times the largest encoder of these families: what lies above is no mistake of a digit.
MAX_SIZES = {
    "num_hidden_layers": 256, "num_attention_heads": 1024, "hidden_size": 32_768,
    "embedding_size": 32_768, "intermediate_size": 262_144, "vocab_size": 4_000_000,
    "max_position_embeddings": 262_144, "type_vocab_size": 1024, "num_labels": 10_000,
}  # fmt: skip


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder without configuration or without safetensors."""
    if not (folder / "config.json").exists():
        raise UserError(f"model folder {name} has no config.json")
    for file, limit in MAX_BYTES.items():
        if (folder / file).exists() and (folder / file).stat().st_size > limit:
            raise UserError(f"{folder / file} is larger than {limit >> 10:,} KiB; fetch the model again")
    given = json.loads((folder / "config.json").read_bytes())
    count = given.get("num_labels", 0) if isinstance(given, dict) else "no JSON object"
    if not isinstance(count, int) or count > MAX_SIZES["num_labels"]:
        raise UserError(f"the config.json of {name} is not usable: num_labels is {shown(repr(count))}")
    if (folder / "adapter_config.json").exists():
        raise UserError(f"model folder {name} holds an adapter; merge it into its model first")
    for index in folder.glob("*.safetensors.index.json"):
        for file in set(json.loads(index.read_bytes())["weight_map"].values()):
            if Path(file).name != file or Path(file).suffix != ".safetensors":
                raise UserError(f"{index} names {shown(repr(file))}, which is no file of its folder")
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        hint = f"; {pickled[0]} is a pickle and is not read" if pickled else ""
        raise UserError(f"model folder {name} has no .safetensors file{hint}")


def check_sizes(config: Any, name: str, folder: Path) -> None:
    """Refuse sizes that are none, and a small file that asks for a large network."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"{name} is of type {shown(repr(config.model_type))}; allowed: {', '.join(FAMILIES)}"
        )
    named = [str(getattr(config, key, "")) for key in ("_attn_implementation", "attn_implementation")]
    if any("/" in text for text in named):  # transformers would fetch and run it, without asking
        raise UserError(
            f"the config.json of {name} names an attention kernel of the Hub, which is code "
            f"({shown(', '.join(named))}); remove it there"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(f"the weights of {name} are quantized; give the model that they were made from")
    renamed = {"intermediate_size": "hidden_dim"} if config.model_type == "distilbert" else {}
    sizes = {key: getattr(config, renamed.get(key, key), 1) for key in MAX_SIZES}
    for key, value in sizes.items():
        least = 0 if key == "type_vocab_size" else 1
        if type(value) is not int or not least <= value <= MAX_SIZES[key]:
            raise UserError(
                f"the config.json of {name} has {key} = {shown(repr(value))}; allowed are whole numbers "
                f"from {least} to {MAX_SIZES[key]:,}"
            )
    pad = config.pad_token_id
    if pad is not None and (type(pad) is not int or not 0 <= pad < sizes["vocab_size"]):
        raise UserError(f"the config.json of {name} has pad_token_id = {shown(repr(pad))}, no token")
    hidden, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    if hidden % sizes["num_attention_heads"]:
        raise UserError(
            f"the config.json of {name} has hidden_size = {hidden}, no multiple of its "
            f"{sizes['num_attention_heads']} heads"
        )
    count = layers * (4 * hidden * hidden + 2 * hidden * sizes["intermediate_size"])
    count += (sizes["vocab_size"] + sizes["max_position_embeddings"]) * min(
        hidden, getattr(config, "embedding_size", hidden)
    )
    held = sum(p.stat().st_size for p in folder.glob("*.safetensors")) if folder.is_dir() else count
    if count > held:  # a parameter takes a byte at least
        raise UserError(
            f"the config.json of {name} asks for {count:,} parameters; its weights have {held:,} bytes"
        )
