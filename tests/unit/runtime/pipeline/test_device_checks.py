"""What a job with budgets for devices would fail on later is said before anything is spent."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from raycomp.cli.profile import profile
from raycomp.config.loader import parse_job
from raycomp.deployment.network_files import NetworkFiles
from raycomp.deployment.profile import measure_table
from raycomp.encoder.architecture import FULL_TABLE
from raycomp.encoder.device_table import DeviceTable, describe_encoder
from raycomp.errors import UserError
from raycomp.methods.context import RunContext
from raycomp.runtime.cluster.progress import Progress
from raycomp.runtime.pipeline import device_checks
from raycomp.runtime.pipeline.device_profiles import (
    ProfileTask,
    Update,
    plan_profiles,
    profile_job,
    record_profiles,
)
from raycomp.runtime.pipeline.plan import make_plan
from raycomp.runtime.pipeline.preflight import check, check_budgets
from raycomp.search.setup import make_space
from tests.unit.invented_device import InventedBench, make_table

SPACE = {"depth": [1, 2, 3], "heads": [2, 4], "ffn": [32, 64]}


def make_context(
    tiny_job: dict[str, Any], run_dir: Path, *budgets: dict[str, Any], **sections: Any
) -> RunContext:
    data = copy.deepcopy(tiny_job)
    data |= {"space": SPACE, "budget": [{"name": f"b{i}", **b} for i, b in enumerate(budgets)]}
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values}
    return RunContext(parse_job(data), run_dir)


@pytest.mark.parametrize(
    ("budget", "sections", "message"),
    [
        ({"latency_ms": 5}, {"run": {"methods": ["pkd"]}}, "limit latency_ms = 5, which method pkd"),
        (
            {"params": "1M", "flops": "0.9x"},
            {"run": {"methods": ["first_n"]}},
            "limits params = 1M, flops",
        ),
        ({"latency_ms": 5}, {"train": {"budget_share": 0.2}}, "Set train.budget_share = 0"),
        ({"latency_ms": 5, "length": 41}, {}, "measured with 41 tokens.*at most 40"),
        ({"latency_ms": 5, "threads": 1000}, {}, "threads = 1000, and this machine has"),
    ],
)
def test_a_budget_that_cannot_be_kept_or_measured_is_one_message(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    budget: dict[str, Any],
    sections: dict[str, Any],
    message: str,
) -> None:
    context = make_context(tiny_job, tmp_path / "run", budget, **sections)
    with pytest.raises(UserError, match=message):
        check(context)


def test_a_runtime_that_is_not_installed_is_named(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_checks, "missing_onnx_packages", lambda: ["onnxruntime"])
    context = make_context(tiny_job, tmp_path / "run", {"latency_ms": 5})
    with pytest.raises(UserError, match=r"needs the package onnxruntime.*pip install 'raycomp\[onnx\]'"):
        check(context)
    check(make_context(tiny_job, tmp_path / "run", {"latency_ms": 5, "runtime": "torch"}))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"latency_ms": 5, "length": 41}, "measured with 41 tokens.*at most 40"),
        ({"latency_ms": 5, "threads": 1000}, "threads = 1000, and this machine has"),
        ({"memory_mb": 5, "runtime": "torch"}, "limits memory_mb, which only Linux reports"),
        ({"latency_ms": 5}, "file has at most 0 MB, and that of the teacher would have 0 MB in fp32"),
        ({"latency_ms": 5, "node": "edge"}, "needs the package onnxruntime"),
        ({"latency_ms": 5, "threads": 1000, "profile": "edge.json"}, "threads = 1000"),
    ],
)
def test_a_device_is_checked_before_a_profile_writes_networks(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget: dict[str, Any],
    message: str,
) -> None:
    """The machine of `raycomp profile` is the device, whatever node or profile the budget names."""
    monkeypatch.setattr(device_checks, "missing_onnx_packages", lambda: ["onnxruntime"])
    monkeypatch.setattr(device_checks, "STATUS", tmp_path / "none")
    monkeypatch.setattr(device_checks, "MAX_ONNX_MB", 0.001)
    context = make_context(tiny_job, tmp_path / "run", budget)

    def update(conditions: Any) -> Any:
        raise AssertionError("a measurement began")

    with pytest.raises(UserError, match=message):
        profile_job(context.job, context.config, update)


def test_a_profile_that_exists_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    out = tmp_path / "edge.json"
    out.touch()
    with pytest.raises(UserError, match=r"edge.json exists. Name a new file with --out"):
        profile(tmp_path / "none.toml", out=out)


@pytest.mark.parametrize(
    ("runtime", "onnx", "message"),
    [
        (
            "openvino",
            [],
            r"openvino needs the package openvino, which is not installed. Run pip install "
            r"'raycomp\[openvino\]', or set runtime = \"onnxruntime\"",
        ),
        (
            "openvino-int8",
            [],
            r"needs the packages openvino and nncf, which are not.*runtime = \"onnxruntime-int8\"",
        ),
        (
            "openvino-int8",
            ["onnx"],
            r"needs the packages openvino and nncf and onnx.*raycomp\[openvino\].*runtime = \"torch\"",
        ),
    ],
)
def test_the_packages_of_openvino_are_named_before_the_run(
    tiny_job: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
    onnx: list[str],
    message: str,
) -> None:
    find = importlib.util.find_spec
    missing = ("openvino", "nncf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    monkeypatch.setattr(device_checks, "missing_onnx_packages", lambda: onnx)
    budget = {"latency_ms": 5, "runtime": runtime}
    context = make_context(tiny_job, tmp_path / "run", budget, space={"heads": [4]})
    with pytest.raises(UserError, match=message):
        check(context)


def record(context: RunContext) -> list[str]:
    """Record the profiles of a run on an invented device; return the conditions that were measured."""
    measured = []

    def measure(task: ProfileTask, node: str | None, update: Update, *_: NetworkFiles) -> DeviceTable:
        measured.append(f"{node}: {task.conditions.describe()}")
        encoder = describe_encoder(context.shape)
        return measure_table(
            InventedBench(), task.conditions, encoder, {}, task.layers, task.networks, task.memory
        )

    context.run_dir.mkdir(exist_ok=True)
    record_profiles(context, Progress(enabled=False), measure)
    return measured


def test_a_run_measures_each_device_once(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    budgets = ({"latency_ms": 5}, {"latency_ms": 3}, {"size_mb": 9, "batch": 8}, {"params": "0.9x"})
    context = make_context(tiny_job, tmp_path / "run", *budgets)
    check(context)
    assert record(context) == [
        "None: onnxruntime, 1 thread, batch 1, length 16",
        "None: onnxruntime, 1 thread, batch 8, length 16",
    ]
    assert context.limit(context.job.budget[0]) == 5
    check_budgets(context)
    # A resumed run reads the tables.
    again = make_context(tiny_job, tmp_path / "run", *budgets)
    assert record(again) == []


def test_a_profile_times_each_rank_of_the_space(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    context = make_context(
        tiny_job, tmp_path / "run", {"latency_ms": 5}, embeddings={"rank": ["full", 8, 4]}
    )
    (task,) = plan_profiles(context.job, context.config, context.job.budget).values()
    assert task.ranks == (4, 8)
    assert {network.table for network in task.networks} == {FULL_TABLE}


def test_budgets_that_no_network_meets_are_said_after_the_measurement(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    context = make_context(tiny_job, tmp_path / "run", {"latency_ms": 1.2})
    check(context)
    record(context)
    with pytest.raises(UserError, match=r"latency_ms <= 1.2 cannot be met.*Nearest feasible limit"):
        check_budgets(context)


def test_corrections_of_an_interrupted_run_do_not_end_it(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    budgets = ({"latency_ms": 5}, {"params": "0.9x"})
    context = make_context(tiny_job, tmp_path / "run", *budgets)
    record(context)
    entry = {"factors": {"latency_ms": 100.0}, "attempts": 1, "nearest": None}
    context.files.device_corrections.write_text(json.dumps({"b0": entry}))

    # The correction leaves the first budget without a network; the second one can still be deployed.
    resumed = make_context(tiny_job, tmp_path / "run", *budgets)
    check(resumed)
    check_budgets(resumed)
    smallest = resumed.space.smallest()
    assert not resumed.budget(resumed.job.budget[0]).is_met_by(smallest), "the search has the correction"


def test_each_method_has_its_own_corrections(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    """The checks of a resumed run ask for costs before its methods do."""
    context = make_context(tiny_job, tmp_path / "run", {"latency_ms": 5})
    record(context)
    own = RunContext(context.job, context.run_dir, method="hat")
    own.files.device_corrections.parent.mkdir(parents=True, exist_ok=True)
    entry = {"factors": {"latency_ms": 1.5}, "attempts": 1, "nearest": None}
    own.files.device_corrections.write_text(json.dumps({"b0": entry}))

    smallest = context.space.smallest()
    (budget,) = context.job.budget
    cost = context.budget(budget).cost(smallest)
    assert context.for_method("hat").budget(budget).cost(smallest) == pytest.approx(1.5 * cost)


def test_a_profile_that_changes_during_a_run_is_refused(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    context = make_context(tiny_job, tmp_path / "run", {"latency_ms": 5, "profile": str(path)})
    space = make_space(context.job, context.shape)
    table = make_table(space, context.shape)
    path.write_text(json.dumps({"tables": [table.to_dict()]}))
    check(context)
    assert record(context) == [], "a named profile is not measured again"

    slower = make_table(space, context.shape, InventedBench(lambda layer: 9.0))
    path.write_text(json.dumps({"tables": [slower.to_dict()]}))
    again = make_context(tiny_job, tmp_path / "run", {"latency_ms": 5, "profile": str(path)})
    with pytest.raises(UserError, match="Budget b0: its profile has changed since the run began"):
        record(again)


def test_the_longest_line_of_a_file_of_lengths_is_checked(
    tiny_job: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("8\n" * 99 + "41\n")
    context = make_context(tiny_job, tmp_path / "run", {"latency_ms": 9, "lengths": str(path)})
    with pytest.raises(UserError, match=r"measured with 41 tokens.*Remove the longer texts from .*txt"):
        check(context)


def test_a_file_of_lengths_belongs_to_the_run(tiny_job: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("4 8")
    budget = {"latency_ms": 9, "lengths": str(path)}
    context = make_context(tiny_job, tmp_path / "run", budget)
    (measured,) = record(context)
    assert measured.startswith("None: onnxruntime, 1 thread, batch 1, length 4 to 8 (sample ")

    path.write_text("4 8 8")
    again = make_context(tiny_job, tmp_path / "run", budget)
    check(again)
    with pytest.raises(UserError, match=r"its file of lengths .*lengths.txt has changed since the run"):
        record(again)

    # On another machine, the run has its lengths.
    path.unlink()
    check(again)
    assert record(again) == []
    with pytest.raises(UserError, match="cannot be read"):
        check(make_context(tiny_job, tmp_path / "new", budget))


def test_a_plan_says_which_budgets_wait_for_a_measurement(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make_context(tiny_job, tmp_path, {"latency_ms": 5}, {"params": 1e6, "flops": 1e9}).job
    waiting, known = make_plan(job)["budgets"]
    assert (waiting["feasible"], waiting["limit"]) == (None, None)
    assert "latency_ms <= 5 is checked when the run has measured the layers" in waiting["reason"]
    assert known["feasible"]
    assert known["limits"] == {"params": 1e6, "flops": 1e9}
