"""Models for a device are measured before the choice is final; a model that fails tightens the search."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycomp.config.loader import parse_job
from raycomp.deployment.cpu import describe_machine
from raycomp.encoder.architecture import Architecture
from raycomp.errors import UserError
from raycomp.methods.base import Deployable
from raycomp.methods.context import RunContext
from raycomp.runtime.pipeline.device_certificates import (
    MAX_TIGHTENINGS,
    certify_budgets,
    list_verdicts,
)
from raycomp.search.setup import make_space
from tests.unit.invented_device import InventedBench, make_table

SPACE = {"depth": [1, 2, 3], "heads": [2, 4], "ffn": [32, 64]}


def make_context(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    budgets: list[dict[str, Any]],
    machine: dict[str, Any] | None = None,
) -> RunContext:
    data = copy.deepcopy(tiny_job)
    data |= {"space": SPACE, "budget": budgets}
    job = parse_job(data)
    context = RunContext(job, tmp_path / "run")
    context.run_dir.mkdir()
    space = make_space(job, context.shape)
    table = make_table(space, context.shape, machine=machine or describe_machine(1))
    tables = {budget.name: table.to_dict() for budget in job.budget if budget.is_for_device}
    context.layout.devices.profile.write_text(json.dumps(tables))
    return context


class Method:
    """Deploys the slowest network within each budget."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def compress(self, context: RunContext) -> list[Deployable]:
        self.asked.append([budget.name for budget in context.job.budget])
        return [self._deployable(context, budget) for budget in context.job.budget]

    def _deployable(self, context: RunContext, budget: Any) -> Deployable:
        limit = context.budget(budget)
        archs = [
            Architecture(d, (h,) * d, (k,) * d)
            for d in context.space.depth
            for h in context.space.heads
            for k in context.space.ffn
        ]
        met = [arch for arch in archs if limit.is_met_by(arch)]
        if not met:
            return Deployable(budget.name, budget.kind, limit.limit, None, reason="too small")
        arch = max(met, key=limit.cost)
        return Deployable(
            budget.name, budget.kind, limit.limit, lambda: pytest.fail("not built"),
            arch=arch.to_json(), arch_id=arch.id,
        )  # fmt: skip


