"""README's Python and command-line examples run, on a tiny model and with fewer steps."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
from pathlib import Path

import pytest

import raycomp
from raycomp.cli import main as command_line
from tests.conftest import make_sentences
from tests.fences import split_fences

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
FEW_STEPS = {
    "task.max_length": 16,
    "space.depth": [1, 3],
    "space.heads": [2, 4],
    "space.ffn": [16, 64],
    "train.steps": 2,
    "heal.steps": 2,
    "train.precision": "fp32",
    "search.evaluations": 6,
    "search.batch": 3,
    "search.evaluators": 1,
    "run.tracking": [],
}


def blocks(language: str) -> list[str]:
    return [block for name, block in split_fences(README)[0] if name == language]


@pytest.fixture
def workdir(tmp_path: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tuned_model, tmp_path / "our-team" / "reviews-bert")
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.slow
def test_the_python_examples_run(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sentences(160, 0).to_csv(workdir / "data" / "reviews.csv", index=False)
    monkeypatch.setattr(raycomp, "compress", functools.partial(raycomp.compress, settings=FEW_STEPS))
    compress, load = (block for block in blocks("python"))
    names: dict[str, object] = {}
    exec(compress, names)
    exec(load, names)
    assert (workdir / "models" / "phone" / "config.json").exists()
    assert names["model"].config.num_labels == 2  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_commands_run(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_sentences(160, 0).rename(columns={"text": "review", "label": "stars"})
    rows.to_csv(workdir / "data" / "reviews.csv", index=False)
    (workdir / "reviews.toml").write_text(blocks("toml")[0])
    settings = [word for key, value in FEW_STEPS.items() for word in ("--set", f"{key}={value}")]
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("raycomp ")]
    assert [line.split()[1] for line in lines] == ["plan", "run", "query", "export"]
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[1] in ("plan", "run"):
            words += settings
        run_dirs = [path.name for path in workdir.glob("runs/*-????????")]
        words = [re.sub(r"\w+-1f3a9c02", run_dirs[0], word) if run_dirs else word for word in words]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as end:
            command_line.main()
        assert not end.value.code, capsys.readouterr().err
    assert (workdir / "models" / "phone" / "config.json").exists()
