"""The registry of compression methods: one line per method.

A method is named in a job file (`run.methods`), and its settings are the section of the same name.
This module imports nothing of raycomp, which keeps reading a job file cheap. A method's module is
imported when a job names the method. Methods of other packages register an entry point in the group
`raycomp.methods`, whose value is the path of the `Method` class.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

ENTRY_POINT_GROUP = "raycomp.methods"

METHODS: dict[str, tuple[str, str]] = {
    "yoco": ("raycomp.methods.yoco.settings:YocoSettings", "raycomp.methods.yoco.method:Yoco"),
    "adabert": (
        "raycomp.methods.adabert.settings:AdabertSettings",
        "raycomp.methods.adabert.method:Adabert",
    ),
    "first_n": ("raycomp.methods.first_n:FirstNSettings", "raycomp.methods.first_n:FirstN"),
    "pkd": ("raycomp.methods.pkd:PkdSettings", "raycomp.methods.pkd:Pkd"),
    "uniform": ("raycomp.methods.uniform:UniformSettings", "raycomp.methods.uniform:Uniform"),
    "hat": ("raycomp.methods.hat:HatSettings", "raycomp.methods.hat:Hat"),
    "ofa": ("raycomp.methods.ofa:OfaSettings", "raycomp.methods.ofa:Ofa"),
    "sandwich": ("raycomp.methods.sandwich:SandwichSettings", "raycomp.methods.sandwich:Sandwich"),
    "dynabert": ("raycomp.methods.dynabert:DynabertSettings", "raycomp.methods.dynabert:Dynabert"),
    "theseus": ("raycomp.methods.theseus:TheseusSettings", "raycomp.methods.theseus:Theseus"),
    "minilm": ("raycomp.methods.minilm:MinilmSettings", "raycomp.methods.minilm:Minilm"),
    "tinybert": ("raycomp.methods.tinybert:TinybertSettings", "raycomp.methods.tinybert:Tinybert"),
    "distilbert": (
        "raycomp.methods.distilbert:DistilbertSettings",
        "raycomp.methods.distilbert:Distilbert",
    ),
    "bilstm": ("raycomp.methods.bilstm:BilstmSettings", "raycomp.methods.bilstm:Bilstm"),
    "cofi": ("raycomp.methods.cofi:CofiSettings", "raycomp.methods.cofi:Cofi"),
    "kwon": ("raycomp.methods.kwon:KwonSettings", "raycomp.methods.kwon:Kwon"),
    "magnitude": ("raycomp.methods.magnitude:MagnitudeSettings", "raycomp.methods.magnitude:Magnitude"),
    "static": ("raycomp.methods.static:StaticSettings", "raycomp.methods.static:Static"),
    "pd": ("raycomp.methods.pd:PdSettings", "raycomp.methods.pd:Pd"),
    "layerdrop": ("raycomp.methods.layerdrop:LayerdropSettings", "raycomp.methods.layerdrop:Layerdrop"),
}
"""Name of a method -> import paths of its settings class and of its `Method` class."""

SAMPLERS: dict[str, str] = {
    "eesng": "raycomp.methods.yoco.plan:build_sampler",
    "uniform": "raycomp.methods.uniform:build_sampler",
    "hat": "raycomp.methods.hat:build_sampler",
    "ofa": "raycomp.methods.ofa:build_sampler",
    "sandwich": "raycomp.methods.sandwich:build_sampler",
    "dynabert": "raycomp.methods.dynabert_stages:build_sampler",
}
"""Name of a sampler -> import path of the function (job, plan) that builds it."""


def method_names() -> list[str]:
    """Return the names of all methods: raycomp's own in the order above, then those of other packages."""
    return [*METHODS, *(name for name in sorted(external_methods()) if name not in METHODS)]


@functools.cache
def external_methods() -> dict[str, EntryPoint]:
    """Return the methods of other packages by name.

    Each call of `entry_points` reads a file of every installed package, which takes longer than the
    check of a job file. A process therefore does it once.
    """
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def load_settings(name: str) -> Any:
    """Return a method's settings class, a subclass of `raycomp.config.section.MethodSettings`.

    Raises:
        KeyError: No method has this name.
    """
    if name in METHODS:
        return import_object(METHODS[name][0])
    return load_method_class(name).settings


def load_method_class(name: str) -> Any:
    """Return a method's class, a subclass of `raycomp.methods.base.Method`.

    Raises:
        KeyError: No method has this name.
    """
    if name in METHODS:
        return import_object(METHODS[name][1])

    return external_methods()[name].load()


def load_sampler(name: str) -> Any:
    """Return the function of job and plan that builds a sampler.

    Args:
        name: Key of `SAMPLERS`, or for a method of another package the function's import path, such as
            "my_package.my_method:build_sampler".

    Raises:
        KeyError: The name is neither of both.
    """
    return import_object(name if ":" in name else SAMPLERS[name])


def load_training_task(method: str, task: str) -> Any:
    """Return the class of a training task, a subclass of `raycomp.methods.tasks.TrainingTask`.

    Args:
        method: Name of the method that trains; any name for the teacher.
        task: Name of the task; what follows a "." tells several trainings of a kind apart.
    """
    kind = task.partition(".")[0]
    if kind == "teacher":
        return import_object("raycomp.methods.teacher:TeacherTask")
    return load_method_class(method).tasks[kind]


def import_object(path: str) -> Any:
    """Return the object that "package.module:name" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
