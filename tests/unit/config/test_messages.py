"""Mistakes of job files that once had a misleading message, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycomp.cli import main as cli
from raycomp.config.loader import load_job
from raycomp.errors import UserError
from tests.unit.config.test_job import JOB, write

FILES = JOB.replace('name = "demo/polarity"', 'train = "rows.csv"\ntext = ["text"]\nlabel = "label"')


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_job(path, list(overrides))
    return str(error.value)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ('"33%"', "encoder_params = '33%': '33%' is not a quantity. Write 40e6"),
        ('"-0.5x"', "encoder_params = '-0.5x': '-0.5x' is not a quantity"),
        ('"0x"', "encoder_params = '0x': '0x' is not a finite number above 0"),
        ("-3", "encoder_params = -3: -3 is not a finite number above 0"),
        ("0.33", 'encoder_params = 0.33, which is less than one. Write "0.33x"'),
        ('"0.33"', "encoder_params = '0.33', which is less than one. Write \"0.33x\""),
        ('"1e-3"', 'Write "0.001x" for a share'),
    ],
)
def test_a_wrong_limit_is_named_with_its_setting(limit: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, JOB.replace('encoder_params = "0.5x"', f"encoder_params = {limit}"))
    message = refusal(path)
    assert message.startswith("Section 'budget.half' has encoder_params = ")
    assert words in message


@pytest.mark.parametrize("limit", ['"5ms"', '"10MB"', '"5"', '"-1x"'])
def test_a_wrong_measured_limit_has_its_own_remedy(limit: str, tmp_path: Path) -> None:
    path = write(tmp_path, JOB.replace('encoder_params = "0.5x"', f"latency_ms = {limit}"))
    message = refusal(path)
    assert "Section 'budget.half' has latency_ms =" in message
    assert 'Write a number, or "0.5x"' in message
    assert "12M" not in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.methods=yoco", 'it must be a list, such as ["yoco"]'),
        ("task.text=text", 'it must be a list, such as ["text"]'),
        ("task.labels=[0, 1]", "'task.labels.0' = 0 is not allowed: it must be text in quotes"),
        ("heal=3", "'heal' = 3 is not allowed: it must be a section"),
        ("yoco.x=1", "Section 'yoco' is not allowed: method yoco lacks settings of its own"),
        ("yoco=3", "Section 'yoco' is not allowed: method yoco lacks settings of its own"),
        ("steps=3", "Did you mean 'train.steps', or 'heal.steps'?"),
        ("workers=2", "Did you mean 'train.workers'?"),
        ("trian.nothing=3", "Did you mean 'train'?"),
    ],
)
def test_mistakes_of_types_and_sections_are_explained(override: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(write(tmp_path), override)


@pytest.mark.parametrize("override", ["resources.nodes=2", "ray.address=1", "a.b.c.d=1"])
def test_a_section_that_is_not_similar_is_not_suggested(override: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path), override)
    assert "Did you mean" not in message
    assert "Sections: run, task" in message


def test_a_budget_that_is_not_a_list_is_explained(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, JOB.replace("[[budget]]", "[budget]")))
    assert (
        message == "Section 'budget' must be a list of sections. Write [[budget]] in place of [budget]."
    )


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(JOB, encoding="utf-8-sig")
    assert load_job(path).run.name == "x"


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (JOB, ['task.validation="rows.csv"'], "rows of 'demo/polarity' are divided"),
        (FILES, ['task.folder="glue"'], "has both folder, which is for GLUE tasks, and train"),
        (FILES, ['task.text=["label"]'], "'label' as text and as label"),
        (FILES, ['task.text=["text", "text"]'], "the text column 'text' twice"),
    ],
)
def test_a_source_that_would_be_ignored_is_refused(
    text: str, overrides: list[str], words: str, tmp_path: Path
) -> None:
    assert words in refusal(write(tmp_path, text), *overrides)


@pytest.mark.parametrize("override", ["task.metric=nomodule:f", "heal.distill=nomodule:f"])
def test_a_plan_names_a_function_that_cannot_be_imported(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run refuses it before it starts; a plan once passed."""
    monkeypatch.setattr("sys.argv", ["raycomp", "plan", str(write(tmp_path)), "--set", override])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "Error: Cannot import" in capsys.readouterr().err


def test_a_new_source_of_text_removes_the_folder_of_the_other(tmp_path: Path) -> None:
    text = JOB.replace('"demo/polarity"', '"glue/sst2"\nfolder = "glue"')
    settings = ['task.train="rows.csv"', 'task.text=["text"]', 'task.label="label"']
    assert load_job(write(tmp_path, text), settings).task.folder is None
    # A study has one folder for its GLUE tasks, next to tasks of the demo.
    assert load_job(write(tmp_path, text), ["task.name=demo/polarity"]).task.folder == "glue"
