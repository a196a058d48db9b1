"""The commands that run a variant in llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.calls import ONE_THREAD, call, done, refused


@pytest.fixture
def variant(model: Path) -> Path:
    """Two layers of the tiny model run twice."""
    return Path(done("apply", model, "--blocks", "2,4").stdout.strip())


@pytest.fixture
def wrong(model: Path, tmp_path: Path) -> Path:
    """A file that records the same map and holds another model's layers."""
    other = tiny.write(tmp_path / "other.gguf", "llama", 6, seed=1, extra={".context_length": 4096})
    return Path(done("apply", other, "--blocks", "2,4").stdout.strip())


def test_prove_shows_every_comparison(variant: Path, model: Path) -> None:
    """The steps on stderr, the results on stdout, the same as JSON."""
    result = done("prove", variant, "--source", model, *ONE_THREAD)
    lines = result.stdout.splitlines()
    assert [line.rpartition(": ")[2] for line in lines[:-1]] == ["bit-exact"] * (len(lines) - 1)
    assert lines[-1].startswith("every one of 8 outputs runs as its source")
    as_json = done("prove", variant, "--source", model, "--json", *ONE_THREAD)
    assert json.loads(as_json.stdout)["ok"] is True


def test_a_proof_that_fails_says_where(wrong: Path, model: Path) -> None:
    """The layers that differ are in the message."""
    result = call("prove", wrong, "--source", model, *ONE_THREAD)
    assert result.exit_code == 1
    assert "nats apart" in result.stdout
    assert "other-rys_2-3.gguf: " in result.stderr


def test_smoke_prints_what_is_wrong(model: Path) -> None:
    """Random weights write no text; the model alone fails, and beside itself it is no worse."""
    result = call("smoke", model, *ONE_THREAD)
    assert result.exit_code == 1
    assert "are not text" in result.stderr
    beside = call("smoke", model, "--source", model, "--json", *ONE_THREAD)
    assert beside.exit_code == 0, beside.output
    assert json.loads(beside.stdout)["ok"] is True


def test_validate_saves_its_report(variant: Path, model: Path, tmp_path: Path) -> None:
    """Under a name of its own that the next run replaces; progress also goes to the log."""
    report = variant.with_name(variant.name + ".validate.json")
    log = tmp_path / "log.txt"
    for _ in range(2):
        result = done("validate", variant, "--source", model, "--log-file", log, *ONE_THREAD)
        assert result.stdout == f"{report}\n"
    saved = json.loads(report.read_text())
    assert saved["passed"] is True
    names = [rung["name"] for rung in saved["rungs"]]
    assert names == ["verify", "load", "prove", "smoke"]
    assert [line.split()[0] for line in result.stderr.splitlines()] == [*names, "next:"]
    assert log.read_text().count("passed") == 8


def test_validate_stops_at_the_first_failure(wrong: Path, model: Path) -> None:
    """The report holds what was found, and so does the JSON."""
    result = call("validate", wrong, "--source", model, "--json", *ONE_THREAD)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
    assert "verify failed: " in result.stderr
    saved = json.loads(wrong.with_name(wrong.name + ".validate.json").read_text())
    assert [rung["outcome"] for rung in saved["rungs"]] == ["failed"]


@pytest.mark.parametrize("command", ["prove", "validate"])
def test_without_a_map_nothing_runs(model: Path, command: str) -> None:
    """A file that records none needs --blocks or --layers."""
    message = refused(command, model, "--source", model, *ONE_THREAD)
    assert "records no layer map; say what it should be with --blocks or --layers" in message
    message = refused(command, model, "--source", model, "--blocks", "1,2", *ONE_THREAD)
    assert "has 6 layers, blocks:1,2 makes 7" in message
