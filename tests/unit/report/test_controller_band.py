"""The report draws EE-SNG's entropy and K next to those of random losses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from raycomp.config.loader import parse_job
from raycomp.methods.context import RunContext
from raycomp.methods.yoco import noise_band
from raycomp.methods.yoco.eesng import EESNG, EESNGSettings
from raycomp.methods.yoco.noise_band import (
    ControllerBand,
    controller_band,
    count_repetitions,
    run_on_noise,
)
from raycomp.methods.yoco.schedule import Schedule, progressive_phases
from raycomp.report.controller_noise import find_controller_band
from raycomp.report.curves import draw_search_plots
from raycomp.search.space import SearchSpace

SPACE = SearchSpace(3, depth=(1, 2, 3), heads=(2, 4), ffn=(16, 64))
PHASES = progressive_phases(SPACE)


def make_sampler(seed: int) -> EESNG:
    settings = EESNGSettings(update="asng", pairing="free", seed=seed)
    return EESNG(SPACE, Schedule(PHASES, (1,) * (len(PHASES) - 1) + (40,)), settings)


def test_a_training_with_a_signal_is_below_the_band_and_one_on_noise_is_inside() -> None:
    low, high = controller_band(make_sampler, 8).entropy[:, -1]
    assert low - 0.2 < run_on_noise(make_sampler(20), 20).entropy[-1] < high + 0.2

    sampler = make_sampler(3)
    for step in range(sampler.schedule.total):
        archs = sampler.ask(step)
        entropy = sampler.info(step)["entropy"]
        sampler.tell(step, [3 * arch.heads[0] + 0.1 * arch.ffn[0] + 1e-6 * step for arch in archs])
    assert entropy < low


def test_long_trainings_are_repeated_less_often_and_very_long_ones_not_at_all() -> None:
    assert [count_repetitions(steps) for steps in (100, 2_000, 4_000, 4_001)] == [20, 10, 5, 0]


def steps_of_supernet(last_entropy: float) -> pd.DataFrame:
    """Return twenty steps of two phases."""
    steps = np.arange(20)
    return pd.DataFrame(
        {
            "training": "supernet",
            "phase": np.where(steps < 8, "largest", "depth-2"),
            "step": steps,
            "entropy": np.linspace(2.0, last_entropy, 20),
            "p_exploit": np.linspace(1.0, 0.9, 20),
            "explored": False,
        }
    )


@pytest.mark.parametrize(("last_entropy", "words"), [(1.2, "is below the band"), (1.6, "not below")])
def test_the_band_is_drawn_in_both_parts_and_named(last_entropy: float, words: str) -> None:
    band = ControllerBand(np.array([[1.5] * 20, [1.9] * 20]), np.array([[0.8] * 20, [0.95] * 20]), 20)
    (plot,) = draw_search_plots(steps_of_supernet(last_entropy), 100, lambda rows: band)
    assert words in plot.summary
    assert "1.5 to 1.9 nats" in plot.summary
    assert "0.800 to 0.950" in plot.summary
    shaded = [trace for trace in plot.figure.data if trace.line.width == 0]
    assert [(trace.yaxis, set(trace.y)) for trace in shaded] == [
        ("y", {1.5}), ("y", {1.9}), ("y2", {0.8}), ("y2", {0.95}),
    ]  # fmt: skip
    assert [trace.fill for trace in shaded] == [None, "tonexty"] * 2


def test_a_page_without_a_band_says_why() -> None:
    (plot,) = draw_search_plots(steps_of_supernet(1.6), 100, lambda rows: "no reason")
    assert plot.summary.endswith("The band that random losses give is not drawn: no reason.")
    assert len(plot.figure.data) == 2


def test_the_band_of_a_run_has_its_phases_and_its_rule(
    tiny_job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_band, "REPETITIONS", 5)
    context = RunContext(parse_job(tiny_job), tmp_path / "run")
    names = [phase.name for phase in progressive_phases(context.space)]
    part = np.repeat(names, [3] * (len(names) - 1) + [12])
    steps = pd.DataFrame({"part": part, "step": np.arange(len(part))})

    def find_band(train: dict[str, Any], rows: pd.DataFrame = steps) -> ControllerBand | str:
        job = context.job.model_dump(mode="json")
        job["train"] |= train
        run: Any = SimpleNamespace(job=job, facts={"config": context.facts.config})
        return find_controller_band(run, rows)

    band = find_band({"update": "sng"})
    assert isinstance(band, ControllerBand)
    assert band.entropy.shape == band.exploit_probability.shape == (2, len(steps))
    # Without a choice there is no entropy, and each phase opens choices.
    assert band.entropy[1, 0] == 0 < band.entropy[1, 3] < band.entropy[1, -1]

    # The adaptive rule drifts less than the constant step.
    adaptive = find_band({"update": "asng"})
    assert isinstance(adaptive, ControllerBand)
    assert adaptive.entropy[0, -1] > band.entropy[0, -1]

    assert "explore" in str(find_band({"mode": "explore"}))
    assert "raw" in str(find_band({"update": "raw"}))
    assert "first steps" in str(find_band({}, steps[5:]))
    assert "completely" in str(find_band({}, steps.assign(part="other")))
