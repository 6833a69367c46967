"""Deployed models in the plain form: ordinary classes of transformers, which load without code."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from raycomp.encoder.layers import EncoderConfig
from raycomp.encoder.plain import PLAIN_LAYER_PREFIXES, explain_not_plain, make_plain
from raycomp.encoder.static_model import RaycompForSequenceClassification
from raycomp.methods.base import Deployable, Forward
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.user_units import in_user_units


def explain_no_plain_form(network: PreTrainedModel) -> str | None:
    """Return why a network lacks a plain form, or None where it has one."""
    if not isinstance(network, RaycompForSequenceClassification):
        return "transformers lacks a class for this kind of model"
    return explain_not_plain(EncoderConfig.from_config(network.config))


def with_model(deployable: Deployable, model: PreTrainedModel, reference: Forward) -> Deployable:
    """Return a deployable that builds a given model.

    Args:
        deployable: The deployable.
        model: Its network, or the plain form of it.
        reference: Forward function that the model must equal.
    """

    def build() -> tuple[PreTrainedModel, Forward]:
        return model, reference

    names = [name for name, _ in model.named_parameters()]
    prefixes = [p for p in PLAIN_LAYER_PREFIXES if any(p in name for name in names)]
    # Parameters of the layers are counted by their names, which a plain form changes.
    return replace(deployable, build=build, encoder_prefix=[*prefixes, deployable.encoder_prefix][0])


def in_plain_form(context: RunContext, deployable: Deployable) -> Deployable:
    """Return the plain form of a deployable, if the job asks for plain networks and it has one.

    Args:
        context: The run's context.
        deployable: A deployable; one without a model stays as it is.
    """
    if not context.job.space.plain or deployable.build is None:
        return deployable
    deployable = in_user_units(context, deployable)
    assert deployable.build is not None  # nosec B101 - it has a model
    # A method of other networks, such as a CNN, keeps its own form.
    network, reference = deployable.build()
    if explain_no_plain_form(network) is not None:
        return deployable
    return with_model(deployable, make_plain(network), reference)
