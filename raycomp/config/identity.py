"""The identity of a run, and the keys of its artifacts: hashes of the settings that matter for each."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from raycomp.config.budget import DEVICE_DEFAULTS, width_step
from raycomp.config.content_names import drop_directory
from raycomp.config.renames import original_names
from raycomp.methods.registry import load_settings, method_names

if TYPE_CHECKING:
    from raycomp.config.job import Job

NON_IDENTITY_KEYS = {
    "task": ("allow_shared_rows",),
    "train": (
        "cpus",
        "gpus",
        "checkpoint_seconds",
        "barrier_seconds",
        "max_failures",
        "workers",
        "min_workers",
    ),
    "search": ("evaluators", "gpus", "max_tokens"),
}
"""Settings that do not change the results of a job, such as where and how fast it runs."""

LATER_DEFAULTS: dict[str, dict[str, Any]] = {
    "run": {"equal_compute": None, "equal_epochs": None},
    "task": {"positive": None, "validation_half": None},
    "heal": {"int8_share": 0.0, "rounds": 1, "target_retention": 0.97},
    "search": {"smoothing": 0.0, "min_use": 0.0, "choose_by": "score"},
    "space": {"plain": False},
    "teacher": {"classifier_learning_rate": None},
    "train": {"budget_share": 0.0, "cost_share": 0.0},
}
"""Settings that joined later, with the value that earlier jobs had. Identities leave out this value."""


def hash_job(job: Job) -> str:
    """Return the identity of a run: 8 hex digits of the hash of all settings that can change a result.

    The hash leaves out the sections that the job does not use. A new method or a new setting therefore
    leaves the identities of existing runs as they are.
    """
    settings = _settings_that_matter(job)
    del settings["run"]["tracking"]
    for section, key in (("model", "name"), ("task", "train"), ("task", "validation")):
        settings[section][key] = drop_directory(settings[section][key])

    # Sections that no method of the job reads.
    schemas = [load_settings(name) for name in job.run.methods]
    for section in ("augment", "heal"):
        if not any(job.settings(schema).reads(section) for schema in schemas):
            del settings[section]
    for name in set(settings) & set(method_names()) - set(job.run.methods):
        del settings[name]
    if not job.finetune.epochs:
        del settings["finetune"]
    # Without budgets nothing is searched. The section then counts with the values of earlier versions.
    if not any(schema.needs_budget for schema in schemas):
        settings["search"] |= {"searchers": ["sng"]}
        for key in LATER_DEFAULTS["search"]:
            settings["search"].pop(key, None)
    # Runs without healing have the identity that they had before healing joined.
    if not job.heal.steps:
        settings.pop("heal", None)

    # Settings that joined later, where they have the value that earlier runs had.
    for schema in schemas:
        for key, value in job.settings(schema).identity_values().items():
            settings[schema.method][key] = value
        for key, value in schema.identity_defaults.items():
            if settings[schema.method][key] == value:
                del settings[schema.method][key]

    text = json.dumps(original_names(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def artifact_keys(job: Job) -> dict[str, str]:
    """Return the key of each artifact that runs may share: teacher, supernet, distillation_data.

    Two runs have the same key if all settings that the artifact depends on are equal.
    """
    settings = original_names(_settings_that_matter(job))
    shared = {
        "seed": settings["run"]["seed"],
        "precision": settings["train"]["precision"],
        "task": settings["task"],
        "model": settings["model"],
        "teacher": settings["teacher"],
    }

    keys = {"teacher": _hash(shared)}
    if "yoco" in job.run.methods:
        supernet = {
            "length": settings["search"]["flops_length"],
            "space": settings["space"],
            "train": settings["train"],
        }
        # Only such a super-network depends on the budgets.
        if job.train.budget_share:
            supernet["budget"] = settings["budget"]
        # Its length then depends on all that the method costs.
        if job.run.equal_compute is not None or job.run.equal_epochs is not None:
            lengths = (job.run.equal_compute, job.run.equal_epochs)
            supernet |= {"lengths": lengths, "budget": settings["budget"], "heal": settings["heal"]}
        # The choices that [space] leaves open depend on it.
        if (step := width_step(job.budget)) > 1:
            supernet["width_step"] = step
        keys["supernet"] = _hash(shared | supernet)
    if "adabert" in job.run.methods:
        keys["distillation_data"] = _hash(shared | {"augment": settings["augment"]})
    return keys


def _settings_that_matter(job: Job) -> dict[str, Any]:
    """Return the settings of a job without NON_IDENTITY_KEYS."""
    settings: dict[str, Any] = job.model_dump(mode="json")
    for section, keys in NON_IDENTITY_KEYS.items():
        for key in keys:
            del settings[section][key]
    for section, defaults in LATER_DEFAULTS.items():
        for key, value in defaults.items():
            if settings[section][key] == value:
                del settings[section][key]
    # A word table without choices is that of earlier versions; its coverage does not matter.
    if not job.embeddings.is_searched:
        del settings["embeddings"]
    # It marks a deployed model, and changes none.
    for budget in settings["budget"]:
        del budget["min_retention"]
        for key, value in DEVICE_DEFAULTS.items():
            if budget[key] == value:
                del budget[key]
    return settings


def _hash(settings: dict[str, Any]) -> str:
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