def certifier(slower: Callable[[Architecture], float], **figures: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that measures files on a device that is slower than its profile said."""

    def certify(context: RunContext, deployable: Deployable) -> dict[str, Any]:
        arch = Architecture.from_json(str(deployable.arch))
        bench = InventedBench()
        time = bench.time(arch) * slower(arch)
        file = {
            "file": "onnx/model.onnx", "runtime": "onnxruntime", "precision": "fp32",
            "size_mb": bench.size(arch), "memory_mb": 50.0,
            "latencies": [{"p50_ms": time, "p95_ms": 1.2 * time}],
        }  # fmt: skip
        return {
            "machine": describe_machine(1), "files": [file], "limits": [], "passing_files": [],
            "notes": [], "arch_id": arch.id, "params": context.costs.cost("params", arch),
            "flops": deployable.flops, **figures,
        }  # fmt: skip

    return certify


def run(
    context: RunContext, slowdown: Callable[[Architecture], float]
) -> tuple[list[Deployable], list[list[str]], list[str]]:
    method = Method()
    said: list[str] = []
    deployables = certify_budgets(context, method.compress, certifier(slowdown), said.append)
    return deployables, method.asked, said


def test_a_model_that_passes_is_measured_once_and_has_its_measured_cost(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}])
    (edge,), asked, said = run(context, lambda arch: 0.99)
    assert (edge.verdict, asked, said) == ("PASS", [["edge"]], [])
    time = InventedBench().time(Architecture.from_json(str(edge.arch)))
    assert edge.cost == pytest.approx(0.99 * time)
    assert edge.certificate["verdict"] == "PASS"


def test_a_model_that_fails_tightens_the_bound_by_the_measured_ratio(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    budgets = [{"name": "edge", "latency_ms": 7}, {"name": "half", "encoder_params": "0.5x"}]
    context = make_context(tiny_job, tmp_path, budgets)
    first = Method().compress(context)[0]
    deployables, asked, said = run(context, lambda arch: 1.3)

    edge, half = deployables
    assert asked == [["edge", "half"], ["edge"]], "only the failed budget is searched again"
    assert edge.verdict == "PASS"
    assert edge.cost is not None
    assert edge.cost <= 7
    assert edge.arch != first.arch
    assert half.verdict is None
    corrections = json.loads(context.files.device_corrections.read_text())
    assert corrections["edge"]["factors"]["latency_ms"] == pytest.approx(1.3)
    assert "attempt 1 of 3" in said[0]


def test_a_share_of_the_full_network_s_time_is_judged_at_the_speed_of_the_profile(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": "0.6x"}])
    method = Method()
    # The machine is 1.3 times as slow as it was: so is the full network beside the file.
    certify = certifier(lambda arch: 1.3, slowdown=1.3)
    (edge,) = certify_budgets(context, method.compress, certify, print)
    assert (edge.verdict, method.asked) == ("PASS", [["edge"]])
    time = InventedBench().time(Architecture.from_json(str(edge.arch)))
    assert edge.cost == pytest.approx(time)
    assert edge.certificate["slowdown"] == 1.3


def test_a_second_failure_replaces_the_correction_of_the_first(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}])
    ratios = iter([1.1, 2.0, 0.5])
    (edge,), asked, _ = run(context, lambda arch: next(ratios))
    assert len(asked) == 3
    assert edge.verdict == "PASS"
    corrections = json.loads(context.files.device_corrections.read_text())
    assert corrections["edge"]["factors"]["latency_ms"] == pytest.approx(2.0)


def test_a_method_without_budgets_is_left_as_it_is(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}])
    model = Deployable("k1-beta1", "beta", 1.0, lambda: pytest.fail("not built"))
    assert certify_budgets(context, lambda narrowed: [model], certifier(lambda arch: 1), print) == [model]


def test_the_outcomes_of_a_failed_budget_are_searched_again_and_no_others(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    budgets = [{"name": "edge", "latency_ms": 7}, {"name": "edge2", "latency_ms": 100}]
    context = make_context(tiny_job, tmp_path, budgets)
    for name in ("edge", "edge2"):
        path = context.files.search_outcome(name, "rated", 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    run(context, lambda arch: 1.3)
    names = [path.name for path in context.files.search_outcomes()]
    assert names == ["edge2.rated.0.json"]


@pytest.mark.parametrize(
    ("factors", "measurements"),
    [
        ((1.2, 1.05, 1.3, 1.1), MAX_TIGHTENINGS + 1),
        # After the second one, no network of the space is predicted to be fast enough.
        ((1.8, 1.6), 2),
    ],
)
def test_after_three_corrections_or_without_a_network_the_nearest_model_is_named(
    tiny_job: dict[str, Any], tmp_path: Path, factors: tuple[float, ...], measurements: int
) -> None:
    budgets: list[dict[str, Any]] = [
        {"name": "edge", "latency_ms": 7},
        {"name": "half", "encoder_params": "0.5x"},
    ]
    context = make_context(tiny_job, tmp_path, budgets)
    ratios = iter(factors)
    measured: list[tuple[float, str]] = []

    def slowdown(arch: Architecture) -> float:
        # The faster a network is predicted, the slower it proves: no correction is ever enough.
        time = 7 * next(ratios)
        measured.append((time, arch.to_json()))
        return time / InventedBench().time(arch)

    (edge, half), _, _ = run(context, slowdown)
    assert (edge.build, edge.arch, edge.verdict) == (None, None, "FAIL")
    assert len(measured) == measurements
    time, arch = min(measured)
    assert f"no model met latency_ms 7 in {measurements} measurements. The nearest one" in edge.reason
    assert f"The nearest one has latency_ms {time:,.4g}: {arch}" in edge.reason
    assert half.build is not None, "the other budget is deployed"

    # A run that was interrupted here, with the corrections on disk, says the same.
    if measurements == 2:
        (edge, _), asked, _ = run(RunContext(context.job, context.run_dir), slowdown)
        assert (edge.verdict, len(asked)) == ("FAIL", 1)


def test_a_limit_on_the_95th_percentile_is_held_to_it(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    budgets = [{"name": "edge", "latency_ms": 7, "percentile": 95}]
    context = make_context(tiny_job, tmp_path, budgets)
    (edge,), asked, _ = run(context, lambda arch: 1.0)
    assert len(asked) == 2, "the profile has no noise, and the 95th percentile is 1.2 times the median"
    time = InventedBench().time(Architecture.from_json(str(edge.arch)))
    assert edge.cost == pytest.approx(1.2 * time)
    assert edge.verdict == "PASS"


def test_every_limit_of_a_budget_is_measured(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    limits = {"latency_ms": 100, "memory_mb": 49, "size_mb": 100}
    context = make_context(tiny_job, tmp_path, [{"name": "edge", **limits}])
    (edge,), _, _ = run(context, lambda arch: 1.0)
    assert edge.build is None, "each file needs 50 MB"


def test_a_model_for_another_cpu_is_deployed_with_its_prediction(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    machine = {"model": "a phone", "instruction_sets": ["asimddp"]}
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}], machine)
    (edge,), asked, _ = run(context, lambda arch: 50.0)
    assert (edge.verdict, len(asked)) == ("NOT CERTIFIED", 1)
    time = InventedBench().time(Architecture.from_json(str(edge.arch)))
    assert edge.cost == pytest.approx(time)
    assert "latency_ms is predicted from the profile of a phone" in edge.certificate["notes"][-1]


def with_larger_files(ratio: float, **figures: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that measures files of `ratio` times their size, on a slow machine."""
    inner = certifier(lambda arch: 50.0, **figures)

    def certify(context: RunContext, deployable: Deployable) -> dict[str, Any]:
        certificate = inner(context, deployable)
        certificate["files"][0]["size_mb"] *= ratio
        return certificate

    return certify


PHONE = {"model": "a phone", "instruction_sets": ["asimddp"]}


def test_a_file_that_is_too_large_fails_on_every_cpu(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """INT8 was refused on the machine of the run: the file that is shipped is larger than predicted."""
    budgets = [{"name": "edge", "latency_ms": 100, "size_mb": 5}]
    context = make_context(tiny_job, tmp_path, budgets, PHONE)
    method = Method()
    said: list[str] = []
    (edge,) = certify_budgets(context, method.compress, with_larger_files(1.2), said.append)
    assert (edge.verdict, len(method.asked)) == ("NOT CERTIFIED", 2)
    assert "the measured file has size_mb" in said[0], "times of this machine are not compared"
    corrections = json.loads(context.files.device_corrections.read_text())
    assert list(corrections["edge"]["factors"]) == ["size_mb"]
    arch = Architecture.from_json(str(edge.arch))
    bench = InventedBench()
    shares = [bench.time(arch) / 100, 1.2 * bench.size(arch) / 5]
    assert edge.cost == pytest.approx(max(shares)), "the size is the measured one"


def test_a_limit_on_the_size_only_is_certified_on_every_cpu(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "size_mb": 5}], PHONE)
    (edge,) = certify_budgets(context, Method().compress, with_larger_files(1.0), print)
    assert edge.verdict == "PASS"


