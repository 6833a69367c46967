"""The statistics of benchmarks against values computed by hand, and the command lines."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import run_all
from benchmarks.growth import fit_exponent
from benchmarks.growth_on_ray import Network
from benchmarks.measure import (
    Claim,
    NotMeasurableError,
    Options,
    PairedFigures,
    measure_in_turns,
    measure_pair,
    run_claims,
)
from raycomp.errors import UserError

ROOT = Path(__file__).parents[3]
KEYS = ["name", "ratio", "target", "better", "holds", "spread", "runs"]
PAIRED = PairedFigures((2.0, 4.0, 6.0, 8.0, 10.0), (4.0, 4.0, 4.0, 4.0, 40.0))


def test_ratio_and_spread_are_of_the_pairs() -> None:
    """Ratios of the pairs .5, 1, 1.5, 2, .25: median 1, quartiles .5 and 1.5. Medians are 6 and 4."""
    assert PAIRED.ratio == 1.0
    assert PAIRED.spread == (0.5, 1.5)
    assert PairedFigures((1.0, 2.0), (1.0, 1.0)).spread == (1.25, 1.75)  # linear between 1 and 2


@pytest.mark.parametrize(
    ("better", "target", "holds"),
    [("lower", 1.0, True), ("lower", 0.99, False), ("higher", 1.0, True), ("higher", 1.01, False)],
)
def test_a_claim_holds_up_to_its_target(better: str, target: float, holds: bool) -> None:
    claim = Claim.from_figures("a / b", PAIRED, better, target)  # type: ignore[arg-type]
    assert claim.holds is holds
    assert claim.runs == 5
    assert ("does not hold" in claim.format_line()) is not holds


def test_works_take_turns_in_alternating_order() -> None:
    called: list[str] = []

    def work(name: str, figures: list[float]) -> float:
        called.append(name)
        return figures.pop(0)

    a, b = [9.0, 1.0, 2.0], [9.0, 3.0, 4.0]
    paired = measure_pair(lambda: work("a", a), lambda: work("b", b), runs=2, warm=1)
    assert "".join(called) == "abbaab"
    assert paired == PairedFigures((1.0, 2.0), (3.0, 4.0))
    assert measure_in_turns([lambda: 5.0], runs=3, warm=0) == [(5.0, 5.0, 5.0)]


def test_claims_are_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "claims.json"
    monkeypatch.setattr(sys, "argv", ["x", "--runs", "7", "--out", str(out)])

    def measure(settings: Options) -> list[Claim]:
        assert settings == Options(7, False, "cpu")
        return [Claim.from_figures("a / b", PAIRED, "lower", 0.9)]

    run_claims("what is measured", measure)
    (row,) = json.loads(out.read_text())
    assert list(row) == KEYS
    assert (row["ratio"], row["spread"], row["holds"]) == (1.0, [0.5, 1.5], False)
    assert "does not hold" in capsys.readouterr().out


def test_a_claim_that_cannot_be_measured_has_no_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "claims.json"
    monkeypatch.setattr(sys, "argv", ["x", "--quick", "--out", str(out)])

    def lacking(settings: Options) -> list[Claim]:
        raise NotMeasurableError("two workers need two processors")

    run_claims(None, lacking)
    assert json.loads(out.read_text()) == []
    assert "not measured: two workers need two processors" in capsys.readouterr().out

    def wrong(settings: Options) -> list[Claim]:
        raise UserError("demo/minilm-l6 needs the demo extra")

    with pytest.raises(SystemExit, match="demo extra"):
        run_claims(None, wrong)


def test_every_file_of_claims_is_run() -> None:
    files = {p.stem for p in (ROOT / "benchmarks" / "claims").glob("*.py")} - {"__init__"}
    assert files == set(run_all.CLAIMS)


def test_run_all_collects_rows_and_names_failed_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "all.json"
    row = {**dict.fromkeys(KEYS), "name": "a / b", "holds": True}
    monkeypatch.setattr(run_all, "run", lambda name, *rest: [row] if name == "epoch" else None)
    monkeypatch.setattr(sys, "argv", ["x", "--only", "epoch", "child", "--out", str(out)])
    with pytest.raises(SystemExit, match="failed: child"):
        run_all.main()
    assert json.loads(out.read_text()) == [row]
    assert "1 of 1 claims hold" in capsys.readouterr().out


def test_a_missing_gpu_is_reported_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["x", "--device", "cuda"])
    with pytest.raises(SystemExit, match="no GPU found") as stopped:
        run_all.main()
    assert isinstance(stopped.value.code, str)  # printed to stderr; the exit code is 1


def test_names_of_machines_are_slugs() -> None:
    assert run_all.to_slug("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz") == "intel-xeon-e5-2680-v4"
    assert run_all.to_slug("AMD EPYC 7763 64-Core Processor") == "amd-epyc-7763-64-core"
    assert run_all.to_slug("NVIDIA H200") == "nvidia-h200"


def test_the_exponent_is_the_slope_on_logarithms() -> None:
    assert fit_exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert fit_exponent([1, 10, 100], [7, 7, 7]) == pytest.approx(0)


def test_a_ring_sends_each_byte_nearly_twice() -> None:
    """1 GB, 4 workers, 8 Gbit/s: 1.5 GB sent take 1.5 s; six messages of 1 ms take .006 s."""
    assert Network(8, 1000).all_reduce_seconds(1e9, 4) == pytest.approx(1.506)
    assert Network(8, 1000).all_reduce_seconds(1e9, 1) == 0


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
def test_every_benchmark_has_a_help_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All run in this process, because importing torch and transformers takes seconds."""
    files = sorted((ROOT / "benchmarks").rglob("*.py"))
    named = [f for f in files if '__name__ == "__main__"' in f.read_text()]
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts) for f in named]
    assert {"benchmarks.run_all", "benchmarks.growth", "benchmarks.claims.steps"} <= set(modules)
    for name in modules:
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(name, run_name="__main__")
        assert not ended.value.code, name
        assert capsys.readouterr().out.startswith("usage:"), name
