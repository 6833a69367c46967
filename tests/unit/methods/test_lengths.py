"""Equal lengths of training: what `run.equal_compute` and `run.equal_epochs` scale, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycomp.config.lengths import apply_lengths
from raycomp.config.loader import parse_job
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.methods.lengths import describe_lengths, find_lengths, scale_steps
from raycomp.methods.registry import METHODS, load_method_class
from raycomp.storage.files import write_json
from raycomp.storage.tables import read_table
from tests.unit.methods.golden import compress, make_context

FIXED = {"kwon", "static"}
"""Methods without a setting to scale: pruning without training, and a linear head."""


def equal(tiny_job: dict[str, Any], **mode: float) -> dict[str, Any]:
    return {**tiny_job, "run": {**tiny_job["run"], **mode}}


@pytest.mark.parametrize("method", sorted(set(METHODS) - FIXED))
def test_the_planned_training_of_every_method_meets_the_given_passes(
    method: str, tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    tiny_job["heal"] = {"steps": 2}
    # AdaBERT's default CNN is larger than the tiny encoder.
    settings = {"width": 8, "embedding": 4, "layers": 2} if method == "adabert" else {}
    job = equal(tiny_job, equal_compute=40.0)
    context = make_context(job, tmp_path, method, tuned_model, **settings)
    lengths = find_lengths(context)
    assert set(lengths) == set(load_method_class(method)().length_keys(context.job))
    context.job = apply_lengths(context.job, lengths)
    planned = load_method_class(method)().plan(context)["flops"] / context.epoch_flops()
    # Steps are whole numbers.
    assert planned == pytest.approx(40.0, rel=0.07)


def test_lengths_below_one_step_can_be_raised(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """Plans of 0.01 and 0.02 epochs are equal: each has one step."""
    context = make_context(equal(tiny_job, equal_compute=20.0), tmp_path, "hat", tuned_model, epochs=0.01)
    context.job = apply_lengths(context.job, find_lengths(context))
    planned = load_method_class("hat")().plan(context)["flops"] / context.epoch_flops()
    assert planned == pytest.approx(20.0, rel=0.05)


SEARCH = {"population": 4, "parents": 2, "mutations": 1, "generations": 1}


@pytest.mark.parametrize(
    ("method", "settings"),
    [("hat", SEARCH), ("pkd", {}), ("layerdrop", {}), ("dynabert", {}), ("theseus", {}), ("yoco", {})],
)
def test_a_run_trains_for_about_the_passes_that_it_planned(
    method: str, settings: dict[str, Any], tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """The FLOPs that the steps count are those of the plan, on which the length depends."""
    tiny_job["search"] = {"evaluations": 4, "batch": 2}
    # A smaller batch: more steps, over which the random draws even out.
    tiny_job["train"] = {**tiny_job["train"], "batch_size": 8, "sampler_sync_steps": 1}
    job = equal(tiny_job, equal_compute=3.0)
    context = make_context(job, tmp_path, method, tuned_model, **settings)
    context.job = apply_lengths(context.job, find_lengths(context))
    compress(context)
    steps = read_table(context.run_dir, "steps")
    assert steps["flops"].sum() / context.epoch_flops() == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize("method", ["ofa", "cofi", "minilm", "yoco", "adabert", "dynabert"])
def test_equal_epochs_counts_all_phases_of_a_network(
    method: str, tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    context = make_context(equal(tiny_job, equal_epochs=6.0), tmp_path, method, tuned_model)
    context.job = apply_lengths(context.job, find_lengths(context))
    epochs = load_method_class(method)().training_epochs(context)
    # Steps of yoco's phases are whole numbers.
    assert epochs == pytest.approx(6.0, abs=0.3)


def test_scoring_is_no_part_of_equal_compute(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    """AdaBERT trains as long with many scored candidates as with few."""
    plans = []
    for number, candidates in enumerate((1, 50)):
        settings = {"candidates": candidates, "finalists": 1}
        context = make_context(tiny_job, tmp_path / str(number), "adabert", tuned_model, **settings)
        plans.append(load_method_class("adabert")().plan(context))
    few, many = plans
    assert many["flops"] == few["flops"]
    assert many["scoring_flops"] == pytest.approx(few["scoring_flops"] * 101 / 3)


def test_methods_without_a_length_keep_it_and_the_user_reads_so(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    context = make_context(equal(tiny_job, equal_compute=5.0), tmp_path, "kwon", tuned_model)
    assert find_lengths(context) == {}
    lines = describe_lengths(
        {"pkd.epochs": 2.5, "pd.x": 0.0, "train.steps": [1, 2]}, ["yoco", "pkd", "kwon"]
    )
    assert lines == [
        "Length: pkd.epochs = 2.5",
        "Length: train.steps = [1, 2]",
        "Length: kwon unchanged, without a setting to scale",
    ]


def test_a_resumed_run_has_the_lengths_that_it_began_with(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    context = make_context(equal(tiny_job, equal_epochs=7.0), tmp_path, "pkd", tuned_model)
    write_json(context.layout.lengths, {"pkd.epochs": 1.5})
    resumed = RunContext(context.job, context.run_dir, method="pkd")
    assert resumed.job.pkd.epochs == 1.5  # type: ignore[attr-defined]


def test_more_than_a_setting_allows_is_one_message(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    context = make_context(equal(tiny_job, equal_epochs=9000.0), tmp_path, "pkd", tuned_model)
    with pytest.raises(UserError, match=r"equal_epochs = 9000 makes pkd .*pkd\.epochs.*leave pkd out"):
        find_lengths(context)


def test_fewer_passes_than_healing_takes_is_one_message(
    tiny_job: dict[str, Any], tuned_model: Path, tmp_path: Path
) -> None:
    tiny_job["heal"] = {"steps": 500}
    context = make_context(equal(tiny_job, equal_compute=0.5), tmp_path, "hat", tuned_model)
    with pytest.raises(UserError, match=r"too few\. hat needs at least .* lower heal\.steps"):
        find_lengths(context)


def test_one_mode_at_a_time_and_none_leaves_identities(tiny_job: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Remove one of them"):
        parse_job(equal(tiny_job, equal_compute=1.0, equal_epochs=1.0))
    assert parse_job(equal(tiny_job, equal_compute=1.0)).identity() != parse_job(tiny_job).identity()


def test_steps_of_phases_are_rounded_together() -> None:
    assert scale_steps([1, 3, 3, 3], 0.5) == [0, 2, 2, 1]
    assert sum(scale_steps([1] * 9, 0.5)) == 4  # type: ignore[arg-type]
    assert scale_steps(3, 0.01) == 1