def test_a_machine_with_fewer_cpus_than_threads_is_not_the_device(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    budgets = [{"name": "edge", "latency_ms": 7, "threads": 8}]
    machine = {**describe_machine(8), "cpus": 8}
    context = make_context(tiny_job, tmp_path, budgets, machine)
    table = context.device.tables["edge"]
    table = replace(table, conditions=replace(table.conditions, threads=8))
    context.layout.devices.profile.write_text(json.dumps({"edge": table.to_dict()}))
    context.forget_device()

    certify = certifier(lambda arch: 50.0, machine={**machine, "cpus": 2})
    (edge,) = certify_budgets(context, Method().compress, certify, print)
    assert edge.verdict == "NOT CERTIFIED"
    assert "The machine of the run has 2 CPUs for 8 threads." in edge.certificate["notes"][-1]

    certify = certifier(lambda arch: 0.9, machine=machine)
    (edge,) = certify_budgets(context, Method().compress, certify, print)
    assert edge.verdict == "PASS"


def test_a_certificate_of_another_cpu_than_the_device_s_is_not_a_pass(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    """The run was interrupted, and resumes on the device: the certificate is of the first machine."""
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}])
    elsewhere = {**describe_machine(1), "model": "another CPU"}
    certify = certifier(lambda arch: 0.9, machine=elsewhere)
    (edge,) = certify_budgets(context, Method().compress, certify, print)
    assert edge.verdict == "NOT CERTIFIED"


