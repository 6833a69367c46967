"""Networks that were healed in several rounds: each counts once, with the steps of all its rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import healing
from benchmarks.healing import AloneTask, healing_steps, open_healed_run, train_alone
from raycomp.config.loader import parse_job
from raycomp.encoder.architecture import Architecture
from raycomp.storage.files import write_json
from raycomp.storage.layout import RunLayout

SMALL = Architecture(1, (1,), (16,))
LARGE = Architecture(3, (4, 4, 2), (64, 32, 16))


@pytest.fixture
def run_dir(tiny_job: dict[str, Any], tmp_path: Path) -> Path:
    """A run with two rounds of healing for one network, and one round for another."""
    tiny_job["heal"] = {"steps": 5, "rounds": 2}
    path = tmp_path / "run"
    write_json(RunLayout(path).job, parse_job(tiny_job).model_dump(mode="json"))
    files = RunLayout(path).method("yoco")
    for arch, number, steps in ((SMALL, 1, 5), (SMALL, 2, 10), (LARGE, 1, 5)):
        folder = files.healed(arch.id, number)
        write_json(folder.outcome, {"arch": arch.to_json()})
        write_json(folder.cost, {"steps": steps})
        folder.network.touch()
    return path


def test_a_network_of_two_rounds_is_one_network_with_the_steps_of_both(run_dir: Path) -> None:
    context, archs = open_healed_run(run_dir, "yoco")
    assert sorted(archs, key=lambda arch: arch.depth) == [SMALL, LARGE]
    assert {arch: healing_steps(context, arch) for arch in archs} == {SMALL: 15, LARGE: 5}


def test_alone_has_the_steps_of_the_super_network_and_of_all_rounds(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def train(context: Any, archs: Any, kind: Any, settings: Any) -> tuple[list[str], float]:
        calls.append((settings["steps"], archs, kind))
        return [f"{arch.depth} layers, {settings['steps']} steps" for arch in archs], 2.0

    monkeypatch.setattr(healing, "train_networks", train)
    monkeypatch.setattr(healing, "supernet_steps", lambda context: 100)
    context, _ = open_healed_run(run_dir, "yoco")
    networks, seconds = train_alone(context, [LARGE, SMALL], 0)
    assert networks == ["3 layers, 105 steps", "1 layers, 115 steps"]
    assert seconds == 4.0
    assert {kind for _, _, kind in calls} == {AloneTask}

    calls.clear()
    train_alone(context, [LARGE, SMALL], 40)
    assert calls == [(40, [LARGE, SMALL], AloneTask)]
