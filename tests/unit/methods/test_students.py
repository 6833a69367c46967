"""First n layers, BERT-PKD and uniform sampling: what makes each method that method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycomp.config.loader import parse_job, parse_stored
from raycomp.encoder.architecture import Architecture
from raycomp.encoder.cost import EncoderShape
from raycomp.encoder.interface import ElasticOutput
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.first_n import FirstN
from raycomp.methods.pkd import Pkd, PkdSettings
from raycomp.methods.uniform import UniformSampler
from raycomp.search.space import SearchSpace
from raycomp.storage.tensors import save_tensors
from raycomp.training.hints import Hidden, Labels, Logits
from tests.unit.training.test_hints import STUDENT, TEACHER, one_row, states

MINILM = EncoderShape(
    hidden_size=384, embedding_size=384, head_size=32, layer_heads=(12,) * 6, layer_ffn=(1536,) * 6,
    vocab_size=30522, max_position_embeddings=512, type_vocab_size=2, num_labels=2,
)  # fmt: skip


def context_of(tiny_job: dict[str, Any], folder: Path, **changes: Any) -> RunContext:
    job = {**tiny_job, **changes}
    return RunContext(parse_job(job), folder, method=job["run"]["methods"][0])


@pytest.mark.parametrize(("share", "depth"), [("0.5x", 3), ("0.75x", 4), ("0.17x", 1), ("1x", 6)])
def test_a_student_has_the_most_whole_layers_that_the_budget_allows(
    share: str, depth: int, tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """Golden values of a MiniLM-L6: .5x of the encoder is exactly three layers, .75x holds four."""
    budget = [{"name": "b", "encoder_params": share}]
    space = {"depth": [6], "heads": [12], "ffn": [1536]}
    context = context_of(tiny_job, tmp_path, run={"methods": ["first_n"]}, budget=budget, space=space)
    type(context).shape.fget.__class__  # noqa: B018 - shape is a property, replaced below
    context.__class__ = type("Fixed", (RunContext,), {"shape": MINILM})
    arch = FirstN().architecture(context, context.job.budget[0])
    assert arch == Architecture(depth, (12,) * depth, (1536,) * depth)


def test_below_one_layer_there_is_no_student_and_the_message_names_the_least(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    budget = [{"name": "tiny", "encoder_params": "0.1x"}]
    context = context_of(tiny_job, tmp_path, run={"methods": ["pkd"]}, budget=budget)
    assert Pkd().architecture(context, context.job.budget[0]) is None
    least = Pkd().least_cost(context, "encoder_params")
    assert f"Nearest feasible limit: {least:,.0f}" in Pkd().explain_infeasible(
        context, context.job.budget[0]
    )


def test_pkd_without_its_terms_is_fine_tuning(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """BASELINES: with alpha = 0 and beta = 0 it is exactly first-n fine-tuning."""
    run = {"run": {"methods": ["pkd"]}}
    plain = context_of(tiny_job, tmp_path, **run, pkd={"alpha": 0.0, "beta": 0.0})
    assert Pkd().objective(plain).terms == ((1.0, Labels()),)
    full = Pkd().objective(context_of(tiny_job, tmp_path, **run, pkd={"map": "last", "alpha": 0.2}))
    weights = [weight for weight, _ in full.terms]
    assert weights == pytest.approx([0.8, 0.2, 100.0])
    assert full.terms[1][1] == Logits(temperature=10.0, divergence="kl")
    patient = full.terms[2][1]
    assert isinstance(patient, Hidden)
    assert (patient.map, patient.on, patient.normalise) == ("last", "cls", True)


def test_the_published_beta_belongs_to_the_mean_of_the_released_code(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """Two layers of width 2 with a squared distance of .40 each: mean .20, sum .80."""
    far = [9.0, -9.0]
    own = ElasticOutput(STUDENT.logits, states([far, far], *[[[3.0, 4.0], far]] * 2, [far, far]))
    own = replace(own, layers=(0, 1, 2))
    target = ElasticOutput(TEACHER.logits, states([far, far], *[[[0.0, 5.0], far]] * 2, [far, far]))

    for changes, expected in (({}, 20.0), ({"patience": "sum"}, 80.0)):
        context = context_of(tiny_job, tmp_path, run={"methods": ["pkd"]}, pkd=changes)
        weight, patient = Pkd().objective(context).terms[2]
        assert weight * float(patient.loss(own, target, one_row())) == pytest.approx(expected)


def test_pkd_has_the_forms_of_the_released_code(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    run = {"run": {"methods": ["pkd"]}}
    released = context_of(tiny_job, tmp_path, **run, pkd={"normalise": False, "per_class": True})
    (_, _), (_, predictions), (_, patient) = Pkd().objective(released).terms
    assert isinstance(patient, Hidden)
    assert not patient.normalise
    assert float(predictions.loss(STUDENT, TEACHER, one_row())) == pytest.approx(0.2488, abs=1e-3)
    # The defaults are those of earlier runs.
    plain = parse_job({**tiny_job, **run})
    assert plain.identity() == parse_job({**tiny_job, **run, "pkd": {"normalise": True}}).identity()
    assert plain.identity() != released.job.identity()


def test_a_stored_run_of_pkd_from_before_the_mean_has_the_sum(tiny_job: dict[str, Any]) -> None:
    tiny_job["run"]["methods"] = ["pkd"]
    job = parse_job(tiny_job)
    old = job.model_dump(mode="json")
    del old["pkd"]["patience"]
    stored = parse_stored(old)
    assert stored.settings(PkdSettings).patience == "sum"
    assert stored.identity() == parse_job({**tiny_job, "pkd": {"patience": "sum"}}).identity()
    assert stored.identity() != job.identity()


def test_a_student_starts_with_the_teachers_layers(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    tiny_job["model"]["name"] = str(tuned_model)
    context = context_of(tiny_job, tmp_path / "r", run={"methods": ["first_n"]})
    context.record_facts()
    teacher = context.network().state_dict()
    save_tensors(context.layout.teacher_network, teacher)
    arch = FirstN().architecture(context, context.job.budget[0])
    assert arch is not None
    weights = FirstN().start_weights(context, arch)
    assert {key for key in weights if key.startswith("layers.")} == {
        key for key in teacher if key.startswith("layers.") and int(key.split(".")[1]) < arch.depth
    }
    assert all(torch.equal(tensor, teacher[key]) for key, tensor in weights.items())


def test_uniform_samples_are_a_function_of_seed_and_step() -> None:
    space = SearchSpace(3, (1, 2, 3), (1, 2, 4), (16, 32))
    one, two = UniformSampler(space, 1, 7), UniformSampler(space, 1, 7)
    order = np.random.default_rng(0).permutation(50)
    drawn = {int(step): one.ask(int(step)) for step in order}
    for step in range(50):
        two.tell(step, [float(step)])
        assert two.ask(step) == drawn[step]
    assert UniformSampler(space, 1, 8).ask(0) != one.ask(0) or UniformSampler(space, 1, 8).ask(
        1
    ) != one.ask(1)


def test_uniform_samples_are_uniform_per_variable() -> None:
    """Each depth has the same share; a draw that is uniform over architectures would prefer depth 3."""
    space = SearchSpace(3, (1, 2, 3), (1, 2), (16, 32))
    sampler = UniformSampler(space, 1, 0)
    depths = [sampler.ask(step)[0].depth for step in range(3000)]
    shares = [depths.count(depth) / 3000 for depth in (1, 2, 3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)


def test_an_unknown_method_is_one_message() -> None:
    with pytest.raises(UserError, match="method 'distil' is unknown"):
        parse_job({"task": {"name": "demo/polarity"}, "run": {"methods": ["distil"]}})
