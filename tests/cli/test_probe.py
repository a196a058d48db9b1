"""The command that measures one model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.calls import ONE_THREAD, data, done, refused


def test_dry_run_shows_the_items(model: Path) -> None:
    """Without an answer, as a table and as JSON; held-out items are others."""
    shown = done("probe", model, "--dry-run", "--families", "math")
    assert "math product" in shown.stdout
    assert "reasoning" not in shown.stdout
    assert "note: math: level 1 is assumed; the model is first asked" in shown.stderr
    rows = data("probe", model, "--dry-run", "--level", "math=2", "--level", "0")
    assert {row["level"] for row in rows} == {0}
    assert list(model.parent.iterdir()) == [model]


def test_answers_are_saved_beside_the_model(model: Path, suite: Path) -> None:
    """One line each; the next probe replaces them, and the items can be saved as well."""
    items = model.with_name("items.jsonl")
    for number in range(2):
        saving = ["--save-suite", str(items)] if number == 0 else []
        result = done("probe", model, "--suite", suite, "--no-preflight", *saving, *ONE_THREAD)
    answers = model.with_name("m.gguf.probe.jsonl")
    assert len(answers.read_text().splitlines()) == 4
    assert str(answers) in result.stderr
    assert [json.loads(line)["answer"] for line in items.read_text().splitlines()] == [
        "yes", "no", "no", "yes"
    ]  # fmt: skip


def test_json_names_the_answers(model: Path, suite: Path) -> None:
    """The JSON names the file, which has the default name in an output folder."""
    folder = model.parent / "out"
    folder.mkdir()
    found = data(
        "probe", model, "--suite", suite, "--no-preflight", "-o", folder, "--generate", *ONE_THREAD
    )
    assert found["answers"] == str(folder / "m.gguf.probe.jsonl")
    assert found["rows"][0]["n"] == 4


def test_options_that_do_not_go_together(model: Path, suite: Path) -> None:
    """A usage error says which."""
    message = refused("probe", model, "--suite", suite, "--heldout", code=2)
    assert "--heldout asks generated items" in message
    assert "is none of math" in refused("probe", model, "--families", "maths", code=2)
    assert "is not 0 to 7" in refused("probe", model, "--level", "math=9", code=2)


def test_a_model_at_chance_is_measured_all_the_same(model: Path, tmp_path: Path) -> None:
    """Notes say that no level fits and what a sweep would do, and the exit code is 0."""
    args: list[str | Path] = ["probe", model, "--families", "math", *ONE_THREAD]
    result = done(*args, "--log-file", tmp_path / "log")
    assert re.search(r"levels: math 0 \(skill -?0\.\d\d\); 96 items in \d+ s", result.stderr)
    assert "note: math: no level fits this model" in result.stderr
    assert "to ask these levels again: --level math=0\n" in result.stderr
    assert "a sweep would refuse this suite on this model:" in result.stderr
    assert result.stdout.startswith("family")
    assert "probe: 32 items done" in (tmp_path / "log").read_text()
    again = done(*args, "--level", "math=0")
    assert again.stdout == result.stdout
    assert "levels:" not in again.stderr


def test_a_folder_under_the_default_name_is_refused(model: Path, suite: Path) -> None:
    """The message comes at once and says that it is a folder."""
    model.with_name("m.gguf.probe.jsonl").mkdir()
    message = refused("probe", model, "--suite", suite, "--no-preflight", *ONE_THREAD)
    assert "m.gguf.probe.jsonl: is not a regular file" in message


def test_the_harness_ends_as_its_own_program_does(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit code is in the message; a success prints nothing more."""
    codes = iter([0, 3])
    monkeypatch.setattr("rys_gguf.cli.probe.run_harness", lambda *_: next(codes))
    assert done("probe", model, "--lm-eval", "gsm8k").stdout == ""
    assert "lm_eval ended with exit code 3" in refused("probe", model, "--lm-eval", "gsm8k")