def test_a_budget_for_int8_says_why_its_file_is_in_fp32(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}])
    table = context.device.tables["edge"]
    conditions = replace(table.conditions, runtime="onnxruntime-int8")
    tables = {"edge": replace(table, conditions=conditions).to_dict()}
    context.layout.devices.profile.write_text(json.dumps(tables))
    context.forget_device()

    said: list[str] = []
    refusal = "INT8 (static) is refused: it takes 1.20 times as long as fp32 at batch 1."
    certify = certifier(lambda arch: 50.0, notes=["Other programs use this machine.", refusal])
    (edge,) = certify_budgets(context, Method().compress, certify, said.append)
    assert f"This is the file in fp32. {refusal} The search continues" in said[0]
    assert edge.build is None
    if edge.verdict == "FAIL":
        assert refusal in edge.reason

    # The file in fp32 can meet the limit.
    context.files.device_corrections.unlink()
    certify = certifier(lambda arch: 0.9, notes=[refusal])
    (edge,) = certify_budgets(context, Method().compress, certify, said.append)
    assert list_verdicts([edge])[0].endswith(f"of 7. This is the file in fp32. {refusal}")


def test_a_budget_for_openvino_reads_the_file_of_openvino(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}])
    table = context.device.tables["edge"]
    conditions = replace(table.conditions, runtime="openvino-int8")
    tables = {"edge": replace(table, conditions=conditions).to_dict()}
    context.layout.devices.profile.write_text(json.dumps(tables))
    context.forget_device()

    def certify(context: RunContext, deployable: Deployable) -> dict[str, Any]:
        certificate = certifier(lambda arch: 50.0)(context, deployable)
        (slow,) = certificate["files"]
        files = [
            {**slow, "file": "openvino.xml", "runtime": "openvino", "latencies": [{"p50_ms": 6.5}]},
            {**slow, "runtime": "openvino", "precision": "int8", "latencies": [{"p50_ms": 2.5}]},
        ]
        return {**certificate, "files": [slow, *files]}

    (edge,) = certify_budgets(context, Method().compress, certify, print)
    assert (edge.verdict, edge.cost) == ("PASS", 2.5)


def test_a_model_without_a_file_for_its_runtime_is_one_message(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path, [{"name": "edge", "latency_ms": 7}])

    def certify(context: RunContext, deployable: Deployable) -> dict[str, Any]:
        notes = ["torch cannot export this model."]
        return {"files": [], "limits": [], "passing_files": [], "notes": notes, "arch_id": "x"}

    with pytest.raises(UserError, match="lacks a file for onnxruntime: torch cannot export"):
        certify_budgets(context, Method().compress, certify, print)
