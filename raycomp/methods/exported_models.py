"""Loading of exported models with raycomp's own classes: code in their directory is not executed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from raycomp.storage.files import read_json


def load_export(directory: Path) -> Any:
    """Return an exported model as a transformers model in evaluation mode.

    Args:
        directory: Directory that raycomp exported.

    Raises:
        UserError: config.json is damaged.
    """
    from transformers import AutoModelForSequenceClassification

    from raycomp.encoder.static_model import RaycompForSequenceClassification
    from raycomp.methods.adabert.cnn_model import RaycompCnnForSequenceClassification
    from raycomp.methods.bilstm_model import RaycompBilstmForSequenceClassification
    from raycomp.methods.token_mean_model import RaycompStaticForSequenceClassification

    # The installed classes, not the copies of their code in the directory: a run directory may come from
    # somebody else, and its code is not to be trusted.
    classes: dict[str, Any] = {
        "raycomp": RaycompForSequenceClassification,
        "raycomp_cnn": RaycompCnnForSequenceClassification,
        "raycomp_bilstm": RaycompBilstmForSequenceClassification,
        "raycomp_static": RaycompStaticForSequenceClassification,
    }
    model_type = read_json(directory / "config.json").get("model_type")
    model_class = classes.get(str(model_type), AutoModelForSequenceClassification)
    model = model_class.from_pretrained(str(directory), local_files_only=True).eval()  # nosec B615
    if model_type in classes:
        # save_pretrained then writes the files with the code of the model too, under these names.
        module = model_class.__module__.rpartition(".")[2]
        model.config.auto_map = {
            "AutoConfig": f"{module}.{type(model.config).__name__}",
            "AutoModelForSequenceClassification": f"{module}.{model_class.__name__}",
        }
        model.config._auto_class = "AutoConfig"

    return model


def load_export_tokenizer(directory: Path) -> Any:
    """Return the tokenizer of an exported model; code in the directory is not executed.

    Args:
        directory: Directory that raycomp exported.
    """
    from transformers import AutoTokenizer, PretrainedConfig

    with tempfile.TemporaryDirectory() as copy:
        # The model's config.json names code in its directory, and transformers would ask the user whether
        # to execute it, also for the tokenizer. A directory with the tokenizer only does not name code.
        for file in directory.glob("*.json"):
            if not file.name.startswith(("config", "certificate", "model")):
                shutil.copyfile(file, Path(copy) / file.name)
        tokenizer = AutoTokenizer.from_pretrained(  # nosec B615
            copy, config=PretrainedConfig(), local_files_only=True, trust_remote_code=False
        )

    tokenizer.name_or_path = str(directory)

    return tokenizer
