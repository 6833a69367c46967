"""The report draws the entropy of AdaBERT's search next to that of random losses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from raycomp.report.curves import draw_search_plots


def steps_of_search(last_entropy: float, *, has_band: bool) -> pd.DataFrame:
    """Return ten steps of warm-up, and ten in which the entropy falls; the band is .9 to .95."""
    steps = np.arange(20)
    entropy = np.where(steps < 10, 1.0, 1 + (last_entropy - 1) * (steps - 9) / 10)
    band = (steps >= 10) & has_band
    return pd.DataFrame(
        {
            "training": "adabert-search.beta1-s0",
            "phase": None,
            "step": steps,
            "entropy": entropy,
            "p_exploit": np.nan,
            "noise_low": np.where(band, 0.9, np.nan),
            "noise_high": np.where(band, 0.95, np.nan),
        }
    )


@pytest.mark.parametrize(
    ("last_entropy", "words"),
    [(0.8, "noise gives 0.9 to 0.95: below it"), (0.93, "noise gives 0.9 to 0.95: not below it")],
)
def test_the_band_of_noise_is_drawn_and_named(last_entropy: float, words: str) -> None:
    (plot,) = draw_search_plots(steps_of_search(last_entropy, has_band=True), 100)
    assert words in plot.summary
    assert "random numbers" in plot.summary
    low, high = plot.figure.data[1:]
    assert list(low.x) == list(high.x) == list(range(10, 20))
    assert set(low.y) == {0.9}
    assert set(high.y) == {0.95}
    assert high.fill == "tonexty"


def test_runs_without_a_band_are_drawn_as_before() -> None:
    (plot,) = draw_search_plots(steps_of_search(0.8, has_band=False), 100)
    assert "noise" not in plot.summary
    assert len(plot.figure.data) == 1
